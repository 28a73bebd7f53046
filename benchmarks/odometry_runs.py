"""Play recordings to the real estimator, remember what it asked its model, and rewrite runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.samples import MotionInput, Streams
from bayes_vio.data.sync import pose_at
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation.play import collect, estimates, events
from bayes_vio.evaluation.run import Run
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.geometry import se3
from bayes_vio.models.backbone import mean_angular_rate
from bayes_vio.models.complementary import ComplementaryFilter, Crossover
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation
from bayes_vio.posterior import GaussianPrediction
from bayes_vio.posterior.sketch import FeatureSketch

Array = NDArray[np.float64]
_START_COV = np.diag(np.repeat([1e-3, 1e-4], 3) ** 2)
_BATCH = 16


class Sensors(Enum):
    """What the estimator is given: without a sensor, or with its lens covered."""

    BOTH = "both"
    CAMERA = "camera"
    IMU = "imu"


@dataclass(frozen=True)
class ListeningArtifact(MotionArtifact):
    """An artifact that remembers what it was asked, and what it said."""

    asked: list[tuple[MotionInput, Said]] = field(default_factory=list)

    def predict_features(
        self, x: MotionInput, sketch: FeatureSketch
    ) -> tuple[GaussianPrediction, Tensor]:
        p, features = super().predict_features(x, sketch)
        self.asked.append((x, Said(p.mean, p.epistemic_cov, p.noise_cov, features)))
        return p, features


@dataclass(frozen=True)
class Heard:
    """A run, the inputs x [m] of those of its rows [m] where the estimator asked its model, and
    how it fused their rotations with the gyro's."""

    run: Run
    rows: NDArray[np.int64]
    x: MotionInput
    crossover: Crossover

    def batches(self) -> Iterator[MotionInput]:
        """Yield the inputs in order, in batches."""
        for start in range(0, len(self.x), _BATCH):
            yield self.x.map(lambda t, start=start: t[start : start + _BATCH])


@dataclass(frozen=True)
class Said:
    """What a method says of n inputs in Log coordinates, in float64.

    mean [n, 6]; epistemic_cov, noise_cov [n, 6, 6]; features [n, 6, size] of the epistemic error,
    or None.
    """

    mean: Tensor
    epistemic_cov: Tensor
    noise_cov: Tensor
    features: Tensor | None = None

    @staticmethod
    def join(parts: list[Said]) -> Said:
        """Concatenate along the batch axis."""
        features = [p.features for p in parts if p.features is not None]
        return Said(
            torch.cat([p.mean for p in parts]),
            torch.cat([p.epistemic_cov for p in parts]),
            torch.cat([p.noise_cov for p in parts]),
            torch.cat(features) if features else None,
        )


def hear(artifact: MotionArtifact, streams: Streams, sensors: Sensors) -> Heard:
    """Play a recording to the estimator. Raises ValueError as ``evaluation.play`` does."""
    given = {f.name: getattr(artifact, f.name) for f in fields(MotionArtifact)}
    listening = ListeningArtifact(**given)
    streams = _with(sensors, streams)
    estimator = Estimator(listening, camera=streams.camera, extrinsics=streams.extrinsics)
    played, answers = [], {}
    for one in estimates(estimator, events(streams)):
        played.append(one)
        answers[one.estimate.stamp_ns] = listening.asked.pop() if listening.asked else None
    if streams.reference is None:
        raise ValueError(f"{streams.name} has no reference pose to evaluate against.")
    counters = {k: int(v) for k, v in estimator.counters.items()}
    run = collect(streams.name, played, streams.reference, counters)
    known = {k: a for k, ns in enumerate(run.stamp_ns) if (a := answers[int(ns)]) is not None}
    if not known:
        raise ValueError(f"{streams.name}: the car stands all the time, and no model is asked")
    x = MotionInput.stack([asked for asked, _ in known.values()])
    heard = Heard(run, np.array(list(known), np.int64), x, artifact.crossover)
    said = _fused(heard, Said.join([answer for _, answer in known.values()]))
    return replace(heard, run=replace(run, features=_features(heard, said)))


