"""A fit small enough to be killed a hundred times, and ways to kill it.

Fits run in processes forked from a server that has imported everything already, so that a kill
strikes work and not imports.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
# torch._dynamo: an optimizer imports it when it is made, which takes longer than an epoch here.
SERVER.set_forkserver_preload(
    ["bayes_vio.fit", "bayes_vio.posterior.storage", "bayes_vio.evaluation.page", "torch._dynamo"]
)
REFUSED = 2
ARTIFACT = ("artifact.json", "model.safetensors", "posterior.safetensors")


@dataclass(frozen=True)
class Point:
    """Where a fit kills itself: at the count-th call of a function, named "module:attribute"."""

    place: str
    count: int = 1


@dataclass(frozen=True)
class Fit:
    """The paths of a fit: two bags and the artifact to write."""

    train: Path
    validation: Path
    out: Path

    def start(self, die_at: Point | None = None) -> ForkServerProcess:
        process = SERVER.Process(target=run, args=(self, die_at))
        process.start()
        return process

    def finish(self, die_at: Point | None = None, limit_s: float = 60.0) -> int:
        """Run to the end and return the exit code, -SIGKILL where it was killed."""
        process = self.start(die_at)
        process.join(limit_s)
        assert process.exitcode is not None, f"a fit took longer than {limit_s} s"
        return process.exitcode

    def killed_after(self, wait_s: float) -> bool:
        """Run for some time, then kill; return whether it was still running."""
        process = self.start()
        process.join(wait_s)
        alive = process.is_alive()
        process.kill()
        process.join()
        return alive

    def content(self) -> dict[str, bytes]:
        """Return the artifact's files; the pages that a fit writes beside them carry dates."""
        return content_of(self.out)


def content_of(artifact: Path) -> dict[str, bytes]:
    """Return an artifact's files by name."""
    return {name: (artifact / name).read_bytes() for name in ARTIFACT}


def save_anew(artifact: Path, die_at: Point | None) -> None:
    """Load an artifact and save it over itself."""
    from bayes_vio.artifact import MotionArtifact

    loaded = MotionArtifact.load(artifact)
    if die_at is not None:
        arm(die_at)
    loaded.save(artifact)
    os._exit(0)


def run(paths: Fit, die_at: Point | None) -> None:
    """Fit in this process and leave it with an exit code."""
    import torch

    from bayes_vio.fit import FitSettings, fit
    from bayes_vio.training.map_fit import MapFitSettings
    from bayes_vio.whole_files import InUseError

    torch.set_num_threads(1)
    if die_at is not None:
        arm(die_at)
    settings = FitSettings(
        map=MapFitSettings(epochs=3, batch_size=32),
        rank=4,
        prior_precisions=(1.0, 100.0),
        curvature_samples=6,
        calibration_samples=6,
        time_offset_s=0.0,
        regime=False,
        device="cpu",
    )
    try:
        fit([paths.train], [paths.validation], paths.out, settings)
    except InUseError:
        os._exit(REFUSED)
    os._exit(0)


def arm(point: Point) -> None:
    """Make the count-th call of a function the last thing that this process does."""
    module, attribute = point.place.split(":")
    *path, name = attribute.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, name)
    left = [point.count]

    def deadly(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10)
        return function(*arguments, **options)

    setattr(owner, name, deadly)
