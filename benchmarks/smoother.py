"""What the covariance is worth to a smoother whose GPS drops out, beside the best constant one.

    python benchmarks/smoother.py --bags FOLDER --artifact FITTED [--test] [--real BAGS ARTIFACT]

Relative poses go into a 10 s fixed-lag smoother (GTSAM, extra `smoother`) with position fixes at
1 Hz: the reference (KITTI's poses, which are its RTK GPS to a decimetre) plus 1.5 m white and 1 m
slowly varying noise per axis; the fixes stop for 10, 30 and 60 s in turn. Judged are positions
within outages: the absolute error (RMSE) of the newest pose and of the oldest one of the window,
the share of them in their 95 % region and their likelihood (nats).

Beside what an estimator may have stands what none has: a covariance that knows how large true
errors are around every increment (the mean square over 2 s, axis by axis), which bounds what any
varying covariance could gain, and true increments, which leave the fixes' errors alone.

The constant covariance is that of the errors on training drives, its linear and angular sigma
scaled by factors chosen on them for the smallest error; how long errors last is measured on
validation drives. With --test drives 05 and 07 are judged, nothing may be chosen by it, and each
such run is written into docs/log.md. --real adds frames 0-299 of 05 as filmed (with --test), or
those of 00 and 02 without it. Bags: see semi_synthetic.py and kitti_bags.py. Figures go to
results/smoother.json and smoother.png.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from smoother_runs import (
    FIX_LASTING_STD_M,
    FIX_LASTING_TIME_S,
    JUDGED_EVERY,
    LAG_S,
    OUTAGES_S,
    Judged,
    Played,
    Treatment,
    first,
    fuse,
    increment_errors,
    oracle_cov,
    recorded_run,
    standardised,
    with_cov,
)

from bayes_vio.artifact import read_description
from bayes_vio.evaluation.run import Run
from bayes_vio.filters.lasting_errors import ErrorModel, lasting_noise

Array = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "smoother.json"
TRAIN = ("train_00_0", "train_01_0", "train_02_0", "train_08_0")
VALIDATION, TEST = ("validation_04", "validation_06"), ("test_05", "test_07")
REAL_TRAIN, REAL_VALIDATION = ("real_00", "real_02"), ("real_06", "raw_2011_09_26_0005")
REAL_TEST = ("real_05",)
SCALES, FIRST_SCALES = (1.0, 2.0, 4.0, 8.0), (2.0, 2.0)
# Of each training drive, to choose the scales on: one turn of all outages.
CHOOSING_S = 240.0
_CHOOSING_EVERY = 20
ASKED_REDUCTION, ASKED_COVERAGE = 0.2, (0.90, 0.98)
CONSTANT, OURS = "best constant covariance", "ours"
ALL, ENDS = "all outages", {"newest": False, "lagged": True}
# What no estimator has: how large true errors are around every increment, and none at all.
ORACLE, ORACLE_S, NO_ERROR = "oracle covariance", 2.0, "true increments"


def errors_that_last(artifact: Path, runs: Sequence[Run], cov: Array | None) -> ErrorModel:
    """Return how long the errors of held-out drives last, over their own sigma or a constant."""
    fast, slow = lasting_noise([standardised(run, cov) for run in runs])
    learned = cov is None and any(run.epistemic_cov.any() for run in runs)
    tau_s = read_description(artifact)["epistemic_correlation_s"] if learned else 0.0
    return ErrorModel(fast, slow, tau_s, FIX_LASTING_STD_M, FIX_LASTING_TIME_S)


def white_errors() -> ErrorModel:
    """Return the model of increments that err independently; fixes err as they do."""
    return ErrorModel(fix_std_m=FIX_LASTING_STD_M, fix_time_s=FIX_LASTING_TIME_S)


def second_moment(runs: Sequence[Run]) -> Array:
    """Return the covariance [6, 6] of the errors of runs about zero, each drive counted alike."""
    return np.mean([e.T @ e / len(e) for e in map(increment_errors, runs)], axis=0)


def scaled(cov: Array, linear: float, angular: float) -> Array:
    """Return a covariance with its standard deviations scaled."""
    scale = np.repeat([linear, angular], 3)
    return cov * np.outer(scale, scale)


@dataclass(frozen=True)
class Given:
    """An artifact, a folder of bags, and where runs of the estimator are kept."""

    pool: ProcessPoolExecutor
    artifact: Path
    bags: Path
    work: Path

    def runs(self, names: Sequence[str], played: Played | None = None) -> list[Run]:
        """Return what the estimator says of drives."""
        jobs = [
            self.pool.submit(recorded_run, self.artifact, self.bags / name, self.work, played)
            for name in names
        ]
        return [job.result() for job in jobs]


class Study:
    """Judge treatments on drives, in several processes, over a window of lag_s."""

    def __init__(self, pool: ProcessPoolExecutor, seeds: int, lag_s: float = LAG_S) -> None:
        self._pool, self._seeds, self._lag_s = pool, seeds, lag_s

    def judge(
        self,
        runs: Sequence[Run],
        treatments: Mapping[str, Treatment],
        seeds: int | None = None,
        every: int = JUDGED_EVERY,
        turns: Sequence[int] = (),
    ) -> dict[str, Judged]:
        """Return what each treatment makes of all drives with several noises of the fixes.

        turns: which outage is first, by drive; without: another one for every drive and noise.
        """
        jobs = {
            name: [
                self._pool.submit(
                    fuse,
                    run,
                    treatment,
                    turns[drive] if turns else seed + drive,
                    seed,
                    every,
                    self._lag_s,
                )
                for drive, run in enumerate(runs)
                for seed in range(seeds or self._seeds)
            ]
            for name, treatment in treatments.items()
        }
        found = {}
        for name, parts in jobs.items():
            found[name] = Judged.join([j.result() for j in parts])
            print(f"{name}: {np.round(ates(found[name]), 2).tolist()} m", flush=True)
        return found

    def best_scales(
        self, runs: Sequence[Run], cov: Array, turns: Sequence[int] = ()
    ) -> tuple[float, float, dict]:
        """Return the factors of linear and angular sigma with the smallest error, and all tried.

        One factor after the other, until none of both is better alone.
        """
        tried: dict[tuple[float, float], float] = {}

        def best(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
            new = [pair for pair in pairs if pair not in tried]
            tried.update(self._costs(runs, cov, new, turns))
            return min(pairs, key=tried.__getitem__)

        found, before = FIRST_SCALES, None
        while found != before:
            before = found
            found = best([(linear, found[1]) for linear in SCALES])
            found = best([(found[0], angular) for angular in SCALES])
        return *found, {f"{a:g} {b:g}": cost for (a, b), cost in tried.items()}

    def _costs(
        self,
        runs: Sequence[Run],
        cov: Array,
        pairs: Sequence[tuple[float, float]],
        turns: Sequence[int],
    ) -> dict[tuple[float, float], float]:
        """Return the error (m) by factors: geometric mean over outages and ends of the window."""
        named = {f"{a:g} {b:g}": (a, b) for a, b in pairs}
        treated = {
            name: Treatment(white_errors(), scaled(cov, *pair)) for name, pair in named.items()
        }
        judged = self.judge(runs, treated, seeds=1, every=_CHOOSING_EVERY, turns=turns)
        return {pair: float(np.exp(np.mean(np.log(ates(judged[n]))))) for n, pair in named.items()}


def ates(judged: Judged) -> list[float]:
    """Return the RMSE (m) by length of outage and end of the window, where there are any."""
    parts = [judged.of(n).at(lagged) for n in OUTAGES_S for lagged in ENDS.values()]
    return [float(np.sqrt(np.mean(p.error_m**2))) for p in parts if len(p.error_m)]


def figures(judged: Judged) -> dict:
    """Return error and coverage at both ends of the window, by length of outage and over all."""
    parts = {f"{n:g} s": judged.of(n) for n in OUTAGES_S} | {ALL: judged}
    told = {
        name: {end: _figures(p.at(lagged)) for end, lagged in ENDS.items()}
        for name, p in parts.items()
    }
    return {name: ends for name, ends in told.items() if all(e["count"] for e in ends.values())}


def _figures(part: Judged) -> dict:
    if not len(part.error_m):
        return {"count": 0}
    return {
        "count": len(part.error_m),
        "ate_m": float(np.sqrt(np.mean(part.error_m**2))),
        "median_sigma_m": float(np.median(part.sigma_m)),
        "region_95": float(np.mean(part.squared < stats.chi2.ppf(0.95, 3))),
        "nll": float(np.mean(part.nll)),
    }


def lower_by(told: Mapping[str, dict], name: str) -> dict[str, dict[str, float]]:
    """Return by how much one treatment's error is below that of the best constant covariance."""
    constant = told[CONSTANT]
    return {
        length: {end: 1 - v["ate_m"] / constant[length][end]["ate_m"] for end, v in ends.items()}
        for length, ends in told[name].items()
    }


