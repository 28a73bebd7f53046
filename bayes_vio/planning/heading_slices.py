"""Slices of heading: where the heading is known, a touch is a polygon in the plane of positions.

The error of position is e_p = K e_yaw + u with u independent of the heading's. A car whose heading
errs by e_yaw touches a convex polygon O exactly where u lies in O + (-(K e_yaw + R c_i)), their
Minkowski sum. Over a slice I_k of headings these lie in one polygon C_k, so that

    P(touch) <= sum_k P(e_yaw in I_k) P(u in C_k) + P(e_yaw in no slice).                   (P4)

C_k is known by its support function alone: along normals in their order round, each edge bounds
a convex set, and outside of it the edges that a point is beyond stand side by side. It is beyond
one and not beyond the next for one edge exactly:

    P(u in C) = 1 - sum_j P(n_j . u > h_j, n_j+1 . u <= h_j+1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayes_vio.planning.bivariate import upper_quadrant, upper_tail
from bayes_vio.planning.half_planes import offsets_of
from bayes_vio.planning.obstacles import Obstacles

# Slices of equal width, out to so many standard deviations of the heading. The finer ones where a
# slice turns the farthest corner by more than the least deviation of the position.
_SLICES, _FINER_SLICES, _REACH = 24, 192, 4.5
# A slice or a piece of the outside that is less probable than this is not worked out.
_NEGLIGIBLE = 1e-7
# The quadrants' error, a sum of some of them, in absolute terms.
_ROUNDING = 1e-8


def sliced_bound(poses: Tensor, covs: Tensor, footprints: Tensor, obstacles: Obstacles) -> Tensor:
    """Return P4 [n] for footprints with corners [n, 4, 2] (m) and the polygon of their row.

    poses [n, 3], covs [n, 3, 3]: of (x, y, yaw) about fixed axes (m, rad).
    """
    turned_m = footprints.norm(dim=-1).amax(-1) * covs[:, 2, 2].sqrt() * 2 * _REACH / _SLICES
    fine = turned_m.square() > _least_variance(_given_heading(covs))
    bound = torch.empty_like(turned_m)
    for rows, slices in ((~fine, _SLICES), (fine, _FINER_SLICES)):
        if rows.any():
            of_rows = (poses[rows], covs[rows], footprints[rows], obstacles[rows])
            bound[rows] = _sum_of_slices(*of_rows, slices)
    return bound


def _given_heading(covs: Tensor) -> Tensor:
    """Return the covariances [n, 2, 2] of u: of the position where the heading is known."""
    return covs[:, :2, :2] - covs[:, :2, 2:] * covs[:, 2:, :2] / covs[:, 2:, 2:]


def _least_variance(cov: Tensor) -> Tensor:
    """Return the smaller eigenvalue [n] of covariances [n, 2, 2]."""
    mean, half = 0.5 * (cov[:, 0, 0] + cov[:, 1, 1]), 0.5 * (cov[:, 0, 0] - cov[:, 1, 1])
    return mean - torch.hypot(half, cov[:, 0, 1])


def _sum_of_slices(
    poses: Tensor, covs: Tensor, footprints: Tensor, obstacles: Obstacles, slices: int
) -> Tensor:
    """Return P4 [n] with a number of slices."""
    reach = torch.linspace(-_REACH, _REACH, slices + 1, dtype=covs.dtype, device=covs.device)
    mass = upper_tail(reach[:-1]) - upper_tail(reach[1:])
    yaw_var = covs[:, 2, 2, None]
    yaw_errors = yaw_var.sqrt() * reach
    ends = poses[:, 2, None] + yaw_errors
    shifts = yaw_errors[..., None] * (covs[:, :2, 2] / yaw_var)[:, None]
    normals = _normals(0.5 * (ends[:, 1:] + ends[:, :-1]), obstacles)
    vertices = obstacles.vertices - poses[:, None, :2]
    offsets = _offsets(normals, vertices, _places(ends, shifts, footprints))
    # Within a slice a corner is on an arc: so far from the line between the arc's ends.
    radius = footprints.norm(dim=-1).amax(-1, keepdim=True)
    bulge = 0.5 * radius * yaw_var * (_REACH / slices) ** 2
    offsets = offsets + bulge[..., None]
    inside = _polygon_probability(normals, offsets, _given_heading(covs), mass)
    return inside @ mass + 2 * upper_tail(reach[-1])


def _normals(headings: Tensor, obstacles: Obstacles) -> Tensor:
    """Return the outward normals [n, k, e, 2] of C_k in their order round.

    headings [n, k] (rad): of the footprint in the middle of each slice.
    """
    inward = obstacles.normals
    fixed = torch.atan2(-inward[..., 1], -inward[..., 0])[:, None]
    quarters = 0.5 * math.pi * torch.arange(4, dtype=headings.dtype, device=headings.device)
    sides = headings[..., None] + quarters
    angles = torch.cat([fixed.expand(*headings.shape, -1), sides], -1)
    angles = angles.remainder(2 * math.pi).sort(-1).values
    return torch.stack([torch.cos(angles), torch.sin(angles)], -1)


def _places(headings: Tensor, shifts: Tensor, footprints: Tensor) -> Tensor:
    """Return the corners [n, k + 1, 4, 2] (m) at the ends of the slices, from the mean position.

    headings [n, k + 1] (rad); shifts [n, k + 1, 2] (m): of the position along with them.
    """
    turned, _ = offsets_of(headings, footprints[:, None])
    return turned + shifts[..., None, :]


def _offsets(normals: Tensor, vertices: Tensor, places: Tensor) -> Tensor:
    """Return the support function [n, k, e] (m) of C_k, arcs between places left out.

    vertices [n, v, 2]: of the obstacles, places [n, k + 1, 4, 2]: of the corners.
    """
    obstacle = (normals.flatten(1, 2) @ vertices.mT).amax(-1).view(normals.shape[:-1])
    ends = torch.cat([places[:, :-1], places[:, 1:]], 2)
    footprint = (normals @ ends.mT).amin(-1)
    return obstacle - footprint


def _polygon_probability(normals: Tensor, offsets: Tensor, cov: Tensor, mass: Tensor) -> Tensor:
    """Return upper bounds [n, k] on P(u in C_k), u ~ N(0, cov [n, 2, 2]), hardly above it.

    mass [k]: the probabilities of the slices, of which negligible ones are left at a rough bound.
    """
    x, y = normals.unbind(-1)
    a, b, d = (cov[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    along_x, along_y = a * x + b * y, b * x + d * y
    std = (along_x * x + along_y * y).sqrt()
    z = offsets / std
    inside = upper_tail(-z.amin(-1))
    counts = inside * mass > _NEGLIGIBLE
    x, y, z, std, along_x, along_y = (v[counts] for v in (x, y, z, std, along_x, along_y))
    covariance = along_x * x.roll(-1, -1) + along_y * y.roll(-1, -1)
    correlation = covariance / (std * std.roll(-1, -1))
    outside = _beyond_this_only(z, z.roll(-1, -1), correlation).sum(-1)
    inside[counts] = torch.minimum(inside[counts], (1 - outside).clamp(min=0.0) + _ROUNDING)
    return inside


def _beyond_this_only(z: Tensor, z_next: Tensor, correlation: Tensor) -> Tensor:
    """Return P(X > z, Y <= z_next) of standard normals, 0 where it is negligible."""
    piece = torch.zeros_like(z)
    counts = torch.minimum(upper_tail(z), upper_tail(-z_next)) > _NEGLIGIBLE
    piece[counts] = upper_quadrant(z[counts], -z_next[counts], -correlation[counts])
    return piece
