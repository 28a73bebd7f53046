"""How much memory does a fit on a 10-minute bag take? Peak resident set of a fit's own process.

    python benchmarks/fit_memory.py [--minutes 10] [--work FOLDER]

The whole fit runs (reading, one epoch, posterior, calibration): its memory does not depend on the
number of epochs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from datetime import datetime, timezone
from pathlib import Path

from bayes_vio.fit import FitSettings, fit
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from bayes_vio.training.map_fit import MapFitSettings

RESULT = Path(__file__).parent / "results" / "fit_memory.json"


def peak_of_fit(train: Path, validation: Path, work: Path, queue: multiprocessing.Queue) -> None:
    started_s = time.perf_counter()
    settings = FitSettings(
        map=MapFitSettings(epochs=1), curvature_samples=300, calibration_samples=100
    )
    fit([train], [validation], work / "artifact", settings)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put((peak_kib * 1024, time.perf_counter() - started_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--work", type=Path, default=Path("out/fit_memory"))
    arguments = parser.parse_args()
    bags = {"train": arguments.minutes * 60, "validation": 30.0}
    for seed, (name, duration_s) in enumerate(bags.items()):
        if not (arguments.work / name).exists():
            drive = DriveSettings(duration_s=duration_s)
            simulate(arguments.work / name, SimulationSettings(seed=seed, drive=drive))
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    folders = (arguments.work / "train", arguments.work / "validation", arguments.work)
    process = spawn.Process(target=peak_of_fit, args=(*folders, queue))
    process.start()
    peak_bytes, seconds = queue.get()
    process.join()
    result = {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bag_minutes": arguments.minutes,
        "peak_resident_gib": peak_bytes / 2**30,
        "target_gib": 2.0,
        "seconds": seconds,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
