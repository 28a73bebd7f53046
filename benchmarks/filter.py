"""Does a filter that is fed the published covariance know where the car is?

    python benchmarks/filter.py --tune BAG... --test BAG... [--artifact FOLDER]

Plays simulated bags through the estimator, and fuses its twists with fixes like those of a GPS (1
Hz, white 1.5 m horizontally and 2.5 m vertically, and 1 m that wanders with 60 s), which stay away
for 40 s twice. Compared are, with the same filter and the same fixes:

    published         noise and epistemic covariance of every twist, errors that last as states
    epistemic white   the noise's lasting part as a state, the epistemic part as white
    white             the same covariances, all errors independent from one twist to the next
    constant          one covariance for all twists, that of their errors on the tuning drives,
                      white; the scales of its linear and of its angular half are tuned there
    constant, lasting the same with the noise's lasting part as a state

Every free number (those two scales) is chosen on the tuning drives. Told are, on
the test drives: absolute error, NEES (with the band of as many independent errors as there are)
and likelihood of the pose, overall and within outages, and the NIS of twists and fixes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact, default_artifact_path, read_description
from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bags import open_streams
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation import trajectory
from bayes_vio.evaluation.play import play
from bayes_vio.filters.consistency import chi_square_band, effective_count, nees
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.fusion import MotionFilter
from bayes_vio.filters.measurements import Measurement, PositionFix, Source, TwistMeasurement
from bayes_vio.filters.published import mean_twist
from bayes_vio.geometry import se3
from bayes_vio.models.noise import WHITE_NOISE

Array = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "filter.json"
FIX_STD_M = np.array([1.5, 1.5, 2.5])
FIX_LASTING_STD_M, FIX_CORRELATION_S = 1.0, 60.0
OUTAGES_S = ((30.0, 70.0), (95.0, 135.0))
START_STD = np.repeat([0.5, 0.02], 3)  # m, rad: how well the pose at the beginning is known
# Of the constant covariance's deviations; without lasting errors it must stand in for them.
WHITE_SCALES, LASTING_SCALES = (4.0, 8.0, 16.0, 32.0), (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Drive:
    """A drive's twists (mean [n, 6], covariances [n, 6, 6]), and the truth at their stamps.

    stamp_ns [n] are the middles of intervals, T_true [n, 4, 4] the poses there; fixes at fix_ns
    with fix [m, 3], start_T the pose at which the filter starts (in error by START_STD).
    """

    name: str
    stamp_ns: NDArray[np.int64]
    twist: Array
    noise_cov: Array
    epistemic_cov: Array
    T_true: Array
    true_twist: Array
    fix_ns: NDArray[np.int64]
    fix: Array
    start_T: Array


@dataclass(frozen=True)
class Treatment:
    """Covariances that a filter is fed instead of the published ones, and its settings."""

    settings: EkfSettings
    constant_cov: Array | None = None

    def covs(self, drive: Drive, k: int) -> tuple[Array, Array]:
        """Return noise and epistemic covariance [6, 6] of a drive's twist k."""
        if self.constant_cov is None:
            return drive.noise_cov[k], drive.epistemic_cov[k]
        return self.constant_cov, np.zeros((6, 6))


def middle(T_a: Array, T_b: Array) -> Array:
    """Return the poses [n, 4, 4] half way between two, on the geodesic."""
    a, b = torch.from_numpy(T_a), torch.from_numpy(T_b)
    return (a @ se3.exp(0.5 * se3.log(se3.inverse(a) @ b))).numpy()


def recorded(bag: Path, artifact: Path, cache: Path) -> dict[str, Array]:
    """Return what an artifact's estimator says of a bag, and the truth; kept in cache."""
    seal = read_description(artifact)["seal_sha256"][:12]
    file = cache / f"{bag.name}-{seal}.npz"
    if not file.exists():
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        streams = open_streams(bag)
        run = play(Estimator(MotionArtifact.load(artifact)), streams)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(
            file,
            earlier_ns=run.earlier_stamp_ns,
            stamp_ns=run.stamp_ns,
            T=run.T_earlier_later,
            noise_cov=run.noise_cov,
            epistemic_cov=run.epistemic_cov,
            T_world_earlier=run.T_world_earlier,
            T_world_base=run.T_world_base,
        )
    return dict(np.load(file))


