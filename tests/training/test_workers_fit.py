"""A fit on several real processes is one process's; a killed worker ends it, and it goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.samples import MotionInput
from bayes_vio.distributed import current_workers
from bayes_vio.models.motion import MotionModel
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from bayes_vio.training.checkpoint import Progress
from bayes_vio.training.map_fit import MapFitSettings, fit_map
from tests import workers
from tests.motion_cases import TINY, Samples

SETTINGS = MapFitSettings(epochs=3, batch_size=16, learning_rate=5e-3)
CPU = torch.device("cpu")
# A whole fit by processes that import everything anew, on a machine that has other work.
PATIENCE_S = 1200.0


@dataclass(frozen=True)
class Fitted:
    """Weights by name, the curves, and after how many epochs the fit went on."""

    weights: dict[str, Tensor]
    progress: Progress
    resumed: int


@dataclass(frozen=True)
class Struck(Samples):
    """Samples on whose n-th reading worker 1 is killed, in the middle of an epoch."""

    reading: int = 0

    def loader(self, batch_size: int, shuffle_seed: int | None = None) -> "Strike":
        batches = super().loader(batch_size, shuffle_seed)
        is_struck = shuffle_seed is not None and shuffle_seed % 1_000_003 == self.reading
        return Strike(list(batches), is_struck and current_workers().rank == 1)


@dataclass(frozen=True)
class Strike:
    """Batches, of which the second one never comes."""

    batches: list
    is_struck: bool

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[MotionInput, Tensor]]:
        for i, batch in enumerate(self.batches):
            if self.is_struck and i == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def fit_double(checkpoint: Path, n: int, strike_epoch: int | None = None) -> Fitted:
    """Fit in float64, where rounding is out of sight."""
    samples = [Samples.random(count, seed) for count, seed in ((n, 0), (20, 1))]
    train, validation = (Samples(s.x.map(Tensor.double), s.target.double()) for s in samples)
    if strike_epoch is not None:
        train = Struck(train.x, train.target, strike_epoch)
    torch.manual_seed(4)
    start = MotionModel(TINY).double()
    estimate = fit_map(train, validation, SETTINGS, checkpoint, "data", CPU, start=start)
    return Fitted(estimate.model.state_dict(), estimate.progress, estimate.resumed_from_epoch)


def alike(got: Fitted, expected: Fitted, tolerance: float) -> None:
    curves = zip(
        got.progress.train_loss + got.progress.validation_nll,
        expected.progress.train_loss + expected.progress.validation_nll,
        strict=True,
    )
    for a, b in curves:
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(got.weights[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "size"), [(40, 2), (33, 3)], ids=["two", "empty part"])
def test_workers_take_the_steps_of_one(tmp_path: Path, n: int, size: int) -> None:
    """Of 33 samples in batches of 16 the last batch has one, and two workers have none of it."""
    alone = fit_double(tmp_path / "alone", n)
    for own in workers.values(fit_double, [(tmp_path / "shared", n)] * size):
        alike(own, alone, 1e-8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]


def test_a_fit_goes_on_after_a_worker_was_killed(tmp_path: Path) -> None:
    whole = workers.values(fit_double, [(tmp_path / "whole", 40)] * 2)
    killed = (tmp_path / "killed", 40, 2)
    group = workers.start(fit_double, [killed] * 2, timeout_s=600.0)
    begin = time.monotonic()
    first, second = group.results()
    assert time.monotonic() - begin < 30.0
    first.failed_with("WorkerError", "start the same command again")
    assert second.code == -signal.SIGKILL
    for own, expected in zip(workers.values(fit_double, [killed[:2]] * 2), whole, strict=True):
        assert own.resumed == 2
        assert own.progress == expected.progress
        alike(own, expected, 0.0)


def test_one_process_goes_on_where_two_stopped(tmp_path: Path) -> None:
    group = workers.start(fit_double, [(tmp_path / "c", 40, 1)] * 2)
    group.results()
    resumed = fit_double(tmp_path / "c", 40)
    assert resumed.resumed == 1
    alike(resumed, fit_double(tmp_path / "whole", 40), 1e-8)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drives")
    for seed in (500, 501):
        drive = DriveSettings(duration_s=15.0)
        simulate(folder / str(seed), SimulationSettings(seed=seed, drive=drive))
    return [folder / "500", folder / "501"]


def torchrun(drives: list[Path], out: Path, size: int = 2, *options: str) -> subprocess.Popen:
    arguments = [drives[0], "--validation", drives[1], "--out", out, "--epochs", 3]
    arguments += ["--time-offset", 0, "--batch-size", 16]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}"]
    command += ["--standalone", *options, "-m", "bayes_vio", "fit", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, in the order of their start."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_the_command_on_two_workers_writes_the_artifact_of_one(
    drives: list[Path], tmp_path: Path
) -> None:
    found = []
    for size in (1, 2):
        out = tmp_path / f"artifact_{size}"
        output, errors = (process := torchrun(drives, out, size)).communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
        assert output.count("Reading recordings") == 1
        assert output.count("Fitting the posterior under the calibrated noise") == 1
        found.append(MotionArtifact.load(out))
    one, two = found
    # Float32 and Adam enlarge rounding, epoch by epoch: the first epochs are the same figures.
    first, second = (a.metadata["curves"]["validation_nll"][:3] for a in (one, two))
    assert second == pytest.approx(first, rel=0.02)
    assert one.posterior.n_data == two.posterior.n_data
    assert len(one.posterior.layers) == len(two.posterior.layers)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_of_the_command(drives: list[Path], tmp_path: Path, victim: int) -> None:
    out = tmp_path / "artifact"
    process = torchrun(drives, out)
    checkpoint = tmp_path / "artifact.work" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(children(process.pid)[victim], signal.SIGKILL)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - begin < 120.0  # far below the timeout of half an hour
    assert process.returncode not in (0, None)
    assert "Signal 9 (SIGKILL)" in errors
    assert not out.exists()
    output, errors = (again := torchrun(drives, out)).communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, errors
    assert "continued after epoch" in output
    MotionArtifact.load(out)


@pytest.mark.slow
def test_torchrun_starts_a_killed_fit_again(drives: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    process = torchrun(drives, out, 2, "--max-restarts=1")
    checkpoint = tmp_path / "artifact.work" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "continued after epoch" in output
    MotionArtifact.load(out)


@pytest.mark.slow
def test_what_is_wrong_with_the_input_is_told_once(drives: list[Path], tmp_path: Path) -> None:
    process = torchrun([drives[0], drives[0]], tmp_path / "artifact")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    told = [line for line in errors.splitlines() if line.startswith("bayes-vio: ")]
    assert sum("a recording has one use" in line for line in told) <= 2
    assert any("a recording has one use" in line for line in told)
