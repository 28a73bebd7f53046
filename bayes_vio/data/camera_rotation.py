"""Tell how the camera's axes really lie to base_link's: what flow, gyro and reference agree on.

Every cell's flow must end on its epipolar line, which rotation and direction of travel fix
without any depth. The rotation between the axes as given and as seen is the one that makes them.
Straight driving shows pitch and yaw (the point that the flow flees), turning shows roll.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.clock_alignment import Gyro
from bayes_vio.data.flow_yaw import block_means, block_rays
from bayes_vio.data.recording import PreparedRecording
from bayes_vio.data.sync import increments_between
from bayes_vio.geometry import se3, so3

Array = NDArray[np.float64]

_LARGEST_PAIRS = 500
_FEWEST_PAIRS = 30
_SHORTEST_M, _LONGEST_M = 0.3, 12.0
_ITERATIONS = 25
_TOLERANCE = 1e-6
_CAUCHY_SIGMAS = 2.0
_LEAST_FLOW_STD = 2e-4  # focal lengths: a thirtieth of a view pixel
_CORRELATED_PAIRS = 20
# Flow of textures that pass by looks a little turned, by so much per metre driven and per axis:
# what drives of known mounting leave over.
_FLOW_TURN_STD = 2.2e-4
_SYSTEMATIC_STD = np.radians(0.1)
# A camera is mounted within this, whatever the flow says: gives axes without any turn their sigma.
_PRIOR_STD = np.radians(10.0)
_PRIOR_PRECISION = np.eye(3) / _PRIOR_STD**2
_UNOBSERVABLE_STD = np.radians(1.0)
_REPORTED = np.radians(1.0)


class CameraRotationError(ValueError):
    """The camera's rotation cannot be told from a recording."""


@dataclass(frozen=True)
class CameraRotation:
    """Rotation vector [3] (rad; roll, pitch, yaw about base x, y, z) and its covariance [3, 3].

    R_base_camera as seen = Exp(vector) R_base_camera as given; a positive pitch looks further
    down, a positive yaw further left. ``pairs``: how many pairs of images tell it.
    """

    vector: Array
    cov: Array
    pairs: int

    @property
    def std(self) -> Array:
        """Standard deviations [3] (rad)."""
        return np.sqrt(np.diagonal(self.cov))

    @property
    def observable(self) -> NDArray[np.bool_]:
        """Tell [3] of each axis whether the drive shows it to better than a degree."""
        return self.std < _UNOBSERVABLE_STD

    @property
    def contradicts(self) -> NDArray[np.bool_]:
        """Tell [3] of each axis whether it is off by more than a degree and by three sigmas."""
        size = np.abs(self.vector)
        return (size > 3 * self.std) & (size > _REPORTED)


def combine_rotations(rotations: list[CameraRotation]) -> CameraRotation:
    """Return what recordings of one mounting tell together, weighted by their information."""
    information = [np.linalg.inv(rotation.cov) for rotation in rotations]
    cov = np.linalg.inv(np.sum(information, 0))
    weighted = [W @ rotation.vector for W, rotation in zip(information, rotations, strict=True)]
    return CameraRotation(
        cov @ np.sum(weighted, 0), 0.5 * (cov + cov.T), sum(r.pairs for r in rotations)
    )


def estimate_camera_rotation(recording: PreparedRecording) -> CameraRotation:
    """Estimate the rotation between the camera's axes as given and as seen.

    Rotations are the gyro's at the recording's time offset, less its bias, or the reference's
    without an IMU; directions of travel are the reference's. Raises CameraRotationError where
    there is no reference or the car hardly moves.
    """
    pairs, Phi = _pairs(recording), np.eye(3)
    for _ in range(_ITERATIONS):
        scores, information = _linearise(pairs, Phi)
        normal = information[:3, :3] + _PRIOR_PRECISION
        vector = so3.log(_tensor(Phi)).numpy()
        step = np.linalg.solve(normal, -scores.sum(0) - _PRIOR_PRECISION @ vector)
        Phi = so3.exp(_tensor(step)).numpy() @ Phi
        if np.abs(step).max() < _TOLERANCE:
            break
    # Phi turns base axes into the axes as given: the mounting is off by its inverse.
    vector = -so3.log(_tensor(Phi)).numpy()
    return CameraRotation(vector, _covariance(scores, information), len(pairs.travel))


