"""Where the uncertainty is: marginal variances of weights, every layer's share in a prediction.

Source: Kniebel (2020) for the question by layers; the shares are exact for the linearised network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.posterior import Posterior
from bayes_vio.posterior.block import PrecisionBlock
from bayes_vio.posterior.blockwise import BlockwisePrecision
from bayes_vio.posterior.diagonal import DiagonalPrecision
from bayes_vio.posterior.ella import EllaCurvature, EllaPrecision
from bayes_vio.posterior.full import FullPrecision
from bayes_vio.posterior.information import InformationPrecision
from bayes_vio.posterior.kronecker import RotatedPrecision
from bayes_vio.posterior.subnetwork import SubnetworkPrecision


@dataclass(frozen=True)
class LayerUncertainty:
    """A layer's weights: how many, their mean marginal std, and the mean ratio of posterior to
    prior variance, 1 where the data told nothing."""

    n_weights: int
    mean_std: float
    kept_prior_share: float


def marginal_variances(posterior: Posterior) -> dict[str, Tensor]:
    """Return the diagonal of P^-1 by layer [d_out, d_in] (bias as the last column), in float64.

    Weights that a subnetwork leaves at the MAP have none: 0. Under "ella" it is the variance along
    its directions alone. Raises ValueError where rounding left a variance that is not positive.
    """
    precision = posterior.precision
    if isinstance(precision, BlockwisePrecision):
        found = {name: _block_variances(block) for name, block in precision.blocks.items()}
    elif isinstance(precision, SubnetworkPrecision):
        found = _selected(precision)
    elif isinstance(precision, FullPrecision):
        found = _split(precision, torch.cholesky_inverse(precision.cholesky).diagonal())
    elif isinstance(precision, EllaPrecision) and isinstance(posterior.curvature, EllaCurvature):
        found = {n: _along(precision, d) for n, d in posterior.curvature.directions.items()}
    else:
        raise ValueError(f"structure {posterior.report.structure!r} has no marginal variances")
    for name, variances in found.items():
        if not bool(torch.isfinite(variances).all()) or float(variances.min()) < 0:
            raise ValueError(f"a variance in {name!r} is not positive: raise the prior precision")
    return found


def layer_uncertainties(posterior: Posterior) -> dict[str, LayerUncertainty]:
    """Return a summary of ``marginal_variances`` by layer."""
    return {
        name: LayerUncertainty(
            n_weights=variances.numel(),
            mean_std=float(variances.sqrt().mean()),
            kept_prior_share=float(variances.mean()) * posterior.prior_precision[name],
        )
        for name, variances in marginal_variances(posterior).items()
    }


def layer_shares(posterior: Posterior, x: Any) -> dict[str, Tensor]:
    """Return every layer's share [batch] in the summed variance of the logits at x; they sum to 1.

    Under "full" a share includes correlations with other layers and may be negative. Raises
    ValueError under "ella", which has no parts by layer.
    """
    parts = {name: v.sum(1) for name, v in posterior.layer_contributions(x).items()}
    total = torch.stack(list(parts.values())).sum(0)
    return {name: part / total for name, part in parts.items()}


def mean_shares(posterior: Posterior, sets: Mapping[str, Any], size: int = 256) -> dict[str, dict]:
    """Return {set: {layer: mean share}} of several sets of inputs, in and out of distribution."""
    found: dict[str, dict] = {}
    for set_name, x in sets.items():
        totals = dict.fromkeys(posterior.layers, 0.0)
        for start in range(0, batch_size(x), size):
            rows = slice(start, start + size)
            part = map_tensors(x, lambda t, rows=rows: t[rows].to(posterior.device))
            for name, share in layer_shares(posterior, part).items():
                totals[name] += float(share.sum())
        found[set_name] = {name: total / batch_size(x) for name, total in totals.items()}
    return found


@singledispatch
def _block_variances(block: PrecisionBlock) -> Tensor:
    raise TypeError(f"{type(block).__name__} has no marginal variances")


@_block_variances.register
def _(block: DiagonalPrecision) -> Tensor:
    return block.inverse


@_block_variances.register
def _(block: RotatedPrecision) -> Tensor:
    return block.Q_g.square() @ block.rotated.inverse @ block.Q_a.square().mT


@_block_variances.register
def _(block: InformationPrecision) -> Tensor:
    """Return diag(D^-1 - D^-1 U diag(s) M^-1 diag(s) U^T D^-1) (E11), never forming U."""
    r_g, r_a = block.U_g.shape[1], block.U_a.shape[1]
    inner = (block.projector @ block.projector.mT).reshape(r_g, r_a, r_g, r_a)
    by_pairs = inner.permute(0, 2, 1, 3).reshape(r_g * r_g, r_a * r_a)
    explained = _column_pairs(block.U_g) @ by_pairs @ _column_pairs(block.U_a).mT
    return block.D_inverse - block.D_inverse.square() * explained


def _column_pairs(U: Tensor) -> Tensor:
    """Return the products of any two columns [d, r * r] of U [d, r]."""
    return (U[:, :, None] * U[:, None, :]).flatten(1)


def _split(precision: FullPrecision, variances: Tensor) -> dict[str, Tensor]:
    parts = variances.split(list(precision.sizes.values()))
    return {
        name: part.reshape(precision.shapes[name])
        for name, part in zip(precision.shapes, parts, strict=True)
    }


def _selected(precision: SubnetworkPrecision) -> dict[str, Tensor]:
    variances = torch.cholesky_inverse(precision.cholesky).diagonal()
    found = {}
    parts = variances.split(list(precision.sizes.values()))
    for (name, index), part in zip(precision.selection.items(), parts, strict=True):
        whole = part.new_zeros(precision.shapes[name])
        whole.view(-1)[index] = part
        found[name] = whole
    return found


def _along(precision: EllaPrecision, directions: Tensor) -> Tensor:
    flat = directions.double().flatten(1)
    white = torch.linalg.solve_triangular(precision.cholesky, flat, upper=False)
    return white.square().sum(0).reshape(directions.shape[1:])
