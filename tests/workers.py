"""Run a function in several real processes that exchange over gloo."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.cli_process import SERVER


@dataclass(frozen=True)
class Ended:
    """What a process returned, or the exception (type's name, words) that ended it, or neither."""

    value: Any = None
    error: tuple[str, str] | None = None
    code: int | None = 0

    def failed_with(self, kind: str, words: str) -> None:
        assert self.error is not None, self
        assert self.error[0] == kind, self
        assert words in self.error[1], self


@dataclass(frozen=True)
class Group:
    """Processes at work: process r calls function(*arguments[r])."""

    processes: list[ForkServerProcess]
    folder: Path

    def results(self, timeout_s: float = 60.0) -> list[Ended]:
        return [self.result(rank, timeout_s) for rank in range(len(self.processes))]

    def result(self, rank: int, timeout_s: float = 60.0) -> Ended:
        process = self.processes[rank]
        process.join(timeout_s)
        if process.is_alive():
            for each in self.processes:
                each.kill()
            raise AssertionError(f"worker {rank} hangs")
        file = self.folder / f"result_{rank}"
        if process.exitcode or not file.exists():
            return Ended(code=process.exitcode)
        return pickle.loads(file.read_bytes())


def start(function: Callable[..., Any], arguments: list[tuple], timeout_s: float = 60.0) -> Group:
    folder = Path(tempfile.mkdtemp(prefix="workers_"))
    size = len(arguments)
    processes = [
        SERVER.Process(target=_work, args=(folder, rank, size, timeout_s, function, given))
        for rank, given in enumerate(arguments)
    ]
    for process in processes:
        process.start()
    return Group(processes, folder)


def values(function: Callable[..., Any], arguments: list[tuple]) -> list[Any]:
    """Return what every process returned."""
    ended = start(function, arguments).results()
    for one in ended:
        assert one.error is None, one.error[1]
        assert one.code == 0, one
    return [one.value for one in ended]


def _work(
    folder: Path,
    rank: int,
    size: int,
    timeout_s: float,
    function: Callable[..., Any],
    given: tuple,
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        ended = Ended(function(*given))
    except Exception as error:
        ended = Ended(error=(type(error).__name__, f"{error}\n{traceback.format_exc()}"))
    partial = folder / f"partial_{rank}"
    partial.write_bytes(pickle.dumps(ended))
    partial.rename(folder / f"result_{rank}")
    os._exit(0)