def reductions(told: Mapping[str, dict]) -> dict:
    """Return by how much errors are below those of the best constant covariance, and verdicts."""
    ours, lower = told[OURS], lower_by(told, OURS)
    low, high = ASKED_COVERAGE
    return {
        "by_outage": lower,
        "others": {name: lower_by(told, name)[ALL] for name in told if name != OURS},
        "met": {
            "error_20_percent_lower": min(lower[ALL].values()) >= ASKED_REDUCTION,
            "region_95_holds_90_to_98_percent": all(
                low <= end["region_95"] <= high for end in ours[ALL].values()
            ),
        },
    }


def treatments(
    artifact: Path, train: Sequence[Run], validation: Sequence[Run], best: Array
) -> dict[str, Treatment]:
    """Return what is compared: a covariance and, apart from it, knowing how long errors last.

    And what no estimator has.
    """
    plain, white = second_moment(train), white_errors()
    oracle = [with_cov(run, oracle_cov(run, ORACLE_S)) for run in validation]
    return {
        CONSTANT: Treatment(white, best),
        "constant, errors that last": Treatment(
            errors_that_last(artifact, validation, plain), plain
        ),
        "ours, called white": Treatment(white),
        OURS: Treatment(errors_that_last(artifact, validation, None)),
        f"{ORACLE}, called white": Treatment(white, oracle_s=ORACLE_S),
        ORACLE: Treatment(errors_that_last(artifact, oracle, None), oracle_s=ORACLE_S),
        NO_ERROR: Treatment(white, is_true=True),
    }


