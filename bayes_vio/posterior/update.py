"""Continual learning: yesterday's posterior is today's prior (E20, E21).

The mean is refitted under N(map, P^-1) on new data; then the information of the new data is
added. In a linear model with Gaussian noise both are what one fit on all data gives, where the
structure holds P exactly. Source: Ritter, Botev, Barber (2018), "Online structured Laplace
approximations for overcoming catastrophic forgetting"; Lee et al. (2020) for information adding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from bayes_vio.choices import Fisher, NumberFormat
from bayes_vio.curvature.diagonal import DiagonalSums
from bayes_vio.curvature.estimate import (
    accumulate,
    estimate_diagonals,
    estimate_joint,
)
from bayes_vio.curvature.kfac import FactorSums
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.passes import Pass, Tally, data_before
from bayes_vio.distributed import Workers, current_workers
from bayes_vio.posterior.block import CurvatureBlock
from bayes_vio.posterior.blockwise import BlockwiseCurvature
from bayes_vio.posterior.diagonal import DiagonalCurvature
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.information import InformationCurvature
from bayes_vio.posterior.kronecker import EfbCurvature
from bayes_vio.posterior.network import NetworkCurvature
from bayes_vio.posterior.refit import Refit, refit_mean
from bayes_vio.posterior.report import Update
from bayes_vio.posterior.sparsify import kronecker_diagonal
from bayes_vio.posterior.subnetwork import SubnetworkCurvature, estimate_selected

if TYPE_CHECKING:
    from bayes_vio.posterior.laplace import Posterior

_REFUSALS = {
    "kfac": "a sum of two Kronecker products is none",
    "kflr": "a sum of two Kronecker products is none",
    "kfra": "a sum of two Kronecker products is none",
    "ella": "its directions belong to the data that they were fitted on",
}


def updated(
    posterior: Posterior,
    loader: Iterable,
    max_iterations: int,
    seed: int = 0,
    n_data: float | None = None,
) -> Posterior:
    """Return the posterior after new data; see the module.

    loader is like ``fit_posterior``'s; n_data is how many its data stand for, None for their own
    number. Raises ValueError where the structure cannot add information.
    """
    check_updatable(posterior)
    if iter(loader) is loader:
        raise ValueError("the loader is an iterator, but is read often: give a DataLoader or list")
    if n_data is not None and not 0.0 < n_data < math.inf:
        raise ValueError(f"n_data must be positive, it is {n_data}")
    workers = current_workers()
    moved = refit_mean(posterior, loader, max_iterations, n_data, workers=workers)
    return with_information(posterior, moved, loader, seed, n_data, workers)


def check_updatable(posterior: Posterior) -> None:
    """Raise ValueError where a posterior's structure cannot add information."""
    if posterior.report.structure in _REFUSALS:
        raise ValueError(
            f"structure {posterior.report.structure!r} cannot be updated: "
            f"{_REFUSALS[posterior.report.structure]}; fit it on all data"
        )


def with_information(
    posterior: Posterior,
    moved: Refit,
    loader: Iterable,
    seed: int = 0,
    n_data: float | None = None,
    workers: Workers | None = None,
) -> Posterior:
    """Return the posterior at its refitted mean with the information of the new data (E21).

    The curvature is taken under the noise that ``moved``'s model gives now.
    """
    workers = current_workers() if workers is None else workers
    fisher = Fisher(posterior.report.fisher)
    data = Pass(
        recorder=moved.recorder,
        loader=loader,
        likelihood=posterior.likelihood,
        fisher=fisher,
        seed=seed,
        device=posterior.device,
        workers=workers,
        start=data_before(loader, workers) if fisher.is_drawn else 0,
    )
    added = _added(data, posterior.curvature)
    n_new = float(added.tally.n_data) if n_data is None else float(n_data)
    return _sum(posterior, moved, added, n_new)


@dataclass(frozen=True)
class Added:
    """The new data's curvature, its tally, and by layer what yesterday's basis does not hold."""

    curvature: NetworkCurvature
    tally: Tally
    misfit: dict[str, float]


def _sum(posterior: Posterior, moved: Refit, added: Added, n_new: float) -> Posterior:
    n_old, log_likelihood = posterior.n_data, added.tally.log_likelihood
    share = n_new / (n_old + n_new)
    news = added.curvature.tensors()
    old = iter(posterior.curvature.tensors().items())

    def mixed(tensor: Tensor) -> Tensor:
        name, _ = next(old)
        if name.rpartition("/")[2] in _BASES:
            return tensor
        mean = (1 - share) * tensor.double() + share * news[name].double()
        return mean.to(tensor.dtype)

    update = Update(
        n_data=n_new,
        distance=moved.distance,
        loss_before=moved.loss_before,
        loss_after=moved.loss_after,
        converged=moved.converged,
        misfit=added.misfit,
    )
    report = replace(
        posterior.report,
        n_data=n_old + n_new,
        updates=(*posterior.report.updates, update),
        # The sum is none of rounded numbers: rounding it again and again would lose new data.
        number_format=NumberFormat.NATIVE.value,
    )
    # Yesterday's data at the new mean, by the Gaussian that stands for them (E20).
    yesterday = posterior.log_likelihood - 0.5 * moved.distance**2 + moved.prior_change
    return replace(
        posterior,
        recorder=moved.recorder,
        curvature=posterior.curvature.map(mixed),
        log_likelihood=yesterday + log_likelihood * n_new / added.tally.n_data,
        report=report,
    )


