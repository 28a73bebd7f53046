"""Tell how good a recording is: rates, gaps, noise of its reference, and what it covers."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, LINEAR, NS_PER_S, ROT_Z
from bayes_vio.data.camera_rotation import CameraRotation
from bayes_vio.data.clock_alignment import Gyro
from bayes_vio.data.recording import PreparedRecording
from bayes_vio.data.sync import increments_between
from bayes_vio.data.windows import MAX_GAP_PERIODS, MAX_GAP_S

Array = NDArray[np.float64]

_GAP_PERIODS = 1.5
_MAD_TO_STD = 1.4826
_STANDING_M_S = 0.3


def describe_recording(
    recording: PreparedRecording, rotation: CameraRotation | None = None
) -> dict:
    """Return a recording's facts as JSON values; keys as in `fit_report`'s docstring."""
    camera, table = recording.camera, recording.frames
    offset = recording.time_offset
    return {
        "name": recording.name,
        "sha256": recording.sha256,
        "duration_s": float(np.ptp(recording.frame_stamp_ns)) / NS_PER_S,
        "camera": f"{camera.width} x {camera.height} px, {camera.distortion}",
        "extrinsics": recording.extrinsics.source,
        "images": stream_timing(recording.frame_stamp_ns),
        "imu": _imu(recording),
        "reference": _reference(recording),
        "driven": driven(recording),
        "brightness": value_range(table.brightness),
        "sharpness": value_range(table.sharpness),
        "samples": len(recording.samples),
        "dropped": dict(recording.dropped),
        "note": recording.note,
        "time_offset": asdict(offset) if offset else None,
        "camera_rotation": describe_rotation(rotation) if rotation else None,
    }


def describe_rotation(rotation: CameraRotation) -> dict:
    """Return a camera's rotation in degrees, axis by axis."""
    names = ("roll", "pitch", "yaw")
    degrees, std = np.degrees(rotation.vector), np.degrees(rotation.std)
    return {
        "pairs": rotation.pairs,
        "cov_rad2": rotation.cov.tolist(),
        **{
            name: {
                "deg": float(degrees[axis]),
                "std_deg": float(std[axis]),
                "observable": bool(rotation.observable[axis]),
                "contradicts": bool(rotation.contradicts[axis]),
            }
            for axis, name in enumerate(names)
        },
    }


def stream_timing(stamp_ns: NDArray[np.int64]) -> dict:
    """Return count, rate (Hz), jitter (robust std of intervals, ms), gaps and the longest (s).

    A gap is an interval longer than one and a half median ones.
    """
    interval_s = np.diff(stamp_ns) / NS_PER_S
    if not len(interval_s):
        return {"count": len(stamp_ns), "rate_hz": None, "jitter_ms": None, "gaps": 0,
                "longest_gap_s": None}  # fmt: skip
    median_s = float(np.median(interval_s))
    spread_s = _MAD_TO_STD * float(np.median(np.abs(interval_s - median_s)))
    return {
        "count": len(stamp_ns),
        "rate_hz": 1 / median_s,
        "jitter_ms": 1e3 * spread_s,
        "gaps": int(np.count_nonzero(interval_s > _GAP_PERIODS * median_s)),
        "longest_gap_s": float(interval_s.max()),
    }


def _imu(recording: PreparedRecording) -> dict | None:
    if recording.imu is None:
        return None
    timing = stream_timing(recording.imu.stamp_ns)
    interval_s = np.diff(recording.imu.stamp_ns) / NS_PER_S
    hole = max(MAX_GAP_PERIODS * float(np.median(interval_s)), MAX_GAP_S)
    return timing | {"holes": int(np.count_nonzero(interval_s > hole))}


def _reference(recording: PreparedRecording) -> dict | None:
    reference = recording.reference
    if reference is None:
        return None
    timing = stream_timing(reference.stamp_ns)
    return timing | _noise(recording) | {"gyro": gyro_consistency(recording)}


