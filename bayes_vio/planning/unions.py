"""Hunter's bound on a union of half-plane events: P3, along a path and over its obstacles.

Each corner's parent is itself at the station before, or its neighbour at the same station,
whichever shares more. One obstacle's events make one tree; trees are linked by their likeliest
events, which takes off what both share, however far apart the obstacles stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.planning.bivariate import upper_quadrant, upper_tail
from bayes_vio.planning.half_planes import HalfPlanes
from bayes_vio.planning.reach import Rows
from bayes_vio.planning.stations import Stations
from bayes_vio.planning.vehicle import FRONT_LEFT, FRONT_RIGHT, REAR_LEFT, REAR_RIGHT

# Events farther than this many standard deviations (1e-7) are added whole: nothing is gained by
# their overlap.
_NEGLIGIBLE_FROM = 5.2
# So many obstacles of a path are linked.
_LINKED = 4
# Each corner but the first front one is linked to its neighbour, the last one to both of its own.
_CHILDREN = [REAR_LEFT, REAR_RIGHT, FRONT_RIGHT, FRONT_RIGHT]
_PARENTS = [FRONT_LEFT, REAR_LEFT, REAR_RIGHT, FRONT_LEFT]


def union_bound(planes: HalfPlanes, rows: Rows) -> Tensor:
    """Return what each row [n] adds to P3."""
    probability = upper_tail(planes.distance)
    now = torch.nonzero(rows.before >= 0)[:, 0]
    before, every = rows.before[now], slice(None)
    earlier = Pairs.of(planes, (now, before), (every, every), rows.earlier_covs[now])
    beside = Pairs.of(planes, (every, every), (_CHILDREN, _PARENTS), rows.covs)
    joint = Pairs.joint(beside, earlier)
    shared = torch.zeros_like(probability)
    shared[now] = joint[len(probability) :]
    for k, child in enumerate(_CHILDREN):
        shared[:, child] = torch.maximum(shared[:, child], joint[: len(probability), k])
    return (probability - shared).clamp(min=0.0).sum(-1)


@dataclass(frozen=True)
class Pairs:
    """Pairs of events: half-planes at z, z_parent [m, k] standard deviations, correlated."""

    z: Tensor
    z_parent: Tensor
    correlation: Tensor

    @staticmethod
    def of(planes: HalfPlanes, rows: tuple, corners: tuple, cov: Tensor) -> Pairs:
        """Return pairs of a child and its parent; rows, corners: of both, cov [m, 3, 3]."""
        (row, other), (corner, of_other) = rows, corners
        lever, parent = planes.lever[row][:, corner], planes.lever[other][:, of_other]
        shared = ((lever @ cov) * parent).sum(-1)
        correlation = shared / (planes.std[row][:, corner] * planes.std[other][:, of_other])
        distance = planes.distance
        return Pairs(distance[row][:, corner], distance[other][:, of_other], correlation)

    @staticmethod
    def joint(*pairs: Pairs) -> Tensor:
        """Return P(both) of all pairs [sum of m, 4], 0 where one of them is negligible."""
        z, z_parent, correlation = (
            torch.cat([getattr(of, name) for of in pairs])
            for name in ("z", "z_parent", "correlation")
        )
        counts = torch.maximum(z, z_parent) < _NEGLIGIBLE_FROM
        joint = torch.zeros_like(z)
        joint[counts] = upper_quadrant(z[counts], z_parent[counts], correlation[counts])
        return joint


def shared_by_obstacles(
    planes: HalfPlanes, rows: Rows, stations: Stations, linked: Tensor
) -> Tensor:
    """Return what the trees of some obstacles share, by candidate [c]: to be taken off their sum.

    linked [c, o]: the obstacles' bounds, 0 for those that are left out. The likeliest events of
    the few likeliest obstacles are linked, each to the one before it on the path that shares most.
    """
    shared = torch.zeros(rows.size[0], dtype=linked.dtype, device=linked.device)
    candidates = torch.nonzero((linked > 0).sum(-1) > 1)[:, 0]
    if not len(candidates):
        return shared
    most = min(_LINKED, rows.size[1])
    weight, obstacle = linked[candidates].topk(most)
    row, corner = (v[candidates[:, None], obstacle] for v in _likeliest(planes, rows))
    station, order = rows.station[row].sort(-1)
    row, corner, weight = (v.gather(1, order) for v in (row, corner, weight))
    later, earlier = torch.tril_indices(most, most, -1, device=linked.device)
    cov = stations.cov_between(candidates, station[:, later], station[:, earlier])
    lever, std, z = (v[row, corner] for v in (planes.lever, planes.std, planes.distance))
    z = z.masked_fill(weight <= 0, torch.inf)
    along = ((lever[:, later, None] @ cov)[:, :, 0] * lever[:, earlier]).sum(-1)
    correlation = along / (std[:, later] * std[:, earlier])
    joint = Pairs.joint(Pairs(z[:, later], z[:, earlier], correlation))
    links = joint.new_zeros(len(candidates), most)
    links = links.scatter_reduce(1, later.expand_as(joint), joint, "amax")
    shared[candidates] = links.sum(-1)
    return shared


def _likeliest(planes: HalfPlanes, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return row and corner of the likeliest event of each pair, both [c, o]; 0 for none."""
    nearest, corner = planes.distance.min(-1)
    pair = rows.candidate * rows.size[1] + rows.obstacle
    least = nearest.new_full((rows.size[0] * rows.size[1],), torch.inf)
    least = least.scatter_reduce(0, pair, nearest, "amin")
    best = torch.nonzero(nearest == least[pair])[:, 0]
    row = torch.zeros_like(least, dtype=torch.long).scatter_reduce(0, pair[best], best, "amax")
    return row.view(rows.size), corner[row].view(rows.size)
