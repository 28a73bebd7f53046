"""Random car drives of a kinematic bicycle, and drives along recorded poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d, gaussian_filter1d

from bayes_vio.data.samples import ImuStream
from bayes_vio.simulation.trajectory import Trajectory, interpolate, smooth

_STEP_M = 0.25
_STEP_S = 0.02
# A quarter of the lateral bound is left to the smoothing of the speed, which shifts braking a bit.
_LATERAL_SHARE = 0.75


@dataclass(frozen=True)
class DriveSettings:
    """A random drive: how long, how fast, and how the car moves on its suspension."""

    duration_s: float = 60.0
    max_speed_m_s: float = 20.0
    max_acceleration_m_s2: float = 2.0
    max_jerk_m_s3: float = 4.0
    max_lateral_acceleration_m_s2: float = 3.0
    turn_radius_m: float = 9.0
    straight_share: float = 0.45
    stop_interval_m: float = 400.0  # mean distance between stops
    hill_slope_std: float = 0.025
    base_height_m: float = 0.5  # base_link above the road
    roughness_m: float = 0.008  # standard deviation of the heave
    roll_per_lateral_rad_s2_m: float = 0.010
    pitch_per_acceleration_rad_s2_m: float = 0.008
    slip_per_lateral_rad_s2_m: float = 0.003


@dataclass(frozen=True)
class RecordedDrive:
    """A drive along recorded poses T_world_base [n, 4, 4] at stamp_ns [n].

    Poses are smoothed by a spline with a knot every ``knot_interval_s``. ``imu``, where given, is
    written instead of a simulated one (frames rendered along it are then semi-synthetic).
    """

    stamp_ns: NDArray[np.int64]
    T_world_base: NDArray[np.float64]
    base_height_m: float = 0.5  # base_link above the road
    knot_interval_s: float = 0.4
    imu: ImuStream | None = None


def random_drive(settings: DriveSettings, rng: np.random.Generator) -> Trajectory:
    """Return a drive of ``duration_s`` from time 0, starting near the world's origin.

    Raises ValueError where a setting is not positive or the turns are too tight to be driven.
    """
    _check(settings)
    s = np.arange(0, settings.duration_s * settings.max_speed_m_s + 100, _STEP_M)
    curvature = _curvature(s, settings, rng)
    limit = _speed_limit(s, curvature, settings, rng)
    time_s, speed = _speed_over_time(limit, settings, rng)
    distance = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2) * _STEP_S])
    heading, xy, kappa = _along_path(s, curvature, distance)
    z, slope = _height(xy, heading, settings, rng)
    acceleration, lateral = np.gradient(speed, _STEP_S), speed**2 * kappa
    heave, bump_pitch, bump_roll = _roughness(distance, settings, rng)
    yaw = heading + settings.slip_per_lateral_rad_s2_m * lateral
    squat = settings.pitch_per_acceleration_rad_s2_m * acceleration
    pitch = -np.arctan(slope) - squat + bump_pitch
    roll = settings.roll_per_lateral_rad_s2_m * lateral + bump_roll
    position = np.column_stack([xy, z + settings.base_height_m + heave])
    return interpolate(time_s, position, np.column_stack([yaw, pitch, roll]))


def recorded_drive(drive: RecordedDrive) -> Trajectory:
    """Return the smoothed trajectory of recorded poses; time 0 is the first stamp."""
    time_s = (drive.stamp_ns - drive.stamp_ns[0]) / 1e9
    return smooth(time_s, drive.T_world_base, drive.knot_interval_s)


def _check(settings: DriveSettings) -> None:
    positive = ("duration_s", "max_speed_m_s", "max_acceleration_m_s2", "max_jerk_m_s3")
    for name in (*positive, "max_lateral_acceleration_m_s2", "turn_radius_m", "stop_interval_m"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} is {getattr(settings, name)}: it must be positive")
    if settings.duration_s < 2:
        raise ValueError(f"duration_s is {settings.duration_s}: a drive needs at least 2 s")
    if settings.turn_radius_m < 5:
        raise ValueError(f"turn_radius_m is {settings.turn_radius_m}: a car needs at least 5 m")


def _curvature(
    s: NDArray[np.float64], settings: DriveSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the path's curvature [n] (1/m): straights, bends and 90-degree turns, eased in."""
    curvature = np.zeros_like(s)
    start = 30.0
    while start < s[-1]:
        straight = rng.random() < settings.straight_share
        city_turn = not straight and rng.random() < 0.4
        radius = (
            settings.turn_radius_m * rng.uniform(1, 1.5) if city_turn else rng.uniform(50, 300)
        )
        angle = np.pi / 2 * rng.uniform(0.9, 1.1) if city_turn else rng.uniform(0.15, 0.9)
        length = rng.uniform(30, 150) if straight else angle * radius
        if not straight:
            inside = (s >= start) & (s < start + length)
            curvature[inside] = rng.choice([-1, 1]) / radius
        start += length + rng.uniform(15, 40)
    eased = gaussian_filter1d(curvature, 2.0 / _STEP_M)
    wander = gaussian_filter1d(rng.standard_normal(len(s)), 12.0 / _STEP_M, mode="wrap")
    return eased + 4e-4 * wander / max(wander.std(), 1e-12)


