"""Fit a Laplace posterior: two readings of the data, one block per layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.coverage import Coverage, cover
from bayes_vio.curvature.eigenbasis import eigenbasis
from bayes_vio.curvature.estimate import (
    CorrectedCurvature,
    estimate_corrected,
    estimate_diagonals,
    estimate_factors,
    estimate_joint,
)
from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.curvature.kfac import KroneckerFactors, Sharing
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.passes import Pass, Tally
from bayes_vio.curvature.recorder import Recorder, frozen_copy
from bayes_vio.models.likelihood import Fisher, make_likelihood
from bayes_vio.posterior.block import CurvatureBlock
from bayes_vio.posterior.blockwise import BlockwiseCurvature
from bayes_vio.posterior.diagonal import DiagonalCurvature
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.kronecker import EfbCurvature, KfacCurvature
from bayes_vio.posterior.laplace import Posterior, per_layer
from bayes_vio.posterior.report import CoveredLayer, PosteriorReport
from bayes_vio.posterior.sparsify import Sparsification, sparsify

# Above this many outputs one backward pass per output is dearer than drawing labels.
MAX_TYPE2_OUTPUTS = 10


class Structure(Enum):
    """How the information matrix is structured."""

    INF = "inf"
    DIAGONAL = "diagonal"
    KFAC = "kfac"
    EFB = "efb"
    FULL = "full"


def fit_posterior(
    model: nn.Module,
    loader: Iterable,
    likelihood: str = "gaussian",
    structure: str = "inf",
    layers: str | Sequence[str] | None = None,
    fisher: str | Fisher | None = None,
    rank: int = 100,
    subset_size: int = 1000,  # noqa: ARG001
    n_points: int = 2000,  # noqa: ARG001
    n_eigen: int = 20,  # noqa: ARG001
    prior_precision: float | Mapping[str, float] = 1.0,
    noise_cov: float | Tensor | None = None,
    n_data: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Posterior:
    """Fit a Laplace posterior around a trained model, which stays untouched.

    model(x) returns its mean [batch, outputs] or (mean, noise_cholesky); x is a tensor or a frozen
    dataclass, tuple or dict of tensors with a batch axis. loader is re-iterable and yields
    (x, target) without augmentation, in any order. structure: "inf", "diagonal", "kfac", "efb" or
    "full". layers: None for all that can be covered, "last", or names and fnmatch patterns.
    fisher: "type2", "mc", "empirical", or None: type2 up to 10 outputs, mc above. rank bounds L,
    the low rank's size, under "inf" (subset_size, n_points and n_eigen belong to structures
    "subnetwork" and "ella"). noise_cov: a variance, [outputs], [outputs, outputs], or None: the
    model's own. n_data: what multiplies the curvature, None for the loader's count. seed: labels
    drawn under "mc". device: where to work, None for the model's.

    Under "mc" labels are drawn datum by datum, so the result depends on the data's order; under
    the others it depends on neither order nor batch size.

    Raises ValueError where arguments contradict each other, the loader cannot be read twice, or
    nothing can be covered.
    """
    kind = _structure(structure)
    frozen = frozen_copy(model, device)
    place = next(frozen.parameters()).device
    coverage = cover(frozen, _first_data(loader, place), layers)
    chosen = make_likelihood(likelihood, noise_cov, coverage.n_outputs, place)
    recorder = Recorder(frozen, coverage.layers, coverage.copied)
    prior = per_layer(prior_precision, recorder.layers)
    data = Pass(recorder, loader, chosen, _fisher(fisher, coverage.n_outputs), seed, place)
    curvature, covered, tally = _fit(data, kind, rank)
    report = PosteriorReport(
        structure=kind.value,
        likelihood=chosen.name,
        fisher=data.fisher.value,
        n_data=float(tally.n_data if n_data is None else n_data),
        n_outputs=coverage.n_outputs,
        covered=covered,
        uncovered=coverage.uncovered,
    )
    return Posterior(
        recorder=recorder,
        curvature=_checked(curvature, coverage),
        likelihood=chosen,
        prior_precision=prior,
        log_likelihood=tally.log_likelihood * report.n_data / tally.n_data,
        can_batch=coverage.can_batch,
        report=report,
    )


def _fit(
    data: Pass, structure: Structure, rank: int
) -> tuple[BlockwiseCurvature | FullCurvature, tuple[CoveredLayer, ...], Tally]:
    layers = data.recorder.layers
    if structure is Structure.FULL:
        matrix, tally = estimate_joint(data)
        shapes = {name: layer.shape for name, layer in layers.items()}
        covered = tuple(_covered(layer, None) for layer in layers.values())
        return FullCurvature(matrix, shapes), covered, tally
    fits, tally = _fit_blocks(data, structure, rank)
    covered = tuple(_covered(layer, fits[name]) for name, layer in layers.items())
    return BlockwiseCurvature({name: fits[name].block for name in layers}), covered, tally


def _structure(name: str) -> Structure:
    try:
        return Structure(name)
    except ValueError:
        available = ", ".join(s.value for s in Structure)
        raise ValueError(f"structure {name!r} is not available; these are: {available}") from None


def _fisher(fisher: str | Fisher | None, n_outputs: int) -> Fisher:
    if fisher is None:
        return Fisher.TYPE2 if n_outputs <= MAX_TYPE2_OUTPUTS else Fisher.MC
    return Fisher(fisher)


def _first_data(loader: Iterable, device: torch.device) -> Any:
    """Return the first few inputs; raise ValueError for what cannot be read twice."""
    if iter(loader) is loader:
        raise ValueError("the loader is an iterator, but is read twice: give a DataLoader or list")
    for x, _ in loader:
        return map_tensors(x, lambda t: t[:8].to(device))
    raise ValueError("the loader is empty")


def _checked(
    curvature: BlockwiseCurvature | FullCurvature, coverage: Coverage
) -> BlockwiseCurvature | FullCurvature:
    """Return the curvature in the network's dtype, or raise ValueError where it is not finite."""
    for name, tensor in curvature.tensors().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the curvature of {name!r} is not finite: look for NaN in the data")
    dtype = coverage.layers[0].module.weight.dtype
    return curvature.map(lambda t: t.to(dtype))


