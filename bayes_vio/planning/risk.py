"""Bound the probability that a car with an uncertain pose touches anything along a path.

Over the corners, the stations of a path and the obstacles, the event is a union. Boole's sum over
stations would count one lateral error once per station; Hunter's bound takes off what neighbours
share: for any tree over the events e,

    P(union) <= P(root) + sum_e P(e and not parent(e)).                                     (P3)

Each corner's parent is itself at the station before, or its neighbour at the same station,
whichever shares more. An obstacle that only few stations come near is bounded by the sum of
slices of heading (P4) over them, too. Over obstacles the bounds are added (Boole).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.planning.bivariate import upper_quadrant, upper_tail
from bayes_vio.planning.half_planes import HalfPlanes, directions
from bayes_vio.planning.heading_slices import sliced_bound
from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.stations import Stations
from bayes_vio.planning.vehicle import FRONT_LEFT, FRONT_RIGHT, REAR_LEFT, REAR_RIGHT, Vehicle

# An obstacle farther away than this many standard deviations counts as out of reach (1e-9).
_OUT_OF_REACH = 6.0
# Events less probable than this are added whole: nothing is gained by their overlap.
_NEGLIGIBLE = 1e-7
# Where no more stations than this are likelier than _LIKELY, the sum over them of a tighter bound
# for each (P4) may be less than P3 and is tried.
_LIKELY, _FEW_STATIONS = 1e-4, 3
# By so much P3 may be too large, and hardly ever by more.
_LOOSEST = 10.0
_NEIGHBOURS = (
    (REAR_LEFT, FRONT_LEFT),
    (REAR_RIGHT, REAR_LEFT),
    (FRONT_RIGHT, REAR_RIGHT),
    (FRONT_RIGHT, FRONT_LEFT),
)


def collision_bound(
    stations: Stations, vehicle: Vehicle, obstacles: Obstacles, limit: float | None = None
) -> Tensor:
    """Return for each candidate [c] an upper bound, at most 1, on touching any obstacle.

    P3, and P4 where it may be less. limit: where only that matters whether a bound lies below it,
    candidates that P3 alone decides are left at that.
    """
    total = torch.zeros(len(stations.poses), dtype=torch.float64, device=stations.poses.device)
    if not len(obstacles):
        return total
    rows = Rows.of(within_reach(stations, vehicle, obstacles), stations)
    if not len(rows.candidate):
        return total
    shapes = obstacles[rows.obstacle]
    corners = vehicle.corners.to(total.device)
    toward = directions(rows.poses, rows.covs, corners, shapes, rows.swept_m)
    planes = toward.half_planes(toward.farthest())
    bound = _of_pairs(rows, union_bound(planes, rows), len(obstacles))
    single = upper_tail(planes.distance).sum(-1)
    likely = single > _LIKELY
    stations_count = _of_pairs(rows, likely.to(single.dtype), len(obstacles))
    worth = (bound > _LIKELY) & (stations_count > 0) & (stations_count <= _FEW_STATIONS)
    if limit is not None:
        undecided = (bound.sum(-1) > limit) & (bound.sum(-1) < _LOOSEST * limit)
        worth &= undecided[:, None]
    refine = worth[rows.candidate, rows.obstacle] & likely
    if refine.any():
        poses, covs, swept_m = (v[refine] for v in (rows.poses, rows.covs, rows.swept_m))
        sliced = sliced_bound(poses, covs, swept_m, shapes[refine], corners)
        single[refine] = torch.minimum(single[refine], sliced)
        bound = torch.minimum(bound, _of_pairs(rows, single, len(obstacles)))
    return bound.sum(-1).clamp(max=1.0)


def _of_pairs(rows: Rows, value: Tensor, obstacles: int) -> Tensor:
    """Return the sums [c, o] over the stations of rows' values [n]."""
    sums = torch.zeros(rows.candidates, obstacles, dtype=value.dtype, device=value.device)
    return sums.index_put((rows.candidate, rows.obstacle), value, accumulate=True)


def within_reach(stations: Stations, vehicle: Vehicle, obstacles: Obstacles) -> Tensor:
    """Return where [c, s, o] an obstacle has more than a negligible probability.

    First by the circle about base_link that holds the footprint, which no error of heading moves;
    then by the half-planes of the obstacle's edges.
    """
    position = stations.poses[..., None, :2]
    # The largest standard deviation in any direction, bounded by the trace.
    std = stations.covs[..., :2, :2].diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    margin = (vehicle.radius_m + stations.swept_m + _OUT_OF_REACH * std)[..., None]
    near = (position - obstacles.centres).norm(dim=-1) - obstacles.radii < margin
    near &= stations.counts[..., None]
    c, s, o = torch.nonzero(near, as_tuple=True)
    near[c, s, o] = _edges_in_reach(stations, vehicle, obstacles[o], (c, s))
    return near


