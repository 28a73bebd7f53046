"""Find the files that hold a bag's messages: a folder with or without metadata, a lone file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bayes_vio.data.messages import BagError

_STORAGE = re.compile(r"(?P<stem>.+?)(?:_(?P<number>\d+))?(?P<kind>\.(mcap|db3)(\.zstd)?)")
_MAX_METADATA_BYTES = 1 << 24


def storage_files(path: Path) -> list[Path]:
    """Return a bag's storage files in order of recording.

    path: a rosbag2 folder, whose metadata.yaml lists them; a folder without it that holds one
    bag's files; or one file. Raises BagError where there is none or which ones is not clear, and
    for a list that leads out of the folder: such a path is never followed.
    """
    if not path.exists():
        raise BagError(f"recording {path} does not exist")
    if not path.is_dir():
        files = [path]
    elif (path / "metadata.yaml").exists():
        files = _listed(path)
    else:
        files = _found(path)
    for file in files:
        _check_storage(file)
    return files


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each bag, with its folder's where several are called alike."""
    names = [bag_name(path) for path in paths]
    folders = [path.resolve().parent.name for path in paths]
    told = [
        f"{name} ({folder})" if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]
    return [
        f"{name} {told[:k].count(name) + 1}" if told.count(name) > 1 else name
        for k, name in enumerate(told)
    ]


def check_distinct(paths: Sequence[Path]) -> None:
    """Raise BagError where a recording is given twice: its data would count double."""
    resolved = [path.resolve() for path in paths]
    twice = sorted({str(path) for path in resolved if resolved.count(path) > 1})
    if twice:
        raise BagError(f"{', '.join(twice)}: given twice; name each recording once")


def bag_name(path: Path) -> str:
    """Return the name by which a bag is told: that of its folder, or of its file."""
    name = path.resolve().name
    known = None if path.is_dir() else _STORAGE.fullmatch(name)
    return name.removesuffix(known["kind"]) if known else name


def _check_storage(file: Path) -> None:
    if file.suffix == ".bag":
        raise BagError(f"{file} is a ROS 1 bag: convert it with `rosbags-convert` first")
    if not _STORAGE.fullmatch(file.name):
        raise BagError(
            f"recording {file} cannot be read: give a rosbag2 folder or its .mcap / .db3 file"
        )
    if not file.is_file():  # a pipe or a device would never end
        raise BagError(f"{file} is no regular file")


def _listed(folder: Path) -> list[Path]:
    """Return the files that metadata.yaml lists."""
    information = _metadata(folder / "metadata.yaml")
    mode = str(information.get("compression_mode") or "none").lower()
    kind = information.get("compression_format")
    if mode != "none" and kind != "zstd":
        raise BagError(f"{folder} is compressed as '{kind}', which is not supported; use zstd")
    names = information.get("relative_file_paths")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise BagError(f"{folder}/metadata.yaml lists no relative_file_paths: `ros2 bag reindex`")
    return [_inside(folder, name) for name in names]


def _inside(folder: Path, name: str) -> Path:
    """Return a listed file; before version 4 of the metadata the list repeats the folder."""
    listed = PurePosixPath(name)
    if listed.is_absolute() or ".." in listed.parts or len(listed.parts) > 2 or not listed.name:
        raise BagError(f"{folder}/metadata.yaml lists '{name}', which is not in the bag's folder")
    file = folder / listed.name
    if not file.exists():
        raise BagError(f"{folder}/metadata.yaml lists {listed.name}, but it is missing there")
    return file


def _metadata(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_METADATA_BYTES:
            raise BagError(f"{file} is larger than {_MAX_METADATA_BYTES} bytes: it is no metadata")
        content = YAML(typ="safe").load(file.read_text())
    # The loader meets a stranger's bytes; what it raises on bad ones is not documented.
    except (OSError, ValueError, YAMLError, RecursionError, TypeError, AttributeError) as error:
        raise BagError(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    information = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    if not isinstance(information, dict):
        raise BagError(f"{file} holds no rosbag2_bagfile_information: `ros2 bag reindex` mends it")
    return information


def _found(folder: Path) -> list[Path]:
    """Return the files of a folder without metadata.yaml, as a killed recording leaves it."""
    known = [(f, m) for f in folder.iterdir() if (m := _STORAGE.fullmatch(f.name))]
    if not known:
        raise BagError(
            f"{folder} has no metadata.yaml and no .mcap / .db3 file: give a rosbag2 folder"
        )
    numbered = all(match["number"] for _, match in known)
    one_bag = len({(match["stem"], match["kind"]) for _, match in known}) == 1
    if len(known) > 1 and not (numbered and one_bag):
        names = ", ".join(sorted(file.name for file, _ in known))
        raise BagError(f"{folder} has no metadata.yaml and several recordings ({names}): name one")
    return [file for file, match in sorted(known, key=lambda pair: int(pair[1]["number"] or 0))]
