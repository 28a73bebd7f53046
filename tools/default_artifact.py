"""Make the artifact that is installed with the package, from simulated drives alone.

    python tools/default_artifact.py [--work FOLDER] [--workers N] [--regime-only]

Drives at 10 and at 30 images/s, each in a world of its own, so that the intervals from 33 to
500 ms are all covered. Takes about three quarters of an hour on two cores; a killed run continues
where it was. With --regime-only the installed motion model stays, and the regime classifier is
fitted anew from frames that were measured before.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.fit import FitSettings, fit, with_regime
from bayes_vio.progress import FitDisplay
from bayes_vio.simulation import CameraSettings, DriveSettings, SimulationSettings, simulate
from bayes_vio.training.map_fit import MapFitSettings
from bayes_vio.training.recordings import FitObserver, read_recordings

SLOW = SimulationSettings(drive=DriveSettings(duration_s=90.0))
FAST = SimulationSettings(
    drive=DriveSettings(duration_s=45.0), camera=replace(CameraSettings(), rate_hz=30.0)
)
# Seeds name worlds: those of other uses (demo, tests, benchmarks) are below 10 000.
DRIVES = {
    **{f"train_slow_{i}": replace(SLOW, seed=10_000 + i) for i in range(30)},
    **{f"train_fast_{i}": replace(FAST, seed=11_000 + i) for i in range(8)},
    **{f"validation_slow_{i}": replace(SLOW, seed=12_000 + i) for i in range(2)},
    "validation_fast_0": replace(FAST, seed=13_000),
}
SETTINGS = FitSettings(map=MapFitSettings(epochs=10, patience=99), curvature_samples=2000)


def main() -> None:
    """Simulate what is missing, then fit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("out/default_artifact"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--regime-only", action="store_true")
    arguments = parser.parse_args()
    bags = {name: arguments.work / "bags" / name for name in DRIVES}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=spawn) as pool:
        missing = [name for name, bag in bags.items() if not bag.exists()]
        for job in [pool.submit(simulate, bags[name], DRIVES[name]) for name in missing]:
            job.result()
    train = [bag for name, bag in bags.items() if name.startswith("train")]
    validation = [bag for name, bag in bags.items() if name.startswith("validation")]
    with FitDisplay() as display:
        if arguments.regime_only:
            artifact = fit_regime_alone(train, validation, arguments.work / "fit", display)
        else:
            artifact = fit(train, validation, arguments.work / "artifact", SETTINGS,
                           work_dir=arguments.work / "fit", observer=display)  # fmt: skip
    # The fit's report stays beside the copy in the work folder.
    artifact.save(default_artifact_path())


def fit_regime_alone(
    train: list[Path], validation: list[Path], work_dir: Path, observer: FitObserver
) -> MotionArtifact:
    """Return the installed artifact with a regime classifier fitted anew."""
    artifact = MotionArtifact.load(default_artifact_path())
    recordings = read_recordings(
        train, validation, work_dir / "frames", None, None,
        artifact.time_offset_s, SETTINGS.seed, observer,
    )  # fmt: skip
    return with_regime(artifact, recordings, SETTINGS.seed, observer)


if __name__ == "__main__":
    main()
