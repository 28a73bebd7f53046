"""Choose which eigenvectors the sparse information form keeps: rows and columns of a full grid.

The kept eigenvalues of a layer are a grid Lam[rows, columns], which is what is stored (E14). Its
size is bounded by a rank, and over all layers by a number of stored values, which then goes where
it keeps most trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """Indices of the rows [r_g] and columns [r_a] of Lam that a layer keeps, ascending."""

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class _Step:
    """A grid on a layer's way of growth: what it stores beside the diagonal, what it gains."""

    n_rows: int
    n_columns: int
    n_numbers: int
    gain: float


@dataclass(frozen=True)
class _Growth:
    """The way from no grid to the largest one: every step adds the next row or column."""

    rows: Tensor
    columns: Tensor
    steps: tuple[_Step, ...]

    def grid(self, step: _Step) -> Grid:
        rows, columns = self.rows[: step.n_rows], self.columns[: step.n_columns]
        return Grid(rows.sort().values, columns.sort().values)


def choose_grid(eigenvalues: Tensor, max_rank: int, shape: tuple[int, int] | None = None) -> Grid:
    """Return a grid of the eigenvalues [r_g, r_a] with at most ``max_rank`` entries (E14).

    Greedy: from the largest entry on, add the row or the column that gains most trace per number
    stored (a row costs d_out numbers of U_g and one row of Lam_L), while the grid stays in bounds.
    shape: (d_out, d_in) of the layer, where its basis has fewer columns.
    """
    growth = _grow(eigenvalues, max_rank, shape or _shape(eigenvalues))
    return growth.grid(growth.steps[-1])


def choose_grids(
    eigenvalues: Mapping[str, Tensor],
    max_rank: int,
    max_numbers: int,
    shapes: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Grid]:
    """Return a grid for every layer; together they store at most ``max_numbers`` numbers (E14).

    Every layer grows as in ``choose_grid``; the next numbers go to the layer that gains most by
    each of them, looking ahead along the upper concave hull of gain over numbers. What a kept
    eigenvalue gains is its share of the network's trace plus that of its layer's, over the number
    of layers: the first alone would leave layers of small trace empty. shapes: as in
    ``choose_grid``.
    """
    sizes = shapes or {name: _shape(lam) for name, lam in eigenvalues.items()}
    shares = _shares(eigenvalues)
    growths = {name: _grow(lam, max_rank, sizes[name]) for name, lam in shares.items()}
    hulls = {name: _concave_hull(growth.steps) for name, growth in growths.items()}
    reached = dict.fromkeys(growths, 0)
    left = max_numbers
    queue = [(-_slope(*hull[:2]), name) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(queue)
    chosen = {name: growth.steps[0] for name, growth in growths.items()}
    while queue:
        _, name = heapq.heappop(queue)
        hull, now = hulls[name], chosen[name]
        target = hull[reached[name] + 1]
        best = _affordable(growths[name].steps, now, target, left)
        left -= best.n_numbers - now.n_numbers
        chosen[name] = best
        reached[name] += 1
        if best is target and target is not hull[-1]:
            heapq.heappush(queue, (-_slope(target, hull[reached[name] + 1]), name))
    return {name: growth.grid(chosen[name]) for name, growth in growths.items()}


def _shape(eigenvalues: Tensor) -> tuple[int, int]:
    d_out, d_in = eigenvalues.shape
    return d_out, d_in


def _shares(eigenvalues: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return eigenvalues as what they add to the network's kept share and to its layers' mean."""
    traces = {name: float(lam.double().sum()) for name, lam in eigenvalues.items()}
    network = sum(traces.values())
    return {
        name: lam.double() * (1 / network + 1 / (len(traces) * traces[name]))
        if traces[name] > 0
        else lam.double()
        for name, lam in eigenvalues.items()
    }


def _affordable(steps: tuple[_Step, ...], now: _Step, target: _Step, left: int) -> _Step:
    """Return the step up to ``target`` that gains most with ``left`` more numbers than now."""
    within = (s for s in steps if now.n_numbers <= s.n_numbers <= target.n_numbers)
    return max((s for s in within if s.n_numbers - now.n_numbers <= left), key=lambda s: s.gain)


def _concave_hull(steps: tuple[_Step, ...]) -> list[_Step]:
    """Return the steps on the upper concave hull of gain over numbers, the first one included."""
    hull: list[_Step] = []
    for step in steps:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], step):
            hull.pop()
        hull.append(step)
    return hull


def _slope(low: _Step, high: _Step) -> float:
    return (high.gain - low.gain) / (high.n_numbers - low.n_numbers)


def _grow(eigenvalues: Tensor, max_rank: int, shape: tuple[int, int]) -> _Growth:
    order = list(_additions(eigenvalues.detach().double(), max_rank, shape))
    d_out, d_in = shape
    rows, columns, steps, total = [], [], [_Step(0, 0, 0, 0.0)], 0.0
    for row, column, gain in order:
        rows += [row] if row is not None else []
        columns += [column] if column is not None else []
        total += gain
        r_g, r_a = len(rows), len(columns)
        steps.append(_Step(r_g, r_a, d_out * r_g + d_in * r_a + r_g * r_a, total))
    device = eigenvalues.device
    rows, columns = (torch.tensor(i, dtype=torch.long, device=device) for i in (rows, columns))
    return _Growth(rows, columns, tuple(steps))


def _additions(
    eigenvalues: Tensor, max_rank: int, shape: tuple[int, int]
) -> Iterator[tuple[int | None, int | None, float]]:
    """Yield (row or None, column or None, gain): both first, then one at a time."""
    if max_rank < 1 or not eigenvalues.numel():
        return
    (d_out, d_in), (n_rows, n_columns) = shape, eigenvalues.shape
    row, column = divmod(int(eigenvalues.argmax()), n_columns)
    yield row, column, float(eigenvalues[row, column])
    # What a row gains with the columns so far, and the reverse; taken ones gain nothing.
    row_gains, column_gains = eigenvalues[:, column].clone(), eigenvalues[row].clone()
    rows_left = torch.ones(n_rows, dtype=torch.bool, device=eigenvalues.device)
    columns_left = torch.ones(n_columns, dtype=torch.bool, device=eigenvalues.device)
    rows_left[row], columns_left[column] = False, False
    r_g, r_a = 1, 1
    while True:
        row, row_gain = _best(row_gains, rows_left)
        column, column_gain = _best(column_gains, columns_left)
        row_fits = row_gain > 0 and (r_g + 1) * r_a <= max_rank
        column_fits = column_gain > 0 and r_g * (r_a + 1) <= max_rank
        if not row_fits and not column_fits:
            return
        row_worth = row_gain / (d_out + r_a) if row_fits else 0.0
        column_worth = column_gain / (d_in + r_g) if column_fits else 0.0
        if row_worth >= column_worth:
            yield row, None, row_gain
            column_gains += eigenvalues[row]
            rows_left[row] = False
            r_g += 1
        else:
            yield None, column, column_gain
            row_gains += eigenvalues[:, column]
            columns_left[column] = False
            r_a += 1


def _best(gains: Tensor, left: Tensor) -> tuple[int, float]:
    gain, index = torch.where(left, gains, -1.0).max(0)
    return int(index), float(gain)