@dataclass(frozen=True)
class _LayerFit:
    """A layer's block, and what the report says of it beside its shape."""

    block: CurvatureBlock
    structure: Structure
    sharing: Sharing | None = None
    sparsification: Sparsification | None = None


def _fit_blocks(data: Pass, structure: Structure, rank: int) -> tuple[dict[str, _LayerFit], Tally]:
    if structure is Structure.DIAGONAL:
        diagonals, tally = estimate_diagonals(data)
        return _diagonal_fits(diagonals), tally
    if structure is Structure.KFAC:
        factors, norms, tally = estimate_factors(data)
        return _diagonal_fits(norms) | {
            name: _kfac_fit(f, data.recorder.layers[name].resolution)
            for name, f in factors.items()
        }, tally
    corrected, norms, tally = estimate_corrected(data)
    fit = _efb_fit if structure is Structure.EFB else partial(_inf_fit, rank=rank)
    return _diagonal_fits(norms) | {k: fit(c) for k, c in corrected.items()}, tally


def _diagonal_fits(diagonals: Mapping[str, Tensor]) -> dict[str, _LayerFit]:
    return {
        name: _LayerFit(DiagonalCurvature(diagonal), Structure.DIAGONAL)
        for name, diagonal in diagonals.items()
    }


def _kfac_fit(factors: KroneckerFactors, resolution: float) -> _LayerFit:
    basis = eigenbasis(factors, resolution)
    block = KfacCurvature(basis.Q_g, basis.Q_a, basis.output_eigenvalues, basis.input_eigenvalues)
    return _LayerFit(block, Structure.KFAC, factors.sharing)


def _efb_fit(corrected: CorrectedCurvature) -> _LayerFit:
    basis = corrected.basis
    block = EfbCurvature(basis.Q_g, basis.Q_a, corrected.eigenvalues)
    return _LayerFit(block, Structure.EFB, corrected.sharing)


def _inf_fit(corrected: CorrectedCurvature, rank: int) -> _LayerFit:
    basis = corrected.basis
    block, kept = sparsify(basis.Q_g, basis.Q_a, corrected.eigenvalues, corrected.diagonal, rank)
    return _LayerFit(block, Structure.INF, corrected.sharing, kept)


def _covered(layer: Layer, fit: _LayerFit | None) -> CoveredLayer:
    d_out, d_in = layer.shape
    return CoveredLayer(
        name=layer.name,
        kind=layer.kind,
        block=fit.structure.value if fit else Structure.FULL.value,
        parameters=layer.parameter_names,
        d_out=d_out,
        d_in=d_in,
        sharing=fit.sharing.value if fit and fit.sharing else None,
        sparsification=fit.sparsification if fit else None,
    )
