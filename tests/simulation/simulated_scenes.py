"""Small worlds for the tests: a straight or hilly road, with only what a test puts beside it."""

import numpy as np

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.samples import CameraModel
from bayes_vio.simulation.layout import Plane
from bayes_vio.simulation.panorama import Panorama
from bayes_vio.simulation.road import RoadPath, road_path
from bayes_vio.simulation.road_surface import RoadStyle, random_surface
from bayes_vio.simulation.textures import Picture, RipmapAtlas
from bayes_vio.simulation.trajectory import Trajectory, interpolate
from bayes_vio.simulation.world import World

BASE_HEIGHT_M = 0.5
CAMERA_HEIGHT_M = 1.65


def wavy_trajectory(amplitude_m=0.0, wavelength_m=80.0, speed_m_s=10.0, duration_s=12.0):
    """Drive straight along x over a sine of hills."""
    t = np.arange(0, duration_s + 0.01, 0.02)
    x = speed_m_s * t
    k = 2 * np.pi / wavelength_m
    z = amplitude_m * np.sin(k * x) + BASE_HEIGHT_M
    pitch = -np.arctan(amplitude_m * k * np.cos(k * x))
    zero = np.zeros_like(t)
    return interpolate(t, np.column_stack([x, zero, z]), np.column_stack([zero, pitch, zero]))


def pinhole(width=256, height=80, focal_px=148.0) -> CameraModel:
    """Return a camera whose principal point is its image's centre."""
    centre = (width - 1) / 2, (height - 1) / 2
    return CameraModel(
        width, height, np.array([[focal_px, 0, centre[0]], [0, focal_px, centre[1]], [0, 0, 1.0]])
    )


def camera_at(x_m, y_m=0.0, z_m=CAMERA_HEIGHT_M, yaw=0.0):
    """Return T_world_camera of a level camera."""
    T_world_camera = np.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    T_world_camera[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ R_BASE_OPTICAL
    T_world_camera[:3, 3] = x_m, y_m, z_m
    return T_world_camera


def mounted(trajectory: Trajectory, time_s: float):
    """Return T_world_camera of the default camera on the car at a time."""
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_BASE_OPTICAL
    T_base_camera[:3, 3] = 1.0, 0.0, CAMERA_HEIGHT_M - BASE_HEIGHT_M
    return trajectory.pose(time_s)[0] @ T_base_camera


def path_of(trajectory: Trajectory) -> RoadPath:
    """Return the road under a trajectory, the car on its centre line."""
    return road_path(trajectory, BASE_HEIGHT_M, 0.0, np.random.default_rng(0))


def plain_world(path: RoadPath, planes: tuple[Plane, ...] = (), ground=100, sky=100) -> World:
    """Return a world of one gray ground under one gray sky, with the planes given."""
    strip = np.full((512, 1024), ground, np.uint8)
    pixels = np.full((60, 302), sky, np.uint8)
    return World(
        path=path,
        surface=random_surface(RoadStyle.RURAL, 1.0, np.random.default_rng(0)),
        strip=RipmapAtlas(strip, 5, 5),
        texel_m=0.05,
        planes=planes,
        panorama=Panorama(pixels, 300 / (2 * np.pi)),
        haze=float(sky),
        gain=1.0,
        gamma=1.0,
    )


def board(gray, foot, direction=(0.0, -1.0), width_m=2.0, height_m=2.0, visible_m=120.0) -> Plane:
    """Return an opaque upright picture on the ground."""
    gray = np.asarray(gray, np.uint8)
    picture = Picture(gray, np.full_like(gray, 255), width_m, height_m)
    return Plane(picture, np.array(foot), np.array(direction), 0.0, visible_m)
