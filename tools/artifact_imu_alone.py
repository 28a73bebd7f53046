"""Measure anew how an artifact's noise is to be scaled where no camera sees, fitting nothing else.

    python tools/artifact_imu_alone.py ARTIFACT --train BAG... --validation BAG... [--cache FOLDER]

The bags are those of its fit; with the fit's own cache of frames this takes
seconds. Only artifact.json changes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.fit import FitSettings
from bayes_vio.training.calibration import calibrate_imu_alone
from bayes_vio.training.recordings import EvenSubset


def main() -> None:
    """Write the artifact back with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--validation", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/imu_alone/frames"))
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)

    def samples(bags: list[Path]) -> EvenSubset:
        prepared = [prepare(open_streams(bag), arguments.cache) for bag in bags]
        drives = [r.with_time_offset(artifact.time_offset_s) for r in prepared]
        return EvenSubset(MotionDataset(drives, (1,)), FitSettings().calibration_samples)

    scale = calibrate_imu_alone(
        artifact.posterior, samples(arguments.validation), samples(arguments.train)
    )
    replace(artifact, imu_alone_scale=scale).save(arguments.artifact)
    print(" ".join(f"{factor:.2f}" for factor in scale))


if __name__ == "__main__":
    main()
