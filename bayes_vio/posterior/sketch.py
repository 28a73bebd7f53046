"""What an epistemic error of one input has in common with that of another, in few numbers.

All inputs share one set of weights, so the error of a sum over inputs, each moved by some A_k, is

    cov(sum_k A_k J_k w) = S S^T,    S = sum_k A_k Phi_k,    Phi_k = J_k P^-1/2.             (E23)

S [outputs, p] has a fixed size, but p is the number of weights. A count sketch adds up the columns
of Phi with random signs in few buckets, Z = Phi Omega [outputs, size]. It is linear, so that
sketches may be moved and added in place of Phi, and E[Omega Omega^T] = 1: Z Z^T is positive
semi-definite, its mean is Phi Phi^T, and every variance in it has a relative standard deviation of
about sqrt(2 / size), however many inputs were added.

Source: Charikar, Chen, Farach-Colton (2002), "Finding frequent items in data streams"; as a random
projection Weinberger et al. (2009), "Feature hashing for large scale multitask learning", lemma 2.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayes_vio.posterior.network import NetworkPrecision, WhitenedPart

if TYPE_CHECKING:
    from bayes_vio.posterior.laplace import Posterior

# A variance is then known to 4.4 %, a standard deviation to 2.2 %.
SKETCH_SIZE = 1021


@dataclass(frozen=True)
class FeatureSketch:
    """The random map Omega: bucket (first + column) mod size, a random sign for every column.

    ``size`` is prime: rows of a matrix whose width divided it would all fall into the same
    buckets, and one input with much variance would meet itself there. Equal sizes and seeds give
    equal maps, wherever and in whatever batches they are used.
    """

    size: int = SKETCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 7 or any(self.size % n == 0 for n in range(2, int(self.size**0.5) + 1)):
            raise ValueError(f"the size of a sketch must be a prime above 6, it is {self.size}")

    def project(self, precision: NetworkPrecision, at: Any) -> tuple[Tensor, Tensor]:
        """Return Phi Phi^T [batch, outputs, outputs] and Z [batch, outputs, size] in one pass.

        at: where the network was linearised. Both in float64.
        """
        covs, sketch = [], None
        for part in precision.whitened(at):
            flat = part.values.flatten(2)
            covs.append(flat @ flat.mT)
            if sketch is None:
                sketch = flat.new_zeros(*flat.shape[:2], self.size)
            self._add(sketch, part)
        if sketch is None:
            raise ValueError("a posterior without weights has no features")
        return torch.stack(covs).sum(0).double(), sketch.double()

    def _add(self, sketch: Tensor, part: WhitenedPart) -> None:
        """Add a part's columns to their buckets; the part's values are used up."""
        signs, first = self._map(part)
        flat = part.values.mul_(signs[part.rows]).flatten(2)
        width = part.shape[1]
        if isinstance(part.rows, slice):
            start = first + (part.rows.start or 0) * width
            _add_in_turn(sketch, flat, start % self.size)
            return
        columns = part.rows[:, None] * width + torch.arange(width, device=flat.device)
        sketch.index_add_(2, (first + columns.flatten()) % self.size, flat)

    def _map(self, part: WhitenedPart) -> tuple[Tensor, int]:
        """Return the signs of all of a group's columns, in its shape, and its first bucket.

        Groups too small for one turn begin at different buckets, so that they do not all meet in
        the same ones.
        """
        place = (part.group, part.shape, part.values.dtype, part.values.device)
        if place not in self._made:
            key = zlib.crc32(f"{self.seed} {part.group}".encode())
            generator = torch.Generator().manual_seed(key)
            bits = torch.randint(0, 2, part.shape, generator=generator)
            signs = (2 * bits - 1).to(part.values.device, part.values.dtype)
            self._made[place] = signs, key % self.size if signs.numel() < self.size else 0
        return self._made[place]

    @cached_property
    def _made(self) -> dict[Any, tuple[Tensor, int]]:
        return {}


def _add_in_turn(sketch: Tensor, flat: Tensor, start: int) -> None:
    """Add columns [batch, outputs, n] to the buckets start, start + 1, ... in turn."""
    size, n = sketch.shape[2], flat.shape[2]
    if start:
        head = min(size - start, n)
        sketch[..., start : start + head] += flat[..., :head]
        flat, n = flat[..., head:], n - head
    turns, rest = divmod(n, size)
    if turns:
        sketch += flat[..., : turns * size].unflatten(2, (turns, size)).sum(2)
    if rest:
        sketch[..., :rest] += flat[..., turns * size :]


def whitened_jacobian(posterior: Posterior, x: Any) -> Tensor:
    """Return Phi = J P^-1/2 [batch, outputs, p] whole, in float64: what sketches stand for."""
    batches = []
    with torch.inference_mode(False), torch.no_grad():
        for at, _ in posterior.linearisations(x):
            groups: dict[str, Tensor] = {}
            for part in posterior.precision.whitened(at):
                shape = (*part.values.shape[:2], *part.shape)
                whole = groups.setdefault(part.group, part.values.new_zeros(shape).double())
                whole[:, :, part.rows] = part.values.double()
            batches.append(torch.cat([g.flatten(2) for g in groups.values()], 2))
    return torch.cat(batches)
