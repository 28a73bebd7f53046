"""Classical visual odometry, the peer of the learned one: tracks, epipolar geometry, road plane.

Corners of the later image are tracked back to the earlier one (Kanade-Lucas-Tomasi, checked there
and back). Rotation comes from the essential matrix (RANSAC, five points), or from the gyro, and
then the direction of travel from the epipolar constraint alone. Neither has a scale: it comes from
the road, whose points must lie as far below the camera as the camera is mounted above it. Source
of the scale: Kitt, Rehder, Chambers, Schoenbein, Lategahn, Singh, "Monocular visual odometry using
a planar road model" (2011), with the road's normal fixed to base_link's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.samples import CameraModel, Streams
from bayes_vio.data.windows import imu_bins_many
from bayes_vio.geometry import so3

Array = NDArray[np.float64]

_CORNERS, _QUALITY, _SPACING_PX = 800, 0.003, 3
_LOST_PX = 0.7  # there and back must end this near the start
_INLIER_PX, _STILL_PX = 0.5, 0.08
_FEWEST_TRACKS, _FEWEST_ROAD = 20, 6
_ROAD_STEEPNESS = 0.07  # tangent below the horizon: nearer than 24 m at 1.65 m
_ROAD_HALF_WIDTH = 2.2  # heights of the camera
_ITERATIONS = 15


class RotationSource(Enum):
    """Where the rotation between two images comes from."""

    CAMERA = "camera"
    GYRO = "gyro"


@dataclass(frozen=True)
class Tracks:
    """The same n points in two images: earlier, later [n, 2], normalised, axes of base_link."""

    earlier: Array
    later: Array

    def __len__(self) -> int:
        return len(self.later)


@dataclass(frozen=True)
class Increments:
    """What classical odometry says of n intervals, in order.

    T_earlier_later [n, 4, 4] of base_link; found [n]: False where the last speed was kept instead;
    compute_s [n]: wall time.
    """

    earlier_stamp_ns: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    T_earlier_later: Array
    found: NDArray[np.bool_]
    compute_s: Array


class Tracker:
    """Track corners of an image back to the one before it, through a calibrated camera."""

    def __init__(self, camera: CameraModel, R_base_camera: Array) -> None:
        self._camera = camera
        self._R_level_camera = R_BASE_OPTICAL.T @ R_base_camera
        self.focal_px = float(camera.K[0, 0])

    def __call__(self, earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Tracks:
        """Return the tracks between two images [height, width]."""
        corners = cv2.goodFeaturesToTrack(later, _CORNERS, _QUALITY, _SPACING_PX)
        if corners is None:
            return Tracks(np.zeros((0, 2)), np.zeros((0, 2)))
        start = np.asarray(corners, np.float32)[:, 0]
        there, seen = _tracked(later, earlier, start)
        back, seen_back = _tracked(earlier, later, there)
        kept = seen & seen_back & (np.linalg.norm(back - start, axis=1) < _LOST_PX)
        return Tracks(self._level(there[kept]), self._level(start[kept]))

    def _level(self, pixels: NDArray[np.float32]) -> Array:
        """Return normalised coordinates [n, 2] in axes parallel to base_link's."""
        if not len(pixels):
            return np.zeros((0, 2))
        K, coefficients = self._camera.K, self._camera.coefficients
        points = pixels[:, None].astype(np.float64)
        if self._camera.distortion == "equidistant":
            normalised = cv2.fisheye.undistortPoints(points, K, coefficients[:4])
        else:
            normalised = cv2.undistortPoints(points, K, coefficients)
        rays = _rays(np.asarray(normalised, np.float64)[:, 0]) @ self._R_level_camera.T
        return rays[:, :2] / rays[:, 2:]


