"""Keep-out regions as convex polygons of one common number of vertices, and their half-planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
_LEAST_EDGE_M = 1e-9


@dataclass(frozen=True)
class Obstacles:
    """Convex polygons in the odometry's frame (m).

    vertices [n, v, 2]: counter-clockwise, the last one repeated where a polygon has fewer.
    normals [n, v, 2], offsets [n, v]: a polygon lies where ``normals . x >= offsets``, each normal
    pointing from outside in. centres [n, 2], radii [n]: circles that hold the polygons.
    """

    vertices: Tensor
    normals: Tensor
    offsets: Tensor
    centres: Tensor
    radii: Tensor

    @staticmethod
    def of(polygons: Sequence[Array]) -> Obstacles:
        """Return obstacles of convex, counter-clockwise polygons [vertices, 2] (m).

        Raises ValueError for a polygon that has fewer than three vertices, is not finite, or is
        not convex and counter-clockwise.
        """
        for polygon in polygons:
            _check(polygon)
        width = max((len(p) for p in polygons), default=3)
        rows = [np.concatenate([p, np.repeat(p[-1:], width - len(p), 0)]) for p in polygons]
        vertices = torch.from_numpy(np.array(rows, dtype=np.float64).reshape(-1, width, 2))
        edges = vertices.roll(-1, 1) - vertices
        length = edges.norm(dim=-1, keepdim=True)
        # A repeated vertex has no edge: the first edge stands in for it.
        edges = torch.where(length > _LEAST_EDGE_M, edges / length, (edges / length)[:, :1])
        normals = torch.stack([-edges[..., 1], edges[..., 0]], -1)
        anchors = torch.where(length > _LEAST_EDGE_M, vertices, vertices[:, :1])
        centres = 0.5 * (vertices.amin(1) + vertices.amax(1))
        radii = (vertices - centres[:, None]).norm(dim=-1).amax(-1)
        return Obstacles(vertices, normals, (normals * anchors).sum(-1), centres, radii)

    def __len__(self) -> int:
        return len(self.vertices)

    def to(self, device: torch.device) -> Obstacles:
        """Return the obstacles on a device."""
        return Obstacles(*(value.to(device) for value in vars(self).values()))

    def __getitem__(self, index: Tensor | slice) -> Obstacles:
        return Obstacles(*(value[index] for value in vars(self).values()))


def _check(polygon: Array) -> None:
    if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
        raise ValueError(f"a polygon has the shape {polygon.shape}, not [at least 3, 2]")
    if not np.isfinite(polygon).all():
        raise ValueError("a polygon has a vertex that is not finite")
    edges = np.roll(polygon, -1, 0) - polygon
    later = np.roll(edges, -1, 0)
    turn = edges[:, 0] * later[:, 1] - edges[:, 1] * later[:, 0]
    scale = np.hypot(*edges.T) * np.hypot(*later.T)
    winding = np.arctan2(turn, (edges * later).sum(1)).sum()
    if (turn < -1e-9 * scale).any() or scale.min() == 0 or abs(winding - 2 * np.pi) > 1e-6:
        raise ValueError("a polygon is not convex with its vertices counter-clockwise")


def strips(line: Array, thickness_m: float) -> list[Array]:
    """Return quadrilaterals along a polyline [n, 2], on its left side, counter-clockwise.

    Successive ones share the vertices of the offset line, so that they leave no gap where the
    polyline bends; those that the bend would turn over are left out.
    """
    way = np.diff(line, axis=0)
    left = np.stack([-way[:, 1], way[:, 0]], 1) / np.hypot(*way.T)[:, None]
    mean = np.concatenate([left[:1], left[:-1] + left[1:], left[-1:]])
    outer = line + thickness_m * mean / np.hypot(*mean.T)[:, None]
    quads = np.stack([line[:-1], line[1:], outer[1:], outer[:-1]], 1)
    return [quad for quad in quads if _is_convex(quad)]


def _is_convex(polygon: Array) -> bool:
    edges = np.roll(polygon, -1, 0) - polygon
    later = np.roll(edges, -1, 0)
    return bool((edges[:, 0] * later[:, 1] - edges[:, 1] * later[:, 0] > 0).all())
