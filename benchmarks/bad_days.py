"""Bad days: is the covariance still true, and what state is told, when a sensor is spoilt?

    python benchmarks/bad_days.py BAG... --artifact FOLDER --label NAME [--faults NAME...]
    python benchmarks/bad_days.py --join FILE...

Nine faults at three strengths each are put into the streams of held-out recordings (seeded, see
bad_day_faults.py), which the real estimator is then played. A cell tells of the intervals within
the fault: error, predicted sigma, NEES, share of errors in the 95 % region, share of each state.
Figures go to results/bad_days.json under the label, the picture beside it; runs for some faults
each, into files of their own (--out), are joined. Asked of every cell:
at least 85 % of the errors that are not called lost in the region; a median sigma of at most twice
the RMS error; at the weakest strength at most 10 % lost. Validation recordings only: the
estimator's settings were chosen by this.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from bad_day_faults import FAULTS, BadDay, FaultRow, unspoilt
from bad_day_picture import draw
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.conventions import ANGULAR, AXES, LINEAR, NS_PER_S
from bayes_vio.data.bags import open_streams
from bayes_vio.data.samples import Streams
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation.calibration import Errors, concatenate, in_region_95
from bayes_vio.evaluation.play import play
from bayes_vio.filters.consistency import nees

RESULT = Path(__file__).parent / "results" / "bad_days.json"
STATES = ("tracking", "degraded", "lost")
LEAST_COVERAGE, LARGEST_SHARPNESS, LARGEST_LOST_SHARE = 0.85, 2.0, 0.10
FEWEST_ERRORS = 20  # fewer tell neither a share nor a typical error
JOB_FAULTS = 3  # in one go of a process
SEED = 1


@dataclass(frozen=True)
class Spoilt:
    """What an estimator said within a fault: errors, and the state [n] at each."""

    errors: Errors
    state: NDArray[np.str_]


def shortened(streams: Streams, seconds: float) -> Streams:
    """Return the first seconds of a recording, its images held in memory."""
    kept = streams.image_stamp_ns < streams.image_stamp_ns[0] + round(seconds * NS_PER_S)
    images = list(itertools.islice(streams.frames(), int(kept.sum())))
    return replace(
        streams, image_stamp_ns=streams.image_stamp_ns[kept], frames=lambda: iter(images)
    )


def spoilt(artifact: MotionArtifact, day: BadDay) -> Spoilt:
    """Play a bad day to the estimator."""
    streams = day.streams
    run = play(Estimator(artifact, camera=streams.camera, extrinsics=streams.extrinsics), streams)
    hit = day.hit(run)
    return Spoilt(run.increment_errors().take(hit), run.state[hit])


def judged(parts: Sequence[Spoilt]) -> dict:
    """Return a cell's figures, over recordings."""
    errors = concatenate([part.errors for part in parts])
    state = np.concatenate([part.state for part in parts])
    told = state != "lost"
    inside = in_region_95(nees(errors.error, errors.cov))
    return {
        "count": len(errors),
        "states": {name: float((state == name).mean()) for name in STATES},
        "coverage_95": {
            name: float(inside[state == name].mean())
            for name in STATES
            if (state == name).sum() >= FEWEST_ERRORS
        },
        "coverage_95_told": float(inside[told].mean()) if told.any() else None,
        "nees_over_6": float(nees(errors.error, errors.cov).mean() / 6),
        "translation": _block(errors, LINEAR),
        "rotation": _block(errors, ANGULAR),
        "axes": {name: _block(errors, slice(i, i + 1)) for i, name in enumerate(AXES)},
        "epistemic_share": float(
            np.median(np.trace(np.linalg.solve(errors.cov, errors.epistemic_cov), 0, 1, 2)) / 6
        ),
    }


def _block(errors: Errors, axes: slice) -> dict:
    rmse = float(np.sqrt(np.sum(errors.error[:, axes] ** 2, axis=1).mean()))
    sigma = float(np.median(np.sqrt(np.trace(errors.cov[:, axes, axes], axis1=1, axis2=2))))
    return {"rmse": rmse, "sigma_median": sigma, "sharpness": sigma / rmse}


def failures(cell: dict, weakest: bool) -> list[str]:
    """Return what a cell misses of what is asked."""
    found = [
        f"{100 * share:.0f} % of the errors while {name} are in the 95 % region"
        for name, share in cell["coverage_95"].items()
        if name != "lost" and share < LEAST_COVERAGE
    ]
    for name in ("translation", "rotation"):
        if cell["count"] >= FEWEST_ERRORS and cell[name]["sharpness"] > LARGEST_SHARPNESS:
            found.append(f"{name}'s median sigma is {cell[name]['sharpness']:.1f} times the error")
    if weakest and cell["states"]["lost"] > LARGEST_LOST_SHARE:
        found.append(f"{100 * cell['states']['lost']:.0f} % lost")
    return found


