"""Choose the low rank of the sparse information form, and give the rest to its diagonal.

Source: Lee et al. (2020), section 3.2 and algorithm 1. Here the kept eigenvalues are always a full
grid of rows and columns, whose size is bounded, so that L is what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.posterior.information import InformationCurvature


@dataclass(frozen=True)
class Sparsification:
    """What a layer's low rank keeps and what its diagonal could not correct.

    ``kept_trace_share``: of the trace of the corrected eigenvalues. ``clamped_share``: share of
    diagonal entries that came out negative and are zero; ``clamped_mass``: their sum over the
    trace; ``frobenius_error``: distance to EFB with the exact diagonal over the latter's norm.
    """

    rank_g: int
    rank_a: int
    kept_trace_share: float
    clamped_share: float
    clamped_mass: float
    frobenius_error: float


def choose_grid(eigenvalues: Tensor, max_rank: int) -> tuple[Tensor, Tensor]:
    """Return row and column indices of a grid with at most ``max_rank`` entries (E14).

    Greedy: from the largest entry on, add the row or the column that gains most trace per number
    stored (a row costs d_out numbers of U_g and one row of Lam_L), while the grid stays in bounds.
    """
    d_out, d_in = eigenvalues.shape
    if max_rank < 1:
        none = torch.zeros(0, dtype=torch.long, device=eigenvalues.device)
        return none, none
    first = int(eigenvalues.argmax())
    rows, columns = [first // d_in], [first % d_in]
    while True:
        row, row_gain = _best(eigenvalues[:, columns].sum(1), rows)
        column, column_gain = _best(eigenvalues[rows].sum(0), columns)
        row_fits = row_gain > 0 and (len(rows) + 1) * len(columns) <= max_rank
        column_fits = column_gain > 0 and len(rows) * (len(columns) + 1) <= max_rank
        row_worth = row_gain / (d_out + len(columns)) if row_fits else 0.0
        column_worth = column_gain / (d_in + len(rows)) if column_fits else 0.0
        if not row_fits and not column_fits:
            break
        if row_worth >= column_worth:
            rows.append(row)
        else:
            columns.append(column)
    device = eigenvalues.device
    return torch.tensor(sorted(rows), device=device), torch.tensor(sorted(columns), device=device)


def _best(gains: Tensor, taken: list[int]) -> tuple[int, float]:
    gains = gains.clone()
    gains[taken] = -1.0
    gain, index = gains.max(0)
    return int(index), float(gain)


def sparsify(
    Q_g: Tensor, Q_a: Tensor, eigenvalues: Tensor, exact_diagonal: Tensor, max_rank: int
) -> tuple[InformationCurvature, Sparsification]:
    """Return the sparse form of a layer's curvature and what it loses.

    Q_g, Q_a: eigenbasis; eigenvalues Lam and exact_diagonal F_diag [d_out, d_in]: means over data.
    """
    rows, columns = choose_grid(eigenvalues, max_rank)
    U_g, U_a = Q_g[:, rows], Q_a[:, columns]
    kept = eigenvalues[rows][:, columns]
    correction = exact_diagonal - kronecker_diagonal(U_g, U_a, kept)
    negative = correction.clamp(max=0.0)
    form = InformationCurvature(correction.clamp(min=0.0), U_g, U_a, kept)
    tiny = torch.finfo(eigenvalues.dtype).tiny
    return form, Sparsification(
        rank_g=len(rows),
        rank_a=len(columns),
        kept_trace_share=float(kept.sum() / eigenvalues.sum().clamp(min=tiny)),
        clamped_share=float((correction < 0).double().mean()),
        clamped_mass=float(-negative.sum() / exact_diagonal.sum().clamp(min=tiny)),
        frobenius_error=_frobenius_error(Q_g, Q_a, eigenvalues, exact_diagonal, form),
    )


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
