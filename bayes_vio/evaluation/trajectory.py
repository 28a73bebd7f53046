"""Measure trajectories: increment errors, KITTI's relative drift, absolute error.

Poses are [n, 4, 4] of base_link in float64, metres and radians.
Source of the drift: Geiger, Lenz, Urtasun, "Are we ready for autonomous driving?" (2012) and the
odometry development kit published with it: segments of fixed length along the reference path,
starting every tenth frame; the error of a segment's end pose over the segment's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.geometry import se3

Array = NDArray[np.float64]

KITTI_LENGTHS_M = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
SHORT_LENGTHS_M = (50.0,)
KITTI_STEP_FRAMES = 10


@dataclass(frozen=True)
class SegmentErrors:
    """Errors of n segments: length_m [n], translation [n] (m/m), rotation [n] (rad/m)."""

    length_m: Array
    translation: Array
    rotation: Array


def right_error(T_estimate: Array, T_true: Array) -> Array:
    """Return xi [n, 6] with T_true = T_estimate exp(xi), the perturbation covariances speak of."""
    estimate, true = torch.from_numpy(T_estimate), torch.from_numpy(T_true)
    return se3.log(se3.inverse(estimate) @ true).numpy()


def relative(T_a: Array, T_b: Array) -> Array:
    """Return T_a^-1 T_b [n, 4, 4]."""
    return (se3.inverse(torch.from_numpy(T_a)) @ torch.from_numpy(T_b)).numpy()


def path_length(T: Array) -> Array:
    """Return the distance travelled up to each pose [n] (m), the first being 0."""
    steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def rotation_angle(T: Array) -> Array:
    """Return the rotation angles [n] (rad, 0 to pi) of poses T [n, 4, 4]."""
    cosine = 0.5 * (np.trace(T[:, :3, :3], axis1=1, axis2=2) - 1)
    skew = T[:, :3, :3] - T[:, :3, :3].transpose(0, 2, 1)
    sine = 0.5 * np.sqrt(0.5 * np.sum(skew**2, axis=(1, 2)))
    return np.arctan2(sine, cosine)


def segment_errors(
    T_estimate: Array,
    T_true: Array,
    lengths_m: Sequence[float] = KITTI_LENGTHS_M,
    step_frames: int = KITTI_STEP_FRAMES,
) -> SegmentErrors:
    """Return the relative errors of every segment that fits, as the development kit takes them.

    A segment ends at the first pose *beyond* its length, and is divided by the nominal length.
    """
    distance = path_length(T_true)
    starts = np.arange(0, len(distance), step_frames)
    rows = [_segments(distance, starts, length) for length in lengths_m]
    first, last, length = (np.concatenate(column) for column in zip(*rows, strict=True))
    estimate = relative(T_estimate[first], T_estimate[last])
    error = relative(estimate, relative(T_true[first], T_true[last]))
    translation = np.linalg.norm(error[:, :3, 3], axis=1) / length
    return SegmentErrors(length, translation, rotation_angle(error) / length)


def _segments(
    distance: Array, starts: NDArray[np.int64], length_m: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    ends = np.searchsorted(distance, distance[starts] + length_m, side="right")
    fits = ends < len(distance)
    return starts[fits], ends[fits], np.full(fits.sum(), length_m)


def drift(T_estimate: Array, T_true: Array) -> dict:
    """Return t_rel (%), r_rel (deg / 100 m) and the same per length, over the lengths that fit.

    A path shorter than 100 m is measured over 50 m segments, and a shorter one still not at all;
    ``note`` then says so. The mean is over all segments, as in the development kit.
    """
    errors, note = segment_errors(T_estimate, T_true), ""
    if not len(errors.length_m):
        errors = segment_errors(T_estimate, T_true, SHORT_LENGTHS_M)
        note = "The path is shorter than 100 m: measured over 50 m segments."
    if not len(errors.length_m):
        note = "The path is shorter than 50 m: drift is not measured."
    lengths = [
        {"length_m": float(length), **_drift_of(errors, errors.length_m == length)}
        for length in np.unique(errors.length_m)
    ]
    everything = np.ones(len(errors.length_m), bool)
    return {**_drift_of(errors, everything), "lengths": lengths, "note": note}


def _drift_of(errors: SegmentErrors, chosen: NDArray[np.bool_]) -> dict:
    count = int(chosen.sum())
    if count == 0:
        return {"segments": 0, "t_rel_percent": None, "r_rel_deg_per_100m": None}
    return {
        "segments": count,
        "t_rel_percent": 100 * float(errors.translation[chosen].mean()),
        "r_rel_deg_per_100m": 100 * float(np.rad2deg(errors.rotation[chosen].mean())),
    }


def align_first(T_estimate: Array, T_true: Array) -> Array:
    """Return the estimated poses [n, 4, 4] moved so that the first equals the first true one."""
    move = T_true[0] @ relative(T_estimate[:1], np.eye(4)[None])[0]
    return move @ T_estimate


def absolute_error(T_estimate: Array, T_true: Array) -> dict:
    """Return the absolute trajectory error after alignment of the first pose (m, deg)."""
    aligned = align_first(T_estimate, T_true)
    offset = np.linalg.norm(aligned[:, :3, 3] - T_true[:, :3, 3], axis=1)
    angle = np.rad2deg(rotation_angle(relative(aligned, T_true)))
    return {
        "translation_rmse_m": float(np.sqrt(np.mean(offset**2))),
        "translation_max_m": float(offset.max()),
        "translation_final_m": float(offset[-1]),
        "rotation_rmse_deg": float(np.sqrt(np.mean(angle**2))),
        "rotation_final_deg": float(angle[-1]),
    }
