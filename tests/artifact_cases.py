"""Artifacts on disk, altered on purpose."""

import json
from pathlib import Path

from bayes_vio.sealed import sealed


def reseal(folder: Path, **changes: object) -> None:
    """Change a description and seal it anew, as somebody who means it would."""
    file = folder / "artifact.json"
    description = json.loads(file.read_text()) | changes
    description.pop("seal_sha256")
    file.write_text(json.dumps(sealed(description)))
