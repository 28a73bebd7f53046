"""What the machine itself offers: cores, memory, disk, and the limits that DDS runs into.

Imports nothing but the standard library, as ``doctor`` does.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from bayes_vio.findings import Finding, Status

_GIB, _MIB = 1024**3, 1024**2
_LEAST_MEMORY_GIB = 4.0
_LEAST_DISK_GIB = 5.0
# Fast DDS keeps a segment of shared memory per participant; raw images fill it soonest.
_LEAST_SHARED_MEMORY_MIB = 64
# One raw 640x480 image, and a few more, while a subscriber is busy.
_LEAST_RECEIVE_BUFFER_MIB = 2
_SHARED_MEMORY = Path("/dev/shm")
_RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_max")


def examine_machine() -> Iterator[Finding]:
    """Yield the findings on cores, memory and disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", Status.GOOD, f"{cores} ({platform.system()} {platform.machine()})")
    yield _amount("memory", memory_gib(), _LEAST_MEMORY_GIB, "free", "close other programs")
    disk_gib = shutil.disk_usage(Path.cwd()).free / _GIB
    yield _amount(
        "disk", disk_gib, _LEAST_DISK_GIB, "free here", "free some space: bags are large"
    )
    if not os.access(Path.cwd(), os.W_OK):
        yield Finding(
            "folder", Status.NOTE, f"{Path.cwd()} is not writable",
            "commands whose --out lies here", "change to another folder",
        )  # fmt: skip


def examine_transport() -> Iterator[Finding]:
    """Yield the limits that make DDS lose large messages; silent where the system has none."""
    if _SHARED_MEMORY.is_dir():
        mib = shutil.disk_usage(_SHARED_MEMORY).free / _MIB
        yield _limit(
            "shared memory", mib, _LEAST_SHARED_MEMORY_MIB, "free in /dev/shm",
            "images of other processes on this machine are lost",
            "mount -o remount,size=1G /dev/shm (in a container: docker run --shm-size=1g)",
        )  # fmt: skip
    if _RECEIVE_BUFFER.is_file():
        mib = int(_RECEIVE_BUFFER.read_text()) / _MIB
        yield _limit(
            "net buffers", mib, _LEAST_RECEIVE_BUFFER_MIB, "per socket (net.core.rmem_max)",
            "raw images from other machines are lost",
            "sysctl -w net.core.rmem_max=2147483647 net.ipv4.ipfrag_time=3",
        )  # fmt: skip


def memory_gib() -> float:
    """Return the memory (GiB) that is available, or all of it where only that is known."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) / 1024**2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB


def _amount(subject: str, gib: float, least: float, what: str, remedy: str) -> Finding:
    if gib >= least:
        return Finding(subject, Status.GOOD, f"{gib:.1f} GiB {what}")
    return Finding(
        subject, Status.NOTE, f"{gib:.1f} GiB {what}; a fit wants {least:.0f}", remedy=remedy
    )


def _limit(
    subject: str, mib: float, least: float, what: str, consequence: str, remedy: str
) -> Finding:
    detail = f"{mib:.1f} MiB {what}"
    if mib >= least:
        return Finding(subject, Status.GOOD, detail)
    return Finding(
        subject, Status.NOTE, f"{detail}, less than {least:.0f}: {consequence}", remedy=remedy
    )
