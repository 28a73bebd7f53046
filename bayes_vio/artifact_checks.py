"""What an artifact must be before it is written or run: sizes, calibration, a prediction."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.data.samples import (
    GRID_HEIGHT,
    GRID_WIDTH,
    IMU_BINS,
    CameraModel,
    Extrinsics,
    MotionInput,
)
from bayes_vio.models.motion import MotionModel, MotionModelSettings

if TYPE_CHECKING:
    from bayes_vio.artifact import MotionArtifact

DISTORTIONS = ("plumb_bob", "rational_polynomial", "equidistant")
# Bounds far beyond any use: they keep a damaged number from becoming a huge allocation.
_LARGEST_LAYER, _LARGEST_BLOCKS = 4096, 64
_LARGEST_IMAGE_SIDE_PX = 65_536
_LARGEST_TIME_S = 3600.0
# No trained network comes near: float32 would overflow somewhere, for some input.
_LARGEST_WEIGHT = 1e6
# In m and rad, for one increment at rest: far beyond what is published, which is bounded apart.
_STD_RANGE = (1e-12, 1e6)
_ROTATION_TOLERANCE = 1e-5
_SYMMETRY_TOLERANCE = 1e-5


def check_values(artifact: MotionArtifact) -> None:
    """Raise ValueError, naming the value, where an artifact's numbers cannot be a car's."""
    check_camera(artifact.camera)
    check_extrinsics(artifact.extrinsics)
    _check_number("time_offset_s", artifact.time_offset_s, -_LARGEST_TIME_S)
    _check_number("epistemic_correlation_s", artifact.epistemic_correlation_s, 0.0)
    for name, value in asdict(artifact.image_statistics).items():
        _check_number(name, value, 0.0, math.inf)
    low, high = artifact.dt_range_s
    _check_number("dt_range_s", low, 0.0)
    _check_number("dt_range_s", high, low)
    if low <= 0:
        raise ValueError("dt_range_s must be positive")
    if not isinstance(artifact.metadata, dict):
        raise ValueError("metadata is no mapping")


def check_camera(camera: CameraModel) -> None:
    """Raise ValueError where a calibration is not one of a pinhole camera."""
    for side in (camera.width, camera.height):
        if not 0 < side <= _LARGEST_IMAGE_SIDE_PX:
            raise ValueError(f"the camera's size is {camera.width} x {camera.height}")
    K = camera.K
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ValueError("the camera's K is not a finite 3x3 with positive focal lengths")
    if camera.distortion not in DISTORTIONS:
        raise ValueError(f"the camera's distortion {camera.distortion!r} is not known")
    coefficients = camera.coefficients
    if coefficients.ndim != 1 or coefficients.size > 14 or not np.isfinite(coefficients).all():
        raise ValueError("the camera's distortion coefficients are not up to 14 finite numbers")


def check_extrinsics(extrinsics: Extrinsics) -> None:
    """Raise ValueError where a sensor's pose is not a rigid transform."""
    for name in ("T_base_imu", "T_base_camera"):
        if not _is_rigid(getattr(extrinsics, name)):
            raise ValueError(f"{name} is not a finite rigid transform [4, 4]")


def model_settings(value: dict[str, Any]) -> MotionModelSettings:
    """Return a network's sizes, bounded. Raises ValueError or TypeError."""
    settings = MotionModelSettings(**value)
    for name, size in asdict(settings).items():
        least = 2 if name == "hidden" else 1  # the noise's head has half as many
        largest = _LARGEST_BLOCKS if name == "blocks" else _LARGEST_LAYER
        if type(size) is not int or not least <= size <= largest:
            raise ValueError(f"the network's {name} is {size!r}, not in {least} to {largest}")
    return settings


def build_model(settings: MotionModelSettings, weights: dict[str, Tensor]) -> MotionModel:
    """Return the network with these weights; no more is allocated than a few times their size.

    Raises ValueError where names, shapes or types differ, or a number is not finite.
    """
    # Not by a network on the meta device: its arithmetic imports torch's compiler, for a second.
    least = (
        settings.blocks * settings.width**2 + settings.latents * settings.width * settings.hidden
    )
    if least > sum(t.numel() for t in weights.values()):
        raise ValueError("its weights are of another network")
    model = MotionModel(settings)
    expected = model.state_dict()
    if {n: (t.shape, t.dtype) for n, t in expected.items()} != {
        n: (t.shape, t.dtype) for n, t in weights.items()
    }:
        raise ValueError("its weights are of another network")
    for name, tensor in weights.items():
        if not bool((tensor.abs() <= _LARGEST_WEIGHT).all()):  # False for NaN, too
            raise ValueError(f"the weights {name} are not finite, or beyond {_LARGEST_WEIGHT:g}")
    for name in ("twist_scale", "noise_scale"):
        if not bool((weights[name] > 0).all()):
            raise ValueError(f"{name} is not positive")
    model.load_state_dict(weights)
    return model


def check_prediction(artifact: MotionArtifact) -> None:
    """Raise ValueError where the artifact, standing still, predicts what is no Gaussian."""
    still = resting_input().map(lambda tensor: tensor.to(artifact.posterior.device))
    p = artifact.predict(still)
    if not bool(torch.isfinite(p.mean).all()):
        raise ValueError("its prediction at rest is not finite")
    for name, cov in (("epistemic_cov", p.epistemic_cov), ("noise_cov", p.noise_cov)):
        std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
        if not bool(((std > _STD_RANGE[0]) & (std < _STD_RANGE[1])).all()):
            raise ValueError(f"the {name} that it predicts at rest has sigmas {std[0].tolist()}")
        if not _is_positive_definite(cov.cpu()):
            raise ValueError(f"the {name} that it predicts at rest is not positive definite")


def resting_input(dt_s: float = 0.1) -> MotionInput:
    """Return the input [1, ...] of a car at rest before a gray wall: zero flow, zero IMU."""
    grid = torch.full((1, GRID_HEIGHT, GRID_WIDTH), 0.5)
    return MotionInput(
        gray=grid,
        flow=torch.zeros(1, 2, GRID_HEIGHT, GRID_WIDTH),
        view_valid=torch.ones_like(grid),
        imu=torch.zeros(1, IMU_BINS, 6),
        imu_valid=torch.ones(1, IMU_BINS),
        dt=torch.full((1,), dt_s),
        camera_valid=torch.ones(1),
    )


def _is_positive_definite(cov: Tensor) -> bool:
    """Judge covariances [batch, d, d] by their correlation matrices, whatever the units."""
    std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = cov / std[..., None] / std[..., None, :]
    if float((correlation - correlation.mT).abs().max()) > _SYMMETRY_TOLERANCE:
        return False
    return not bool(torch.linalg.cholesky_ex(correlation).info.any())


def _is_rigid(T: NDArray[np.float64]) -> bool:
    if T.shape != (4, 4) or not np.isfinite(T).all() or not np.array_equal(T[3], [0, 0, 0, 1]):
        return False
    R = T[:3, :3]
    if np.abs(R).max() > 1 + _ROTATION_TOLERANCE:  # products of absurd numbers would overflow
        return False
    return np.abs(R @ R.T - np.eye(3)).max() < _ROTATION_TOLERANCE and np.linalg.det(R) > 0


def _check_number(name: str, value: float, low: float, high: float = _LARGEST_TIME_S) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, not in {low:g} to {high:g}")
