"""What the command line says of an error: an exit code and one line."""

from __future__ import annotations

import errno

# What says that the caller's input is at fault, rather than the program or the machine.
_BAD_INPUT = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one line that an error deserves."""
    message = " ".join(str(error).split()) or type(error).__name__
    if hasattr(error, "format_message"):  # the parser's own
        return 2, f"{error.format_message()} (see --help)"  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(error, OSError) and error.strerror:
        return _explain_system(error)
    if isinstance(error, _BAD_INPUT):
        return 2, message
    if isinstance(error, ImportError):
        return 1, f"{message}; `bayes-vio doctor` tells what is missing and what mends it"
    return 1, f"{type(error).__name__}: {message} (BAYES_VIO_TRACEBACK=1 shows where)"


def _explain_system(error: OSError) -> tuple[int, str]:
    """Return code and line for what the operating system refused."""
    subject = f"{error.filename}: " if error.filename else ""
    if error.errno in _DISK_FULL:
        return 1, f"{subject}{error.strerror}; free some space and run the same command again"
    if isinstance(error, _BAD_INPUT) or error.errno == errno.EROFS:
        return 2, f"{subject}{error.strerror}"
    return 1, f"{subject}{error.strerror} ({type(error).__name__})"
