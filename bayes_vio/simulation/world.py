"""A random world along a road: its surface, its sky, and upright planes beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_vio.simulation.layout import Layout, Plane
from bayes_vio.simulation.panorama import Panorama, random_panorama
from bayes_vio.simulation.road import RoadPath
from bayes_vio.simulation.road_surface import (
    RoadStyle,
    StripPainter,
    Surface,
    random_surface,
)
from bayes_vio.simulation.textures import RipmapAtlas


@dataclass(frozen=True)
class WorldSettings:
    """How a world looks; ``style`` None draws one from the seed.

    texture_contrast and scenery_density scale the ground's texture and the number of things beside
    the road.
    """

    style: RoadStyle | None = None
    texture_contrast: float = 1.0
    scenery_density: float = 1.0
    left_hand_traffic: bool = False


@dataclass(frozen=True)
class World:
    """All there is to see: the road, its painted strip, the planes beside it, the horizon.

    ``gain`` and ``gamma`` are the light and the camera's tone curve; ``haze`` a gray level.
    """

    path: RoadPath
    surface: Surface
    strip: RipmapAtlas
    texel_m: float
    planes: tuple[Plane, ...]
    panorama: Panorama
    haze: float
    gain: float
    gamma: float


def lane_offset_m(surface: Surface, left_hand_traffic: bool) -> float:
    """Return how far left of the car the road's centre line is (m)."""
    return surface.lane_width_m / 2 * (-1 if left_hand_traffic else 1)


def random_world(
    path: RoadPath,
    surface: Surface,
    settings: WorldSettings,
    focal_px: float,
    rng: np.random.Generator,
) -> World:
    """Return a world along a path, in textures fine enough for a focal length in pixels."""
    texel_m = 0.05 if focal_px < 250 else 0.025
    painter = StripPainter(surface, texel_m, rng)
    haze = rng.uniform(170, 225)
    return World(
        path=path,
        surface=surface,
        strip=RipmapAtlas(painter.paint(), 9, 7),
        texel_m=texel_m,
        planes=tuple(Layout(path, surface, settings.scenery_density, texel_m, rng).planes()),
        panorama=random_panorama(focal_px, haze, rng),
        haze=haze,
        gain=rng.uniform(0.8, 1.2),
        gamma=rng.uniform(0.85, 1.2),
    )


def draw_surface(settings: WorldSettings, rng: np.random.Generator) -> Surface:
    """Return a random surface of the settings' style, or of a random one."""
    style = settings.style or list(RoadStyle)[rng.integers(len(RoadStyle))]
    return random_surface(style, settings.texture_contrast, rng)
