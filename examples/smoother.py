"""A bag through the estimator and a fixed-lag smoother with GPS fixes that stop for a while.

    python examples/smoother.py BAG [--artifact FOLDER] [--held-out BAG ...] [--outage 30 30]

Needs the extra `smoother` (GTSAM) and a bag with a reference. The fixes are its positions at 1 Hz
with 1.5 m of white and 1 m of slowly varying noise: put your receiver's in their place. Drives
that the artifact was not fitted on (--held-out) tell how much of the noise lasts for a whole
drive. Writes a figure: the path, and the error beside the sigma that the smoother gave.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.conventions import LINEAR
from bayes_vio.data.bags import open_streams
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation.play import play
from bayes_vio.evaluation.run import Run
from bayes_vio.filters.lasting_errors import ErrorModel, lasting_noise
from bayes_vio.filters.published import fixed_axes_cov
from bayes_vio.filters.smoother import SmoothedState, Smoother, SmootherSettings

Array = NDArray[np.float64]
FIX_STD_M, FIX_LASTING_STD_M, FIX_LASTING_TIME_S = 1.5, 1.0, 60.0
# A first guess: metres, a degree of tilt, some degrees of heading.
START_COV = np.diag([2.0, 2.0, 2.0, 0.02, 0.02, 0.1]) ** 2


def estimated(bag: Path, artifact: MotionArtifact) -> Run:
    """Return what the estimator says of a bag, increment by increment, beside the reference."""
    streams = open_streams(bag)
    return play(Estimator(artifact, camera=streams.camera, extrinsics=streams.extrinsics), streams)


def error_model(artifact: MotionArtifact, held_out: Sequence[Run]) -> ErrorModel:
    """Return what lasts of the errors: measured on held-out drives, else as the artifact says."""
    model = ErrorModel(
        fast=artifact.noise_correlation,
        epistemic_time_s=artifact.epistemic_correlation_s,
        fix_std_m=FIX_LASTING_STD_M,
        fix_time_s=FIX_LASTING_TIME_S,
    )
    if not held_out:
        return model
    drives = []
    for run in held_out:
        std = np.sqrt(np.diagonal(run.noise_cov, axis1=1, axis2=2))
        drives.append((run.increment_errors().error / std, float(np.median(run.dt_s))))
    fast, slow = lasting_noise(drives)
    return ErrorModel(fast, slow, model.epistemic_time_s, model.fix_std_m, model.fix_time_s)


def fixes(run: Run, outage_s: tuple[float, float], seed: int = 0) -> list[tuple[int, Array]]:
    """Return (stamp, position [3] in m) at 1 Hz outside of the outage, noise added."""
    rng = np.random.default_rng(seed)
    keep, lasting, found = np.exp(-1 / FIX_LASTING_TIME_S), rng.normal(size=3), []
    start_s, length_s = outage_s
    for second in range(int(run.time_s[-1])):
        row = int(np.searchsorted(run.time_s, second))
        lasting = keep * lasting + np.sqrt(1 - keep**2) * rng.normal(size=3)
        noise = FIX_LASTING_STD_M * lasting + FIX_STD_M * rng.normal(size=3)
        if not start_s < run.time_s[row] <= start_s + length_s:
            found.append((int(run.stamp_ns[row]), run.T_world_base[row, :3, 3] + noise))
    return found


def smoothed(run: Run, model: ErrorModel, given: list[tuple[int, Array]]) -> list[SmoothedState]:
    """Return the poses as they leave the window, and those that are left in it at the end."""
    start_ns = int(run.earlier_stamp_ns[0])
    smoother = Smoother(
        SmootherSettings(errors=model), start_ns, run.T_world_earlier[0], START_COV
    )
    for stamp_ns, position in given:
        smoother.add_fix(stamp_ns, position, FIX_STD_M**2 * np.eye(3))
    states: dict[int, SmoothedState] = {}
    for k in range(len(run)):
        smoother.add_motion(
            int(run.earlier_stamp_ns[k]),
            int(run.stamp_ns[k]),
            run.T_earlier_later[k],
            run.noise_cov[k],
            run.epistemic_cov[k],
        )
        if k % 5 == 0:
            oldest = smoother.oldest()
            states[oldest.stamp_ns] = oldest
    states |= {state.stamp_ns: state for state in smoother.states()}
    return [states[stamp_ns] for stamp_ns in sorted(states)]


def draw(
    path: Path,
    run: Run,
    states: Sequence[SmoothedState],
    given: list[tuple[int, Array]],
    outage_s: tuple[float, float],
) -> float:
    """Write the figure; return the RMSE (m) of the smoothed positions within the outage."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes, errors = figure.subplots(1, 2)
    row = {int(ns): k for k, ns in enumerate(run.stamp_ns)}
    states = [s for s in states if s.stamp_ns in row]
    rows = np.array([row[s.stamp_ns] for s in states])
    position = np.array([s.T_world_base[:3, 3] for s in states])
    cov = np.array([fixed_axes_cov(s.T_world_base, s.cov)[LINEAR, LINEAR] for s in states])
    odometry = run.T_world_earlier[0] @ run.T_odom_base
    for T, color, label in ((run.T_world_base, "black", "reference"),
                            (odometry, "tab:gray", "odometry alone")):  # fmt: skip
        axes.plot(T[:, 0, 3], T[:, 1, 3], color=color, linewidth=1, label=label)
    axes.plot(position[:, 0], position[:, 1], color="tab:blue", label="smoothed, 2 sigma")
    for k in range(0, len(states), max(1, len(states) // 60)):
        axes.add_patch(_ellipse(position[k], cov[k]))
    at = np.array([p for _, p in given])
    axes.plot(at[:, 0], at[:, 1], "+", color="tab:orange", markersize=4, label="fixes")
    axes.set_aspect("equal", "datalim")
    axes.set_xlabel("x (m)")
    axes.set_ylabel("y (m)")
    axes.legend()
    error_m = np.linalg.norm(position - run.T_world_base[rows, :3, 3], axis=1)
    time_s = run.time_s[rows]
    errors.plot(time_s, error_m, color="tab:blue", label="error")
    sigma_m = np.sqrt(np.trace(cov, axis1=1, axis2=2))
    errors.plot(time_s, sigma_m, color="tab:orange", label="sigma (root of the trace)")
    errors.axvspan(outage_s[0], sum(outage_s), color="tab:gray", alpha=0.2, label="no fixes")
    errors.set_xlabel("time (s)")
    errors.set_ylabel("position (m)")
    errors.legend()
    figure.savefig(path, dpi=110)
    inside = (time_s > outage_s[0]) & (time_s <= sum(outage_s))
    return float(np.sqrt(np.mean(error_m[inside] ** 2)))


def _ellipse(position: Array, cov: Array) -> Ellipse:
    variance, axes = np.linalg.eigh(cov[:2, :2])
    width, height = 4 * np.sqrt(variance)
    angle = float(np.rad2deg(np.arctan2(axes[1, 0], axes[0, 0])))
    return Ellipse((position[0], position[1]), width, height, angle=angle, alpha=0.15)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--artifact", type=Path, default=default_artifact_path())
    parser.add_argument("--held-out", type=Path, nargs="*", default=[], metavar="BAG")
    parser.add_argument("--outage", type=float, nargs=2, default=(30.0, 30.0))
    parser.add_argument("--out", type=Path, default=Path("smoother.png"))
    arguments = parser.parse_args(argv)
    artifact = MotionArtifact.load(arguments.artifact)
    run = estimated(arguments.bag, artifact)
    start_s, length_s = arguments.outage
    if not 0 < start_s < start_s + length_s < run.time_s[-1]:
        parser.error(f"the outage must lie within the drive, which lasts {run.time_s[-1]:.0f} s")
    model = error_model(artifact, [estimated(bag, artifact) for bag in arguments.held_out])
    given = fixes(run, (start_s, length_s))
    states = smoothed(run, model, given)
    rmse_m = draw(arguments.out, run, states, given, (start_s, length_s))
    print(f"{rmse_m:.2f} m RMSE in the outage; wrote {arguments.out}")


if __name__ == "__main__":
    main()
