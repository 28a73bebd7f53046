"""Keep a grid of corrected eigenvalues as a layer's low rank, and give the rest to its diagonal.

Source: Lee et al. (2020), section 3.2 and algorithm 1. Here the kept eigenvalues are always a full
grid of rows and columns, whose size is bounded, so that L is what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.posterior.grid import Grid, choose_grid
from bayes_vio.posterior.information import InformationCurvature


@dataclass(frozen=True)
class Sparsification:
    """What a layer's low rank keeps and what its diagonal could not correct.

    ``kept_trace_share``: of the trace of the corrected eigenvalues. ``clamped_share``: share of
    diagonal entries that came out negative; ``clamped_mass``: their sum over the trace;
    ``frobenius_error``: distance to EFB with the exact diagonal over the latter's norm.
    """

    rank_g: int
    rank_a: int
    kept_trace_share: float
    clamped_share: float
    clamped_mass: float
    frobenius_error: float


def sparsify(
    Q_g: Tensor, Q_a: Tensor, eigenvalues: Tensor, exact_diagonal: Tensor, max_rank: int
) -> tuple[InformationCurvature, Sparsification]:
    """Return the sparse form of a layer's curvature on the best grid, and what it loses.

    Q_g [d_out, r_g], Q_a [d_in, r_a]: eigenbasis, outside of which there is no curvature;
    eigenvalues Lam [r_g, r_a] and exact_diagonal F_diag [d_out, d_in]: means over data.
    """
    grid = choose_grid(eigenvalues, max_rank, (len(Q_g), len(Q_a)))
    return sparsify_on(grid, Q_g, Q_a, eigenvalues, exact_diagonal)


def sparsify_on(
    grid: Grid, Q_g: Tensor, Q_a: Tensor, eigenvalues: Tensor, exact_diagonal: Tensor
) -> tuple[InformationCurvature, Sparsification]:
    """Return the sparse form of a layer's curvature on a given grid, and what it loses.

    Where the low rank alone exceeds F_diag, the diagonal is that of the eigenvalues which are not
    kept (E22): with zero, directions that the low rank does not hold would have the prior alone.
    """
    rows, columns = grid
    U_g, U_a = Q_g[:, rows], Q_a[:, columns]
    kept = eigenvalues[rows][:, columns]
    correction = exact_diagonal - kronecker_diagonal(U_g, U_a, kept)
    negative = correction < 0
    rest = kronecker_diagonal(Q_g, Q_a, _without(eigenvalues, grid))
    form = InformationCurvature(torch.where(negative, rest, correction), U_g, U_a, kept)
    tiny = torch.finfo(eigenvalues.dtype).tiny
    return form, Sparsification(
        rank_g=len(rows),
        rank_a=len(columns),
        kept_trace_share=float(kept.sum() / eigenvalues.sum().clamp(min=tiny)),
        clamped_share=float(negative.double().mean()),
        clamped_mass=float(-correction[negative].sum() / exact_diagonal.sum().clamp(min=tiny)),
        frobenius_error=_frobenius_error(Q_g, Q_a, eigenvalues, exact_diagonal, form),
    )


def _without(eigenvalues: Tensor, grid: Grid) -> Tensor:
    """Return the eigenvalues with those of the grid set to zero."""
    rest = eigenvalues.clone()
    rest[grid.rows[:, None], grid.columns] = 0.0
    return rest


def kronecker_diagonal(U_g: Tensor, U_a: Tensor, eigenvalues: Tensor) -> Tensor:
    """Return the diagonal of U diag(eigenvalues) U^T as [d_out, d_in], U = U_g (x) U_a."""
    return U_g.square() @ eigenvalues @ U_a.square().mT


def _frobenius_error(
    Q_g: Tensor, Q_a: Tensor, eigenvalues: Tensor, exact: Tensor, form: InformationCurvature
) -> float:
    """Return |sparse form - target|_F / |target|_F, target = EFB with the exact diagonal (E15).

    Norms of matrices that share the eigenbasis are norms of their eigenvalues, so nothing dense
    is needed: off-diagonal parts are whole matrices less their diagonals.
    """
    efb_diagonal = kronecker_diagonal(Q_g, Q_a, eigenvalues)
    low_diagonal = kronecker_diagonal(form.U_g, form.U_a, form.eigenvalues)
    lost = eigenvalues.square().sum() - form.eigenvalues.square().sum()
    off_diagonal = lost - (efb_diagonal - low_diagonal).square().sum()
    diagonal = (low_diagonal + form.diagonal - exact).square().sum()
    target = eigenvalues.square().sum() - efb_diagonal.square().sum() + exact.square().sum()
    return float(((off_diagonal + diagonal).clamp(min=0.0) / target).sqrt())
