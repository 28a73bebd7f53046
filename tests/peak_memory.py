"""The most memory that some work holds at once, for a process of its own."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h


def return_freed_memory() -> None:
    """Let freed tensors leave this process at once, for the rest of its life.

    Otherwise the heap keeps them as holes, and the peak depends on what the process did before.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)


def peak_bytes(work: Callable[[], object]) -> float:
    """Return how far the resident memory rises above its present size while `work` runs."""
    gc.collect()
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(dict(line.split(":", 1) for line in lines)[field].split()[0]) * 1024
