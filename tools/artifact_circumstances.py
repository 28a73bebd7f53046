"""Measure anew an artifact's noise under circumstances that training has not, and nothing else.

    python tools/artifact_circumstances.py ARTIFACT --train BAG... --validation BAG...

The bags are those of its fit; with the fit's own cache of frames this takes two minutes. Only
artifact.json changes.
"""

from __future__ import annotations

from dataclasses import replace

from artifact_recordings import parser_of, recordings_of

from bayes_vio.artifact import MotionArtifact
from bayes_vio.circumstances import measure_circumstances


def main() -> None:
    """Write the artifact back with what was measured."""
    parser = parser_of(__doc__, "circumstances")
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)
    train, validation = recordings_of(arguments, artifact)
    measured = measure_circumstances(artifact.posterior, train, validation)
    replace(artifact, circumstances=measured).save(arguments.artifact)
    print(measured)


if __name__ == "__main__":
    main()
