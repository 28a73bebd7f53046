"""Read the data and hand out, batch by batch, what layers saw and what came back to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bayes_vio.choices import Fisher
from bayes_vio.curvature.inputs import batch_size, map_tensors, tensors
from bayes_vio.curvature.layer import Layer
from bayes_vio.curvature.recorder import Recorder, Recording, ordinary, recording_gradients
from bayes_vio.distributed import Workers
from bayes_vio.models.likelihood import Likelihood, cotangents, skip_draws

# Numbers that one layer's temporary arrays may hold at once: on a CPU 4 MB in float32, since
# larger ones leave its cache and are mapped anew at every allocation (three times as slow).
_CHUNK_NUMBERS = {"cpu": 2**20}
_CHUNK_NUMBERS_ELSEWHERE = 2**24
# Columns of the Fisher whose output gradients are held at once.
COLUMNS_AT_ONCE = 10


@dataclass
class Tally:
    """What a pass has read: data count, log-likelihood at the MAP, and sums that identify data."""

    n_data: int = 0
    log_likelihood: float = 0.0
    checksum: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, x: Any, target: Tensor) -> None:
        """Count a batch; the checksum does not depend on the order or the batch size."""
        self.n_data += batch_size(x)
        for tensor in (*tensors(x), target):
            values = tensor.double()
            self.checksum[0] += float(values.sum())
            self.checksum[1] += float(values.square().sum())

    def over(self, workers: Workers, device: torch.device) -> Tally:
        """Return the sum of all workers' tallies.

        Raises ValueError where none of them has read anything.
        """
        values = [self.n_data, self.log_likelihood, *self.checksum]
        n_data, log_likelihood, *checksum = workers.sum_numbers(values, device)
        if not n_data:
            raise ValueError("the loader gave nothing when read again: it must be re-iterable")
        return Tally(int(n_data), log_likelihood, checksum)


@dataclass(frozen=True)
class Pass:
    """How the data is read: once per call of ``columns``, the same way every time.

    ``workers`` read a part of the data each; ``start``: how many those before this one read.
    ``can_batch``: whether the model's backward pass can be vectorised over the Fisher's columns.
    """

    recorder: Recorder
    loader: Iterable
    likelihood: Likelihood
    fisher: Fisher
    seed: int
    device: torch.device
    workers: Workers = field(default_factory=Workers)
    start: int = 0
    can_batch: bool = False

    def columns(
        self, tally: Tally
    ) -> Iterator[tuple[bool, Recording, dict[str, tuple[Tensor, ...]]]]:
        """Yield (whether these are a batch's first columns, recording, {layer: gradients}).

        Output gradients are [columns, batch, ...], one tensor per use of the layer; the Fisher's
        columns come a few at a time. Raises ValueError where a loss is not finite.
        """
        generator = torch.Generator().manual_seed(self.seed)
        for i, (x, target) in enumerate(self.loader):
            x, target = ordinary(onto(x, self.device)), onto(target, self.device)
            tally.add(x, target)
            with recording_gradients():
                recording = self.recorder.forward(x)
            mean = recording.mean.detach()
            noise = self.likelihood.noise_cholesky(mean, recording.noise_cholesky)
            log_likelihood = float(self.likelihood.log_likelihood(mean, noise, target).sum())
            if not math.isfinite(log_likelihood):
                raise ValueError(
                    f"the loss of batch {i} is not finite ({-log_likelihood}): look for NaN or "
                    "infinity in its inputs and targets, then in the model's output"
                )
            tally.log_likelihood += log_likelihood
            if i == 0:
                skip_draws(self.fisher, self.likelihood, self.start, mean.shape[1], generator)
            roots = cotangents(self.fisher, self.likelihood, mean, noise, target, generator)
            for r, group in enumerate(roots.split(COLUMNS_AT_ONCE)):
                batched = self.can_batch and len(group) > 1
                yield r == 0, recording, recording.output_gradients(group, batched)

    def total(self, tally: Tally, sums: Iterable[Tensor]) -> Tally:
        """Return what all workers read together, and add up their sums in place."""
        self.workers.sum(sums)
        return tally.over(self.workers, self.device)


def data_before(loader: Iterable, workers: Workers) -> int:
    """Return how many data the workers before this one have; reads the loader, if it must."""
    if workers.size == 1:
        return 0
    with workers.together():
        n_own = sum(batch_size(x) for x, _ in loader)
    return sum(workers.gather(n_own)[: workers.rank])


def onto(x: Any, device: torch.device) -> Any:
    """Return an input on the device that works, brought there from the CPU.

    Raises ValueError where it lies on another device than these two.
    """

    def moved(t: Tensor) -> Tensor:
        if t.device.type not in ("cpu", device.type):
            raise ValueError(
                f"the loader's data lie on {t.device}, the model on {device}: move one of them"
            )
        return t.to(device)

    return map_tensors(x, moved)


def chunk_length(layer: Layer, n_gradients: int, n_columns: int, device: torch.device) -> int:
    """Return of how many data a layer's temporary arrays may be in memory together.

    ``n_gradients``: the output gradients of one datum in one column of the Fisher.
    """
    numbers = layer.numbers_per_datum(n_gradients, n_columns)
    return max(1, _CHUNK_NUMBERS.get(device.type, _CHUNK_NUMBERS_ELSEWHERE) // numbers)


def chunks(
    layer: Layer, inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (features, gradients) of a layer over parts of the batch that fit in memory.

    One input [batch, ...] and output gradient [columns, batch, ...] per use of the layer.
    """
    n_batch, n_columns = len(inputs[0]), len(gradients[0])
    n_gradients = sum(g[0, 0].numel() for g in gradients)
    step = chunk_length(layer, n_gradients, n_columns, inputs[0].device)
    for start in range(0, n_batch, step):
        part = slice(start, start + step)
        yield (
            layer.features([x[part] for x in inputs]),
            layer.gradients([g[:, part] for g in gradients]),
        )
