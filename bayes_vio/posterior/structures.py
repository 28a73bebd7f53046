"""How each structure's curvature is fitted: what data it reads, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bayes_vio.choices import Fisher, Structure
from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.curvature.estimate import (
    CorrectedCurvature,
    DiagonalisedCurvature,
    estimate_corrected,
    estimate_diagonalised,
    estimate_diagonals,
    estimate_joint,
)
from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.curvature.kfac import Sharing
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.passes import Pass, Tally
from bayes_vio.curvature.recorder import Recorder, ordinary, split_output
from bayes_vio.posterior.block import CurvatureBlock
from bayes_vio.posterior.blockwise import BlockwiseCurvature
from bayes_vio.posterior.diagonal import DiagonalCurvature
from bayes_vio.posterior.ella import EllaCurvature
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.functional import bare_model, restricted
from bayes_vio.posterior.grid import Grid, choose_grid, choose_grids
from bayes_vio.posterior.kronecker import EfbCurvature, KfacCurvature, kfac_curvature
from bayes_vio.posterior.network import NetworkCurvature
from bayes_vio.posterior.nystrom import estimate_along, leading_directions
from bayes_vio.posterior.report import CoveredLayer
from bayes_vio.posterior.sparsify import Sparsification, sparsify_on
from bayes_vio.posterior.subnetwork import SubnetworkCurvature, estimate_selected, select_weights


@dataclass(frozen=True)
class StructureSettings:
    """What structures are told beside the data; each reads its own.

    ``subset_size`` None: every weight of the covered layers. ``n_data`` None: counted.
    ``max_bytes`` None: only ``rank`` bounds what INF stores.
    """

    prior_precision: Mapping[str, float]
    n_outputs: int
    n_data: float | None = None
    rank: int = 100
    max_bytes: int | None = None
    subset_size: int | None = 1000
    n_points: int = 2000
    n_eigen: int = 20


@dataclass(frozen=True)
class StructureFit:
    """A fitted curvature, what it covers, and how the network is recorded for it from now on."""

    curvature: NetworkCurvature
    covered: tuple[CoveredLayer, ...]
    tally: Tally
    recorder: Recorder
    uncovered: tuple[Uncovered, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)


def fit_structure(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:
    """Return the fitted curvature of a structure; raise ValueError where it does not apply."""
    return _FITS[structure](data, structure, settings)


def _fit_full(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:  # noqa: ARG001
    layers = data.recorder.layers
    matrix, tally = estimate_joint(data)
    shapes = {name: layer.shape for name, layer in layers.items()}
    covered = tuple(_covered(layer, structure) for layer in layers.values())
    return StructureFit(FullCurvature(matrix, shapes), covered, tally, data.recorder)


def _fit_subnetwork(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:
    selection, lost = _selection(data, settings)
    recorder = restricted(data.recorder, list(selection)) if lost else data.recorder
    matrix, tally = estimate_selected(replace(data, recorder=recorder), selection)
    shapes = {name: layer.shape for name, layer in recorder.layers.items()}
    covered = tuple(
        _covered(layer, structure, n_selected=len(selection[name]))
        for name, layer in recorder.layers.items()
    )
    curvature = SubnetworkCurvature(matrix, selection, shapes)
    return StructureFit(curvature, covered, tally, recorder, lost, {"n_selected": len(matrix)})


def _selection(
    data: Pass, settings: StructureSettings
) -> tuple[dict[str, Tensor], tuple[Uncovered, ...]]:
    """Return flat indices by layer, and the layers of which none is selected."""
    layers = data.recorder.layers
    if settings.subset_size is None:
        whole = {name: layer.matrix().flatten() for name, layer in layers.items()}
        return select_weights(whole, sum(len(w) for w in whole.values())), ()
    diagonals, tally = estimate_diagonals(data)
    n_data = tally.n_data if settings.n_data is None else settings.n_data
    variances = {
        name: 1 / (n_data * diagonal + settings.prior_precision[name])
        for name, diagonal in diagonals.items()
    }
    n_weights = sum(v.numel() for v in variances.values())
    size = min(settings.subset_size, n_weights)
    # Copied: the same weights on all workers, whatever rounding says of ties.
    selection = data.workers.from_first(lambda: _on(select_weights(variances, size), "cpu"))
    selection = _on(selection, data.device)
    reason = f"none of its weights is among the {settings.subset_size} of largest variance"
    return selection, tuple(
        Uncovered(name, reason, layer.parameter_names, layer.matrix().numel())
        for name, layer in layers.items()
        if name not in selection
    )


def _on(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {name: t.to(device) for name, t in tensors.items()}


def _fit_ella(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:
    if settings.n_points < 1 or settings.n_eigen < 1:
        raise ValueError("structure 'ella' needs n_points and n_eigen of at least 1")
    found = leading_directions(data, settings.n_outputs, settings.n_points, settings.n_eigen)
    dtype = next(iter(data.recorder.layers.values())).matrix().dtype
    directions = {name: part.to(dtype) for name, part in found.directions.items()}
    matrix, tally = estimate_along(data, directions)
    layers = data.recorder.layers.values()
    details = {
        "n_points": found.n_points,
        "n_eigen": len(matrix),
        "kept_trace_share": found.kept_trace_share,
    }
    covered = tuple(_covered(layer, structure) for layer in layers)
    curvature = EllaCurvature(matrix, directions)
    return StructureFit(curvature, covered, tally, data.recorder, (), details)


def _fit_backpack(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:  # noqa: ARG001
    """Fit Kronecker factors by BackPACK, which takes weights and biases apart (E19)."""
    try:
        from bayes_vio.curvature.backpack import backpack_factors, backpack_kfra_factors
    except ImportError as error:
        raise ValueError(
            f"structure {structure.value!r} needs BackPACK: pip install 'bayes_vio[backpack]'"
        ) from error
    if data.workers.size > 1:
        raise ValueError(
            f"structure {structure.value!r} is fitted by one process: use 'kfac', or no others"
        )
    if data.fisher is not Fisher.TYPE2:
        raise ValueError(f"structure {structure.value!r} has the exact Fisher: leave fisher None")
    model = bare_model(data.recorder)
    loader = [(map_tensors(x, lambda t: t.to(data.device)), y) for x, y in data.loader]
    estimate = backpack_factors if structure is Structure.KFLR else backpack_kfra_factors
    factors = estimate(model, loader, data.likelihood)
    blocks: dict[str, CurvatureBlock] = {}
    for name, layer in data.recorder.layers.items():
        own = factors[layer.parameter_names[0]]
        bias = [own.A.new_ones(1, 1)] if len(layer.parameter_names) > 1 else []
        blocks[name] = kfac_curvature(own.G, torch.block_diag(own.A, *bias))
    covered = tuple(_covered(layer, structure) for layer in data.recorder.layers.values())
    return StructureFit(BlockwiseCurvature(blocks), covered, measure(data), data.recorder)


def _fit_diagonal(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:  # noqa: ARG001
    diagonals, tally = estimate_diagonals(data)
    return _block_fit(data, _diagonal_fits(diagonals), tally)


def _fit_kfac(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:  # noqa: ARG001
    found, norms, tally = estimate_diagonalised(data)
    fits = {name: _kfac_fit(each) for name, each in found.items()}
    return _block_fit(data, _diagonal_fits(norms) | fits, tally)


def _fit_efb(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:  # noqa: ARG001
    corrected, norms, tally = estimate_corrected(data)
    fits = {name: _efb_fit(c) for name, c in corrected.items()}
    return _block_fit(data, _diagonal_fits(norms) | fits, tally)


def _fit_inf(data: Pass, structure: Structure, settings: StructureSettings) -> StructureFit:  # noqa: ARG001
    max_numbers = _numbers_beside_diagonals(data, settings.max_bytes)
    corrected, norms, tally = estimate_corrected(data)
    grids = _grids(corrected, settings.rank, max_numbers)
    fits = {name: _inf_fit(c, grids[name]) for name, c in corrected.items()}
    traces = {name: float(c.eigenvalues.sum()) for name, c in corrected.items()}
    kept = sum(
        traces[name] * fit.sparsification.kept_trace_share
        for name, fit in fits.items()
        if fit.sparsification
    )
    total = sum(traces.values())
    fitted = _block_fit(data, _diagonal_fits(norms) | fits, tally)
    return replace(fitted, details={"kept_trace_share": kept / total if total else 1.0})


def _grids(
    corrected: Mapping[str, CorrectedCurvature], rank: int, max_numbers: int | None
) -> dict[str, Grid]:
    shapes = {n: (len(c.basis.Q_g), len(c.basis.Q_a)) for n, c in corrected.items()}
    lams = {name: c.eigenvalues for name, c in corrected.items()}
    if max_numbers is not None:
        return choose_grids(lams, rank, max_numbers, shapes)
    return {name: choose_grid(lam, rank, shapes[name]) for name, lam in lams.items()}


def _numbers_beside_diagonals(data: Pass, max_bytes: int | None) -> int | None:
    """Return how many numbers the low ranks may store; raise ValueError where that is negative."""
    if max_bytes is None:
        return None
    matrices = [layer.matrix() for layer in data.recorder.layers.values()]
    size, n_diagonal = matrices[0].element_size(), sum(m.numel() for m in matrices)
    if max_bytes < size * n_diagonal:
        raise ValueError(
            f"max_bytes is {max_bytes}, but the diagonals alone take {size * n_diagonal}: give "
            "more, or cover fewer layers"
        )
    return max_bytes // size - n_diagonal


_FITS: dict[Structure, Callable[[Pass, Structure, StructureSettings], StructureFit]] = {
    Structure.INF: _fit_inf,
    Structure.DIAGONAL: _fit_diagonal,
    Structure.KFAC: _fit_kfac,
    Structure.EFB: _fit_efb,
    Structure.FULL: _fit_full,
    Structure.SUBNETWORK: _fit_subnetwork,
    Structure.ELLA: _fit_ella,
    Structure.KFLR: _fit_backpack,
    Structure.KFRA: _fit_backpack,
}


@dataclass(frozen=True)
class _LayerFit:
    """A layer's block, and what the report says of it beside its shape."""

    block: CurvatureBlock
    structure: Structure
    sharing: Sharing | None = None
    sparsification: Sparsification | None = None


