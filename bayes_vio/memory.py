"""How much memory there is, and the refusal of what would not fit in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bayes_vio.distributed import Workers

try:
    import resource
except ImportError:  # pragma: no cover (Windows has no such limits)
    resource = None

_SYSTEM = Path("/")
# A version 1 group without a limit says so by the largest number of pages.
_UNLIMITED = 2**60


class InsufficientMemoryError(ValueError):
    """What was asked for needs more memory than there is; the message says what would fit."""


def available_bytes(device: torch.device, system: Path = _SYSTEM) -> float:
    """Return how many bytes this process can still take on a device; infinite where none tells.

    On a CPU the least of what the machine, every control group (v1, v2) and the process' own
    limit leave, page cache included and swap not. ``system``: the root of /proc and /sys.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return math.inf
    return max(0.0, min(_of_machine(system), _of_groups(system), _of_process(system)))


def share_of_memory(device: torch.device, workers: Workers) -> float:
    """Return what is available to each of the workers that use the same memory."""
    place = (_host_name(), str(device))
    everyone = workers.gather((place, available_bytes(device)))
    alike = [free for other, free in everyone if other == place]
    return min(alike) / len(alike)


def gib(n_bytes: float) -> str:
    """Return bytes in words: "1.25 GiB"."""
    return f"{n_bytes / 2**30:.3g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.3g} MiB"


def saved_bytes(run: Callable[[], object]) -> int:
    """Return the bytes of the tensors that autograd keeps of a run, those of leaves excepted."""
    found: dict[int, int] = {}
    kept = []  # a storage that is freed could give its address to another

    def keep(t: Tensor) -> Tensor:
        if not (t.is_leaf and t.requires_grad) and not isinstance(t, torch.nn.Parameter):
            storage = t.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(storage)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        kept.append(run())
    return sum(found.values())


@contextmanager
def _readable() -> Iterator[None]:
    """Take a file that is not there, or says something else, for one that tells nothing."""
    try:
        yield
    except (OSError, ValueError, IndexError, KeyError):
        return


def _of_machine(system: Path) -> float:
    with _readable():
        lines = (system / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024.0
    return math.inf


def _of_process(system: Path) -> float:
    if resource is None:  # pragma: no cover
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return math.inf
    with _readable():
        n_pages = int((system / "proc/self/statm").read_text().split()[0])
        return float(limit - n_pages * resource.getpagesize())
    return float(limit)


def _of_groups(system: Path) -> float:
    """Return the least that any of this process' control groups leaves."""
    least = math.inf
    with _readable():
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = system / "sys/fs/cgroup", _V2
            elif "memory" in controllers.split(","):
                root, names = system / "sys/fs/cgroup/memory", _V1
            else:
                continue
            parts = [part for part in path.split("/") if part and part != ".."]
            for depth in range(len(parts) + 1):
                least = min(least, _of_group(root.joinpath(*parts[:depth]), *names))
    return least


_V2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def _of_group(group: Path, limit: str, usage: str, reclaimable: tuple[str, ...]) -> float:
    with _readable():
        text = (group / limit).read_text().strip()
        if text == "max" or int(text) > _UNLIMITED:
            return math.inf
        used = int((group / usage).read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        stat = dict(line.split() for line in lines)
        return float(int(text) - used + sum(int(stat.get(name, 0)) for name in reclaimable))
    return math.inf


def _host_name() -> str:
    import socket

    return socket.gethostname()
