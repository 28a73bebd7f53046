"""Training batches that do not fit in memory are refused before training."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_vio.data.samples import MotionInput
from bayes_vio.memory import InsufficientMemoryError
from bayes_vio.models.motion import MotionModel
from bayes_vio.training.batch_memory import batch_bytes, check_batch
from tests.cli_process import SERVER
from tests.motion_cases import TINY, Samples
from tests.peak_memory import peak_bytes, return_freed_memory


class Set(Samples):
    """Samples by their rows, as in data.dataset.MotionDataset."""

    def batch(self, rows: list[int]) -> tuple[MotionInput, Tensor]:
        return self.x.map(lambda t: t[rows]), self.target[rows]


def dataset(n: int) -> Any:
    return Set(*(lambda s: (s.x, s.target))(Samples.random(n)))


def measure(pipe: Any, n: int) -> None:
    """Send estimate and measured peak of one forward and backward pass over n samples."""
    torch.set_num_threads(1)
    return_freed_memory()
    data, model = dataset(n), MotionModel()
    model(data.batch([0, 1])[0])[0].sum().backward()
    counted = batch_bytes(model, data, n, 1)

    def work() -> None:
        x = data.x.map(lambda t: t * 1.0)  # as augmentation does, beside the batch itself
        model(x.map(lambda t: t + 0.0))[0].sum().backward()

    pipe.send((counted, peak_bytes(work)))


def test_the_count_is_near_the_measured_peak() -> None:
    ours, theirs = SERVER.Pipe()
    process = SERVER.Process(target=measure, args=(theirs, 300))
    process.start()
    theirs.close()
    counted, peak = ours.recv()
    process.join()
    assert counted <= peak <= 1.3 * counted


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does() -> None:
    model, data = MotionModel(TINY), dataset(60)
    needed = batch_bytes(model, data, 50, 1)
    check_batch(model, data, 50, needed)
    with pytest.raises(InsufficientMemoryError, match="use --batch-size 20") as refused:
        check_batch(model, data, 50, needed / 2)
    assert "batches of 50 samples needs at least" in str(refused.value)
    check_batch(model, data, 20, needed / 2)
    check_batch(model, data, 10**6, needed * 1.2)  # there are no more than 60 samples


def test_workers_share_what_autograd_keeps() -> None:
    model, data = MotionModel(TINY), dataset(60)
    one, four = (batch_bytes(model, data, 40, workers) for workers in (1, 4))
    assert one / 4 < four < one
