"""What a training batch needs of memory, looked at before training."""

from __future__ import annotations

import torch

from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.samples import MotionInput
from bayes_vio.memory import InsufficientMemoryError, gib, saved_bytes
from bayes_vio.models.motion import MotionModel


def batch_bytes(model: MotionModel, train: MotionDataset, batch_size: int, workers: int) -> int:
    """Return the bytes of a batch's inputs, before and after augmentation, and of what autograd
    keeps of this worker's rows: what is certainly there at one time."""
    rows = min(batch_size, len(train))
    one, two = (train.batch([0] * n)[0] for n in (1, 2))
    device = model.twist_scale.device

    def kept(x: MotionInput) -> int:
        with torch.enable_grad():
            return saved_bytes(lambda: model(x.map(lambda t: t.to(device))))

    inputs = _nbytes(two) - _nbytes(one)
    return 2 * rows * inputs + -(-rows // workers) * max(0, kept(two) - kept(one))


def check_batch(
    model: MotionModel, train: MotionDataset, batch_size: int, available: float, workers: int = 1
) -> None:
    """Raise InsufficientMemoryError for batches that do not fit, naming a size that does."""
    needed = batch_bytes(model, train, batch_size, workers)
    if needed <= available:
        return
    per_row = needed / min(batch_size, len(train))
    fits = max(1, int(0.8 * available / per_row))
    raise InsufficientMemoryError(
        f"training on batches of {batch_size} samples needs at least {gib(needed)} of memory, "
        f"{gib(available)} are free: use --batch-size {fits}"
    )


def _nbytes(x: MotionInput) -> int:
    sizes: list[int] = []
    x.map(lambda t: sizes.append(t.numel() * t.element_size()) or t)
    return sum(sizes)
