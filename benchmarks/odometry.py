"""Odometry and its covariance, beside its peers on the same frames.

    python benchmarks/odometry.py --work FOLDER [--bags FOLDER] [--artifact FITTED] [--test]

Renders the semi-synthetic bags where they are missing (see semi_synthetic.py: trajectories and IMU
of a real car, frames rendered), fits an artifact where none is given, beginning with the packaged
one, and compares ways to a covariance of motion on the validation drives; see odometry_methods.py.
With --test the same is done on 05 and 07, calibration staying where it was: nothing may be chosen
by it, and each such run is written into docs/log.md. Figures go to results/odometry.json, a page
of pictures to the work folder. Needs the recordings to render: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import cv2
import torch
from kitti_bags import data_folder
from odometry_methods import ENSEMBLE, methods
from odometry_pictures import draw
from odometry_runs import Sensors, hear
from odometry_setting import Evaluated, Result, Setting
from odometry_tables import distance_table, figures, over_distance, table
from semi_synthetic import CAMERA_HEIGHT_M, TEST, TRAIN, VALIDATION, write_all

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.fit import FitSettings, fit
from bayes_vio.progress import FitDisplay
from bayes_vio.training.map_fit import MapFitSettings

RESULT = Path(__file__).parent / "results" / "odometry.json"
# Judged over distance too: what is published, and what it has to be better than.
OVER_DISTANCE = (
    "INF",
    "constant",
    "noise head",
    "diagonal",
    "KFAC",
    "MC",
    ENSEMBLE,
    "classical + gyro",
)


def rendered(bags: Path, names: Sequence[str], workers: int) -> None:
    """Render the bags that are missing."""
    missing = [name for name in names if not (bags / name).exists()]
    if missing:
        print(f"rendering {', '.join(missing)}", flush=True)
        write_all(data_folder(), bags, workers, missing)


def fitted(bags: Path, work: Path, epochs: int, learning_rate: float) -> Path:
    """Return the artifact of the work folder, fitted first if it is not there."""
    out = work / "artifact"
    if not out.exists():
        settings = FitSettings(
            map=MapFitSettings(epochs=epochs, learning_rate=learning_rate),
            curvature_samples=2000,
        )
        train, validation = [bags / n for n in TRAIN], [bags / n for n in VALIDATION]
        with FitDisplay() as display:
            fit(train, validation, out, settings, work_dir=work / "fit", observer=display)
    return out


def make_setting(arguments: argparse.Namespace, bags: Path, path: Path) -> Setting:
    """Read training and validation, with the artifact's time offset."""
    artifact = MotionArtifact.load(path)
    cache = arguments.cache or arguments.work / "fit" / "frames"

    def dataset(names: Sequence[str]) -> MotionDataset:
        prepared = [
            prepare(open_streams(bags / n), cache, workers=arguments.workers) for n in names
        ]
        return MotionDataset([r.with_time_offset(artifact.time_offset_s) for r in prepared], (1,))

    return Setting(
        artifact=artifact,
        train=dataset(list(TRAIN)),
        validation=dataset(list(VALIDATION)),
        training=[open_streams(bags / name) for name in TRAIN if name.endswith("_0")],
        camera_height_m=CAMERA_HEIGHT_M,
        members=[MotionArtifact.load(member).model for member in arguments.members],
        curvature_samples=arguments.samples,
        dropout_epochs=arguments.dropout_epochs,
    )


def compared(
    setting: Setting, recordings: Sequence[Evaluated], names: Sequence[str] | None
) -> tuple[dict[str, Result], dict[str, dict]]:
    """Return every method's runs and figures."""
    results, told = {}, {}
    for name, method in methods(names, bool(setting.members)).items():
        print(f"{name} ...", flush=True)
        results[name] = method(setting, recordings)
        told[name] = figures(results[name])
        if name.startswith(OVER_DISTANCE):
            told[name]["over_distance"] = over_distance(results[name])
    return results, told


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    bags = arguments.bags or arguments.work / "bags"
    names = list(TEST if arguments.test else VALIDATION)
    rendered(bags, [*TRAIN, *VALIDATION, *names], arguments.workers)
    path = arguments.artifact or fitted(
        bags, arguments.work, arguments.epochs, arguments.learning_rate
    )
    setting = make_setting(arguments, bags, path)
    recordings = [
        Evaluated(s, hear(setting.artifact, s, Sensors.BOTH))
        for s in (open_streams(bags / name) for name in names)
    ]
    results, told = compared(setting, recordings, arguments.methods)
    split = "test" if arguments.test else "validation"
    folder = arguments.work / split
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "odometry.png", results, told, f"semi-synthetic, {', '.join(names)}")
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    known[split] = {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": "semi-synthetic: trajectories and IMU of a real car (KITTI), frames rendered",
        "calibrated_on": list(VALIDATION),
        "noise_widened_by": list(TRAIN),
        "evaluated_on": names,
        "artifact_sha256": read_description(path)["sha256"],
        "methods": told,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n")
    print("\n".join([*table(told), "", *distance_table(told)]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("out/odometry"))
    parser.add_argument("--bags", type=Path, help="rendered bags; default WORK/bags")
    parser.add_argument("--artifact", type=Path, help="fitted on the training bags")
    parser.add_argument(
        "--members",
        type=Path,
        nargs="*",
        default=[],
        metavar="ARTIFACT",
        help="fitted likewise from other seeds: an ensemble with --artifact",
    )
    parser.add_argument("--cache", type=Path, help="measured frames; default WORK/fit/frames")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--samples", type=int, default=3000, help="read by each curvature")
    parser.add_argument("--dropout-epochs", type=int, default=3)
    parser.add_argument("--methods", nargs="*", help="only those whose names begin so")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--test", action="store_true", help="evaluate on the test drives")
    return parser.parse_args()


if __name__ == "__main__":
    main()