def drive_of(bag: Path, artifact: Path, cache: Path, seed: int) -> Drive:
    """Return a drive with fixes and a start drawn by a seed."""
    run = recorded(bag, artifact, cache)
    rows = zip(
        run["T"], run["noise_cov"], run["epistemic_cov"], run["earlier_ns"], run["stamp_ns"],
        strict=True,
    )  # fmt: skip
    twists = [TwistMeasurement.of_increment(T, N, E, int(a), int(b)) for T, N, E, a, b in rows]
    T_true = middle(run["T_world_earlier"], run["T_world_base"])
    relative = trajectory.relative(run["T_world_earlier"], run["T_world_base"])
    dt_s = (run["stamp_ns"] - run["earlier_ns"]) / NS_PER_S
    stamp_ns = np.array([t.stamp_ns for t in twists])
    rng = np.random.default_rng(seed)
    fix_ns, fix = fixes(stamp_ns, T_true, rng)
    start_error = se3.exp(torch.from_numpy(START_STD * rng.normal(size=6))).numpy()
    return Drive(
        bag.name,
        stamp_ns,
        np.stack([t.twist for t in twists]),
        np.stack([t.noise_cov for t in twists]),
        np.stack([t.epistemic_cov for t in twists]),
        T_true,
        np.stack([mean_twist(T, dt) for T, dt in zip(relative, dt_s, strict=True)]),
        fix_ns,
        fix,
        T_true[0] @ start_error,
    )


def fixes(
    stamp_ns: NDArray[np.int64], T_true: Array, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Array]:
    """Return stamps and positions of fixes at 1 Hz outside the outages."""
    chosen, lasting = [], FIX_LASTING_STD_M * rng.normal(size=3)
    memory = np.exp(-1.0 / FIX_CORRELATION_S)
    for second in range(1, int((stamp_ns[-1] - stamp_ns[0]) / NS_PER_S)):
        fresh = FIX_LASTING_STD_M * rng.normal(size=3)
        lasting = memory * lasting + np.sqrt(1 - memory**2) * fresh
        k = int(np.searchsorted(stamp_ns, stamp_ns[0] + second * NS_PER_S))
        white = FIX_STD_M * rng.normal(size=3)
        if k < len(stamp_ns) and not any(a <= second < b for a, b in OUTAGES_S):
            chosen.append((stamp_ns[k], T_true[k, :3, 3] + lasting + white))
    return np.array([c[0] for c in chosen]), np.stack([c[1] for c in chosen])


def measurements(drive: Drive, treatment: Treatment) -> Iterator[Measurement]:
    """Yield twists and fixes in order of time."""
    fix_at = {int(ns): position for ns, position in zip(drive.fix_ns, drive.fix, strict=True)}
    for k, stamp_ns in enumerate(drive.stamp_ns.tolist()):
        yield TwistMeasurement(stamp_ns, drive.twist[k], *treatment.covs(drive, k))
        if stamp_ns in fix_at:
            yield PositionFix(stamp_ns, fix_at[stamp_ns], np.diag(FIX_STD_M**2))


def filtered(drive: Drive, treatment: Treatment) -> dict[str, Array]:
    """Return pose errors [n, 6], their covariances, seconds, and the NIS of every source."""
    motion = MotionFilter(treatment.settings, drive.start_T, np.diag(START_STD**2))
    poses, covs, nis = [], [], {source: [] for source in Source}
    gated = dict.fromkeys(Source, 0)
    row, seen = 0, []
    for measurement in measurements(drive, treatment):
        fed = motion.feed(measurement)
        gated[measurement.source] += fed.outcome.value != "applied"
        if fed.nis is not None:
            nis[measurement.source].append(fed.nis)
        state = motion.state
        assert state is not None
        if measurement.source is Source.TWIST:
            poses.append(state.T_world_base)
            covs.append(state.pose_cov)
            seen.append(row)
            row += 1
        else:
            poses[-1], covs[-1] = state.T_world_base, state.pose_cov
    T = np.stack(poses)
    return {
        "error": trajectory.right_error(T, drive.T_true[seen]),
        "position_error": np.linalg.norm(T[:, :3, 3] - drive.T_true[seen][:, :3, 3], axis=1),
        "cov": np.stack(covs),
        "second": (drive.stamp_ns[seen] - drive.stamp_ns[0]) / NS_PER_S,
        "nis_twist": np.array(nis[Source.TWIST]),
        "nis_fix": np.array(nis[Source.FIX]),
        "gated": np.array([gated[Source.TWIST], gated[Source.FIX]]),
    }


def likelihood(result: dict[str, Array]) -> Array:
    """Return -log N(error; 0, cov) [n] of a pose's six axes."""
    _, logdet = np.linalg.slogdet(result["cov"])
    return 0.5 * (nees(result["error"], result["cov"]) + logdet + 6 * np.log(2 * np.pi))


def in_outage(second: Array) -> NDArray[np.bool_]:
    return np.any([(second >= a) & (second < b) for a, b in OUTAGES_S], axis=0)


