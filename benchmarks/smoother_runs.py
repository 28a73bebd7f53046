"""Fixes with stated noise, outages, and what a fixed-lag smoother makes of a drive with them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.conventions import LINEAR
from bayes_vio.data.bags import open_streams
from bayes_vio.data.samples import Streams
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation.play import play
from bayes_vio.evaluation.run import Run
from bayes_vio.evaluation.trajectory import right_error
from bayes_vio.filters.lasting_errors import ErrorModel
from bayes_vio.filters.smoother import SmoothedState, Smoother, SmootherSettings
from bayes_vio.geometry import se3

Array = NDArray[np.float64]

# A consumer's receiver: white noise, and a Gauss-Markov part (atmosphere, multipath), per axis.
FIX_STD_M, FIX_LASTING_STD_M, FIX_LASTING_TIME_S, FIX_INTERVAL_S = 1.5, 1.0, 60.0, 1.0
OUTAGES_S = (10.0, 30.0, 60.0)
# Fixes before the first outage and between two.
BETWEEN_S = 30.0
# The first pose is the true one with an error of this covariance.
START_COV = np.diag([2.0, 2.0, 2.0, 0.02, 0.02, 0.1]) ** 2
LAG_S, JUDGED_EVERY = 10.0, 5
# Of true increments: 0.1 mm and 0.01 mrad.
TRUE_COV = np.diag([1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5]) ** 2


class Played(Protocol):
    """What is made of a bag's streams before the estimator sees them; ``suffix``: its name."""

    @property
    def suffix(self) -> str: ...

    def of(self, streams: Streams) -> Streams: ...


@dataclass(frozen=True)
class Outages:
    """Times [n] (s since the first image) at which fixes stop, and for how long [n]."""

    start_s: tuple[float, ...]
    length_s: tuple[float, ...]

    def length_at(self, time_s: float) -> float:
        """Return the length of the outage that a time lies in, 0 outside of all."""
        for start_s, length_s in zip(self.start_s, self.length_s, strict=True):
            if start_s < time_s <= start_s + length_s:
                return length_s
        return 0.0


@dataclass(frozen=True)
class Treatment:
    """What a smoother is told: the errors that last, one covariance [6, 6] for all increments or
    None for each one's own. Or what nobody has: over oracle_s around an increment the mean square
    of each axis' true errors; is_true, the true increments."""

    errors: ErrorModel
    constant_cov: Array | None = None
    oracle_s: float | None = None
    is_true: bool = False

    def told(self, run: Run) -> Run:
        """Return a run as the smoother is told it."""
        if self.is_true:
            cov, T = np.broadcast_to(TRUE_COV, (len(run), 6, 6)), run.true_increments()
            return replace(with_cov(run, cov), T_earlier_later=T)
        if self.oracle_s is not None:
            return with_cov(run, oracle_cov(run, self.oracle_s))
        if self.constant_cov is not None:
            return with_cov(run, np.broadcast_to(self.constant_cov, (len(run), 6, 6)))
        return run


def with_cov(run: Run, noise_cov: Array) -> Run:
    """Return a run whose covariances [n, 6, 6] are these, and noise."""
    return replace(run, noise_cov=noise_cov, epistemic_cov=np.zeros((len(run), 6, 6)))


def oracle_cov(run: Run, window_s: float) -> Array:
    """Return diagonal covariances [n, 6, 6]: the mean square of true errors within a window.

    It tells how large errors are around every increment, which is all that a covariance can.
    """
    error, time_s = increment_errors(run), run.time_s
    low, high = (np.searchsorted(time_s, time_s + s * window_s / 2) for s in (-1, 1))
    total = np.concatenate([np.zeros((1, 6)), np.cumsum(error**2, axis=0)])
    high = np.maximum(high, low + 1)
    var = (total[high] - total[low]) / (high - low)[:, None]
    return np.maximum(var, np.diag(TRUE_COV))[:, :, None] * np.eye(6)


@dataclass(frozen=True)
class Judged:
    """Positions judged within outages, n of them: length_s of the outage, time_s, the distance
    error_m, squared: the error's square over its covariance; lagged: whether it is the oldest pose
    of the window (else the newest); sigma_m: root of the covariance's trace; nll: -log N(error; 0,
    covariance) in nats."""

    length_s: Array
    time_s: Array
    error_m: Array
    squared: Array
    sigma_m: Array
    nll: Array
    lagged: NDArray[np.bool_]

    @staticmethod
    def join(parts: list[Judged]) -> Judged:
        """Concatenate."""
        names = [f.name for f in fields(Judged)]
        return Judged(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))

    def of(self, length_s: float) -> Judged:
        """Return those in outages of one length."""
        return self._chosen(self.length_s == length_s)

    def at(self, lagged: bool) -> Judged:
        """Return those of one end of the window."""
        return self._chosen(self.lagged == lagged)

    def _chosen(self, rows: NDArray[np.bool_]) -> Judged:
        return Judged(*(getattr(self, f.name)[rows] for f in fields(Judged)))


def recorded_run(artifact: Path, bag: Path, work: Path, played: Played | None = None) -> Run:
    """Return what the estimator says of a bag, or of what is made of its streams; kept in work."""
    # Of the whole description: artifacts of the same weights may fuse them with another gyro.
    seal = read_description(artifact)["seal_sha256"][:12]
    kept = work / "runs" / f"{bag.name}-{seal}{played.suffix if played else ''}.npz"
    names = [f.name for f in fields(Run) if f.name not in ("name", "counters", "features")]
    if kept.exists():
        with np.load(kept) as z:
            values = {name: z[name] for name in names}
        values["unreferenced"] = int(values["unreferenced"])
        return Run(name=bag.name, counters={}, **values)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    streams, loaded = open_streams(bag), MotionArtifact.load(artifact)
    if played:
        streams = played.of(streams)
    run = play(Estimator(loaded, camera=streams.camera, extrinsics=streams.extrinsics), streams)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, **{name: getattr(run, name) for name in names})
    return replace(run, name=bag.name)


