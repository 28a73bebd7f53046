"""Candidate motions: follow the route at some offset and speed for a while, then brake.

Every candidate ends standing, so that whichever was chosen last is safe, within its bound, to be
carried out to its end when no better one comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.planning.route import Route
from bayes_vio.planning.vehicle import Vehicle

Array = NDArray[np.float64]
# Pure pursuit looks ahead as far as the car comes in this time, and at least so far.
_LOOK_AHEAD_S = 0.8
_LOOK_AHEAD_MIN_M = 4.0
# Share of the comfortable braking that speed limits ahead ask for: the rest makes up for the
# steps in which time is cut.
_PLANNED_BRAKING = 0.8


@dataclass(frozen=True)
class Lattice:
    """Which candidates are tried.

    offsets: number of lateral offsets, odd. offset_max_m: the largest. speeds: number of target
    speeds, without 0. commit_s: how long a target speed is held before braking; short_commit_s:
    for how long the slowest one is held, too. horizon_s, dt_s: length and step of a plan.
    """

    offsets: int = 11
    offset_max_m: float = 3.0
    speeds: int = 4
    commit_s: float = 1.5
    short_commit_s: float = 0.5
    horizon_s: float = 6.0
    dt_s: float = 0.15

    def __post_init__(self) -> None:
        """Raise ValueError for a lattice without candidates or time."""
        if self.offsets < 1 or self.offsets % 2 == 0 or self.speeds < 1:
            raise ValueError("a lattice needs an odd number of offsets and at least one speed")
        if not 0 < self.dt_s <= self.commit_s < self.horizon_s:
            raise ValueError("a lattice needs 0 < dt_s <= commit_s < horizon_s")
        if not 0 < self.short_commit_s <= self.commit_s:
            raise ValueError("a lattice needs 0 < short_commit_s <= commit_s")

    @property
    def steps(self) -> int:
        """Return the number of steps in a plan."""
        return round(self.horizon_s / self.dt_s)


@dataclass(frozen=True)
class Candidates:
    """Motions over the horizon; the last one is the hardest stop, for when no other is allowed.

    poses [c, t, 3]: x, y (m), yaw (rad). speeds [c, t] (m/s), steering [c, t - 1] (rad) during
    each step. offsets, target_speeds [c]: what each aims at.
    """

    poses: Tensor
    speeds: Tensor
    steering: Tensor
    offsets: Tensor
    target_speeds: Tensor


@dataclass(frozen=True)
class Start:
    """Where a motion begins: pose [3] (x, y, yaw), speed (m/s), steering (rad)."""

    pose: Array
    speed_m_s: float
    steering_rad: float


def candidates(
    start: Start, route: Route, vehicle: Vehicle, lattice: Lattice, device: torch.device
) -> Candidates:
    """Simulate every candidate of a lattice along a route from a start."""
    offset = np.linspace(-1, 1, lattice.offsets) * lattice.offset_max_m
    if lattice.offsets == 1:
        offset = np.zeros(1)
    speed = np.linspace(0, 1, lattice.speeds + 1)[1:] * vehicle.speed_max_m_s
    grid = np.stack(np.meshgrid(offset, speed, indexing="ij"), -1).reshape(-1, 2)
    slowest = np.stack([offset, np.full(lattice.offsets, speed[0])], -1)
    stops = slowest * [1.0, 0.0]
    way_m = route.nearest(start.pose[:2])
    hardest = [[_aside(start, route, way_m), 0.0]]
    rows = np.concatenate([grid, slowest, stops, hardest])
    braking = np.full(len(rows), vehicle.braking_m_s2)
    braking[-1] = vehicle.braking_max_m_s2
    commit_s = np.full(len(rows), lattice.commit_s)
    commit_s[len(grid) : -1] = lattice.short_commit_s
    aims = rows[:, 0], rows[:, 1], commit_s
    follower = _Follower(route, vehicle, lattice, aims, braking)
    made = follower.drive(start, way_m)
    return Candidates(*(torch.from_numpy(v).to(device) for v in (*made, rows[:, 0], rows[:, 1])))


def _aside(start: Start, route: Route, way_m: float) -> float:
    """Return how far to the left of the route a start lies (m)."""
    k = min(round(way_m / route.spacing_m), len(route.points) - 1)
    left = np.array([-np.sin(route.yaw[k]), np.cos(route.yaw[k])])
    return float(left @ (start.pose[:2] - route.points[k]))


class _Follower:
    """Pure pursuit of a route at an offset, for all candidates at once.

    aims: offset (m), target speed (m/s), how long it is held (s), each [c].

    In NumPy whatever the device: few numbers and many small steps.
    """

    def __init__(
        self,
        route: Route,
        vehicle: Vehicle,
        lattice: Lattice,
        aims: tuple[Array, Array, Array],
        braking: Array,
    ) -> None:
        self._route, self._vehicle, self._lattice = route, vehicle, lattice
        self._offset, self._target, self._commit_s = aims
        self._braking = braking
        # One table of what is looked up along the route: x, y, yaw, speed limit.
        self._table = np.column_stack([route.points, route.yaw, self._speed_limits()])

    def _speed_limits(self) -> Array:
        """Return the speed [n] from which curves and the route's end can still be met."""
        vehicle, route = self._vehicle, self._route
        bend = np.maximum(np.abs(route.curvature), 1e-6)
        squared = vehicle.lateral_acceleration_max_m_s2 / bend
        squared[-1] = 0.0
        # By braking the square of the speed falls alike on every metre.
        gained = 2 * _PLANNED_BRAKING * vehicle.braking_m_s2 * route.spacing_m
        gained = gained * np.arange(len(squared))
        least = np.minimum.accumulate((squared + gained)[::-1])[::-1]
        return np.sqrt(np.maximum(least - gained, 0.0))

    def drive(self, start: Start, way_m: float) -> tuple[Array, Array, Array]:
        """Return poses [c, t, 3], speeds [c, t] and steering [c, t - 1] over the horizon."""
        count = len(self._offset)
        pose = np.tile(np.asarray(start.pose, dtype=np.float64), (count, 1))
        speed, steering = np.full(count, start.speed_m_s), np.full(count, start.steering_rad)
        way = np.full(count, way_m)
        dt_s, vehicle = self._lattice.dt_s, self._vehicle
        poses, speeds, steerings = [pose], [speed], []
        for k in range(self._lattice.steps):
            here = self._lookup(way)
            steering = self._steer(pose, way, speed, steering)
            committed = k * dt_s < self._commit_s
            later = self._accelerate(speed, here[:, 3], committed)
            pose = vehicle.advance(pose, speed, later, steering, dt_s)
            speed = later
            # The way along the route is where the car stands beside it: one Newton step.
            passed = (pose[:, 0] - here[:, 0]) * np.cos(here[:, 2])
            passed = passed + (pose[:, 1] - here[:, 1]) * np.sin(here[:, 2])
            way = way + np.maximum(passed, 0.0)
            poses.append(pose)
            speeds.append(speed)
            steerings.append(steering)
        return np.stack(poses, 1), np.stack(speeds, 1), np.stack(steerings, 1)

    def _lookup(self, way: Array) -> Array:
        """Return the route's row [c, 4] (x, y, yaw, speed limit) at a way along it (m)."""
        last = len(self._table) - 1
        place = np.clip(way / self._route.spacing_m, 0, last)
        below = np.minimum(place.astype(np.intp), last - 1)
        share = (place - below)[:, None]
        return self._table[below] * (1 - share) + self._table[below + 1] * share

    def _steer(self, pose: Array, way: Array, speed: Array, steering: Array) -> Array:
        """Return the steering [c] (rad) of the circle through a point ahead."""
        vehicle, dt_s = self._vehicle, self._lattice.dt_s
        reach = np.maximum(_LOOK_AHEAD_S * speed, _LOOK_AHEAD_MIN_M)
        ahead = self._lookup(way + reach)
        # Past the route's end, straight on.
        beyond = np.maximum(way + reach - self._route.length_m, 0.0)
        cos, sin = np.cos(ahead[:, 2]), np.sin(ahead[:, 2])
        x = ahead[:, 0] + beyond * cos - self._offset * sin - pose[:, 0]
        y = ahead[:, 1] + beyond * sin + self._offset * cos - pose[:, 1]
        left = np.cos(pose[:, 2]) * y - np.sin(pose[:, 2]) * x
        curvature = 2 * left / np.maximum(x * x + y * y, 1.0)
        bend = vehicle.lateral_acceleration_max_m_s2 / np.maximum(speed * speed, 1.0)
        wanted = np.arctan(vehicle.wheelbase_m * np.clip(curvature, -bend, bend))
        wanted = np.clip(wanted, -vehicle.steering_max_rad, vehicle.steering_max_rad)
        change = vehicle.steering_rate_max_rad_s * dt_s
        return steering + np.clip(wanted - steering, -change, change)

    def _accelerate(self, speed: Array, limit: Array, committed: NDArray[np.bool_]) -> Array:
        """Return the speed [c] after one step."""
        vehicle, dt_s = self._vehicle, self._lattice.dt_s
        wanted = np.where(committed, np.minimum(self._target, limit), 0.0)
        faster = speed + vehicle.acceleration_max_m_s2 * dt_s
        slower = np.maximum(speed - self._braking * dt_s, 0.0)
        return np.minimum(np.maximum(wanted, slower), faster)
