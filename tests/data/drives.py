"""Small synthetic drives as bags: a camera that turns inside a painted cylinder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.samples import (
    VIEW_FOCAL_PX,
    VIEW_HEIGHT,
    VIEW_WIDTH,
    CameraModel,
)

START_NS = 1_700_000_000 * NS_PER_S
CENTRE = np.array([(VIEW_WIDTH - 1) / 2, (VIEW_HEIGHT - 1) / 2])
# The same rays as the virtual camera, so that a view is the image itself.
VIEW_CAMERA = CameraModel(
    VIEW_WIDTH,
    VIEW_HEIGHT,
    np.array([[VIEW_FOCAL_PX, 0, CENTRE[0]], [0, VIEW_FOCAL_PX, CENTRE[1]], [0, 0, 1]]),
)


def optical_mount(position: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.float64]:
    """T_base_camera [4, 4] of a camera looking ahead."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R_BASE_OPTICAL, position
    return T


def rotation_z(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def texture(height: int, width: int, seed: int = 0, smooth: float = 2.0) -> NDArray[np.uint8]:
    """A random smooth gray image that uses the whole range."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), smooth)
    return np.clip(127 + 55 * blurred / blurred.std(), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Drive:
    """yaw(t) = amplitude sin(2 pi t / period), constant speed, cameras and IMU at their rates.

    An image stamped t shows the IMU sample stamped t + offset_s.
    """

    duration_s: float = 8.0
    image_hz: float = 10.0
    imu_hz: float = 100.0
    offset_s: float = 0.0
    amplitude: float = 0.5
    period_s: float = 5.0
    speed_m_s: float = 5.0

    def yaw(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.amplitude * np.sin(2 * np.pi * t / self.period_s)

    def yaw_rate(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        rate = 2 * np.pi / self.period_s
        return self.amplitude * rate * np.cos(rate * t)

    def image_t(self) -> NDArray[np.float64]:
        return np.arange(0, self.duration_s, 1 / self.image_hz)

    def imu_t(self) -> NDArray[np.float64]:
        return np.arange(-0.5, self.duration_s + 0.5, 1 / self.imu_hz)

    def pose(self, t: float) -> NDArray[np.float64]:
        """T_world_base; the car drives along its own x axis (integrated numerically)."""
        s = np.linspace(0, t, 400)
        yaw = self.yaw(s)
        T = np.eye(4)
        T[:3, :3] = rotation_z(float(self.yaw(np.array(t))))
        T[0, 3] = self.speed_m_s * trapezoid(np.cos(yaw), s)
        T[1, 3] = self.speed_m_s * trapezoid(np.sin(yaw), s)
        return T

    def samples(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """IMU samples [n, 6] at true times t."""
        rate = self.yaw_rate(t)
        zero = np.zeros_like(t)
        up = np.full_like(t, GRAVITY_M_S2)
        return np.stack([zero, self.speed_m_s * rate, up, zero, zero, rate], -1)

    def image(self, t: float, world: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What VIEW_CAMERA sees of a cylinder painted with ``world`` [h, w], w around 360 deg."""
        u, v = np.meshgrid(np.arange(VIEW_WIDTH), np.arange(VIEW_HEIGHT))
        x, y = (u - CENTRE[0]) / VIEW_FOCAL_PX, (v - CENTRE[1]) / VIEW_FOCAL_PX
        azimuth = self.yaw(np.array(t)) - np.arctan(x)
        height, width = world.shape
        column = np.mod(azimuth / (2 * np.pi) + 0.5, 1) * width
        row = height / 2 + VIEW_FOCAL_PX * y / np.hypot(1, x)
        maps = (column.astype(np.float32), row.astype(np.float32))
        return np.asarray(cv2.remap(world, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def write_drive(
    path: Path,
    drive: Drive | None = None,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    imu: bool = True,
    reference: bool = True,
    jpeg_quality: int | None = None,
    reference_until_s: float = np.inf,
) -> Drive:
    """Write a drive as a bag: image stamps are true time, IMU stamps true time + offset."""
    drive = drive or Drive()
    world = texture(160, round(2 * np.pi * VIEW_FOCAL_PX), smooth=3)
    with BagWriter(path, storage) as bag:
        bag.tf_static(START_NS, {"imu_link": np.eye(4), "camera_optical": optical_mount()})
        if imu:
            t = drive.imu_t()
            for time_s, row in zip(t + drive.offset_s, drive.samples(t), strict=True):
                bag.imu(START_NS + round(time_s * NS_PER_S), row)
        for time_s in drive.image_t():
            stamp_ns = START_NS + round(time_s * NS_PER_S)
            bag.image(stamp_ns, drive.image(time_s, world), jpeg_quality=jpeg_quality)
            bag.camera_info(stamp_ns, VIEW_CAMERA)
            if reference and time_s <= reference_until_s:
                bag.odometry(stamp_ns, drive.pose(time_s))
    return drive


def data_file(*parts: str) -> Path:
    """A file of the optional data folder; the test is skipped, saying so, where it is absent."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("BAYES_VIO_DATA", default)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here (optional data, set BAYES_VIO_DATA)")
    return path
