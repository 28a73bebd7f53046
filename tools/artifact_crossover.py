"""Choose anew how an artifact's rotations are fused with the gyro's, without fitting anything.

    python tools/artifact_crossover.py ARTIFACT --validation BAG... [--cache FOLDER]

The bags are the validation recordings of its fit; with the fit's own cache of frames this takes
seconds. Only artifact.json changes: the crossover, and with it how the noise of rotations lasts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from artifact_recordings import prepared

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.training.correlation import correlations
from bayes_vio.training.crossover import choose_crossover, drive_answers


def main() -> None:
    """Write the artifact back with what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--validation", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/crossover/frames"))
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)
    recordings = prepared(artifact, arguments.validation, arguments.cache)
    drives = [MotionDataset([recording], (1,)) for recording in recordings]
    answers = [drive_answers(artifact.model, drive) for drive in drives]
    crossover = choose_crossover(answers)
    _, noise = correlations(artifact.posterior, artifact.model, drives, crossover, answers)
    replace(artifact, crossover=crossover, noise_correlation=noise).save(arguments.artifact)
    print(crossover, artifact.noise_correlation, noise, sep="\n")


if __name__ == "__main__":
    main()