def cells_of(job: tuple[Path, Path, float, tuple[str, ...]]) -> dict[tuple[str, float], Spoilt]:
    """Return what the estimator said of a recording on the named bad days; "none": a good one."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    path, bag, seconds, names = job
    artifact, streams = MotionArtifact.load(path), shortened(open_streams(bag), seconds)
    found = {("none", 0.0): spoilt(artifact, unspoilt(streams))} if "none" in names else {}
    for fault in (fault for fault in FAULTS if fault.name in names):
        for strength in fault.strengths:
            day = fault.spoil(streams, strength, SEED)
            found[fault.name, strength] = spoilt(artifact, day)
        print(f"{bag.name}: {fault.name}", flush=True)
    return found


def _chosen(names: Sequence[str]) -> list[FaultRow]:
    return [fault for fault in FAULTS if not names or fault.name.startswith(tuple(names))]


def measured(
    artifact: Path, bags: Sequence[Path], seconds: float, names: tuple[str, ...], workers: int
) -> dict:
    """Return the figures of an artifact over all cells."""
    wanted = [fault.name for fault in _chosen(names)]
    wanted = ["none", *wanted] if not names or "none" in names else wanted
    groups = [tuple(wanted[k : k + JOB_FAULTS]) for k in range(0, len(wanted), JOB_FAULTS)]
    jobs = [(artifact, bag, seconds, group) for bag in bags for group in groups]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(cells_of, jobs))
    told: dict[tuple[str, float], list[Spoilt]] = {}
    for key, value in (pair for part in parts for pair in part.items()):
        told.setdefault(key, []).append(value)
    rows = []
    for fault in _chosen(names):
        cells = []
        for strength in fault.strengths:
            cell = judged(told[fault.name, strength])
            missed = failures(cell, strength == fault.strengths[0])
            cells.append({"strength": strength, **cell, "missed": missed})
        rows.append({"fault": fault.name, "unit": fault.unit, "cells": cells})
    return {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "artifact_sha256": read_description(artifact)["sha256"],
        "recordings": [bag.name for bag in bags],
        "seconds_of_each": seconds,
        "no_fault": judged(told["none", 0.0]) if ("none", 0.0) in told else None,
        "faults": rows,
    }


def joined(files: Sequence[Path]) -> dict:
    """Return the figures of several runs that differ in faults alone, or in their label.

    Raises ValueError where runs of one label had other recordings or another artifact.
    """
    known: dict = {}
    for file in files:
        for label, figures in json.loads(file.read_text()).items():
            first = known.setdefault(label, {**figures, "faults": []})
            for key in ("artifact_sha256", "recordings", "seconds_of_each"):
                if first[key] != figures[key]:
                    raise ValueError(f"{file} has another {key} of {label} than files before it")
            first["no_fault"] = first["no_fault"] or figures["no_fault"]
            first["faults"] += figures["faults"]
    order = [fault.name for fault in FAULTS]
    for figures in known.values():
        figures["faults"].sort(key=lambda row: order.index(row["fault"]))
        for row in figures["faults"]:
            for number, cell in enumerate(row["cells"]):
                cell["missed"] = failures(cell, weakest=number == 0)
    return known


def table(label: str, figures: dict) -> list[str]:
    """Return the lines that the console shows."""
    cells = []
    if figures["no_fault"]:
        cells.append(("none", {"strength": 0.0, **figures["no_fault"], "missed": []}))
    cells += [(row["fault"], cell) for row in figures["faults"] for cell in row["cells"]]
    return [label] + [
        f"{name:18s} {cell['strength']:6.3f} n {cell['count']:4d}  95 % region "
        + " ".join(f"{s} {100 * v:3.0f} %" for s, v in cell["coverage_95"].items())
        + f"  NEES/6 {cell['nees_over_6']:5.2f}  sigma/error "
        f"{cell['translation']['sharpness']:.2f} {cell['rotation']['sharpness']:.2f}  "
        + " ".join(f"{k} {100 * v:.0f} %" for k, v in cell["states"].items() if v)
        + ("  MISSED: " + "; ".join(cell["missed"]) if cell["missed"] else "")
        for name, cell in cells
    ]


def main() -> None:
    arguments = parsed()
    if arguments.join:
        known = joined(arguments.join)
    else:
        names = tuple(arguments.faults)
        artifact, bags = arguments.artifact, arguments.bags
        figures = measured(artifact, bags, arguments.seconds, names, arguments.workers)
        known = {arguments.label: figures}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n")
    draw(arguments.out.with_suffix(".png"), known)
    for label, figures in known.items():
        print("\n".join(table(label, figures)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("bags", nargs="*", type=Path)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--label", help="what the bags are, as 'simulated'")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each bag")
    parser.add_argument(
        "--faults", nargs="*", default=[], help="those whose names begin so; 'none': without one"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--join", type=Path, nargs="*", help="figures of runs for some faults each"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if not arguments.join and not (arguments.bags and arguments.artifact and arguments.label):
        parser.error("give bags, --artifact and --label, or --join")
    return arguments


if __name__ == "__main__":
    main()
