"""Read the recordings of a finished artifact's fit again, for what is measured anew on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import PreparedRecording, prepare


def parser_of(doc: str | None, cache: str) -> argparse.ArgumentParser:
    """Return a command line of an artifact, the bags of its fit and the fit's cache of frames."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0] if doc else None)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--validation", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=Path(f"out/{cache}/frames"))
    return parser


def recordings_of(
    arguments: argparse.Namespace, artifact: MotionArtifact
) -> tuple[list[PreparedRecording], list[PreparedRecording]]:
    """Return the recordings of training and of validation under the artifact's time offset."""
    train, validation = (
        prepared(artifact, bags, arguments.cache)
        for bags in (arguments.train, arguments.validation)
    )
    return train, validation


def prepared(artifact: MotionArtifact, bags: list[Path], cache: Path) -> list[PreparedRecording]:
    """Return recordings under the artifact's time offset."""
    recordings = [prepare(open_streams(bag), cache) for bag in bags]
    return [r.with_time_offset(artifact.time_offset_s) for r in recordings]
