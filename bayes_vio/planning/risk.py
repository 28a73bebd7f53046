"""Bound the probability that a car with an uncertain pose touches anything along a path.

Over the corners, the stations of a path and the obstacles, the event is a union. Boole's sum over
stations would count one lateral error once per station; Hunter's bound takes off what neighbours
share: for any tree over the events e,

    P(union) <= P(root) + sum_e P(e and not parent(e)).                                     (P3)

Each corner's parent is itself at the station before, or its neighbour at the same station; the
likeliest events of several obstacles are linked, too (unions.py). Where that is not enough, the
half-planes are tilted (half_planes.py), and an obstacle that only few stations come near is
bounded by the sum of slices of heading (P4) over them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.planning.bivariate import upper_tail
from bayes_vio.planning.half_planes import HalfPlanes, directions, tilted
from bayes_vio.planning.heading_slices import sliced_bound
from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.reach import Rows, within_reach
from bayes_vio.planning.stations import Stations
from bayes_vio.planning.unions import shared_by_obstacles, union_bound
from bayes_vio.planning.vehicle import Vehicle

# The numbers of so many rows stay in the processor's cache: twice as fast.
_AT_ONCE = 2048
# Where no more stations than this are likelier than _LIKELY, the sum over them of a tighter bound
# for each (P4) may be less than P3 and is tried.
_LIKELY, _FEW_STATIONS = 1e-4, 3
# By such factors tilted half-planes, slices and links lower a bound, hardly ever by more.
_TILTING_GAINS, _SLICING_GAINS, _LINKING_GAINS = 4.0, 10.0, 2.5


def collision_bound(
    stations: Stations,
    vehicle: Vehicle,
    obstacles: Obstacles,
    limit: float | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Return for each candidate [c] an upper bound, at most 1, on touching any obstacle.

    P3, again with tilted half-planes, and P4, where that may be less. limit: where only that
    matters whether a bound lies below it, candidates that are decided before are left at that,
    by one likely event at Boole's sum.
    counts [c]: the only candidates on which more work is spent, None for all.
    """
    total = torch.zeros(len(stations.poses), dtype=torch.float64, device=stations.poses.device)
    if not len(obstacles):
        return total
    rows = Rows.of(within_reach(stations, vehicle, obstacles), stations, vehicle, obstacles)
    if not len(rows.candidate):
        return total
    planes = _farthest(rows)
    bounds = _Bounds.of(planes, rows, _hopeless(planes, rows, limit))
    bounds = _tilted(bounds, rows, bounds.open(limit, counts, _TILTING_GAINS))
    bounds = _sliced(bounds, rows, bounds.open(limit, counts, _SLICING_GAINS))
    total = bounds.of_pairs.sum(-1)
    if stations.path is not None:
        pairs = bounds.open(limit, counts, _LINKING_GAINS) & bounds.half_planed
        linked = bounds.of_pairs.masked_fill(~pairs, 0.0)
        total = total - shared_by_obstacles(bounds.planes, rows, stations, linked)
    return total.clamp(max=1.0)


@dataclass(frozen=True)
class _Bounds:
    """Bounds so far: of_rows [n] on touching at one station, of_pairs [c, o] on all of a path.

    planes: of the rows. half_planed [c, o]: the pairs whose bound is on the union of them.
    """

    planes: HalfPlanes
    of_rows: Tensor
    of_pairs: Tensor
    half_planed: Tensor

    @staticmethod
    def of(planes: HalfPlanes, rows: Rows, summed: Tensor | None = None) -> _Bounds:
        """Return the bounds of half-planes: P3, of the rows summed [n] only Boole's sum."""
        single = upper_tail(planes.distance).sum(-1)
        if summed is None or not summed.any():
            of_events = union_bound(planes, rows)
        else:
            of_events, linked = single.clone(), ~summed
            of_events[linked] = union_bound(planes.chosen(linked), rows.only(linked))
        pairs = rows.sums(of_events)
        return _Bounds(planes, single, pairs, torch.ones_like(pairs, dtype=torch.bool))

    def open(self, limit: float | None, counts: Tensor | None, gains: float) -> Tensor:
        """Return which pairs [c, o] are worth work that lowers a bound by a factor of gains."""
        worth = self.of_pairs > _LIKELY
        if limit is not None:
            total = self.of_pairs.sum(-1)
            worth &= ((total > limit) & (total < gains * limit))[:, None]
        if counts is not None:
            worth &= counts[:, None]
        return worth


def _farthest(rows: Rows) -> HalfPlanes:
    """Return the half-plane of each row that is farthest, in standard deviations."""
    parts = []
    for first in range(0, len(rows.candidate), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        seen = rows.poses[some], rows.covs[some], rows.footprints[some]
        toward = directions(*seen, rows.shapes[some])
        parts.append(toward.half_planes(toward.farthest()))
    return HalfPlanes.joined(parts)


def _hopeless(planes: HalfPlanes, rows: Rows, limit: float | None) -> Tensor | None:
    """Return which rows [n] are of candidates of which a single event decides; None: no limit."""
    if limit is None:
        return None
    likeliest = upper_tail(planes.distance.amin(-1))
    of_candidates = likeliest.new_zeros(rows.size[0])
    of_candidates = of_candidates.scatter_reduce(0, rows.candidate, likeliest, "amax")
    return (of_candidates >= _SLICING_GAINS * limit)[rows.candidate]


def _tilted(bounds: _Bounds, rows: Rows, pairs: Tensor) -> _Bounds:
    """Return the bounds, of some pairs [c, o] perhaps less by tilted half-planes."""
    which = pairs[rows.candidate, rows.obstacle]
    if not which.any():
        return bounds
    few, planes = rows.only(which), bounds.planes
    around = tilted(planes.normals[which], few.poses, few.covs, few.footprints, few.shapes)
    found = _Bounds.of(around.half_planes(around.least_probable()), few)
    of_rows = bounds.of_rows.clone()
    of_rows[which] = torch.minimum(of_rows[which], found.of_rows)
    better = pairs & (found.of_pairs < bounds.of_pairs)
    used = better[few.candidate, few.obstacle]
    planes = planes.replaced(torch.nonzero(which)[used, 0], found.planes.chosen(used))
    of_pairs = torch.where(better, found.of_pairs, bounds.of_pairs)
    return _Bounds(planes, of_rows, of_pairs, bounds.half_planed)


def _sliced(bounds: _Bounds, rows: Rows, pairs: Tensor) -> _Bounds:
    """Return the bounds, of some pairs [c, o] perhaps less by slices of heading."""
    likely = bounds.of_rows > _LIKELY
    stations = rows.sums(likely.to(bounds.of_rows.dtype))
    pairs = pairs & (stations > 0) & (stations <= _FEW_STATIONS)
    which = pairs[rows.candidate, rows.obstacle] & likely
    if not which.any():
        return bounds
    few, of_rows = rows.only(which), bounds.of_rows.clone()
    sliced = sliced_bound(few.poses, few.covs, few.footprints, few.shapes)
    of_rows[which] = torch.minimum(of_rows[which], sliced)
    summed = rows.sums(of_rows)
    kept = bounds.half_planed & (bounds.of_pairs <= summed)
    return _Bounds(bounds.planes, of_rows, torch.minimum(bounds.of_pairs, summed), kept)