def _noise(recording: PreparedRecording) -> dict:
    """Return the reference's noise per pose (m, deg), an upper bound.

    From second differences of increments between neighbouring poses in body axes, which motion
    hardly reaches; white noise of the poses appears in them with a gain of sqrt(20).
    """
    reference = recording.reference
    assert reference is not None
    if len(reference.stamp_ns) < 10:
        return {"position_noise_m": None, "rotation_noise_deg": None}
    stamps = reference.stamp_ns
    xi, ok = increments_between(reference, stamps[:-1], stamps[1:])
    rough = np.diff(xi, 2, axis=0)[ok[:-2] & ok[1:-1] & ok[2:]]
    if not len(rough):
        return {"position_noise_m": None, "rotation_noise_deg": None}
    std = _MAD_TO_STD * np.median(np.abs(rough), 0) / np.sqrt(20)
    return {
        "position_noise_m": float(np.sqrt((std[LINEAR] ** 2).sum())),
        "rotation_noise_deg": float(np.degrees(np.sqrt((std[ANGULAR] ** 2).sum()))),
    }


def gyro_consistency(recording: PreparedRecording) -> dict | None:
    """Return how the reference's turns between images agree with the gyro's, in deg per image.

    rms_deg [3] after the constant bias (bias_deg_s [3]); yaw_correlation.
    """
    if recording.imu is None or recording.reference is None:
        return None
    stamps = recording.frame_stamp_ns
    xi, ok = increments_between(recording.reference, stamps[:-1], stamps[1:])
    gyro = Gyro(recording.imu)
    seconds = gyro.seconds(stamps) + recording.time_offset_s
    ok &= gyro.covers(seconds[:-1], seconds[1:])
    if np.count_nonzero(ok) < 3:
        return None
    turned, felt = xi[ok, ANGULAR], gyro.turned(seconds[:-1], seconds[1:])[ok]
    duration_s = np.diff(stamps)[ok, None] / NS_PER_S
    bias = ((felt - turned) * duration_s).sum(0) / (duration_s**2).sum()
    rest = felt - turned - bias * duration_s
    moves = min(np.ptp(felt[:, 2]), np.ptp(turned[:, 2])) > 0
    correlation = float(np.corrcoef(felt[:, 2], turned[:, 2])[0, 1]) if moves else None
    return {
        "rms_deg": np.degrees(np.sqrt((rest**2).mean(0))).tolist(),
        "bias_deg_s": np.degrees(bias).tolist(),
        "yaw_correlation": correlation,
    }


def speeds(recording: PreparedRecording) -> tuple[Array, Array]:
    """Return speed [m] (m/s) and yaw rate [m] (deg/s) between consecutive images."""
    samples = recording.samples
    consecutive = (samples.stride == 1) & np.isfinite(samples.target).all(1)
    target = samples.target[consecutive].astype(np.float64)
    dt_s = samples.dt_s[consecutive]
    speed = np.linalg.norm(target[:, LINEAR], axis=1) / dt_s
    return speed, np.degrees(target[:, ROT_Z]) / dt_s


def driven(recording: PreparedRecording) -> dict | None:
    """Return distance (m), speeds, yaw rates and the share of time standing still."""
    speed, yaw_rate = speeds(recording)
    if not len(speed):
        return None
    samples = recording.samples
    dt_s = samples.dt_s[(samples.stride == 1) & np.isfinite(samples.target).all(1)]
    return {
        "distance_m": float((speed * dt_s).sum()),
        "time_s": float(dt_s.sum()),
        "speed_m_s": value_range(speed),
        "yaw_rate_deg_s": value_range(yaw_rate),
        "standing_share": float((speed < _STANDING_M_S).mean()),
    }


def value_range(values: Array) -> dict:
    """Return the least value, the 1st, 50th and 99th percentile, and the largest."""
    least, low, median, high, largest = np.percentile(values, [0, 1, 50, 99, 100])
    return {"min": float(least), "p1": float(low), "median": float(median),
            "p99": float(high), "max": float(largest)}  # fmt: skip
