"""Count which sampled motions of a rectangle touch polygons: exact, by separating axes."""

from __future__ import annotations

import torch
from torch import Tensor

from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.vehicle import Vehicle


def touches(poses: Tensor, vehicle: Vehicle, obstacles: Obstacles) -> Tensor:
    """Return whether the car at poses [..., 3] (x, y, yaw) touches any obstacle [...]."""
    flat = poses.reshape(-1, 3)
    hit = torch.zeros(len(flat), dtype=torch.bool, device=poses.device)
    if len(obstacles):
        which, obstacle = torch.nonzero(_near(flat, vehicle, obstacles), as_tuple=True)
        hit[which[overlaps(flat[which], vehicle, obstacles[obstacle])]] = True
    return hit.reshape(poses.shape[:-1])


def _near(poses: Tensor, vehicle: Vehicle, obstacles: Obstacles) -> Tensor:
    """Return which obstacles [n, o] the circle around the car at poses [n, 3] may reach."""
    way = (poses[:, None, :2] - obstacles.centres).norm(dim=-1)
    near = way < obstacles.radii + vehicle.radius_m
    for o in range(len(obstacles)):  # few obstacles, many poses
        gap = obstacles.offsets[o] - poses[:, :2] @ obstacles.normals[o].T
        near[:, o] &= gap.amax(-1) < vehicle.radius_m
    return near


def overlaps(poses: Tensor, vehicle: Vehicle, obstacles: Obstacles) -> Tensor:
    """Return [n] whether the car at poses [n, 3] overlaps the polygon of its row.

    Two convex shapes are apart where a normal of an edge of either separates them.
    """
    cos, sin = torch.cos(poses[:, 2, None]), torch.sin(poses[:, 2, None])
    x, y = (obstacles.vertices - poses[:, None, :2]).unbind(-1)
    ahead, left = cos * x + sin * y, cos * y - sin * x
    apart = (ahead.amin(-1) > vehicle.front_m) | (ahead.amax(-1) < -vehicle.rear_m)
    apart |= (left.amin(-1) > vehicle.half_width_m) | (left.amax(-1) < -vehicle.half_width_m)
    normals = obstacles.normals
    along = normals[..., 0] * cos + normals[..., 1] * sin
    across = normals[..., 1] * cos - normals[..., 0] * sin
    reach = torch.where(along > 0, vehicle.front_m * along, -vehicle.rear_m * along)
    reach = reach + vehicle.half_width_m * across.abs()
    gap = obstacles.offsets - (normals * poses[:, None, :2]).sum(-1) - reach
    return ~(apart | (gap > 0).any(-1))
