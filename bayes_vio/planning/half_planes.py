"""The half-planes that separate a footprint from a polygon, each corner with its heading.

A rectangle and a convex polygon that touch lie, for every direction n, so far over one another
that some corner c_i of the rectangle reaches the polygon's first point along n:

    touch  =>  n . (p + R(yaw) c_i) >= min_v n . v   for some corner i.                     (P1)

So any n gives an upper bound. With an error e ~ N(0, cov) of (x, y, yaw), the corner reaches the
half-plane, to first order, when a . e >= gap, a = (n, n . R'(yaw) c_i). The true corner, on its
circle, lies below that tangent wherever it faces the half-plane: the bound holds for large errors
of heading, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.planning.bivariate import upper_tail
from bayes_vio.planning.obstacles import Obstacles

# By so much other directions than the farthest are tilted (rad).
_TILTS = torch.deg2rad(torch.tensor([-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0], dtype=torch.float64))


@dataclass(frozen=True)
class HalfPlanes:
    """One half-plane per row, as seen by each corner of the footprint.

    gap [..., 4] (m): how far each corner is from it at the mean. lever [..., 4, 3]: a of P1, by
    which an error (m, m, rad) moves the corner toward it. std [..., 4] (m): of that motion.
    """

    gap: Tensor
    lever: Tensor
    std: Tensor

    @staticmethod
    def joined(parts: list[HalfPlanes]) -> HalfPlanes:
        """Return the half-planes of all parts in their order."""
        gaps, levers, stds = zip(*((p.gap, p.lever, p.std) for p in parts), strict=True)
        return HalfPlanes(torch.cat(gaps), torch.cat(levers), torch.cat(stds))

    def chosen(self, which: Tensor) -> HalfPlanes:
        """Return those of some rows, a mask or numbers."""
        return HalfPlanes(self.gap[which], self.lever[which], self.std[which])

    def replaced(self, numbers: Tensor, others: HalfPlanes) -> HalfPlanes:
        """Return them with others in the rows of these numbers."""
        return HalfPlanes(
            self.gap.index_copy(0, numbers, others.gap),
            self.lever.index_copy(0, numbers, others.lever),
            self.std.index_copy(0, numbers, others.std),
        )

    @property
    def normals(self) -> Tensor:
        """Return the half-planes' normals [..., 2]."""
        return self.lever[..., 0, :2]

    @property
    def distance(self) -> Tensor:
        """Return the gaps [..., 4] in standard deviations."""
        return self.gap / self.std