def judged(results: Sequence[dict[str, Array]]) -> dict:
    """Return the figures of one treatment over drives."""
    position = [nees(r["error"][:, :3], r["cov"][:, :3, :3]) for r in results]
    whole = [nees(r["error"], r["cov"]) for r in results]
    gone = [in_outage(r["second"]) for r in results]
    effective = float(sum(effective_count(w) for w in whole))
    low, high = chi_square_band(6, effective)
    ends = np.concatenate([_outage_ends(r) for r in results])
    return {
        "position_rmse_m": _rms([r["position_error"] for r in results]),
        "position_rmse_in_outages_m": _rms(
            [r["position_error"][g] for r, g in zip(results, gone, strict=True)]
        ),
        "yaw_rmse_deg": float(np.rad2deg(_rms([r["error"][:, 5] for r in results]))),
        "nees_over_6": float(np.concatenate(whole).mean() / 6),
        "nees_over_6_median_drive": float(np.median([w.mean() for w in whole]) / 6),
        "nees_over_6_band": [low / 6, high / 6],
        "effective_poses": effective,
        "position_nees_over_3": float(np.concatenate(position).mean() / 3),
        "position_nees_over_3_at_ends_of_outages": float(ends.mean() / 3),
        "nll": float(np.concatenate([likelihood(r) for r in results]).mean()),
        "nis_twist_over_6": float(np.concatenate([r["nis_twist"] for r in results]).mean() / 6),
        "nis_fix_over_3": float(np.concatenate([r["nis_fix"] for r in results]).mean() / 3),
        "gated_twists_and_fixes": np.sum([r["gated"] for r in results], axis=0).tolist(),
    }


def _outage_ends(result: dict[str, Array]) -> Array:
    rows = [int(np.searchsorted(result["second"], end)) - 1 for _, end in OUTAGES_S]
    rows = [row for row in rows if row < len(result["second"]) - 1]
    return nees(result["error"][rows, :3], result["cov"][rows, :3, :3])


def _rms(parts: Sequence[Array]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))


def everywhere(
    pool: Executor, drives: Sequence[Drive], treatment: Treatment
) -> list[dict[str, Array]]:
    """Return the filter's results on every drive."""
    return list(pool.map(filtered, drives, repeat(treatment)))


def tuned_constant(
    pool: Executor, drives: Sequence[Drive], settings: EkfSettings, scales: Sequence[float]
) -> tuple[Treatment, dict]:
    """Return the constant covariance with the best likelihood of poses on the tuning drives."""
    error = np.concatenate([d.twist - d.true_twist for d in drives])
    base = np.cov(error.T, bias=True)
    found: dict[tuple[float, float], float] = {}

    def nll(linear: float, angular: float) -> float:
        if (linear, angular) not in found:
            treatment = Treatment(settings, scaled(base, linear, angular))
            results = everywhere(pool, drives, treatment)
            found[linear, angular] = float(np.mean([likelihood(r).mean() for r in results]))
        return found[linear, angular]

    linear = min(scales, key=lambda scale: nll(scale, scales[0]))
    angular = min(scales, key=lambda scale: nll(linear, scale))
    tried = [[*pair, value] for pair, value in found.items()]
    chosen = {"linear_scale": linear, "angular_scale": angular, "tried": tried}
    return Treatment(settings, scaled(base, linear, angular)), chosen


def scaled(cov: Array, linear: float, angular: float) -> Array:
    """Return a covariance [6, 6] with its deviations scaled."""
    scale = np.repeat([linear, angular], 3)
    return cov * np.outer(scale, scale)


def treatments(artifact: MotionArtifact) -> dict[str, Treatment]:
    """Return the treatments that have nothing to tune."""
    common = EkfSettings(
        epistemic_correlation_s=artifact.epistemic_correlation_s,
        noise_correlation=artifact.noise_correlation,
        fix_lasting_std_m=FIX_LASTING_STD_M,
        fix_correlation_s=FIX_CORRELATION_S,
    )
    epistemic_white = replace(common, epistemic_correlation_s=0.0)
    white = replace(epistemic_white, noise_correlation=WHITE_NOISE)
    return {
        "published": Treatment(common),
        "epistemic white": Treatment(epistemic_white),
        "white": Treatment(white),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tune", nargs="+", type=Path, required=True)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--artifact", type=Path, default=default_artifact_path())
    parser.add_argument("--work", type=Path, default=Path("out/filter"))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bags = [*arguments.tune, *arguments.test]
    pool = ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn"))
    given = repeat(arguments.artifact), repeat(arguments.work)
    drives = list(pool.map(drive_of, bags, *given, range(len(bags))))
    tune, test = drives[: len(arguments.tune)], drives[len(arguments.tune) :]
    compared = treatments(MotionArtifact.load(arguments.artifact))
    chosen = {}
    for name, like, scales in (
        ("constant", "white", WHITE_SCALES),
        ("constant, lasting", "epistemic white", LASTING_SCALES),
    ):
        settings = compared[like].settings
        compared[name], chosen[name] = tuned_constant(pool, tune, settings, scales)
    report = {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tuned_on": [drive.name for drive in tune],
        "tested_on": [drive.name for drive in test],
        "artifact_sha256": read_description(arguments.artifact)["sha256"],
        "path_length_m": float(sum(trajectory.path_length(d.T_true)[-1] for d in test)),
        "outages_s": OUTAGES_S,
        "constant": chosen,
        "treatments": {
            name: judged(everywhere(pool, test, treatment)) for name, treatment in compared.items()
        },
    }
    pool.shutdown()
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