def _tracked(
    start: NDArray[np.uint8], end: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where points [n, 2] (px) of one image are in another, and which were found [n]."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.005)
    at, found = points[:, None], np.empty_like(points[:, None])
    found, seen, _ = cv2.calcOpticalFlowPyrLK(
        start, end, at, found, winSize=(13, 13), maxLevel=3, criteria=criteria
    )
    return np.asarray(found, np.float32)[:, 0], np.asarray(seen)[:, 0] > 0


def _rays(points: Array) -> Array:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def relative_motion(
    tracks: Tracks, focal_px: float, height_m: float, R_gyro: Array | None
) -> Array | None:
    """Return T_earlier_later [4, 4] of the camera in axes parallel to base_link's; None: unknown.

    height_m: of the camera above the road. R_gyro [3, 3]: R_earlier_later in optical axes, or None
    to take it from the tracks.
    """
    if len(tracks) < _FEWEST_TRACKS:
        return None
    T, R = np.eye(4), np.eye(3) if R_gyro is None else R_gyro
    if _median_parallax(tracks, R) * focal_px < _STILL_PX:
        T[:3, :3] = R
        return T
    if R_gyro is None:
        found = _from_essential_matrix(tracks, _INLIER_PX / focal_px)
        if found is None:
            return None
        R, direction = found
    else:
        direction = travel_direction(tracks, R, _INLIER_PX / focal_px)
    length_m = road_scale(tracks, R, direction, height_m)
    if length_m is None:
        return None
    T[:3, :3], T[:3, 3] = R, length_m * direction
    return T


def _median_parallax(tracks: Tracks, R: Array) -> float:
    turned = _rays(tracks.later) @ R.T
    return float(np.median(np.linalg.norm(turned[:, :2] / turned[:, 2:] - tracks.earlier, axis=1)))


def _from_essential_matrix(tracks: Tracks, threshold: float) -> tuple[Array, Array] | None:
    """Return R_earlier_later and the direction [3] of the later camera in the earlier one."""
    cv2.setRNGSeed(0)
    E, inliers = cv2.findEssentialMat(
        tracks.later, tracks.earlier, np.eye(3), cv2.USAC_ACCURATE, 0.999, threshold
    )
    if E is None or E.shape != (3, 3):
        return None
    count, R, t, _ = cv2.recoverPose(E, tracks.later, tracks.earlier, np.eye(3), mask=inliers)
    if count < _FEWEST_TRACKS:
        return None
    return _refined(tracks, np.asarray(R, np.float64), np.asarray(t, np.float64)[:, 0], threshold)


def _refined(tracks: Tracks, R: Array, t: Array, noise: float) -> tuple[Array, Array]:
    """Return rotation and direction of least Sampson distances, wrong tracks losing weight."""
    later, earlier = _rays(tracks.later), _rays(tracks.earlier)
    across = np.linalg.svd(t[None])[2][1:]  # [2, 3], orthogonal to t

    def moved(u: Array) -> tuple[Array, Array]:
        direction = t + u[3:] @ across
        turn = so3.exp(torch.from_numpy(u[:3])).numpy()
        return R @ turn, direction / np.linalg.norm(direction)

    def sampson(u: Array) -> Array:
        turned, direction = moved(u)
        E = np.cross(direction, turned, axisb=0, axisc=0)
        to_earlier, to_later = later @ E.T, earlier @ E
        size = np.sum(to_earlier[:, :2] ** 2 + to_later[:, :2] ** 2, axis=1)
        return np.sum(earlier * to_earlier, axis=1) / np.sqrt(size + 1e-18)

    found = least_squares(sampson, np.zeros(5), loss="cauchy", f_scale=noise / 2, max_nfev=20)
    return moved(found.x)


def travel_direction(tracks: Tracks, R: Array, noise: float) -> Array:
    """Return the unit direction [3] in which the camera moved, its rotation R [3, 3] known.

    Iteratively reweighted least squares (Cauchy) on the distances from the epipolar lines,
    t . (a x b) / |t x a| with a the turned later ray and b the earlier one, begun straight ahead.
    noise: the width of the weights (normalised coordinates).
    """
    a, b = _rays(tracks.later) @ R.T, _rays(tracks.earlier)
    normal, t = np.cross(a, b), np.array([0.0, 0.0, 1.0])
    for _ in range(_ITERATIONS):
        scale = np.maximum(np.linalg.norm(np.cross(t, a), axis=1), 1e-3)
        distance = normal @ t / scale
        weight = 1 / (scale**2 * (1 + (distance / noise) ** 2))
        _, vectors = np.linalg.eigh((normal * weight[:, None]).T @ normal)
        t = vectors[:, 0] * np.sign(vectors[2, 0] or 1.0)
    ahead = np.median(_inverse_depth(a, b, t)) >= 0
    return t if ahead else -t


def _inverse_depth(a: Array, b: Array, t: Array) -> Array:
    """Return 1 / depth [n] along later rays a, for a baseline t of length 1 (least squares)."""
    across = np.cross(b, t)
    power = np.maximum(np.sum(across**2, axis=1), 1e-9)
    return np.sum(np.cross(a, b) * across, axis=1) / power


def road_scale(tracks: Tracks, R: Array, direction: Array, height_m: float) -> float | None:
    """Return how far the camera moved (m): the road lies height_m below it. None: no road seen.

    Every track on the road gives height_m / depth / steepness; their median is weighted by how
    sharply a track tells it.
    """
    lateral, steepness = np.abs(tracks.later[:, 0]), tracks.later[:, 1]
    road = (steepness > _ROAD_STEEPNESS) & (lateral < _ROAD_HALF_WIDTH * steepness)
    steepness = steepness[road]
    a, b = _rays(tracks.later[road]) @ R.T, _rays(tracks.earlier[road])
    inverse = _inverse_depth(a, b, direction)
    if np.count_nonzero(inverse > 0) < _FEWEST_ROAD:
        return None
    length_m = height_m * inverse / steepness
    weight = np.linalg.norm(np.cross(b, direction), axis=1) * steepness
    order = np.argsort(length_m)
    total = np.cumsum(weight[order])
    return max(0.0, float(length_m[order][np.searchsorted(total, total[-1] / 2)]))


def gyro_rotations(streams: Streams, stamp_ns: NDArray[np.int64], time_offset_s: float) -> Array:
    """Return R_earlier_later [n - 1, 3, 3] of base_link between stamps [n], by the gyro alone.

    Raises ValueError where the recording has no IMU, or a gap in it.
    """
    if streams.imu is None:
        raise ValueError(f"{streams.name} has no IMU whose gyro could tell the rotation.")
    shifted = stamp_ns + round(time_offset_s * NS_PER_S)
    bins, valid = imu_bins_many(
        streams.imu.stamp_ns, streams.imu.samples, shifted[:-1], shifted[1:]
    )
    if not valid.any(axis=1).all():
        raise ValueError(f"the IMU of {streams.name} leaves an interval between images out.")
    length_s = np.diff(stamp_ns) / NS_PER_S / bins.shape[1]
    turns = torch.from_numpy(bins[..., ANGULAR_RATE].astype(np.float64) * length_s[:, None, None])
    R = torch.eye(3, dtype=torch.float64).expand(len(turns), 3, 3)
    for part in so3.exp(turns).unbind(1):
        R = R @ part
    return R.numpy()


def classical_increments(
    streams: Streams,
    height_m: float,
    source: RotationSource,
    time_offset_s: float = 0.0,
    frames: int | None = None,
) -> Increments:
    """Return the increments of a recording, or of its first frames.

    height_m: of the camera above the road; time_offset_s: see conventions, for the gyro.
    """
    stamp_ns = streams.image_stamp_ns[:frames]
    R_gyro = None
    if source is RotationSource.GYRO:
        R_base = gyro_rotations(streams, stamp_ns, time_offset_s)
        R_gyro = R_BASE_OPTICAL.T @ R_base @ R_BASE_OPTICAL
    T_base_level = np.eye(4)
    T_base_level[:3, :3] = R_BASE_OPTICAL
    T_base_level[:3, 3] = streams.extrinsics.T_base_camera[:3, 3]
    motions, seconds = _motions(streams, len(stamp_ns), height_m, R_gyro)
    T, found = _filled(motions, np.diff(stamp_ns) / NS_PER_S)
    T_base = T_base_level @ T @ np.linalg.inv(T_base_level)
    return Increments(stamp_ns[:-1], stamp_ns[1:], T_base, found, seconds)


def _motions(
    streams: Streams, frames: int, height_m: float, R_gyro: Array | None
) -> tuple[list[Array | None], Array]:
    tracker = Tracker(streams.camera, streams.extrinsics.T_base_camera[:3, :3])
    motions: list[Array | None] = []
    seconds = []
    for k, (earlier, later) in enumerate(_pairs(streams, frames)):
        started = time.perf_counter()
        R = None if R_gyro is None else R_gyro[k]
        motions.append(relative_motion(tracker(earlier, later), tracker.focal_px, height_m, R))
        seconds.append(time.perf_counter() - started)
    return motions, np.array(seconds)


def _pairs(streams: Streams, frames: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    earlier = None
    for _, (_, gray) in zip(range(frames), streams.frames(), strict=False):
        if earlier is not None:
            yield earlier, gray
        earlier = gray


def _filled(motions: list[Array | None], dt_s: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return motions [n, 4, 4], where one is unknown going on straight at the last speed."""
    found = np.array([motion is not None for motion in motions], bool)
    T, speed_m_s = np.tile(np.eye(4), (len(motions), 1, 1)), 0.0
    for k, motion in enumerate(motions):
        if motion is None:
            T[k, 2, 3] = speed_m_s * dt_s[k]
        else:
            T[k] = motion
            speed_m_s = float(np.linalg.norm(motion[:3, 3])) / dt_s[k]
    return T, found
