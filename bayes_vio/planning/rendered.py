"""The real estimator on a rendered camera and a simulated IMU, driven step by step.

Everything runs on simulated time, so that a drive is the same on every machine. The road of the
world lies along the course's route, its scenery beside it; the course's obstacles stand on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S
from bayes_vio.data.samples import Extrinsics
from bayes_vio.estimator import Estimator, MotionEstimate
from bayes_vio.planning.car import Motion
from bayes_vio.planning.course import Condition, Course
from bayes_vio.planning.sampled import planar_matrix
from bayes_vio.planning.vehicle import Vehicle
from bayes_vio.simulation.camera import CameraSettings
from bayes_vio.simulation.imu import ImuSettings, bias_walk, white_noise
from bayes_vio.simulation.layout import Plane
from bayes_vio.simulation.render import Renderer
from bayes_vio.simulation.road import road_path
from bayes_vio.simulation.road_surface import RoadStyle
from bayes_vio.simulation.scenery import SceneryPainter
from bayes_vio.simulation.textures import Gray, Picture, fractal_noise, to_gray
from bayes_vio.simulation.trajectory import interpolate
from bayes_vio.simulation.world import World, WorldSettings, draw_surface, random_world

Array = NDArray[np.float64]
_BASE_HEIGHT_M = 0.5
_BLOCK_HEIGHT_M = 2.2
_VISIBLE_M = 90.0
_WARM_UP_S = 1.5
_EPOCH_NS = 1_600_000_000 * NS_PER_S


@dataclass(frozen=True)
class RenderedSettings:
    """The car's sensors, and the share of light that is left in the tunnel."""

    camera: CameraSettings = field(default_factory=CameraSettings)
    imu: ImuSettings = field(default_factory=ImuSettings)
    world: WorldSettings = field(default_factory=lambda: WorldSettings(RoadStyle.CITY))
    tunnel_light: float = 0.45


def course_world(course: Course, settings: RenderedSettings, rng: np.random.Generator) -> World:
    """Return the world of a course: a road along its route, with its obstacles on it."""
    way_m = np.linspace(0.0, course.route.length_m, len(course.route.points))
    height = np.full((len(way_m), 1), _BASE_HEIGHT_M)
    flat = np.zeros((len(way_m), 2))
    trajectory = interpolate(
        np.asarray(0.1 * way_m, np.float64),  # at 10 m/s: only the path counts
        np.hstack([course.route.points, height]),
        np.hstack([course.route.yaw[:, None], flat]),
    )
    surface = draw_surface(settings.world, rng)
    path = road_path(trajectory, _BASE_HEIGHT_M, 0.0, rng)
    world = random_world(path, surface, settings.world, settings.camera.focal_px, rng)
    painter = SceneryPainter(0.02, rng)
    planes = [plane for box in course.obstacles for plane in _faces(box, painter, rng)]
    return replace(world, planes=(*world.planes, *planes))


def _faces(box: Array, painter: SceneryPainter, rng: np.random.Generator) -> list[Plane]:
    """Return the rear and the sides of a box [4, 2]; what is long is a car."""
    rear_right, front_right, front_left, rear_left = box
    edges = [(rear_left, rear_right), (rear_right, front_right), (front_left, rear_left)]
    long = np.linalg.norm(front_right - rear_right) > 3.0
    paint = float(rng.choice([40, 110, 205]))
    planes = []
    for number, (left, right) in enumerate(edges):
        way = right - left
        length_m = float(np.linalg.norm(way))
        if long:
            picture = painter.car_side(paint) if number else painter.car_rear(paint)
        else:
            picture = _concrete(length_m, rng)
        planes.append(Plane(picture, left, way / length_m, 0.0, _VISIBLE_M))
    return planes


