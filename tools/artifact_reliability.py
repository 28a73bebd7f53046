"""Measure anew what is usual for an artifact's inputs, without training or fitting anything.

    python tools/artifact_reliability.py ARTIFACT --train BAG... --validation BAG... [--only FIELD]

The bags are those of its fit; with the fit's own cache of frames this takes a minute. Only
artifact.json changes; with --only just the named fields of its ``reliability`` do.
"""

from __future__ import annotations

from dataclasses import fields, replace

from artifact_recordings import parser_of, recordings_of

from bayes_vio.artifact import MotionArtifact
from bayes_vio.models.reliability import Reliability
from bayes_vio.training.reliability import measure_reliability


def main() -> None:
    """Write the artifact back with what was measured."""
    parser = parser_of(__doc__, "reliability")
    names = [field.name for field in fields(Reliability)]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="FIELD")
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)
    train, validation = recordings_of(arguments, artifact)
    usual = measure_reliability(artifact.model, train, validation)
    if usual is None:
        raise SystemExit("no validation recording has an IMU: nothing can be measured")
    known = artifact.reliability or usual
    usual = replace(known, **{name: getattr(usual, name) for name in arguments.only})
    replace(artifact, reliability=usual).save(arguments.artifact)
    print(usual)


if __name__ == "__main__":
    main()
