"""The places along a path at which its risk is counted, and what the car sweeps between them.

A footprint F_t between the stations b and s lies in F_b and F_s together, each grown on some
sides: by nothing on a straight line, on which the two overlap; on a bend by the bulge of the arc
inside and by what the front swings out outside. The error that moves b and s moves F_t along, so
what touches anything at t does so at b or s, grown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.planning.belief import RolledBelief, at
from bayes_vio.planning.vehicle import Vehicle


@dataclass(frozen=True)
class Stations:
    """The belief at the places of candidate paths where its risk is counted.

    poses [c, s, 3]: x, y (m), yaw (rad). covs [c, s, 3, 3]: about fixed axes. earlier_covs
    [c, s, 3, 3]: covariance of each station's error with that of the station before. swept_m
    [c, s, 4]: by which the footprint is grown to the front, left, rear and right to hold what it
    sweeps. counts [c, s]: False where a path that is shorter than others stays at its end. path:
    what they are stations of, and at which times [c, s]; None where no two belong to one path.
    """

    poses: Tensor
    covs: Tensor
    earlier_covs: Tensor
    swept_m: Tensor
    counts: Tensor
    path: tuple[RolledBelief, Tensor] | None = None

    def cov_between(self, candidates: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
        """Return covariances [k, m, 3, 3] of errors at two stations of the same candidates [k].

        later, earlier [k, m]: the numbers of the stations. Raises ValueError without a path.
        """
        if self.path is None:
            raise ValueError("the stations are of no path: give stations_of one")
        rolled, index = self.path
        times = index[candidates]
        later, earlier = times.gather(1, later), times.gather(1, earlier)
        return rolled.only(candidates).cov_between(later, earlier)

    @staticmethod
    def alone(poses: Tensor, covs: Tensor) -> Stations:
        """Return stations of which no two belong to one path; poses [c, 3], covs [c, 3, 3]."""
        counts = torch.ones(len(poses), 1, dtype=torch.bool, device=poses.device)
        swept_m = poses.new_zeros(len(poses), 1, 4)
        return Stations(poses[:, None], covs[:, None], covs[:, None], swept_m, counts)

    def of(self, candidate: int) -> Stations:
        """Return the stations of one candidate alone, c = 1."""
        one = slice(candidate, candidate + 1)
        return Stations(
            self.poses[one],
            self.covs[one],
            self.earlier_covs[one],
            self.swept_m[one],
            self.counts[one],
        )


def stations_of(rolled: RolledBelief, index: Tensor, vehicle: Vehicle) -> Stations:
    """Return the stations of paths at times index [c, s]."""
    before = torch.cat([index[:, :1], index[:, :-1]], 1)
    counts = index != before
    counts[:, 0] = True
    return Stations(
        at(rolled.poses, index),
        rolled.cov_between(index, index),
        rolled.cov_between(index, before),
        swept_m(rolled.poses, index, vehicle),
        counts,
        (rolled, index),
    )


def ways(poses: Tensor) -> Tensor:
    """Return how far paths [c, t, 3] have come at each time [c, t] (m)."""
    steps = (poses[:, 1:, :2] - poses[:, :-1, :2]).norm(dim=-1)
    return torch.nn.functional.pad(steps.cumsum(-1), (1, 0))


def station_indices(poses: Tensor, spacing_m: float) -> Tensor:
    """Return the times [c, s] at which paths [c, t, 3] have come spacing_m further, and the end.

    Spaced in metres, so that neither the time step nor a slow car makes more of them. The way
    between two of them is spacing_m plus one time step's at most.
    """
    way = ways(poses)
    count = int(torch.ceil(way.max() / spacing_m)) + 1
    marks = spacing_m * torch.arange(count, dtype=way.dtype, device=way.device)
    last = poses.shape[1] - 1
    index = torch.searchsorted(way, marks.expand(len(way), count).contiguous()).clamp(max=last)
    # Where a step passes several marks they are one station: what is left over is at the end.
    again = torch.nn.functional.pad(index[:, 1:] == index[:, :-1], (1, 0))
    index = index.masked_fill(again, last).sort(-1).values
    return torch.nn.functional.pad(index, (0, 1), value=last)


def swept_m(poses: Tensor, index: Tensor, vehicle: Vehicle) -> Tensor:
    """Return by how much [c, s, 4] (m) footprints at times index hold those at the times between.

    poses [c, t, 3]; to the front, left, rear and right. The rear of a footprint is to lie in the
    one of the station before, its front in the next one's. They are cut where the two overlap: on
    the side inside of a bend as far back as that is, outside as far ahead.
    """
    times = torch.arange(poses.shape[1], device=poses.device).expand(poses.shape[:2])
    later = torch.searchsorted(index, times.contiguous())
    earlier = (later - 1).clamp(min=0)
    at_later, at_earlier = index.gather(1, later), index.gather(1, earlier)
    way = ways(poses)
    since, until = way - way.gather(1, at_earlier), way.gather(1, at_later) - way
    before, after = at(poses, at_earlier), at(poses, at_later)
    front, rear = torch.full_like(way, vehicle.front_m), torch.full_like(way, -vehicle.rear_m)
    turn = after[..., 2] - before[..., 2]
    ahead_of_corner = vehicle.half_width_m * turn.abs()
    cuts = _cuts(rear + until, front - since - ahead_of_corner, turn)
    cuts = [cut.clamp(-vehicle.rear_m, vehicle.front_m) for cut in cuts]
    behind = _beyond(poses, ([rear, rear], cuts), before, vehicle)
    ahead = _beyond(poses, (cuts, [front, front]), after, vehicle)
    swept = poses.new_zeros(*index.shape, 4)
    for station, beyond in ((earlier, behind), (later, ahead)):
        counts = beyond.masked_fill((at_later == times)[..., None], 0.0)
        swept = swept.scatter_reduce(1, station[..., None].expand_as(counts), counts, "amax")
    return swept


def _cuts(lowest: Tensor, highest: Tensor, turn: Tensor) -> list[Tensor]:
    """Return where a footprint is cut on its left and right; all [c, t] (m along the car, rad)."""
    middle = 0.5 * (lowest + highest)
    inside, outside = torch.minimum(lowest, middle), torch.maximum(highest, middle)
    return [torch.where(turn > 0, inside, outside), torch.where(turn > 0, outside, inside)]


def _beyond(
    poses: Tensor, along: tuple[list[Tensor], list[Tensor]], others: Tensor, vehicle: Vehicle
) -> Tensor:
    """Return how far [c, t, 4] (m) a part of the footprint at poses is out of the one at others.

    To its front, left, rear and right. along: from where to where on the car's length the part
    reaches, on the left and right [c, t] (m). What is farthest out of a rectangle is a corner.
    """
    side = vehicle.half_width_m
    x = torch.stack([*along[0], *along[1]], -1)
    y = torch.tensor([side, -side, side, -side], dtype=x.dtype, device=x.device)
    turn = (poses[..., 2] - others[..., 2])[..., None]
    cos, sin = torch.cos(others[..., 2]), torch.sin(others[..., 2])
    way_x, way_y = (poses[..., :2] - others[..., :2]).unbind(-1)
    ahead = (cos * way_x + sin * way_y)[..., None] + torch.cos(turn) * x - torch.sin(turn) * y
    left = (cos * way_y - sin * way_x)[..., None] + torch.sin(turn) * x + torch.cos(turn) * y
    most = [ahead.amax(-1), left.amax(-1), -ahead.amin(-1), -left.amin(-1)]
    size = torch.tensor([vehicle.front_m, side, vehicle.rear_m, side], dtype=x.dtype)
    return (torch.stack(most, -1) - size.to(x.device)).clamp(min=0.0)