def _edges_in_reach(
    stations: Stations, vehicle: Vehicle, obstacles: Obstacles, of: tuple[Tensor, Tensor]
) -> Tensor:
    """Return where [n] the footprint may reach all half-planes of an obstacle's edges."""
    poses, covs = stations.poses[of], stations.covs[of]
    x, y = obstacles.normals.unbind(-1)
    cos, sin = torch.cos(poses[:, 2, None]), torch.sin(poses[:, 2, None])
    along, across = x * cos + y * sin, y * cos - x * sin
    footprint = torch.where(along > 0, vehicle.front_m * along, -vehicle.rear_m * along)
    footprint = footprint + vehicle.half_width_m * across.abs() + stations.swept_m[of][:, None]
    gap = obstacles.offsets - x * poses[:, 0, None] - y * poses[:, 1, None] - footprint
    a, b, d = covs[:, 0, 0, None], covs[:, 0, 1, None], covs[:, 1, 1, None]
    # No corner's deviation is larger than that of the position and of the farthest corner's turn.
    std = (a * x * x + 2 * b * x * y + d * y * y).sqrt()
    std = std + vehicle.radius_m * covs[:, 2, 2, None].sqrt()
    return (gap < _OUT_OF_REACH * std).all(-1)


@dataclass(frozen=True)
class Rows:
    """A flat list of stations with an obstacle in reach.

    candidate, obstacle [n]: whose. poses [n, 3], covs, earlier_covs [n, 3, 3], swept_m [n]: as in
    Stations.
    before [n]: the row of the same candidate and obstacle at the station before, -1 for none.
    candidates: how many there are.
    """

    candidate: Tensor
    obstacle: Tensor
    poses: Tensor
    covs: Tensor
    earlier_covs: Tensor
    swept_m: Tensor
    before: Tensor
    candidates: int

    @staticmethod
    def of(near: Tensor, stations: Stations) -> Rows:
        """Return the rows of a mask [c, s, o]."""
        c, s, o = torch.nonzero(near, as_tuple=True)
        number = torch.full(near.shape, -1, dtype=torch.long, device=near.device)
        number[c, s, o] = torch.arange(len(c), device=near.device)
        before = torch.where(s > 0, number[c, (s - 1).clamp(min=0), o], -1)
        poses, covs = stations.poses[c, s], stations.covs[c, s]
        earlier_covs, swept_m = stations.earlier_covs[c, s], stations.swept_m[c, s]
        return Rows(c, o, poses, covs, earlier_covs, swept_m, before, len(near))


def union_bound(planes: HalfPlanes, rows: Rows) -> Tensor:
    """Return what each row [n] adds to P3."""
    events = _Events(planes.distance, upper_tail(planes.distance))
    shared = _shared_with_station_before(planes, rows, events)
    for child, parent in _NEIGHBOURS:
        overlap = _shared_with_corner(planes, rows, events, child, parent)
        shared[:, child] = torch.maximum(shared[:, child], overlap)
    return (events.probability - shared).clamp(min=0.0).sum(-1)


@dataclass(frozen=True)
class _Events:
    """Half-planes' distances in standard deviations, and the probabilities [n, 4] beyond them."""

    distance: Tensor
    probability: Tensor

    def joint(self, child: tuple, parent: tuple, correlation: Tensor) -> Tensor:
        """Return P(both) of events by index, 0 where one of them is negligible."""
        p, p_parent = self.probability[child], self.probability[parent]
        counts = torch.minimum(p, p_parent) > _NEGLIGIBLE
        joint = torch.zeros_like(p)
        z, z_parent = self.distance[child][counts], self.distance[parent][counts]
        joint[counts] = upper_quadrant(z, z_parent, correlation[counts])
        return joint


def _shared_with_station_before(planes: HalfPlanes, rows: Rows, events: _Events) -> Tensor:
    """Return P(a corner reaches its half-plane, and did at the station before) [n, 4]."""
    shared = torch.zeros_like(events.probability)
    now = torch.nonzero(rows.before >= 0)[:, 0]
    before = rows.before[now]
    cov = ((planes.lever[now] @ rows.earlier_covs[now]) * planes.lever[before]).sum(-1)
    correlation = cov / (planes.std[now] * planes.std[before])
    shared[now] = events.joint((now,), (before,), correlation)
    return shared


def _shared_with_corner(
    planes: HalfPlanes, rows: Rows, events: _Events, child: int, parent: int
) -> Tensor:
    """Return P(two corners reach the half-plane) [n]."""
    lever, other = planes.lever[:, child], planes.lever[:, parent]
    cov = ((lever[:, None] @ rows.covs)[:, 0] * other).sum(-1)
    correlation = cov / (planes.std[:, child] * planes.std[:, parent])
    every = slice(None)
    return events.joint((every, child), (every, parent), correlation)