def _concrete(width_m: float, rng: np.random.Generator) -> Picture:
    """Return a block's side, striped as road works are."""
    shape = round(_BLOCK_HEIGHT_M / 0.03), max(round(width_m / 0.03), 4)
    gray = 130 + 18 * fractal_noise(*shape, rng, 1.0, 30.0)
    row, column = np.indices(shape)
    gray[(row + column) // 25 % 2 == 0] += 70
    opaque = np.full(shape, 255, np.uint8)
    return Picture(to_gray(gray), opaque, width_m, _BLOCK_HEIGHT_M)


class RenderedSensors:
    """What camera and IMU report along a car's way; rng: of the world and of all noise."""

    def __init__(
        self,
        course: Course,
        vehicle: Vehicle,
        rng: np.random.Generator,
        settings: RenderedSettings | None = None,
    ) -> None:
        self._course, self._vehicle, self._rng = course, vehicle, rng
        self._settings = s = settings or RenderedSettings()
        self.camera = s.camera.model()
        T_base_camera = s.camera.T_base_camera(_BASE_HEIGHT_M)
        self.extrinsics = Extrinsics(s.imu.T_base_imu, T_base_camera, source="simulation")
        self._renderer = Renderer(course_world(course, s, rng), self.camera)
        self._bias = bias_walk(1, s.imu, rng)[0]

    def imu(self, motion: Motion) -> Array:
        """Return a sample [n, 6] at the end of every step: specific force, angular rate."""
        speed = 0.5 * (motion.speeds[1:] + motion.speeds[:-1])
        rate = speed * np.tan(motion.steering) / self._vehicle.wheelbase_m
        true = np.zeros((len(speed), 6))
        true[:, 0] = np.diff(motion.speeds) / motion.dt_s
        true[:, 1], true[:, 2], true[:, 5] = speed * rate, GRAVITY_M_S2, rate
        return true + self._bias + white_noise(speed, self._settings.imu, self._rng)

    def image(self, pose: Array, condition: Condition) -> Gray:
        """Return what the camera sees where the car is, pose [3] (x, y in m, yaw in rad)."""
        T_world_base = planar_matrix(pose)
        T_world_base[2, 3] = _BASE_HEIGHT_M
        distance_m = self._course.route.nearest(pose[:2])
        T_world_camera = T_world_base @ self.extrinsics.T_base_camera
        image = self._renderer.render(T_world_camera, distance_m)
        light = self._settings.tunnel_light if condition is Condition.DARK else 1.0
        noise = self._settings.camera.noise_std * self._rng.standard_normal(image.shape)
        return np.clip(np.rint(light * image + noise), 0, 255).astype(np.uint8)


class RenderedEstimator:
    """Feed the estimator what camera and IMU report of each motion; see ``Estimating``.

    The car has driven straight on before the first motion.
    """

    def __init__(
        self, course: Course, artifact: MotionArtifact, vehicle: Vehicle, rng: np.random.Generator
    ) -> None:
        self._sensors = RenderedSensors(course, vehicle, rng)
        self._estimator = Estimator(
            artifact,
            camera=self._sensors.camera,
            extrinsics=self._sensors.extrinsics,
            time_offset_s=0.0,
        )
        self._warm_up(course)

    def set_pose(self, T_odom_base: Array, cov: Array) -> None:
        """Continue the odometry from a pose [4, 4] with a right covariance [6, 6]."""
        self._estimator.set_pose(T_odom_base, cov)

    def observe(self, motion: Motion, condition: Condition) -> MotionEstimate | None:
        """Return the estimate at the end of a period, None where the estimator has none."""
        for k, sample in enumerate(self._sensors.imu(motion)):
            stamp_s = motion.start_s + (k + 1) * motion.dt_s
            self._estimator.feed_imu(_stamp_ns(stamp_s), sample)
        now_ns = _stamp_ns(motion.end_s)
        if condition is not Condition.OUTAGE:
            image = self._sensors.image(motion.poses[-1], condition)
            self._estimator.feed_image(now_ns, image)
        return self._estimator.estimate(now_ns)

    def _warm_up(self, course: Course) -> None:
        """Drive up to the course's start."""
        dt_s, steps, speed_m_s = 0.01, 10, course.start_speed_m_s
        ahead = np.array([np.cos(course.start[2]), np.sin(course.start[2]), 0.0])
        for end_s in np.arange(-_WARM_UP_S, 1e-6, steps * dt_s):
            times = end_s + dt_s * np.arange(-steps, 1)
            poses = course.start + speed_m_s * times[:, None] * ahead
            speeds = np.full(steps + 1, speed_m_s)
            self.observe(Motion(times[0], dt_s, poses, speeds, np.zeros(steps)), Condition.CLEAR)


def _stamp_ns(time_s: float) -> int:
    return _EPOCH_NS + round(time_s * NS_PER_S)
