"""Read the text files of data sets: stamps to the nanosecond, numbers, names, calibrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.convert.source import SourceError

# A message's stamp has 32 signed bits of seconds.
_MAX_SECONDS = 2**31


def required_folder(path: Path, layout: str) -> Path:
    """Return the folder; SourceError where it is absent."""
    if not path.is_dir():
        raise SourceError(f"{path} is no folder, which layout {layout} asks for")
    return path


def text_of(path: Path) -> str:
    """Return a text file's content; SourceError where it is absent or not text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"is bad: {error}"
        raise SourceError(f"{path} {reason}") from error


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every line that is not blank: where it stands ("FILE line N") and its text."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if line.strip():
            yield f"{path} line {number}", line.strip()


def csv_rows(path: Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a comma-separated file: where each stands, its first ``columns`` fields.

    Lines that begin with # and a first line that begins with a letter are headings.
    """
    first = True
    for where, line in lines_of(path):
        heading = line.startswith("#") or (first and line[0].isalpha())
        first = False
        if heading:
            continue
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < columns:
            raise SourceError(f"{where}: {len(fields)} columns where {columns} are needed")
        yield where, fields[:columns]


def stamped_rows(path: Path, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return stamps [n] (ns) and numbers [n, columns - 1] of a CSV file with the stamp first."""
    stamps, rows = [], []
    for where, fields in csv_rows(path, columns):
        stamps.append(stamp_ns_of(fields[0], where))
        rows.append(numbers(fields[1:], where))
    if not stamps:
        raise SourceError(f"{path} holds no rows")
    return np.array(stamps, dtype=np.int64), np.array(rows, dtype=np.float64)


def stamped_names(path: Path, folder: Path) -> tuple[NDArray[np.int64], list[Path]]:
    """Return stamps [n] (ns) and files of a CSV file whose names are relative to ``folder``."""
    stamps, files = [], []
    for where, (stamp, name) in csv_rows(path, 2):
        stamps.append(stamp_ns_of(stamp, where))
        files.append(inside(folder, name, where))
    if not stamps:
        raise SourceError(f"{path} names no images")
    return np.array(stamps, dtype=np.int64), files


def inside(folder: Path, name: str, where: str) -> Path:
    """Return folder / name; SourceError for a name that leads out of the folder."""
    forms = (PurePosixPath(name), PureWindowsPath(name))
    if not name or any(form.anchor or ".." in form.parts for form in forms):
        raise SourceError(f"{where}: '{name}' leads out of {folder}; names must be relative to it")
    return folder / name


def stamp_ns_of(text: str, where: str) -> int:
    """Return a stamp in ns: a whole number is nanoseconds, one with a point or exponent seconds.

    Decimal arithmetic: nine decimals stay exact.
    """
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise SourceError(f"{where}: '{text}' is no stamp") from error
    whole = text.lstrip("+-").isdigit()
    seconds = value / NS_PER_S if whole else value
    if not (value.is_finite() and 0 <= seconds < _MAX_SECONDS):
        raise SourceError(f"{where}: stamp '{text}' lies outside 0 to 2^31 s")
    return int(text) if whole else int((value * NS_PER_S).to_integral_value())


def stamps_ns_of_s(seconds: NDArray[np.float64], path: Path) -> NDArray[np.int64]:
    """Return stamps [n] (ns) of times [n] that are stored as float64 seconds."""
    if seconds.ndim != 1 or not np.all((seconds >= 0) & (seconds < _MAX_SECONDS)):
        raise SourceError(f"{path} does not hold a row of times between 0 and 2^31 s")
    return np.rint(seconds * NS_PER_S).astype(np.int64)


def numbers(fields: Sequence[str], where: str) -> list[float]:
    """Return numbers; SourceError naming the field that is none. "nan" is a number."""
    try:
        return [float(field) for field in fields]
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from error


def yaml_mapping(path: Path) -> dict[str, Any]:
    """Return a YAML file's keys and values; OpenCV's "%YAML:1.0" heading is passed over."""
    text = text_of(path)
    if text.startswith("%YAML:"):
        text = text.partition("\n")[2]
    try:
        content = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise SourceError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} holds no keys")
    return content


def array_of(value: Any, shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    """Return a finite array of a shape (-1: any length); SourceError saying what it should be."""
    try:
        found = np.array(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{what} is not {_shape_words(shape)} numbers") from error
    if not np.isfinite(found).all():
        raise SourceError(f"{what} holds a value that is not finite")
    return found


def _shape_words(shape: tuple[int, ...]) -> str:
    return "a list of" if -1 in shape else " x ".join(map(str, shape))