# Stored tensors that an update keeps.
_BASES = {"Q_g", "Q_a", "U_g", "U_a", "index"}


def _added(data: Pass, curvature: NetworkCurvature) -> Added:
    """Return the new data's curvature in the form, and the basis, that is already there."""
    if isinstance(curvature, FullCurvature):
        matrix, tally = estimate_joint(data)
        return Added(FullCurvature(matrix, curvature.shapes), tally, {})
    if isinstance(curvature, SubnetworkCurvature):
        matrix, tally = estimate_selected(data, curvature.selection)
        return Added(replace(curvature, matrix=matrix), tally, {})
    assert isinstance(curvature, BlockwiseCurvature)
    if all(isinstance(block, DiagonalCurvature) for block in curvature.blocks.values()):
        diagonals, tally = estimate_diagonals(data)
        blocks = {name: DiagonalCurvature(d) for name, d in diagonals.items()}
        return Added(BlockwiseCurvature(blocks), tally, {})
    return _projected(data, curvature)


def _projected(data: Pass, curvature: BlockwiseCurvature) -> Added:
    """Return the new curvature with its eigenvalues taken in yesterday's basis (E21)."""
    layers = data.recorder.layers
    sums = {name: _BlockSums(layers[name], block) for name, block in curvature.blocks.items()}
    tally = accumulate(data, {name: s.sums for name, s in sums.items()})
    blocks = {name: s.block(tally.n_data) for name, s in sums.items()}
    misfit = {
        name: s.misfit(tally.n_data)
        for name, s in sums.items()
        if not isinstance(s.yesterday, DiagonalCurvature)
    }
    return Added(BlockwiseCurvature(blocks), tally, misfit)


class _GridSums:
    """Sums over data of (U_g^T dW_r U_a)^2 [r_g, r_a] of one layer: E3 in any columns."""

    def __init__(self, layer: Layer, U_g: Tensor, U_a: Tensor):
        dtype = layer.matrix().dtype
        self._layer, self._U_g, self._U_a = layer, U_g.to(dtype), U_a.to(dtype)
        self.total = layer.zeros(U_g.shape[1], U_a.shape[1])

    def totals(self) -> list[Tensor]:
        """Return the sum over data."""
        return [self.total]

    def add(self, features: Tensor, gradients: Tensor, first_columns: bool) -> None:  # noqa: ARG002
        """Add data: features [batch, positions, d_in], gradients [batch, columns, ..., d_out]."""
        self._layer.add_squares(self.total, features @ self._U_a, gradients @ self._U_g)


class _BlockSums:
    """What one layer adds up of new data, for the block that it had yesterday."""

    def __init__(self, layer: Layer, yesterday: CurvatureBlock):
        self.yesterday = yesterday
        self._diagonal, self._factors = DiagonalSums(layer), FactorSums(layer)
        self.sums: list = [self._diagonal]
        if isinstance(yesterday, InformationCurvature):
            self._grid = _GridSums(layer, yesterday.U_g, yesterday.U_a)
            self.sums += [self._grid]
        elif isinstance(yesterday, EfbCurvature):
            self._grid = _GridSums(layer, yesterday.Q_g, yesterday.Q_a)
            self.sums += [self._grid, self._factors]

    def block(self, n_data: int) -> CurvatureBlock:
        """Return the new data's block, a mean over them.

        The diagonal of INF is clamped at zero by itself, so that new data never take information.
        """
        old, diagonal = self.yesterday, self._diagonal.mean(n_data)
        if isinstance(old, DiagonalCurvature):
            return DiagonalCurvature(diagonal)
        eigenvalues = self._grid.total / n_data
        if isinstance(old, EfbCurvature):
            return replace(old, eigenvalues=eigenvalues)
        assert isinstance(old, InformationCurvature)
        explained = kronecker_diagonal(old.U_g.double(), old.U_a.double(), eigenvalues)
        rest = (diagonal - explained).clamp(min=0.0)
        return replace(old, diagonal=rest, eigenvalues=eigenvalues)

    def misfit(self, n_data: int) -> float:
        """Return what share of the new curvature yesterday's basis does not hold.

        INF: of its trace, outside the low rank. EFB's whole basis holds every trace; there it is
        the share of |G (x) A|_F^2 off the diagonal in that basis.
        """
        old = self.yesterday
        if isinstance(old, EfbCurvature):
            factors = self._factors.factors(n_data)
            pairs = ((old.Q_g, factors.G.matrix()), (old.Q_a, factors.A.matrix()))
            return 1.0 - math.prod(_diagonal_share(Q, factor) for Q, factor in pairs)
        trace = float(self._diagonal.mean(n_data).sum()) * n_data
        return 1.0 - float(self._grid.total.sum()) / trace if trace > 0 else 0.0


def _diagonal_share(Q: Tensor, factor: Tensor) -> float:
    """Return the share of a factor's squared Frobenius norm on the diagonal of Q^T factor Q."""
    whole = float(factor.square().sum())
    rotated = (Q.mT.double() @ factor.double() @ Q.double()).diagonal()
    return float(rotated.square().sum()) / whole if whole > 0 else 1.0
