"""Measure anew an artifact's noise under circumstances that training has not, and nothing else.

    python tools/artifact_circumstances.py ARTIFACT --train BAG... --validation BAG...

The bags are those of its fit; with the fit's own cache of frames this takes a minute. Only
artifact.json changes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bayes_vio.artifact import MotionArtifact
from bayes_vio.circumstances import measure_circumstances
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import PreparedRecording, prepare


def main() -> None:
    """Write the artifact back with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--validation", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/circumstances/frames"))
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)

    def prepared(bags: list[Path]) -> list[PreparedRecording]:
        recordings = [prepare(open_streams(bag), arguments.cache) for bag in bags]
        return [r.with_time_offset(artifact.time_offset_s) for r in recordings]

    measured = measure_circumstances(
        artifact.posterior, prepared(arguments.train), prepared(arguments.validation)
    )
    replace(artifact, circumstances=measured).save(arguments.artifact)
    print(measured)


if __name__ == "__main__":
    main()
