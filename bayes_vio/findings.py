"""What an examination of the machine finds, one line each; standard library alone."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from types import ModuleType


class Status(Enum):
    """How a finding stands: well, worth knowing, missing for some commands, missing for all."""

    GOOD = "ok"
    NOTE = "--"
    MISSING = "!!"
    BROKEN = "XX"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, what it stops, what mends it."""

    subject: str
    status: Status
    detail: str
    stops: str = ""
    remedy: str = ""


def load(module: str) -> ModuleType | str:
    """Import a module; return it, or why it does not load (a broken binary raises anything)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"no module named {error.name}"
    except Exception as error:
        return first_line(error)


def first_line(error: Exception) -> str:
    """Return the kind and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def version_of(distribution: str, module: ModuleType) -> str:
    """Return a version, also of a module that the system's packages installed unnamed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "of unknown version"))
