"""Sums of outer products over data, as matrices, or as their rows while these are the fewer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.curvature.layer import Layer


@dataclass(frozen=True)
class Factor:
    """A positive semi-definite matrix [d, d]: ``whole``, or rows^T rows of ``rows`` [r, d], r < d.

    Of the two one is None.
    """

    whole: Tensor | None
    rows: Tensor | None

    @property
    def size(self) -> int:
        """Return d."""
        return self._stored.shape[1]

    @property
    def is_finite(self) -> bool:
        """Whether no number is infinite or none."""
        return bool(torch.isfinite(self._stored).all())

    @property
    def _stored(self) -> Tensor:
        stored = self.rows if self.whole is None else self.whole
        assert stored is not None
        return stored

    def room(self) -> Tensor:
        """Return memory for a basis of its range [d, r], or [d, d]."""
        return self._stored.new_empty(self.size, len(self._stored))

    def matrix(self) -> Tensor:
        """Return the matrix [d, d]."""
        return self._stored if self.rows is None else self.rows.mT @ self.rows

    def within(self, V: Tensor) -> Factor:
        """Return V^T F V of columns V [d, k]; its rows are kept where they are fewer than k."""
        if self.rows is None:
            return Factor(V.mT @ self.matrix() @ V, None)
        rows = self.rows @ V
        return Factor(None, rows) if len(rows) < V.shape[1] else Factor(rows.mT @ rows, None)

    def eigh(self) -> tuple[Tensor, Tensor]:
        """Return all eigenvalues [d], ascending, and eigenvectors [d, d]."""
        if self.rows is None:
            return torch.linalg.eigh(self.matrix())
        whole, r = torch.linalg.qr(self.rows.mT, mode="complete")[0], len(self.rows)
        inner = self.within(whole[:, :r])
        eigenvalues, Q = torch.linalg.eigh(inner.matrix())
        zeros = eigenvalues.new_zeros(self.size - r)
        return torch.cat([zeros, eigenvalues]), torch.cat([whole[:, r:], whole[:, :r] @ Q], 1)


class OuterSum:
    """The sum of outer products x x^T of everything added; of its matrix the upper half."""

    def __init__(self, layer: Layer, d: int):
        self._layer, self._d = layer, d
        self._rows: list[Tensor] = []
        self._total: Tensor | None = None

    def add(self, x: Tensor, weight: float = 1.0) -> None:
        """Add the sum of weight * x x^T over all axes of x [..., d] but the last."""
        n_rows = x[..., 0].numel() + sum(map(len, self._rows))
        if self._total is None and keeps_rows(n_rows, self._d):
            self._rows.append(weight**0.5 * x.flatten(0, -2))
        else:
            _add_outer(self.total(), x, weight)

    def total(self) -> Tensor:
        """Return the sum [d, d], complete above its diagonal; from now on it is kept as such."""
        if self._total is None:
            self._total = self._layer.zeros(self._d, self._d)
            while self._rows:
                _add_outer(self._total, self._rows.pop(0))
        return self._total

    def trace(self) -> float:
        """Return the trace of the sum."""
        if self._total is not None:
            return float(self._total.trace())
        return float(sum(rows.double().square().sum() for rows in self._rows))

    def mean(self, n_data: int) -> Factor:
        """Return the sum over the number of data."""
        if self._total is None and self._rows:
            rows = torch.cat(self._rows).to(self._layer.zeros()) / n_data**0.5
            return Factor(None, rows)
        upper = self.total().triu()
        return Factor((upper + upper.triu(1).mT) / n_data, None)


def keeps_rows(n_rows: float, d: int) -> bool:
    """Whether rows [n_rows, d] are well below their product [d, d], in numbers and in work."""
    return 4 * n_rows <= 3 * d


def _add_outer(total: Tensor, x: Tensor, weight: float = 1.0) -> None:
    """Add the sum of weight * x x^T over all axes of x [..., d] but the last to total [d, d].

    Blocks of rows, each from the diagonal on: up to three eighths of the products are left out.
    """
    product, d = _products(x), len(total)
    n_blocks = min(4, max(1, d // 32))
    bounds = [i * d // n_blocks for i in range(n_blocks + 1)]
    for start, stop in itertools.pairwise(bounds):
        total[start:stop, start:] += weight * product(slice(start, stop), slice(start, d))


def _products(x: Tensor) -> Callable[[slice, slice], Tensor]:
    """Return the function that gives x[..., rows]^T x[..., columns], summed over all else."""
    if x.stride(-1) == 1 or x.dim() < 3 or x.device.type != "cpu":
        flat = x.flatten(0, -2)
        return lambda rows, columns: flat[:, rows].mT @ flat[:, columns]
    # A convolution's, positions last: a copy with these first would cost as much as a product.
    wide = x.mT.flatten(0, -3)
    start = x.new_zeros(1, 1)
    return lambda rows, columns: torch.addbmm(start, wide[:, rows], wide[:, columns].mT)
