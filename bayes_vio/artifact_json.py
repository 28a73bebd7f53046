"""The parts of artifact.json as values, and back."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from bayes_vio.data.samples import (
    GRID_HEIGHT,
    GRID_WIDTH,
    IMU_BINS,
    VIEW_FOCAL_PX,
    VIEW_HEIGHT,
    VIEW_WIDTH,
    CameraModel,
)
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover
from bayes_vio.models.noise import AS_IN_TRAINING, Circumstances, NoiseCorrelation
from bayes_vio.models.reliability import Reliability


def reliability_from_json(value: dict[str, Any] | None) -> Reliability | None:
    """Return what is usual, None where the artifact does not tell (it was not measured)."""
    if value is None:
        return None
    names = {f.name for f in fields(Reliability)}
    usual = {f.name: f.default for f in fields(Reliability) if f.default is not MISSING}
    value = {**usual, **value}
    if value.keys() != names:
        raise ValueError(f"its reliability tells {sorted(value)}, not {sorted(names)}")
    lever_m, least_change = value["rotation_lever_m"], value["least_change"]
    street_mean, street_precision = value["street_mean"], value["street_precision"]
    return Reliability(
        picture_mean=tuple(float(v) for v in value["picture_mean"]),
        picture_precision=tuple(
            tuple(float(v) for v in row) for row in value["picture_precision"]
        ),
        still_share=float(value["still_share"]),
        unseen_share=float(value["unseen_share"]),
        disagreement_std=tuple(float(v) for v in value["disagreement_std"]),
        disagreement_response=tuple(float(v) for v in value["disagreement_response"]),
        disagreement_bound=float(value["disagreement_bound"]),
        rotation_lever_m=lever_m and tuple(tuple(float(v) for v in row) for row in lever_m),
        vibration_std=tuple(float(v) for v in value["vibration_std"]),
        least_change=least_change and tuple(float(v) for v in least_change),
        street_mean=street_mean and tuple(float(v) for v in street_mean),
        street_precision=street_precision
        and tuple(tuple(float(v) for v in row) for row in street_precision),
    )


def crossover_from_json(value: list[float | None] | None) -> Crossover:
    """Return how rotations are fused; the network's alone where the artifact does not tell."""
    if value is None:
        return NETWORK_ALONE
    x, y, z = (math.inf if time_s is None else float(time_s) for time_s in value)
    return Crossover((x, y, z))


def circumstances_from_json(value: dict[str, Any] | None) -> Circumstances:
    """Return the noise under other circumstances; as in training where it was not measured."""
    if value is None:
        return AS_IN_TRAINING
    return Circumstances(**{name: tuple(map(float, numbers)) for name, numbers in value.items()})


def noise_correlation_from_json(value: dict[str, Any]) -> NoiseCorrelation:
    """Return how much of the noise lasts, and for how long, by axis."""
    return NoiseCorrelation(*(tuple(float(v) for v in value[key]) for key in ("time_s", "share")))


def input_shapes() -> dict[str, Any]:
    """Return what every artifact of this version takes, as artifact.json says it."""
    return {
        "view": [VIEW_HEIGHT, VIEW_WIDTH],
        "view_focal_px": VIEW_FOCAL_PX,
        "grid": [GRID_HEIGHT, GRID_WIDTH],
        "imu_bins": IMU_BINS,
    }


def camera_to_json(camera: CameraModel) -> dict[str, Any]:
    """Return a calibration as JSON values."""
    return {
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "distortion": camera.distortion,
        "coefficients": np.asarray(camera.coefficients).tolist(),
    }


def camera_from_json(value: dict[str, Any]) -> CameraModel:
    """Return the calibration that JSON values tell."""
    return CameraModel(
        width=int(value["width"]),
        height=int(value["height"]),
        K=np.array(value["K"], dtype=np.float64),
        distortion=value["distortion"],
        coefficients=np.array(value["coefficients"], dtype=np.float64),
    )