def told_model(model: ErrorModel) -> dict:
    return {
        "fast": {"time_s": model.fast.time_s, "share": model.fast.share},
        "slow": {"time_s": model.slow.time_s, "share": model.slow.share},
        "epistemic_time_s": model.epistemic_time_s,
    }


def draw(path: Path, told: Mapping[str, dict], title: str) -> None:
    """Write a PNG of every treatment's ``figures``: errors and coverage by length of outage."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(f"Fixed-lag smoothing through GPS outages ({title})")
    axes = figure.subplots(2, 2, sharex=True)
    for column, end in enumerate(ENDS):
        for n, (name, by_length) in enumerate(told.items()):
            width = 0.8 / len(told)
            place = np.arange(len(by_length)) + width * (n - (len(told) - 1) / 2)
            error = [v[end]["ate_m"] for v in by_length.values()]
            region = [100 * v[end]["region_95"] for v in by_length.values()]
            axes[0, column].bar(place, error, 0.9 * width, label=name)
            axes[1, column].bar(place, region, 0.9 * width)
            axes[1, column].set_xticks(range(len(by_length)), list(by_length))
        axes[0, column].set_title(f"{end} pose of the window")
        axes[1, column].axhline(95, color="black", linewidth=1)
        axes[1, column].set_xlabel("outage")
    axes[0, 0].set_ylabel("position error in outages, RMSE (m)")
    axes[1, 0].set_ylabel("in the 95 % region (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = parser_of(__doc__, RESULT, 6)
    parser.add_argument("--real", type=Path, nargs=2, metavar=("BAGS", "ARTIFACT"))
    arguments = parser.parse_args()
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=context) as pool:
        study = Study(pool, arguments.seeds)
        given = Given(pool, arguments.artifact, arguments.bags, arguments.work)
        split, names = ("test", TEST) if arguments.test else ("validation", VALIDATION)
        train = given.runs(TRAIN)
        if "chosen" not in known or arguments.choose:
            parts = [first(run, CHOOSING_S) for run in train]
            linear, angular, tried = study.best_scales(parts, second_moment(train))
            known["chosen"] = {"linear": linear, "angular": angular, "tried_m": tried}
            write(arguments.out, known)
        scales = known["chosen"]["linear"], known["chosen"]["angular"]
        title = f"semi-synthetic, {', '.join(names)}"
        known[split] = compared(study, given, (TRAIN, VALIDATION, names), scales, title)
        write(arguments.out, known)
        draw(arguments.out.with_suffix(".png"), known[split]["treatments"], title)
        if arguments.real:
            real = Given(pool, arguments.real[1], arguments.real[0], arguments.work)
            drives = (REAL_TRAIN, REAL_VALIDATION, REAL_TEST if arguments.test else REAL_TRAIN)
            known[f"real {split}"] = compared(study, real, drives, scales, "as filmed")
            write(arguments.out, known)
    print(json.dumps({k: v["lower_by"] for k, v in known.items() if "lower_by" in v}, indent=1))


def compared(
    study: Study,
    given: Given,
    names: tuple[Sequence[str], Sequence[str], Sequence[str]],
    scales: tuple[float, float],
    title: str,
) -> dict:
    """Return figures of drives, given those of training and of validation too."""
    train, validation, evaluated = (given.runs(part) for part in names)
    best = scaled(second_moment(train), *scales)
    treated = treatments(given.artifact, train, validation, best)
    judged = study.judge(evaluated, treated)
    told = {name: figures(j) for name, j in judged.items()}
    return {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": title,
        "evaluated_on": [run.name for run in evaluated],
        "artifact_sha256": read_description(given.artifact)["sha256"],
        "artifact_seal_sha256": read_description(given.artifact)["seal_sha256"],
        "errors_that_last": told_model(treated[OURS].errors),
        "treatments": told,
        "lower_by": reductions(told),
    }


def write(path: Path, told: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")


def parser_of(doc: str | None, result: Path, seeds: int) -> argparse.ArgumentParser:
    """Return the command line of a benchmark of the smoother."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0] if doc else None)
    parser.add_argument("--bags", type=Path, required=True, help="of semi_synthetic.py")
    parser.add_argument("--artifact", type=Path, required=True, help="fitted on training bags")
    parser.add_argument("--work", type=Path, default=Path("out/smoother"))
    parser.add_argument("--seeds", type=int, default=seeds, help="noises of the fixes per drive")
    parser.add_argument("--choose", action="store_true", help="choose the constant anew")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=result)
    parser.add_argument("--test", action="store_true", help="evaluate on the test drives")
    return parser


if __name__ == "__main__":
    main()
