"""Which obstacles a path's stations may reach at all, and the rows of numbers that this makes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.stations import Stations
from bayes_vio.planning.vehicle import Vehicle

# An obstacle farther away than this many standard deviations counts as out of reach (1e-9).
OUT_OF_REACH = 6.0


def within_reach(stations: Stations, vehicle: Vehicle, obstacles: Obstacles) -> Tensor:
    """Return where [c, s, o] an obstacle has more than a negligible probability.

    First by the circle about base_link that holds the footprint, which no error of heading moves;
    then by the half-planes of the obstacle's edges.
    """
    position = stations.poses[..., None, :2]
    # The largest standard deviation in any direction, bounded by the trace.
    std = stations.covs[..., :2, :2].diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    swept = math.sqrt(2.0) * stations.swept_m.amax(-1)
    margin = (vehicle.radius_m + swept + OUT_OF_REACH * std)[..., None]
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
    swept_m = stations.swept_m[of].amax(-1)[:, None]
    footprint = footprint + vehicle.half_width_m * across.abs()
    footprint = footprint + swept_m * (along.abs() + across.abs())
    gap = obstacles.offsets - x * poses[:, 0, None] - y * poses[:, 1, None] - footprint
    a, b, d = covs[:, 0, 0, None], covs[:, 0, 1, None], covs[:, 1, 1, None]
    # No corner's deviation is larger than that of the position and of the farthest corner's turn.
    std = (a * x * x + 2 * b * x * y + d * y * y).sqrt()
    std = std + vehicle.radius_m * covs[:, 2, 2, None].sqrt()
    return (gap < OUT_OF_REACH * std).all(-1)


@dataclass(frozen=True)
class Rows:
    """A flat list of stations with an obstacle in reach.

    candidate, station, obstacle [n]: whose. poses [n, 3], covs, earlier_covs [n, 3, 3]: as in
    Stations. footprints [n, 4, 2] (m): grown by what they sweep. shapes: the n obstacles. before
    [n]: the row of the same candidate and obstacle at the station before, -1 for none. size: how
    many candidates and obstacles there are.
    """

    candidate: Tensor
    station: Tensor
    obstacle: Tensor
    poses: Tensor
    covs: Tensor
    earlier_covs: Tensor
    footprints: Tensor
    shapes: Obstacles
    before: Tensor
    size: tuple[int, int]

    @staticmethod
    def of(near: Tensor, stations: Stations, vehicle: Vehicle, obstacles: Obstacles) -> Rows:
        """Return the rows of a mask [c, s, o]."""
        c, s, o = torch.nonzero(near, as_tuple=True)
        number = torch.full(near.shape, -1, dtype=torch.long, device=near.device)
        number[c, s, o] = torch.arange(len(c), device=near.device)
        before = torch.where(s > 0, number[c, (s - 1).clamp(min=0), o], -1)
        return Rows(
            candidate=c,
            station=s,
            obstacle=o,
            poses=stations.poses[c, s],
            covs=stations.covs[c, s],
            earlier_covs=stations.earlier_covs[c, s],
            footprints=vehicle.grown(stations.swept_m[c, s]),
            shapes=obstacles[o],
            before=before,
            size=(len(near), len(obstacles)),
        )

    def only(self, which: Tensor) -> Rows:
        """Return the rows of a mask [n]; those before them that are left out count as none."""
        number = torch.where(which, which.long().cumsum(0) - 1, -1)
        before = self.before[which]
        return Rows(
            candidate=self.candidate[which],
            station=self.station[which],
            obstacle=self.obstacle[which],
            poses=self.poses[which],
            covs=self.covs[which],
            earlier_covs=self.earlier_covs[which],
            footprints=self.footprints[which],
            shapes=self.shapes[which],
            before=torch.where(before >= 0, number[before.clamp(min=0)], -1),
            size=self.size,
        )

    def sums(self, value: Tensor) -> Tensor:
        """Return the sums [c, o] over the stations of values [n]."""
        sums = torch.zeros(*self.size, dtype=value.dtype, device=value.device)
        return sums.index_put((self.candidate, self.obstacle), value, accumulate=True)
