"""A real car, from bags to the node: KITTI recordings with camera, IMU and reference.

    python benchmarks/real_car.py [--work FOLDER] [--start-from FITTED] [--test] [--live]

Trained on 00 and 02 (and 03 by camera alone), validated on 06 and raw 0005; once from random
weights and once from the packaged artifact, of which validation chooses one. --start-from names
another than the packaged one, as benchmarks/odometry.py fits it on rendered drives along a real
car's trajectories. Only with --test is the chosen one evaluated on 05 (frames 0-299): write each
such run into docs/log.md. --live also plays 05 to the node over DDS. Needs the recordings:
BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import json
import shutil
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from kitti_bags import data_folder, write_all

from bayes_vio.artifact import MotionArtifact, default_artifact_path, read_description
from bayes_vio.evaluation import evaluate
from bayes_vio.fit import FitSettings, fit
from bayes_vio.progress import FitDisplay
from bayes_vio.training.map_fit import MapFitSettings

RESULT = Path(__file__).parent / "results" / "real_car.json"
TRAIN = ("real_00", "real_02", "real_03_no_imu")
VALIDATION = ("real_06", "raw_2011_09_26_0005")
TEST = "real_05"


def fitted(bags: Path, work: Path, epochs: int, start_from: Path) -> dict[str, MotionArtifact]:
    """Return the artifacts from random weights and from a fitted artifact."""
    starts = {"from_scratch": None, "adapted": start_from}
    artifacts = {}
    for name, start in starts.items():
        rate = 1e-3 if start is None else 3e-4
        settings = FitSettings(
            map=MapFitSettings(epochs=epochs, learning_rate=rate), start_from=start
        )
        with FitDisplay() as display:
            artifacts[name] = fit(
                [bags / n for n in TRAIN],
                [bags / n for n in VALIDATION],
                work / name,
                settings,
                observer=display,
            )
    return artifacts


def figures(report: dict) -> dict:
    """Return what the README shows of a report."""
    summary = report["summary"]
    horizon = summary["horizons"]["1"]
    return {
        "headline": summary["headline"],
        "frames": summary["frames"],
        "path_length_m": summary["path_length_m"],
        "t_rel_percent": summary["drift"]["t_rel_percent"],
        "r_rel_deg_per_100m": summary["drift"]["r_rel_deg_per_100m"],
        "nees_over_6": horizon["joint"]["nees_mean"] / 6,
        "axes": {
            axis["axis"]: {
                "rmse": axis["rmse"],
                "sigma_median": axis["sigma_median"],
                "coverage_2_sigma": axis["coverage"][1]["observed"],
            }
            for axis in horizon["axes"]
        },
        "states": {k: v["share"] for k, v in report["recordings"][0]["states"].items()},
    }


def live(bag: Path, artifact: Path, work: Path) -> dict:
    """Play the test recording to the real node and return what came over DDS."""
    from bayes_vio.data.bags import open_streams
    from bayes_vio.demo import published_errors
    from bayes_vio.filters.consistency import nees
    from bayes_vio.ros.player import PlaySettings
    from bayes_vio.ros.replay import latency_s, replay

    settings = PlaySettings(
        remap={"/image": "image/compressed", "/ground_truth/odometry": "reference"}, wait_s=10.0
    )
    parameters = {"artifact": str(artifact.resolve()), "image_transport": "compressed"}
    result = replay(bag, parameters, work / "node.log", settings)
    reference = open_streams(bag).reference
    assert reference is not None
    error, cov = published_errors(result.arrays, reference, result.played.stamp_shift_ns)
    milliseconds = 1e3 * latency_s(result.arrays)
    return {
        "images_played": result.played.counts["/image"],
        "odometry_received": len(milliseconds),
        "latency_p50_ms": float(np.median(milliseconds)),
        "latency_p99_ms": float(np.percentile(milliseconds, 99)),
        "nees_over_6": float(nees(error, cov).mean() / 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("out/real_car"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--start-from", type=Path, default=default_artifact_path())
    parser.add_argument("--test", action="store_true", help="evaluate on the test recording")
    parser.add_argument("--live", action="store_true", help="and play it to the node")
    arguments = parser.parse_args()
    bags, work = arguments.work / "bags", arguments.work
    if not bags.exists():
        write_all(data_folder(), bags)
    artifacts = fitted(bags, work, arguments.epochs, arguments.start_from)
    nll = {name: a.metadata["validation"]["nll"] for name, a in artifacts.items()}
    chosen = min(nll, key=lambda name: nll[name])
    result = {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "train": TRAIN,
        "validation": VALIDATION,
        "validation_nll": nll,
        "chosen": chosen,
        "started_from_sha256": read_description(arguments.start_from)["sha256"],
    }
    if arguments.test:
        report_dir = work / "report_05"
        shutil.rmtree(report_dir, ignore_errors=True)
        report = evaluate(work / chosen, [bags / TEST], report_dir)
        result |= {"test": TEST, "test_figures": figures(report)}
    if arguments.live:
        result["live"] = live(bags / TEST, work / chosen, work)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