def _covariance(scores: Array, information: Array) -> Array:
    """Return the covariance [3, 3]: scatter of the pairs, prior, and flow's turn as considered.

    The turn of the flow is not estimated, since it would take the place of pitch and yaw, but
    what it may do to the estimate is counted (Schmidt, 1966).
    """
    inverse = np.linalg.inv(information[:3, :3] + _PRIOR_PRECISION)
    scatter = inverse @ (_long_run(scores) + _PRIOR_PRECISION) @ inverse
    effect = _FLOW_TURN_STD * inverse @ information[:3, 3:]
    cov = scatter + effect @ effect.T + _SYSTEMATIC_STD**2 * np.eye(3)
    return 0.5 * (cov + cov.T)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of images in base axes of the later one, c cells each.

    later [c, 3] and earlier [p, c, 3]: rays of a cell and of where its flow ends; R [p, 3, 3] and
    travel [p, 3] (a direction): camera motion, earlier from later; distance [p] (m).
    """

    later: Array
    earlier: Array
    R: Array
    travel: Array
    distance_m: Array


def _pairs(recording: PreparedRecording) -> _Pairs:
    if recording.reference is None:
        raise CameraRotationError("the camera's rotation needs a reference pose")
    table = recording.frames
    stamps = table.frame_stamp_ns[table.pairs]
    xi, known = increments_between(recording.reference, stamps[:, 0], stamps[:, 1])
    R, covered = _rotations(recording, stamps, xi, known)
    lever = recording.extrinsics.T_base_camera[:3, 3]
    T = se3.exp(_tensor(xi)).numpy()
    moved = T[:, :3, 3] + (T[:, :3, :3] - np.eye(3)) @ lever
    distance = np.linalg.norm(moved, axis=1)
    rows = np.flatnonzero(known & covered & (distance > _SHORTEST_M) & (distance < _LONGEST_M))
    if len(rows) < _FEWEST_PAIRS:
        raise CameraRotationError(
            f"the camera's rotation needs {_FEWEST_PAIRS} pairs of images that moved "
            f"{_SHORTEST_M} m or more, but there are {len(rows)}"
        )
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _LARGEST_PAIRS).astype(np.int64))]
    later, earlier = _cells(table.flow(rows), table.view_valid)
    travel = moved[rows] / distance[rows, None]
    return _Pairs(later, earlier, R[rows], travel, distance[rows])


def _rotations(
    recording: PreparedRecording,
    stamps: NDArray[np.int64],
    xi: Array,
    known: NDArray[np.bool_],
) -> tuple[Array, NDArray[np.bool_]]:
    """Return R_earlier_later [p, 3, 3] of base_link, and where it is known [p]."""
    turned = xi[:, ANGULAR]
    if recording.imu is None or not known.any():
        return so3.exp(_tensor(turned)).numpy(), known
    gyro = Gyro(recording.imu)
    start, end = (gyro.seconds(column) + recording.time_offset_s for column in stamps.T)
    duration_s = (stamps[:, 1] - stamps[:, 0]) / NS_PER_S
    felt, covered = gyro.turned(start, end), gyro.covers(start, end)
    both = covered & known
    if not both.any():
        return so3.exp(_tensor(turned)).numpy(), known
    bias = np.median((felt - turned)[both] / duration_s[both, None], axis=0)
    return so3.exp(_tensor(felt - bias * duration_s[:, None])).numpy(), covered


def _cells(flow: NDArray[np.floating], view_valid: NDArray[np.float32]) -> tuple[Array, Array]:
    """Return rays [c, 3] of cells and [p, c, 3] of where their flow ends, in base axes."""
    seen = block_means(np.asarray(view_valid, np.float64)).reshape(-1) > 0.99
    rays = block_rays()[seen]
    moved = block_means(np.asarray(flow, np.float64)).reshape(len(flow), 2, -1)[:, :, seen]
    ends = np.tile(rays, (len(flow), 1, 1))
    ends[..., :2] += moved.transpose(0, 2, 1)
    return rays @ R_BASE_OPTICAL.T, ends @ R_BASE_OPTICAL.T


def _linearise(pairs: _Pairs, Phi: Array) -> tuple[Array, Array]:
    """Return the scores [p, 3] of a small turn of Phi and the information [6, 6], robust.

    The further three parameters are turns of the flow itself per metre driven.
    """
    R = Phi @ pairs.R @ Phi.T
    travel = (pairs.travel @ Phi.T)[:, None]
    normal = np.cross(travel, np.einsum("pij,cj->pci", R, pairs.later))
    size = np.linalg.norm(normal[..., 1:], axis=-1) + 1e-9
    residual = (pairs.earlier * normal).sum(-1) / size
    lever = np.einsum("pij,pci->pcj", R, np.cross(pairs.earlier, travel))
    swing = np.cross(pairs.later, lever)
    slope = np.empty((*residual.shape, 6))
    slope[..., :3] = (np.cross(normal, pairs.earlier) - swing) / size[..., None]
    slope[..., 3:] = pairs.distance_m[:, None, None] * swing / size[..., None]
    weight = _weights(residual)
    scores = np.einsum("pci,pc->pi", slope[..., :3], weight * residual)
    return scores, np.einsum("pci,pc,pcj->ij", slope, weight, slope, optimize=True)


def _weights(residual: Array) -> Array:
    """Return Cauchy weights [p, c] over each pair's own variance, by its median residual."""
    std = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True) + _LEAST_FLOW_STD
    return 1 / (1 + (residual / (_CAUCHY_SIGMAS * std)) ** 2) / std**2


def _long_run(scores: Array) -> Array:
    """Return the covariance [3, 3] of the sum of scores [p, 3] (Newey and West, 1987)."""
    total = scores.T @ scores
    for lag in range(1, _CORRELATED_PAIRS + 1):
        product = scores[lag:].T @ scores[:-lag]
        total = total + (1 - lag / (_CORRELATED_PAIRS + 1)) * (product + product.T)
    return total


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
