"""Draw upright planes, nearest first, each by its exact homography."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.simulation.canvas import Canvas
from bayes_vio.simulation.layout import FADE_M, Plane
from bayes_vio.simulation.road import VISIBLE_M, GroundPatch
from bayes_vio.simulation.textures import Picture, level_size
from bayes_vio.simulation.world import World

_NEAR_M = 0.4
_MAX_LEVEL = 7
# A plane is hidden where the ground before it is nearer than this share of its own depth.
_HIDDEN_SHARE = 0.93
_TESTED_FROM_M = 12.0
_THINNEST_PX = 1.0


@dataclass(frozen=True)
class _Shown:
    """Planes in view, nearest first.

    index [n]: which ones; matrices [n, 3, 3] from texels of the reduced picture to pixels of the
    area; areas [n, 4] (left, top, right, bottom); levels [n, 2], the reductions; cut: polygons
    [m, 2] of those that cross the near plane; nearest_m [n], depth of the nearest corner; crested
    [n], whether a crest may hide them; fade and haze [n], opacity and share of haze.
    """

    index: NDArray[np.int64]
    matrices: NDArray[np.float64]
    areas: NDArray[np.int64]
    levels: NDArray[np.int64]
    cut: dict[int, NDArray[np.float64]]
    nearest_m: NDArray[np.float64]
    crested: NDArray[np.bool_]
    fade: NDArray[np.float64]
    haze: NDArray[np.float64]


class UprightPlanes:
    """The planes of a world within sight of one patch, with their feet on its ground."""

    def __init__(self, world: World, patch: GroundPatch) -> None:
        self._haze_level = world.haze
        reach = np.array(patch.height.shape[::-1]) / 2
        feet = np.array([plane.foot for plane in world.planes]).reshape(-1, 2)
        near = np.flatnonzero((np.abs(feet - patch.origin - reach) < reach).all(1))
        planes = [world.planes[i] for i in near]
        self._pictures: list[Picture] = [plane.picture for plane in planes]
        self._visible_m = np.array([plane.visible_m for plane in planes])
        texels = np.array([p.gray.shape[::-1] for p in self._pictures]).reshape(-1, 2)
        size = np.array([(p.width_m, p.height_m) for p in self._pictures]).reshape(-1, 2)
        self._texels, self._size_m = texels, size
        self._frames = _frames(planes, patch.height_at(feet[near][:, None])[:, 0])
        corners = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])[None]
        scaled = corners * np.column_stack([size, np.ones(len(size))])[:, None]
        self._corners = scaled @ np.moveaxis(self._frames, -1, -2)

    def draw(
        self,
        canvas: Canvas,
        ground_depth: NDArray[np.float32],
        K: NDArray[np.float64],
        T_world_camera: NDArray[np.float64],
    ) -> None:
        """Paint all visible planes; those behind nearer ground (a crest) are hidden by it."""
        shown = self._select(ground_depth, K, T_world_camera)
        index, levels = shown.index.tolist(), shown.levels.tolist()
        fade, haze = shown.fade.tolist(), shown.haze.tolist()
        for k, (left, top, right, bottom) in enumerate(shown.areas.tolist()):
            area = slice(top, bottom), slice(left, right)
            if right <= left or bottom <= top or canvas.covers(area):
                continue
            texels = self._pictures[index[k]].level(*levels[k])
            layer = cv2.warpPerspective(texels, shown.matrices[k], (right - left, bottom - top))
            if k in shown.cut:
                layer *= _inside(shown.cut[k], shown.areas[k])[..., None]
            unhidden = None
            if shown.crested[k]:
                beyond = ground_depth[area] > _HIDDEN_SHARE * shown.nearest_m[k]
                unhidden = np.where(beyond, np.uint8(255), np.uint8(0))
            canvas.paint(area, layer, unhidden, fade[k], haze[k], self._haze_level)

    def _select(
        self,
        ground_depth: NDArray[np.float32],
        K: NDArray[np.float64],
        T_world_camera: NDArray[np.float64],
    ) -> _Shown:
        """Return the planes in view, nearest first."""
        R, origin = T_world_camera[:3, :3], T_world_camera[:3, 3]
        corners = (self._corners - origin) @ R
        distance_m = np.linalg.norm(corners.mean(1), axis=1)
        in_view = _in_view(corners, ground_depth.shape, K)
        index = np.flatnonzero(in_view & (distance_m < self._visible_m))
        index = index[np.argsort(distance_m[index])]
        corners, distance_m = corners[index], distance_m[index]
        outlines, cut = _projected(corners, K)
        areas = _areas(outlines, ground_depth.shape)
        nearest_m = corners[..., 2].min(1)
        homographies = K @ R.T @ (self._frames[index] - origin[:, None] * [0.0, 0.0, 1.0])
        texels, size_m = self._texels[index], self._size_m[index]
        levels = _levels(homographies, areas, texels / size_m)
        texel_m = size_m / level_size(texels, levels)
        return _Shown(
            index=index,
            matrices=_matrices(homographies, texel_m, areas),
            areas=areas,
            levels=levels,
            cut=cut,
            nearest_m=nearest_m,
            crested=_behind_crest(areas, nearest_m, ground_depth),
            fade=np.clip((self._visible_m[index] - distance_m) / FADE_M, 0, 1),
            haze=np.minimum(1.0, (distance_m / VISIBLE_M) ** 2),
        )


def _in_view(
    corners: NDArray[np.float64], shape: tuple[int, ...], K: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which planes [n], of corners [n, 4, 3] (camera axes), may touch the image."""
    x, y, z = np.moveaxis(corners, -1, 0)
    beyond = [
        z - _NEAR_M,
        K[0, 0] * x + (K[0, 2] + 1) * z,
        (shape[1] - K[0, 2]) * z - K[0, 0] * x,
        K[1, 1] * y + (K[1, 2] + 1) * z,
        (shape[0] - K[1, 2]) * z - K[1, 1] * y,
    ]
    # A plane is out of view where all of its corners lie beyond one side of the view's pyramid.
    return np.logical_and.reduce([side.max(1) > 0 for side in beyond])


