"""Files and folders that are whole or absent: written aside and renamed, read once and bounded."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows has no advisory locks of this kind)
    fcntl = None

_LOG = logging.getLogger(__name__)
_PARTIAL = "partial-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


class InUseError(ValueError):
    """A folder is being written by another process."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside and rename it over ``path``: whole, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    partial = _name_aside(path)
    try:
        with partial.open("xb") as file, _lock(partial):
            partial.chmod(0o644)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_bounded(path: Path, largest_bytes: int) -> bytes:
    """Return the bytes of a regular file.

    A link, pipe or device is not opened, and nothing larger than ``largest_bytes`` is read.
    Raises ValueError saying so, and FileNotFoundError.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    if path.is_symlink():
        raise ValueError(f"{path} is a symbolic link; put the file itself there (cp -L)")
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no regular file")
        if status.st_size > largest_bytes:
            raise ValueError(
                f"{path} has {status.st_size} bytes, more than the {largest_bytes} that are read"
            )
        return file.read(largest_bytes)


@contextlib.contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends well.

    What stood at ``path`` stays until then. Folders that killed processes left are removed.
    """
    with folder_aside(path) as partial:
        yield partial
        partial.chmod(0o755)
        _swap_in(partial, path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, removed with all that is in it when the block ends.

    Folders that killed processes left there are removed first, and a warning is logged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if remove_leftovers(path):
        _LOG.warning("removed what a run that was killed had written of %s", path)
    partial = _name_aside(path)
    try:
        partial.mkdir(mode=0o700)
        with _lock(partial):
            yield partial
    finally:
        _remove(partial)


def _name_aside(path: Path) -> Path:
    """Return a new name beside ``path``, known before it exists.

    An interrupt right after the name came to be, before its maker returned it, would leave it.
    """
    return path.with_name(f".{path.name}.{_PARTIAL}{secrets.token_hex(8)}")


def remove_leftovers(path: Path) -> int:
    """Remove what killed processes left aside of ``path``; return how many there were.

    What a live process writes is locked, and stays.
    """
    removed = 0
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{_PARTIAL}*"):
        with contextlib.suppress(InUseError, FileNotFoundError), _lock(leftover):
            _remove(leftover)
            removed += 1
    return removed


@contextlib.contextmanager
def sole_use(folder: Path, purpose: str, cache: Path) -> Iterator[None]:
    """Keep other processes from using a folder for the same purpose; made while it is missing.

    What killed processes left half-written in ``cache``, a folder that only the lock's holder
    writes to, is removed first. The lock ends with the process, however it ends. Raises
    InUseError where another process holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder: choose another for the {purpose}")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_lock(folder))
        except InUseError as error:
            raise InUseError(
                f"another {purpose} is using {folder}: wait for it, or give another folder"
            ) from error
        for leftover in cache.glob(f".*.{_PARTIAL}*"):
            _remove(leftover)
        try:
            yield
        finally:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock (flock) on a file or a folder itself.

    Raises InUseError where another process, or another part of this one, holds it.
    """
    if fcntl is None:  # pragma: no cover
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError(f"{path} is in use") from error
        yield
    finally:
        os.close(descriptor)


def _swap_in(partial: Path, path: Path) -> None:
    """Put a finished folder in place of an earlier one, which takes the partial one's name."""
    if not os.path.lexists(path):
        partial.rename(path)
    elif not _exchange(partial, path):
        old = path.with_name(f"{partial.name}.old")
        path.rename(old)
        partial.rename(path)
        _remove(old)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at one instant; False where the system has no word for that."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return renameat2(*names, _RENAME_EXCHANGE) == 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