def _speed_limit(
    s: NDArray[np.float64],
    curvature: NDArray[np.float64],
    settings: DriveSettings,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the largest speed [n] (m/s) at every distance; 0 where the car stops."""
    block = (s // 120).astype(int)
    cruise = settings.max_speed_m_s * rng.uniform(0.35, 1.0, block.max() + 1)[block]
    lateral = _LATERAL_SHARE * settings.max_lateral_acceleration_m_s2
    limit = np.minimum(cruise, np.sqrt(lateral / np.maximum(np.abs(curvature), 1e-6)))
    stop = rng.exponential(settings.stop_interval_m) + 20
    while stop < s[-1]:
        limit[int(stop / _STEP_M)] = 0.0
        stop += rng.exponential(settings.stop_interval_m) + 20
    return limit


def _speed_over_time(
    limit: NDArray[np.float64], settings: DriveSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times [m] (s) and speeds [m] (m/s) within the limits of acceleration and jerk.

    A Hann window of length T over a speed whose acceleration stays within a keeps that bound
    and bounds the jerk by 4 a / T.
    """
    squared = limit**2
    squared[0] = 0.0 if rng.random() < 0.5 else squared[0]
    gain = 2 * settings.max_acceleration_m_s2 * _STEP_M
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + gain)
    for i in range(1, len(squared)):
        squared[i] = min(squared[i], squared[i - 1] + gain)
    v = np.sqrt(squared)
    window_s = 4 * settings.max_acceleration_m_s2 / settings.max_jerk_m_s3
    knots_s, knots_v = _with_dwells(v, 2 * window_s, rng)
    time_s = np.arange(0, settings.duration_s + _STEP_S / 2, _STEP_S)
    half = int(np.ceil(window_s / 2 / _STEP_S))
    padded_s = np.arange(-half, len(time_s) + half) * _STEP_S
    raw = np.interp(padded_s, knots_s, knots_v)
    window = np.hanning(2 * half + 3)[1:-1]
    smoothed = np.convolve(raw, window / window.sum(), mode="valid")
    return time_s, np.asarray(smoothed, dtype=np.float64)


def _with_dwells(
    v: NDArray[np.float64], shortest_s: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the speed over time of speeds v [n] over distance, waiting wherever v is 0."""
    dt = 2 * _STEP_M / (v[1:] + v[:-1])
    arrival = np.concatenate([[0.0], np.cumsum(dt)])
    stops = np.flatnonzero(v == 0)
    wait_s = shortest_s + rng.uniform(0, 5, len(stops))
    waited = np.zeros(len(v) + 1)
    waited[stops + 1] = wait_s
    departure_s = arrival + np.cumsum(waited)[1:]
    arrival_s = departure_s - waited[1:]
    knots_s = np.concatenate([departure_s, arrival_s[stops]])
    order = np.argsort(knots_s, kind="stable")
    return knots_s[order], np.concatenate([v, np.zeros(len(stops))])[order]


def _along_path(
    s: NDArray[np.float64], curvature: NDArray[np.float64], distance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return heading [m] (rad), xy [m, 2] (m) and curvature [m] (1/m) at distances [m] (m)."""
    step = np.diff(s)
    heading = np.concatenate([[0.0], np.cumsum(step * (curvature[1:] + curvature[:-1]) / 2)])
    middle = heading[:-1] + step * (3 * curvature[:-1] + curvature[1:]) / 8
    xy = np.zeros((len(s), 2))
    xy[1:, 0] = np.cumsum(step * np.cos(middle))
    xy[1:, 1] = np.cumsum(step * np.sin(middle))
    used = slice(0, int(distance[-1] / _STEP_M) + 8)
    path = interpolate(s[used], np.column_stack([xy, heading])[used], np.zeros_like(xy[used]))
    values = path.position(distance)
    return values[:, 2], values[:, :2], path.position(distance, 1)[:, 2]


def _height(
    xy: NDArray[np.float64],
    heading: NDArray[np.float64],
    settings: DriveSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ground's height [m] (m) at xy [m, 2] and its slope [m] along the heading.

    A sum of plane waves over the world's plane, so that a road met twice has one height.
    """
    length = np.exp(rng.uniform(np.log(120), np.log(700), 12))
    direction, phase = rng.uniform(0, 2 * np.pi, (2, 12))
    # A wave's slope along any one direction is, on average over directions, half its variance.
    slope_std = settings.hill_slope_std * np.sqrt(length / length.sum()) * np.sqrt(2)
    k = 2 * np.pi / length * np.stack([np.cos(direction), np.sin(direction)])
    amplitude = slope_std * np.sqrt(2) * length / (2 * np.pi)
    angle = xy @ k + phase
    gradient = (amplitude * np.cos(angle)) @ k.T
    slope = gradient[:, 0] * np.cos(heading) + gradient[:, 1] * np.sin(heading)
    return np.sin(angle) @ amplitude, slope


def _roughness(
    distance: NDArray[np.float64], settings: DriveSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return heave (m), pitch and roll (rad) of an uneven road as [3, m], smooth over 2.5 m."""
    step_m, length_m = 0.25, 2.5
    n = int(distance[-1] / step_m) + 64
    noise = gaussian_filter1d(rng.standard_normal((3, n)), length_m / step_m / np.sqrt(2), axis=1)
    # Rounded by a second, wider filter over time: the suspension.
    noise *= settings.roughness_m / noise.std(axis=1, keepdims=True)
    noise[1:] *= 0.5  # rad per m: a wheelbase of about 2 m
    grid = np.arange(n) * step_m
    at_time = np.stack([np.interp(distance + 4, grid, row) for row in noise])
    window = np.hanning(9)[1:-1]
    return convolve1d(at_time, window / window.sum(), axis=1)