def _block_fit(data: Pass, fits: Mapping[str, _LayerFit], tally: Tally) -> StructureFit:
    layers = data.recorder.layers
    covered = tuple(
        _covered(
            layer,
            fits[name].structure,
            sharing=fits[name].sharing,
            sparsification=fits[name].sparsification,
        )
        for name, layer in layers.items()
    )
    curvature = BlockwiseCurvature({name: fits[name].block for name in layers})
    return StructureFit(curvature, covered, tally, data.recorder)


def _diagonal_fits(diagonals: Mapping[str, Tensor]) -> dict[str, _LayerFit]:
    return {
        name: _LayerFit(DiagonalCurvature(diagonal), Structure.DIAGONAL)
        for name, diagonal in diagonals.items()
    }


def _kfac_fit(found: DiagonalisedCurvature) -> _LayerFit:
    basis = found.basis.completed()
    block = KfacCurvature(basis.Q_g, basis.Q_a, basis.output_eigenvalues, basis.input_eigenvalues)
    return _LayerFit(block, Structure.KFAC, found.sharing)


def _efb_fit(corrected: CorrectedCurvature) -> _LayerFit:
    basis, (r_g, r_a) = corrected.basis.completed(), corrected.eigenvalues.shape
    eigenvalues = torch.zeros_like(corrected.diagonal)
    eigenvalues[-r_g:, -r_a:] = corrected.eigenvalues
    block = EfbCurvature(basis.Q_g, basis.Q_a, eigenvalues)
    return _LayerFit(block, Structure.EFB, corrected.sharing)


