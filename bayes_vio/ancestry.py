"""Where an artifact comes from: the artifacts that it continues, and what they were taught by."""

from __future__ import annotations

from typing import Any

from bayes_vio.training.recordings import Recordings


def with_ancestor(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ancestry of a child, oldest first, from its parent's artifact.json.

    Each has the seal of its artifact.json, which holds the hashes of the other files, and the
    names and hashes of its own recordings by use.
    """
    metadata = description["metadata"]
    uses = metadata.get("recordings", {})
    parent = {
        "seal_sha256": description["seal_sha256"],
        "package_version": description["package_version"],
        "recordings": {
            use: [{"name": r["name"], "sha256": r["sha256"]} for r in uses.get(use, [])]
            for use in ("train", "validation")
        },
    }
    return [*metadata.get("ancestry", []), parent]


def check_uses(recordings: Recordings, ancestry: list[dict[str, Any]]) -> None:
    """Raise ValueError for data that would count twice, or judge what was taught by them."""
    taught = {r["sha256"] for a in ancestry for r in a["recordings"]["train"]}
    for group, fault in (
        (recordings.train, "its data would count twice"),
        (recordings.validation, "it cannot judge what it taught"),
    ):
        for recording in group:
            if recording.sha256 in taught:
                raise ValueError(
                    f"{recording.name}: the artifact to continue was trained on it, so {fault}; "
                    "leave it out"
                )
