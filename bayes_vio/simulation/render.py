"""Render a world as a pinhole camera sees it, in gray."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.samples import CameraModel
from bayes_vio.simulation.canvas import Canvas
from bayes_vio.simulation.ground import GroundView, see_ground
from bayes_vio.simulation.panorama import GROUND_HAZE
from bayes_vio.simulation.road import PATCH_ADVANCE_M, GroundPatch, RoadPath
from bayes_vio.simulation.road_surface import STRIP_HALF_WIDTH_M
from bayes_vio.simulation.textures import Gray
from bayes_vio.simulation.upright import UprightPlanes
from bayes_vio.simulation.world import World

# The ground turns to mist between the first two of these camera depths (m), and the mist to the
# horizon between the last two: things that stand on the ground fade out before it does.
_HAZE_FROM_M = 50.0
_MIST_M = 150.0
_HAZE_TO_M = 178.0


class Renderer:
    """Render one world through one camera; keeps the ground around the last two stretches of road.

    Raises ValueError for a camera with lens distortion: a pinhole image has straight lines.
    """

    def __init__(self, world: World, camera: CameraModel) -> None:
        if np.any(camera.coefficients):
            raise ValueError(
                "the renderer's camera is a pinhole: give distortion coefficients of 0"
            )
        self._world, self._camera = world, camera
        u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        pixels = np.stack([u, v, np.ones_like(u)], -1)
        self._rays = (pixels @ np.linalg.inv(camera.K).T).astype(np.float32)
        self._patches: dict[int, tuple[GroundPatch, UprightPlanes]] = {}
        levels = np.arange(256) / 255
        self._tone = np.clip(255 * world.gain * levels**world.gamma, 0, 255).astype(np.uint8)

    @property
    def path(self) -> RoadPath:
        """The path along which distances are measured."""
        return self._world.path

    def render(self, T_world_camera: NDArray[np.float64], distance_m: float) -> Gray:
        """Return the image [height, width] uint8 from a pose of the optical frame.

        distance_m: the car's distance along the world's path, which tells passes over the same
        place apart.
        """
        patch, planes = self._surroundings(distance_m)
        ground = see_ground(patch, self._rays, T_world_camera)
        canvas = Canvas(ground.depth.shape)
        planes.draw(canvas, ground.depth, self._camera.K, T_world_camera)
        image = canvas.finish(self._background(ground, patch))
        return np.asarray(cv2.LUT(image, self._tone), dtype=np.uint8)

    def ground_depth(
        self, T_world_camera: NDArray[np.float64], distance_m: float
    ) -> NDArray[np.float32]:
        """Return the camera depth (m) of the ground [height, width] where it is seen, else inf."""
        patch, planes = self._surroundings(distance_m)
        ground = see_ground(patch, self._rays, T_world_camera)
        canvas = Canvas(ground.depth.shape)
        planes.draw(canvas, ground.depth, self._camera.K, T_world_camera)
        return np.where(canvas.clear == 255, ground.depth, np.float32(np.inf))

    def _surroundings(self, distance_m: float) -> tuple[GroundPatch, UprightPlanes]:
        number = int(np.floor(distance_m / PATCH_ADVANCE_M))
        if number not in self._patches:
            while len(self._patches) > 1:
                del self._patches[next(iter(self._patches))]
            patch = GroundPatch(self._world.path, number * PATCH_ADVANCE_M)
            self._patches[number] = patch, UprightPlanes(self._world, patch)
        return self._patches[number]

    def _background(self, ground: GroundView, patch: GroundPatch) -> Gray:
        """Return the image of ground and horizon, without anything upright."""
        height, width = ground.depth.shape
        image = np.empty((height, width), np.uint8)
        seen = np.flatnonzero((ground.depth < _HAZE_TO_M).any(1))
        hazy = np.flatnonzero((ground.depth > _HAZE_FROM_M).any(1))
        top = int(seen[0]) if seen.size else height
        bottom = int(hazy[-1]) + 1 if hazy.size else 0
        image[top:] = self._road(ground, patch, top)
        if bottom == 0:
            return image
        horizon = self._world.panorama.sample(ground.direction[:bottom])
        image[:top] = horizon[:top]
        if bottom > top:
            depth, far = ground.depth[top:bottom], horizon[top:].astype(np.float32)
            mist = np.float32(GROUND_HAZE * self._world.haze)
            near = _mixed(image[top:bottom].astype(np.float32), mist, depth, _HAZE_FROM_M, _MIST_M)
            image[top:bottom] = np.rint(_mixed(near, far, depth, _MIST_M, _HAZE_TO_M))
        return image

    def _road(self, ground: GroundView, patch: GroundPatch, top: int) -> Gray:
        """Return the painted ground [height - top, width]."""
        if top >= ground.depth.shape[0] - 1:
            return np.zeros((ground.depth.shape[0] - top, ground.depth.shape[1]), np.uint8)
        world = self._world
        along, left = patch.road_coordinates(ground.cell_x[top:], ground.cell_y[top:])
        left = _folded(left, world.surface.verge_from_m)
        texel = np.float32(1 / world.texel_m)
        start = patch.start_m % (world.strip.n_along * world.texel_m)
        along = (along + np.float32(start)) * texel
        across = (left + np.float32(STRIP_HALF_WIDTH_M)) * texel
        return world.strip.sample(along, across)


def _mixed(
    near: NDArray[np.float32],
    far: NDArray[np.float32] | np.float32,
    depth: NDArray[np.float32],
    from_m: float,
    to_m: float,
) -> NDArray[np.float32]:
    """Return brightness [h, w] that goes from near to far between two depths (m)."""
    share = np.clip((depth - np.float32(from_m)) / np.float32(to_m - from_m), 0, 1)
    return (near + share * (far - near)).astype(np.float32)


def _folded(left_m: NDArray[np.float32], verge_from_m: float) -> NDArray[np.float32]:
    """Return distances left of the centre, those past the painted strip folded into its verge."""
    last = np.float32(STRIP_HALF_WIDTH_M - 0.1)
    band = last - np.float32(verge_from_m + 0.3)
    beyond = np.maximum(np.abs(left_m) - last, 0)
    cycles = beyond / (2 * band)
    folded = last - np.abs(cycles - np.rint(cycles)) * (2 * band)
    return np.where(beyond > 0, np.copysign(folded, left_m), left_m)