def outages(run: Run, turn: int, lengths_s: tuple[float, ...] = OUTAGES_S) -> Outages:
    """Return outages of all lengths in turn, those that end 5 s before the drive does.

    turn: which length is first.
    """
    return outages_within(float(run.time_s[-1]), turn, lengths_s)


def outages_within(
    duration_s: float, turn: int, lengths_s: tuple[float, ...] = OUTAGES_S
) -> Outages:
    """Return the outages of a drive that lasts so long."""
    start_s, found = min(BETWEEN_S, 0.4 * duration_s), []
    for k in count():
        length_s = lengths_s[(turn + k) % len(lengths_s)]
        if start_s + length_s + 5 > duration_s:
            break
        found.append((start_s, length_s))
        start_s += length_s + BETWEEN_S
    return Outages(tuple(s for s, _ in found), tuple(n for _, n in found))


def fixes(run: Run, where: Outages, seed: int) -> list[tuple[int, Array]]:
    """Return stamps (ns) and positions [3] (m) at 1 Hz outside of outages, with stated noise."""
    rng = np.random.default_rng(seed)
    keep = np.exp(-FIX_INTERVAL_S / FIX_LASTING_TIME_S)
    lasting, found, next_s = rng.normal(size=3), [], 0.0
    for time_s, stamp_ns, T in zip(run.time_s, run.stamp_ns, run.T_world_base, strict=True):
        if time_s < next_s:
            continue
        next_s += FIX_INTERVAL_S
        lasting = keep * lasting + np.sqrt(1 - keep**2) * rng.normal(size=3)
        noise = FIX_LASTING_STD_M * lasting + FIX_STD_M * rng.normal(size=3)
        if not where.length_at(float(time_s)):
            found.append((int(stamp_ns), T[:3, 3] + noise))
    return found


def fuse(
    run: Run,
    treatment: Treatment,
    turn: int,
    seed: int,
    every: int = JUDGED_EVERY,
    lag_s: float = LAG_S,
) -> Judged:
    """Run the smoother over a drive with outages, and judge every so many positions in them."""
    where = outages(run, turn)
    rng = np.random.default_rng(1000 + seed)
    T_start = run.T_world_earlier[0] @ _start_error(rng)
    settings = SmootherSettings(lag_s, treatment.errors)
    smoother = Smoother(settings, int(run.earlier_stamp_ns[0]), T_start, START_COV)
    for stamp_ns, position in fixes(run, where, seed):
        smoother.add_fix(stamp_ns, position, FIX_STD_M**2 * np.eye(3))
    row_at = {int(stamp_ns): row for row, stamp_ns in enumerate(run.stamp_ns)}
    found, judged, told = [], set(), treatment.told(run)
    for k in range(len(run)):
        stamps = int(run.earlier_stamp_ns[k]), int(run.stamp_ns[k])
        covs = told.noise_cov[k], told.epistemic_cov[k]
        smoother.add_motion(*stamps, told.T_earlier_later[k], *covs)
        for lagged in (False, True):
            row = row_at.get(smoother.stamps_ns[0 if lagged else -1])
            if row is None or row % every or (row, lagged) in judged:
                continue
            if length_s := where.length_at(float(run.time_s[row])):
                judged.add((row, lagged))
                state = smoother.oldest() if lagged else smoother.newest()
                found.append((length_s, run.time_s[row], *_judge(state, run, row), lagged))
    table = np.array(found, np.float64).reshape(-1, 7)
    return Judged(*table.T[:6], lagged=table[:, 6] == 1)


def _start_error(rng: np.random.Generator) -> Array:
    xi = rng.multivariate_normal(np.zeros(6), START_COV)
    return se3.exp(torch.from_numpy(xi)).numpy()


def _judge(state: SmoothedState, run: Run, row: int) -> tuple[float, float, float, float]:
    """Return error_m, squared, sigma_m and nll of a row's position."""
    error = (run.T_world_base[row] - state.T_world_base)[:3, 3]
    R = state.T_world_base[:3, :3]
    cov = R @ state.cov[LINEAR, LINEAR] @ R.T
    squared = float(error @ np.linalg.solve(cov, error))
    nll = 0.5 * (squared + float(np.linalg.slogdet(2 * np.pi * cov)[1]))
    return float(np.linalg.norm(error)), squared, float(np.sqrt(np.trace(cov))), nll


def first(run: Run, duration_s: float) -> Run:
    """Return the first seconds of a run."""
    n = int(np.sum(run.time_s <= duration_s))
    arrays: dict[str, Any] = {
        f.name: value[:n]
        for f in fields(Run)
        if isinstance(value := getattr(run, f.name), np.ndarray)
    }
    return replace(run, **arrays)


def increment_errors(run: Run) -> Array:
    """Return the right errors [n, 6] of a run's increments (m, rad)."""
    truth = np.linalg.inv(run.T_world_earlier) @ run.T_world_base
    return right_error(run.T_earlier_later, truth)


def standardised(run: Run, constant_cov: Array | None = None) -> tuple[Array, float]:
    """Return the errors over their noise's sigma [n, 6], and the interval between frames (s)."""
    cov = run.noise_cov if constant_cov is None else constant_cov[None]
    std = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    return increment_errors(run) / std, float(np.median(run.dt_s))