def _frames(planes: list[Plane], ground_m: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return frames [n, 3, 3] of planes that stand on ground of heights [n] (m).

    The columns of a frame are the picture's unit vectors to the right and down (metres) and its
    upper left corner, so a point (a, b) of the picture is at frame @ (a, b, 1).
    """
    frames = np.zeros((len(planes), 3, 3))
    for i, plane in enumerate(planes):
        frames[i, :2, 0], frames[i, 2, 0] = plane.direction, plane.slope
        frames[i, 2, 1] = -1
        frames[i, :2, 2], frames[i, 2, 2] = plane.foot, ground_m[i] + plane.picture.height_m
    return frames


def _projected(
    corners: NDArray[np.float64], K: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]:
    """Return outlines [n, 4, 2] in pixels of corners [n, 4, 3] (camera axes).

    Those that cross the near plane are cut there: their polygons [m, 2] are returned by index,
    and their outlines are the boxes around these.
    """
    crossing = corners[..., 2].min(1) < _NEAR_M
    pixels = np.where(crossing[:, None, None], np.array([0.0, 0.0, 1.0]), corners) @ K.T
    outlines, cut = pixels[..., :2] / pixels[..., 2:], {}
    for i in np.flatnonzero(crossing).tolist():
        polygon = _clipped(corners[i]) @ K.T
        cut[i] = polygon[:, :2] / polygon[:, 2:]
        low, high = cut[i].min(0), cut[i].max(0)
        outlines[i] = [low, (high[0], low[1]), high, (low[0], high[1])]
    return outlines, cut


def _clipped(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        if a[2] >= _NEAR_M:
            kept.append(a)
        if (a[2] - _NEAR_M) * (b[2] - _NEAR_M) < 0:
            kept.append(a + (b - a) * (_NEAR_M - a[2]) / (b[2] - a[2]))
    return np.array(kept)


def _areas(outlines: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return (left, top, right, bottom) [n, 4] of the pixels that outlines [n, 4, 2] can touch."""
    bounds = np.stack([outlines.min(1), outlines.max(1)], 1)
    low = np.maximum(np.floor(bounds[:, 0]) - 1, 0)
    high = np.minimum(np.ceil(bounds[:, 1]) + 2, (shape[1], shape[0]))
    sliver = (bounds[:, 1] - bounds[:, 0]).min(1) < _THINNEST_PX
    high[sliver] = low[sliver]
    return np.hstack([low, high]).astype(np.int64)


def _behind_crest(
    areas: NDArray[np.int64], nearest_m: NDArray[np.float64], ground_depth: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return which planes [n] have ground nearer than they are at the bottom of their areas."""
    height, width = ground_depth.shape
    row = np.clip(areas[:, 3] - 3, 0, height - 1)
    sides = np.clip(areas[:, [0, 2]] + [1, -2], 0, width - 1)
    ground_m = ground_depth[row[:, None], sides].min(1)
    return (ground_m < _HIDDEN_SHARE * nearest_m) & (nearest_m > _TESTED_FROM_M)


def _levels(
    homographies: NDArray[np.float64], areas: NDArray[np.int64], texels_per_m: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the reductions [n, 2] along width and height that suit the middles of the areas.

    The footprint of a pixel on the picture is the Jacobian of the inverse homography.
    """
    inverse = np.linalg.inv(homographies)
    middle = (areas[:, :2] + areas[:, 2:]) / 2
    point = (inverse @ np.column_stack([middle, np.ones(len(middle))])[..., None])[..., 0]
    scaled = point[:, :2] / point[:, 2:]
    jacobian = inverse[:, :2, :2] - scaled[..., None] * inverse[:, None, 2, :2]
    footprint = np.abs(jacobian).max(-1) / np.abs(point[:, 2:]) * texels_per_m
    return np.rint(np.log2(np.clip(footprint, 1, 2**_MAX_LEVEL))).astype(np.int64)


def _matrices(
    homographies: NDArray[np.float64], texel_m: NDArray[np.float64], areas: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return matrices [n, 3, 3] from texels, of sizes [n, 2] (m), to pixels of areas [n, 4].

    homographies [n, 3, 3] map metres on the pictures to pixels of the image; a picture's first
    texel has the coordinates (1, 1) for its border, and its centre is half a texel from the edge.
    """
    matrices = homographies.copy()
    matrices[..., :2] *= texel_m[:, None]
    matrices[..., 2] -= matrices[..., :2].sum(-1) / 2
    matrices[:, :2] -= areas[:, :2, None] * matrices[:, None, 2]
    return matrices


def _inside(outline: NDArray[np.float64], area: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return 1 inside an outline [m, 2] and 0 outside it, over an area [h, w]."""
    mask = np.zeros((area[3] - area[1], area[2] - area[0]), np.uint8)
    cv2.fillConvexPoly(mask, np.rint(outline - area[:2]).astype(np.int32), 1)
    return mask