def offsets_of(yaw: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return R(yaw) corners and R'(yaw) corners, both [..., 4, 2] (m, m/rad).

    corners [4, 2], or [..., 4, 2] one footprint for each yaw [...].
    """
    cos, sin = torch.cos(yaw)[..., None], torch.sin(yaw)[..., None]
    x, y = corners[..., 0], corners[..., 1]
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return turned, torch.stack([-turned[..., 1], turned[..., 0]], -1)


@dataclass(frozen=True)
class Directions:
    """Candidates for n and what the footprint's corners do along them.

    normals [n, k, 2]; gap [n, k, 4] (m); turning [n, k, 4] (m/rad): motion of the corners along
    the normals with heading; var [n, k, 4] (m^2).
    """

    normals: Tensor
    gap: Tensor
    turning: Tensor
    var: Tensor

    def half_planes(self, choice: Tensor) -> HalfPlanes:
        """Return one half-plane per row by its number, choice [n]."""
        rows = torch.arange(len(choice), device=choice.device)
        normal = self.normals[rows, choice, None].expand(-1, self.gap.shape[-1], -1)
        lever = torch.cat([normal, self.turning[rows, choice, :, None]], -1)
        return HalfPlanes(self.gap[rows, choice], lever, self.var[rows, choice].sqrt())

    def farthest(self) -> Tensor:
        """Return the number [n] of the half-plane that is farthest, in standard deviations."""
        return (self.gap * self.var.rsqrt()).amin(-1).argmax(-1)

    def least_probable(self) -> Tensor:
        """Return the number [n] of the half-plane that the corners reach least probably."""
        return upper_tail(self.gap * self.var.rsqrt()).sum(-1).argmin(-1)


def directions(
    poses: Tensor, covs: Tensor, footprints: Tensor, obstacles: Obstacles
) -> Directions:
    """Return the directions that may separate footprints from the polygon of their row.

    footprints [n, 4, 2] (m), poses [n, 3], covs [n, 3, 3] of (x, y, yaw) about fixed axes;
    obstacles: n of them. They are the normals of the polygon's edges and of the footprint's sides,
    which separate edges from vertices, and the one between the nearest pair of vertices.
    """
    places, rate = _places(poses, footprints)
    others = torch.cat([_sides(poses[:, 2]), _between_vertices(places, rate, covs, obstacles)], 1)
    normals = torch.cat([obstacles.normals, others], 1)
    offsets = torch.cat([obstacles.offsets, _reach(others, obstacles)], 1)
    return _seen(normals, offsets, (places, rate), covs)


def tilted(
    normals: Tensor, poses: Tensor, covs: Tensor, footprints: Tensor, obstacles: Obstacles
) -> Directions:
    """Return directions somewhat to both sides of given ones, normals [n, 2].

    Passing a post, the corner that is far ahead of it must not count as if it were beside it: the
    half-plane through the post that leaves room for both ends of the car is a tilted one.
    """
    angles = torch.atan2(normals[:, 1], normals[:, 0])[:, None] + _TILTS.to(normals.device)
    around = torch.stack([torch.cos(angles), torch.sin(angles)], -1)
    return _seen(around, _reach(around, obstacles), _places(poses, footprints), covs)


def _places(poses: Tensor, footprints: Tensor) -> tuple[Tensor, Tensor]:
    """Return the corners [n, 4, 2] (m) of footprints, and how they move with heading (m/rad)."""
    turned, rate = offsets_of(poses[:, 2], footprints)
    return poses[:, None, :2] + turned, rate


def _reach(normals: Tensor, obstacles: Obstacles) -> Tensor:
    """Return how far [n, k] (m) along normals [n, k, 2] the polygon of each row begins."""
    return (normals @ obstacles.vertices.mT).amin(-1)


def _seen(
    normals: Tensor, offsets: Tensor, corners: tuple[Tensor, Tensor], covs: Tensor
) -> Directions:
    """Return directions with what the corners, and their motion with heading, do along them."""
    places, rate = corners
    gap = torch.baddbmm(offsets[..., None], normals, places.mT, alpha=-1.0)
    turning = normals @ rate.mT
    return Directions(normals, gap, turning, _variance(normals, turning, covs))


def _variance(normals: Tensor, turning: Tensor, covs: Tensor) -> Tensor:
    """Return the variances [n, k, 4] (m^2) of the corners along normals [n, k, 2].

    turning [n, k, 4]: of the corners along the normals per rad of heading.
    """
    # By components: sums and products over axes of length 2 take torch several times longer.
    x, y = (v.contiguous() for v in normals.unbind(-1))
    a, b, d = covs[:, 0, 0, None], covs[:, 0, 1, None], covs[:, 1, 1, None]
    along = x * (a * x + 2 * b * y) + d * (y * y)
    shared = 2 * (x * covs[:, 0, 2, None] + y * covs[:, 1, 2, None])
    yaw_var = covs[:, None, None, 2, 2]
    by_heading = shared[..., None] + turning * yaw_var
    return along[..., None] + turning * by_heading


def _sides(yaw: Tensor) -> Tensor:
    """Return the outward normals [n, 4, 2] of the footprint's sides."""
    forward = torch.stack([torch.cos(yaw), torch.sin(yaw)], -1)
    left = torch.stack([-forward[..., 1], forward[..., 0]], -1)
    return torch.stack([forward, -forward, left, -left], -2)


def _between_vertices(places: Tensor, rate: Tensor, covs: Tensor, obstacles: Obstacles) -> Tensor:
    """Return the direction [n, 1, 2] between the nearest corner and vertex.

    Nearest by the corner's covariance S, for which the least probable half-plane through a
    vertex at the gap g has the normal S^-1 g.
    """
    turned_x, turned_y = (v[..., None] for v in rate.unbind(-1))
    xx, xy, yy, x_yaw, y_yaw, yaw = (
        covs[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    )
    a = xx + turned_x * (2 * x_yaw + turned_x * yaw)
    b = xy + turned_x * y_yaw + turned_y * (x_yaw + turned_x * yaw)
    d = yy + turned_y * (2 * y_yaw + turned_y * yaw)
    x, y = (obstacles.vertices[:, None, :, k] - places[..., None, k] for k in (0, 1))
    determinant = a * d - b * b
    across = (d * x - b * y) / determinant, (a * y - b * x) / determinant
    nearest = (across[0] * x + across[1] * y).flatten(1).argmin(-1, keepdim=True)
    direction = torch.cat([v.flatten(1).gather(1, nearest) for v in across], -1)
    norm = direction.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return (direction / norm)[:, None]
