"""The methods that the odometry benchmark compares, all on the frames of one estimator's run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from classical import Increments, RotationSource, classical_increments
from numpy.typing import NDArray
from odometry_runs import Sensors, chained, hear, run_of, with_constant_cov
from odometry_setting import Evaluated, Method, Result, Setting, accumulated, timed
from odometry_weights import (
    N_SAMPLES,
    ensemble,
    mc_dropout,
    noise_head,
    posterior,
    recalibrated,
)

from bayes_vio.data.samples import Streams
from bayes_vio.evaluation.run import Run
from bayes_vio.geometry import se3
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.training.correlation import noise_correlation

Array = NDArray[np.float64]


def inf(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
    """Return what the estimator says with the artifact as it is."""
    a = setting.artifact
    sketch = FeatureSketch()
    ms = timed(lambda x: a.predict_features(x, sketch), recordings)
    chosen = {"prior_precision": a.metadata.get("prior_precision")}
    return Result(
        [r.heard.run for r in recordings],
        a.epistemic_correlation_s,
        a.noise_correlation,
        chosen,
        ms,
    )


def inf_alone(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
    """Return the artifact's posterior, calibrated as the others are, its inputs not judged."""
    return recalibrated(setting, recordings, setting.artifact.posterior)


def one_sensor(sensors: Sensors) -> Method:
    """Return the estimator fed with one sensor alone."""

    def method(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
        a = setting.artifact
        runs = [hear(a, r.streams, sensors).run for r in recordings]
        return Result(runs, a.epistemic_correlation_s, a.noise_correlation)

    return method


def constant_cov(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
    """Return the MAP's mean with the covariance of its residuals on training."""
    a, errors = setting.artifact, []
    with torch.no_grad():
        for x, target in setting.train_subset:
            mean = a.model(x)[0].double()
            errors.append(se3.log(se3.inverse(se3.exp(mean)) @ se3.exp(target.double())))
    cov = _second_moment(torch.cat(errors).numpy())
    runs = [with_constant_cov(r.heard.run, cov) for r in recordings]
    return accumulated(setting, runs, {"std": np.sqrt(np.diag(cov)).tolist()}, None)


def classical(source: RotationSource) -> Method:
    """Return classical odometry; the camera's effective height and the covariance from training.

    The height scales speeds: the one that makes training's median speed true.
    """

    def method(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
        frames, height_m = setting.classical_frames, setting.camera_height_m
        offset_s = setting.artifact.time_offset_s

        def runs(streams: Sequence[Streams], height_m: float, frames: int | None) -> list[Run]:
            parts = [classical_increments(s, height_m, source, offset_s, frames) for s in streams]
            return [_classical_run(s, p) for s, p in zip(streams, parts, strict=True)]

        height_m *= _speed_ratio(runs(setting.training, height_m, frames))
        train = runs(setting.training, height_m, frames)
        cov = _second_moment(np.concatenate([r.increment_errors().error for r in train]))
        sigma = np.sqrt(np.diag(cov))
        drives = [
            (r.increment_errors().error / sigma, float(np.median(r.dt_s)))
            for r in train
            if len(r) >= 40
        ]
        lasting = noise_correlation(drives)
        found = runs([r.streams for r in recordings], height_m, None)
        found = [chained(with_constant_cov(run, cov), 0.0, lasting) for run in found]
        told = {"camera_height_m": height_m, "std": sigma.tolist()}
        ms = 1e3 * float(np.median(np.concatenate([run.compute_s for run in found])))
        return Result(found, 0.0, lasting, told, ms)

    return method


def _classical_run(streams: Streams, said: Increments) -> Run:
    state = np.where(said.found, "tracking", "lost")
    return run_of(
        streams,
        said.earlier_stamp_ns,
        said.stamp_ns,
        said.T_earlier_later,
        state,
        said.compute_s,
    )


def _speed_ratio(runs: Sequence[Run]) -> float:
    """Return the median of true over estimated lengths of increments longer than 0.2 m."""
    ratios = []
    for run in runs:
        true = np.linalg.norm(run.T_world_base[:, :3, 3] - run.T_world_earlier[:, :3, 3], axis=1)
        said = np.linalg.norm(run.T_earlier_later[:, :3, 3], axis=1)
        moving = (true > 0.2) & (said > 0.05)
        ratios.append(true[moving] / said[moving])
    return float(np.median(np.concatenate(ratios)))


def _second_moment(error: Array) -> Array:
    return error.T @ error / len(error)


# Add a method here: name -> what it is called by, and the function.
METHODS: dict[str, Method] = {
    "INF (as published)": inf,
    "INF alone": inf_alone,
    "constant covariance": constant_cov,
    "noise head alone": noise_head,
    "diagonal": posterior("diagonal"),
    "last layer": posterior("full", layers=["mean_head"]),
    f"KFAC, {N_SAMPLES} samples": posterior("kfac", samples=True),
    f"MC dropout, {N_SAMPLES} samples": mc_dropout,
    "camera alone": one_sensor(Sensors.CAMERA),
    "IMU alone": one_sensor(Sensors.IMU),
    "classical": classical(RotationSource.CAMERA),
    "classical + gyro": classical(RotationSource.GYRO),
}
ENSEMBLE = "ensemble"


def methods(names: Sequence[str] | None, with_ensemble: bool) -> dict[str, Method]:
    """Return the methods to compare, all or those whose names begin with one of ``names``.

    Raises ValueError for a name that no method begins with.
    """
    known = METHODS | ({ENSEMBLE: ensemble} if with_ensemble else {})
    if not names:
        return known
    unknown = [n for n in names if not any(k.startswith(n) for k in known)]
    if unknown:
        raise ValueError(f"no method begins with {unknown}: there are {list(known)}")
    return {k: m for k, m in known.items() if any(k.startswith(n) for n in names)}
