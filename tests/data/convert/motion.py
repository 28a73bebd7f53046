"""A known motion in three dimensions, and what every layout's bag must say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_simpson
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.samples import Streams

_STEP_S = 1e-3


def pose(
    rotation_vector: Sequence[float] = (0, 0, 0), translation: Sequence[float] = (0, 0, 0)
) -> NDArray[np.float64]:
    """A pose [4, 4]."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix()
    T[:3, 3] = translation
    return T


def camera_pose(residual: Sequence[float], translation: Sequence[float]) -> NDArray[np.float64]:
    """T_base_camera of a camera that looks ahead but for a residual rotation vector."""
    optical = np.eye(4)
    optical[:3, :3] = R_BASE_OPTICAL
    return pose(residual, translation) @ optical


@dataclass
class Motion:
    """Yaw, pitch and roll swing; the car drives along its own x axis at constant speed.

    Times are multiples of 1 ms after ``start_ns``.
    """

    duration_s: float = 4.0
    image_hz: float = 10.0
    imu_hz: float = 100.0
    speed_m_s: float = 8.0
    swing_rad: tuple[float, float, float] = (0.05, 0.08, 0.6)  # roll, pitch, yaw
    start_ns: int = 1_317_042_272_349_659_964
    T_world_first: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        t = np.arange(0, self.duration_s + _STEP_S / 2, _STEP_S)
        self._R = self.rotation(t).as_matrix()
        self._position = cumulative_simpson(
            self.speed_m_s * self._R[:, :, 0], x=t, axis=0, initial=0
        )

    def euler(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Roll, pitch, yaw [n, 3] (rad)."""
        phase = 2 * np.pi * np.multiply.outer(t, (0.7, 0.5, 0.3))
        return np.asarray(self.swing_rad) * np.sin(phase + np.array([0.3, 1.1, 0.2]))

    def rotation(self, t: NDArray[np.float64]) -> Rotation:
        """R_world_base = Rz(yaw) Ry(pitch) Rx(roll)."""
        return Rotation.from_euler("ZYX", self.euler(t)[:, ::-1])

    def poses(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """T_world_base [n, 4, 4] at times on the grid."""
        index = np.rint(t / _STEP_S).astype(int)
        T = np.tile(np.eye(4), (len(t), 1, 1))
        T[:, :3, :3], T[:, :3, 3] = self._R[index], self._position[index]
        return self.T_world_first @ T

    def samples(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """IMU samples [n, 6] in base axes: specific force, angular rate."""
        h = 1e-4
        rate = (self.rotation(t - h).inv() * self.rotation(t + h)).as_rotvec() / (2 * h)
        centripetal = self.speed_m_s * np.cross(rate, [1.0, 0, 0])
        gravity = self.rotation(t).inv().apply([0, 0, GRAVITY_M_S2])
        return np.hstack([centripetal + gravity, rate])

    def image_s(self) -> NDArray[np.float64]:
        return np.arange(0, self.duration_s, 1 / self.image_hz)

    def imu_s(self) -> NDArray[np.float64]:
        return np.arange(0, self.duration_s, 1 / self.imu_hz)

    def stamps(self, t: NDArray[np.float64]) -> NDArray[np.int64]:
        """Stamps [n] in ns, with odd digits down to the last."""
        return self.start_ns + np.rint(t * NS_PER_S).astype(np.int64)


def write_images(paths: Sequence[Path], width: int, height: int) -> list[NDArray[np.uint8]]:
    """Write gray PNG files that differ; return their pixels."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width), dtype=np.uint8) for _ in paths]
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    return images


def assert_images(streams: Streams, stamp_ns: NDArray[np.int64], images: list[NDArray]) -> None:
    """The bag's images are those of the source, at their stamps, to the nanosecond."""
    np.testing.assert_array_equal(streams.image_stamp_ns, stamp_ns)
    frames = list(streams.frames())
    assert [stamp for stamp, _ in frames] == stamp_ns.tolist()
    for (_, gray), image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(gray, image)
    assert streams.dropped == {}


def assert_imu(streams: Streams, motion: Motion, atol: float = 1e-6) -> None:
    """The IMU is the motion's, in base axes; gravity points up."""
    assert streams.imu is not None
    t = motion.imu_s()
    np.testing.assert_array_equal(streams.imu.stamp_ns, motion.stamps(t))
    np.testing.assert_allclose(streams.imu.samples, motion.samples(t), atol=atol)
    assert streams.imu.samples[:, 2].mean() > 9


def assert_reference(
    streams: Streams, motion: Motion, t: NDArray[np.float64], atol: float = 1e-6
) -> None:
    """The reference is the motion, relative to its first pose; the car drives forwards."""
    assert streams.reference is not None
    np.testing.assert_array_equal(streams.reference.stamp_ns, motion.stamps(t))
    T, truth = streams.reference.T_world_base, motion.poses(t)
    found = np.linalg.inv(T[0]) @ T
    np.testing.assert_allclose(found, np.linalg.inv(truth[0]) @ truth, atol=atol)
    step = np.linalg.inv(T[:-1]) @ T[1:]
    assert np.all(step[:, 0, 3] > 0.9 * motion.speed_m_s * np.diff(t))


def assert_gyro_agrees(streams: Streams, tolerance_rad: float) -> None:
    """Turning by the gyro alone, from the first pose to the last, is turning by the reference."""
    assert streams.imu is not None
    assert streams.reference is not None
    imu, reference = streams.imu, streams.reference
    inside = (imu.stamp_ns >= reference.stamp_ns[0]) & (imu.stamp_ns <= reference.stamp_ns[-1])
    rate, stamps = imu.samples[inside, 3:], imu.stamp_ns[inside]
    turned = Rotation.identity()
    for mean, dt_s in zip((rate[:-1] + rate[1:]) / 2, np.diff(stamps) / NS_PER_S, strict=True):
        turned = turned * Rotation.from_rotvec(mean * dt_s)
    T = reference.T_world_base
    last = np.searchsorted(reference.stamp_ns, stamps[-1], side="right") - 1
    assert reference.stamp_ns[last] == stamps[-1]
    assert stamps[0] == reference.stamp_ns[0]
    truth = Rotation.from_matrix(T[0, :3, :3].T @ T[last, :3, :3])
    assert truth.magnitude() > 20 * tolerance_rad
    assert (truth.inv() * turned).magnitude() < tolerance_rad
