"""Measure anew what is usual for an artifact's inputs, without training or fitting anything.

    python tools/artifact_reliability.py ARTIFACT --train BAG... --validation BAG... [--only FIELD]

The bags are those of its fit; with the fit's own cache of frames this takes a minute. Only
artifact.json changes; with --only just the named fields of its ``reliability`` do.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import PreparedRecording, prepare
from bayes_vio.models.reliability import Reliability
from bayes_vio.training.reliability import measure_reliability


def main() -> None:
    """Write the artifact back with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--validation", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/reliability/frames"))
    names = [field.name for field in fields(Reliability)]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="FIELD")
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)

    def prepared(bags: list[Path]) -> list[PreparedRecording]:
        recordings = [prepare(open_streams(bag), arguments.cache) for bag in bags]
        return [r.with_time_offset(artifact.time_offset_s) for r in recordings]

    usual = measure_reliability(
        artifact.model, prepared(arguments.train), prepared(arguments.validation)
    )
    if usual is None:
        raise SystemExit("no validation recording has an IMU: nothing can be measured")
    known = artifact.reliability or usual
    usual = replace(known, **{name: getattr(usual, name) for name in arguments.only})
    replace(artifact, reliability=usual).save(arguments.artifact)
    print(usual)


if __name__ == "__main__":
    main()
