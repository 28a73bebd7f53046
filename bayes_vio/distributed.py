"""Processes that fit together: each reads its part of the data, their sums are one process's.

torch.distributed carries the exchanges: gloo between CPUs, NCCL between GPUs. Start them with
``torchrun --nproc-per-node=N -m bayes_vio fit ...``, or initialise a process group yourself: what
fits then works on all of its processes. Without one, a process is alone and nothing is exchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils.data import Subset

from bayes_vio.device import choose_device

T = TypeVar("T")

# How long an exchange waits for the slowest process. One that died is noticed at once: this is
# for those that hang, and has to outlast the stages that the first process does alone.
TIMEOUT_S = 1800.0
TIMEOUT_VARIABLE = "BAYES_VIO_WORKER_TIMEOUT_S"
_is_alone = ContextVar("_is_alone", default=False)
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class WorkerError(RuntimeError):
    """Another process of the fit failed, was killed, or did not answer in time."""


@dataclass(frozen=True)
class Workers:
    """The processes that fit together, seen from one of them: by default one that is alone.

    All of them call the same methods in the same order. Raises WorkerError from any of them where
    another process is gone, or does not answer within the group's timeout.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and tells how the fit goes."""
        return self.rank == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over the processes: the same bits on all of them."""
        if self.size > 1:
            for tensor in tensors:
                _exchanged(lambda t=tensor: dist.all_reduce(t))

    def sum_numbers(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Return the sums of numbers over the processes; ``device``: where the tensors are."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        self.sum([total])
        return total.tolist()

    def copy(self, tensors: Iterable[Tensor], source: int = 0) -> None:
        """Replace every tensor by that of the process ``source``."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.contiguous()
                _exchanged(lambda t=sent: dist.broadcast(t, source))
                if sent is not tensor:
                    tensor.copy_(sent)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank; any that pickle takes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        _exchanged(lambda: dist.all_gather_object(values, value))
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes, alone; its exception ends the call on all."""
        made: list[Any] = [None]
        with self.together(), _alone():
            if self.is_first:
                made = [make()]
        if self.size > 1:
            _exchanged(lambda: dist.broadcast_object_list(made, 0))
        return made[0]

    def first_then_others(
        self, first: Callable[[], T], others: Callable[[], T] | None = None
    ) -> T:
        """Return what the first process makes, then what the others do, of the same by default.

        For what the first leaves in files that the others read. Each of them is alone in it.
        """
        with self.together(), _alone():
            made = [first()] if self.is_first else []
        with self.together(), _alone():
            return made[0] if self.is_first else (others or first)()

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a block on all processes where it fails on one; no exchanges within.

        Raises WorkerError with the other's words where it was not this process that failed.
        """
        try:
            yield
        except Exception as error:
            # Where the others cannot be told any more they notice by themselves.
            with suppress(WorkerError):
                self.gather(f"{type(error).__name__}: {error}")
            raise
        for rank, failure in enumerate(self.gather(None)):
            if failure is not None:
                raise WorkerError(f"worker {rank} of {self.size} failed: {failure}")

    def part(self, count: int) -> slice:
        """Return this process' share of ``count`` things in a row, as even as can be."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def owns(self, index: int) -> bool:
        """Tell whether the index-th of many alike tasks is this process'."""
        return index % self.size == self.rank


def current_workers() -> Workers:
    """Return the processes of the default process group, or this one alone where there is none.

    In what one process does while the others wait (``Workers.from_first``) it is alone, too.
    """
    if _is_alone.get() or not dist.is_available() or not dist.is_initialized():
        return Workers()
    return Workers(dist.get_rank(), dist.get_world_size())


@contextmanager
def _alone() -> Iterator[None]:
    """Let nothing in a block find the other processes: they would not answer."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def shard(dataset: Sequence) -> Subset:
    """Return this process' part of a map-style dataset: every datum once, shards in a row."""
    part = current_workers().part(len(dataset))
    return Subset(dataset, range(part.start, part.stop))  # pyright: ignore[reportArgumentType]


@contextmanager
def launched_workers(device: str, timeout_s: float | None = None) -> Iterator[Workers]:
    """Join the processes that torchrun has launched, for a block; one that is alone stays so.

    ``device`` "auto" or "cuda" is for each process the GPU of its local rank. ``timeout_s`` None:
    the variable BAYES_VIO_WORKER_TIMEOUT_S, or half an hour. Raises ValueError where a machine has
    fewer GPUs than processes.
    """
    if dist.is_initialized() or any(name not in os.environ for name in _LAUNCHED):
        yield current_workers()
        return
    place = worker_device(device)
    is_cuda = place.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(place)
    timeout = timedelta(seconds=timeout_s or _timeout_s())
    _exchanged(lambda: _join("cpu:gloo,cuda:nccl" if is_cuda else "gloo", place, timeout))
    # After an exception the process ends: to say good-bye would wait for those that are gone.
    yield current_workers()
    dist.destroy_process_group()


def worker_device(name: str) -> torch.device:
    """Return the device of a launched process: under "auto" and "cuda" that of its local rank.

    Raises ValueError where there are fewer GPUs than processes, or all are told to use one.
    """
    device = choose_device(name)
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type != "cuda" or n_local == 1:
        return device
    if device.index is not None:
        raise ValueError(f"{n_local} workers cannot share device '{name}': use cuda or auto")
    local_rank, n_devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if n_local > n_devices:
        raise ValueError(
            f"{n_local} workers on a machine with {n_devices} GPUs: start as many, or use "
            "--device cpu"
        )
    return torch.device("cuda", local_rank)


def _join(backend: str, place: torch.device, timeout: timedelta) -> None:
    """Initialise the process group, by addresses of this attempt alone.

    torchrun keeps one store through its restarts: it still has those of the processes that died.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        backend,
        store=PrefixStore(f"bayes_vio/{attempt}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=place if place.type == "cuda" else None,
    )


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT_S))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise ValueError(f"{TIMEOUT_VARIABLE} is {text!r}: give seconds, more than 0")
    return value


def _exchanged(exchange: Callable[[], Any]) -> None:
    """Run an exchange; what breaks it is told as what it means for a fit."""
    try:
        exchange()
    except RuntimeError as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkerError(
            "another worker was killed, failed or hung, so this one cannot go on; start the same "
            f"command again, and a fit continues where it was ({cause})"
        ) from error