def _fused(heard: Heard, said: Said) -> Said:
    """Return what the estimator makes of answers: rotations fused with the gyro's (E-M2)."""
    complementary, x = ComplementaryFilter(heard.crossover), heard.x
    both = (x.camera_valid > 0) & (x.imu_valid.amin(1) > 0)
    gyro_rate, dt_s = mean_angular_rate(x).double().numpy(), heard.run.dt_s[heard.rows]
    mean, epistemic_cov = said.mean.clone(), said.epistemic_cov.clone()
    features = None if said.features is None else said.features.clone()
    for k in np.flatnonzero(both.numpy()).tolist():
        own = None if features is None else features[k].numpy().copy()
        fused = complementary.add(mean[k].numpy().copy(), gyro_rate[k], float(dt_s[k]), own)
        factor = torch.from_numpy(fused.epistemic_factor)
        mean[k] = torch.from_numpy(fused.mean)
        epistemic_cov[k] *= factor[:, None] * factor
        if features is not None and fused.features is not None:
            features[k] = torch.from_numpy(fused.features)
    return Said(mean, epistemic_cov, said.noise_cov, features)


def _features(heard: Heard, said: Said) -> tuple[Array | None, ...] | None:
    """Return the run's features [6, size] of right perturbations; None: no model was asked."""
    if said.features is None:
        return None
    moved = (se3.right_jacobian(said.mean) @ said.features).numpy()
    at_row = dict(zip(heard.rows.tolist(), moved, strict=True))
    return tuple(at_row.get(k) for k in range(len(heard.run)))


def _with(sensors: Sensors, streams: Streams) -> Streams:
    if sensors is Sensors.CAMERA:
        return replace(streams, imu=None)
    if sensors is Sensors.IMU:
        frames = streams.frames
        return replace(streams, frames=lambda: ((ns, np.zeros_like(g)) for ns, g in frames()))
    return streams


def retold(heard: Heard, said: Said) -> Run:
    """Return the run as if another method had answered the estimator's questions.

    Where the estimator asked no model, its guess stays. Odometry and its covariance are not of
    the method: see ``chained``.
    """
    run, rows, said = heard.run, heard.rows, _fused(heard, said)
    both = torch.stack([said.epistemic_cov, said.noise_cov])
    right = se3.log_cov_to_right_cov(said.mean, both).numpy()
    T, epistemic, noise = (
        a.copy() for a in (run.T_earlier_later, run.epistemic_cov, run.noise_cov)
    )
    T[rows], epistemic[rows], noise[rows] = se3.exp(said.mean).numpy(), right[0], right[1]
    features = _features(heard, said)
    return replace(
        run, T_earlier_later=T, epistemic_cov=epistemic, noise_cov=noise, features=features
    )


def with_constant_cov(run: Run, cov: Array) -> Run:
    """Return the run with one covariance [6, 6], all of it noise, for every increment."""
    noise = np.broadcast_to(cov, (len(run), 6, 6)).copy()
    return replace(run, epistemic_cov=np.zeros_like(noise), noise_cov=noise, features=None)


def chained(
    run: Run, correlation_s: float, noise_correlation: NoiseCorrelation = WHITE_NOISE
) -> Run:
    """Return the run with the odometry that its own increments make."""
    odometry = Odometry(correlation_s, _START_COV, noise_correlation=noise_correlation)
    T, cov = [], []
    for k, dt_s in enumerate(run.dt_s):
        features = run.features[k] if run.features else None
        odometry.add(
            run.T_earlier_later[k], run.noise_cov[k], run.epistemic_cov[k], dt_s, features
        )
        T.append(odometry.T_odom_base)
        cov.append(odometry.cov)
    return replace(run, T_odom_base=np.stack(T), odom_cov=np.stack(cov))


def run_of(
    streams: Streams,
    earlier_stamp_ns: NDArray[np.int64],
    stamp_ns: NDArray[np.int64],
    T_earlier_later: Array,
    state: NDArray[np.str_],
    compute_s: Array,
) -> Run:
    """Return the run of increments that no estimator made, their covariances unknown (zero)."""
    if streams.reference is None:
        raise ValueError(f"{streams.name} has no reference pose to evaluate against.")
    T_earlier, earlier_known = pose_at(streams.reference, earlier_stamp_ns)
    T_later, later_known = pose_at(streams.reference, stamp_ns)
    known = earlier_known & later_known
    zero = np.zeros((int(known.sum()), 6, 6))
    return Run(
        name=streams.name,
        earlier_stamp_ns=earlier_stamp_ns[known],
        stamp_ns=stamp_ns[known],
        T_earlier_later=T_earlier_later[known],
        epistemic_cov=zero,
        noise_cov=zero,
        T_odom_base=T_earlier_later[known],
        odom_cov=zero,
        state=state[known],
        compute_s=compute_s[known],
        wait_s=np.zeros(len(zero)),
        T_world_earlier=T_earlier[known],
        T_world_base=T_later[known],
        unreferenced=int((~known).sum()),
        counters={},
    )