def _inf_fit(corrected: CorrectedCurvature, grid: Grid) -> _LayerFit:
    basis = corrected.basis
    block, kept = sparsify_on(
        grid, basis.Q_g, basis.Q_a, corrected.eigenvalues, corrected.diagonal
    )
    return _LayerFit(block, Structure.INF, corrected.sharing, kept)


def _covered(
    layer: Layer,
    structure: Structure,
    sharing: Sharing | None = None,
    sparsification: Sparsification | None = None,
    n_selected: int | None = None,
) -> CoveredLayer:
    d_out, d_in = layer.shape
    return CoveredLayer(
        name=layer.name,
        kind=layer.kind,
        block=structure.value,
        parameters=layer.parameter_names,
        d_out=d_out,
        d_in=d_in,
        batch_axis=layer.batch_axis,
        sharing=sharing.value if sharing else None,
        sparsification=sparsification,
        n_selected=n_selected,
    )


def measure(data: Pass) -> Tally:
    """Return the data's count and log-likelihood at the MAP; reads it once."""
    tally = Tally()
    model = bare_model(data.recorder)
    for x, target in data.loader:
        tally.add(x, target)
        place = map_tensors(x, lambda t: t.to(data.device))
        with torch.inference_mode(False), torch.no_grad():
            mean, from_model = split_output(model(ordinary(place)))
            noise = data.likelihood.noise_cholesky(mean, from_model)
            likelihood = data.likelihood.log_likelihood(mean, noise, target.to(data.device))
        tally.log_likelihood += float(likelihood.sum())
    return tally
