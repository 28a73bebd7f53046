"""Run ``bayes-vio`` commands in processes of their own, on machines that are worse than this one.

They are forked from a server that has imported what commands import, so that each takes as long
as its work does.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
# What commands import late, when nobody may read this Python any more.
LATE = [
    "bayes_vio.cli",
    "bayes_vio.demo",
    "bayes_vio.evaluation.page",
    "concurrent.futures.process",
    "torch._dynamo",
]
SERVER.set_forkserver_preload(LATE)
_NOBODY = 65534


@dataclass(frozen=True)
class Machine:
    """What a command finds: the largest file it may write, whether it may write everywhere.

    ``killed_at_message``: SIGKILL comes when it writes so many messages into a bag.
    """

    largest_file: int | None = None
    as_nobody: bool = False
    stdout: str = os.devnull
    killed_at_message: int | None = None

    def enter(self) -> None:
        # A test run in the background has SIGINT ignored, and hands that on.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file,) * 2)
        if self.as_nobody and os.geteuid() == 0:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        if self.killed_at_message is not None:
            _kill_at_message(self.killed_at_message)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | None
    errors: str

    def check(self, code: int, *words: str) -> None:
        """Hold it to an exit code and one line on stderr that has these words in it."""
        assert self.code == code, self
        assert self.errors.startswith("bayes-vio: "), self
        assert self.errors.count("\n") == 1, self
        for word in words:
            assert word in self.errors, self


def start(log: Path, arguments: Sequence[object], machine: Machine) -> ForkServerProcess:
    """Start a command whose stderr goes to a file."""
    command = [str(argument) for argument in arguments]
    process = SERVER.Process(target=_run, args=(log, command, machine))
    process.start()
    return process


def finish(process: ForkServerProcess, log: Path) -> Done:
    process.join(120)
    return Done(process.exitcode, log.read_text())


def bayes_vio(log: Path, *arguments: object, machine: Machine | None = None) -> Done:
    """Run a command to its end."""
    return finish(start(log, arguments, machine or Machine()), log)


def _kill_at_message(number: int) -> None:
    from bayes_vio.data.bag_writer import BagWriter

    write, countdown = BagWriter.write, iter(range(number - 1))

    def kill_at_last(*arguments: Any, **named: Any) -> None:
        write(*arguments, **named)
        if next(countdown, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    BagWriter.write = kill_at_last


def _run(log: Path, command: list[str], machine: Machine) -> None:
    import torch

    from bayes_vio import cli

    for name in LATE:  # the server may have been started by others, with what they needed
        importlib.import_module(name)
    torch.set_num_threads(1)
    with log.open("w", buffering=1) as errors, Path(machine.stdout).open("w") as output:
        sys.stdout, sys.stderr = output, errors
        machine.enter()
        code = cli.main(command)
        os._exit(code)
