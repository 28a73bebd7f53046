"""A simulated car that carries out commands: a kinematic bicycle within a vehicle's limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.planning.planner import Decision, Plan
from bayes_vio.planning.vehicle import Vehicle

Array = NDArray[np.float64]
_STANDING_M_S = 1e-3


@dataclass(frozen=True)
class Command:
    """What a car is to do until the next command.

    speed_m_s: in the end, 0 to stand; acceleration_m_s2 until then; steering_rad: front wheels.
    """

    speed_m_s: float
    acceleration_m_s2: float
    steering_rad: float

    @staticmethod
    def of(plan: Plan, vehicle: Vehicle) -> Command:
        """Return the first step of a plan.

        Its acceleration, not its speed, is followed: the plan begins at the speed that the
        estimator says, whose noise must not shake the car. Where no motion is within the bounds
        the brakes are applied in full: a speed believed too low must not soften them.
        """
        if plan.decision is Decision.STOP:
            return Command.stop(vehicle, float(plan.steering[0]))
        change = float(plan.speeds[1] - plan.speeds[0]) / plan.dt_s
        return Command(float(plan.speeds[1]), change, float(plan.steering[0]))

    @staticmethod
    def stop(vehicle: Vehicle, steering_rad: float) -> Command:
        """Return the command to brake hard, the steering kept."""
        return Command(0.0, -vehicle.braking_max_m_s2, steering_rad)


@dataclass(frozen=True)
class Motion:
    """What a car did over a period, every dt_s from start_s.

    poses [n + 1, 3]: x, y (m), yaw (rad). speeds [n + 1] (m/s), steering [n] (rad) in each step.
    """

    start_s: float
    dt_s: float
    poses: Array
    speeds: Array
    steering: Array

    @property
    def end_s(self) -> float:
        """Return when the period ends."""
        return self.start_s + self.dt_s * len(self.steering)


class Car:
    """A car at a pose [3] with a speed (m/s) at time 0, which moves as it is told."""

    def __init__(self, vehicle: Vehicle, pose: Array, speed_m_s: float = 0.0) -> None:
        self._vehicle = vehicle
        self.time_s, self.speed_m_s, self.steering_rad = 0.0, speed_m_s, 0.0
        self.pose = np.asarray(pose, dtype=np.float64)

    def drive(self, command: Command, period_s: float, steps: int = 10) -> Motion:
        """Carry a command out for a period (s)."""
        dt_s, start_s = period_s / steps, self.time_s
        poses, speeds, steerings = [self.pose], [self.speed_m_s], []
        for _ in range(steps):
            self._step(command, dt_s)
            poses.append(self.pose)
            speeds.append(self.speed_m_s)
            steerings.append(self.steering_rad)
        self.time_s = start_s + period_s
        return Motion(start_s, dt_s, np.array(poses), np.array(speeds), np.array(steerings))

    def _step(self, command: Command, dt_s: float) -> None:
        v = self._vehicle
        turn = v.steering_rate_max_rad_s * dt_s
        wanted = np.clip(command.steering_rad, -v.steering_max_rad, v.steering_max_rad)
        self.steering_rad += float(np.clip(wanted - self.steering_rad, -turn, turn))
        later = self._later_speed(command, dt_s)
        self.pose = v.advance(self.pose, self.speed_m_s, later, self.steering_rad, dt_s)
        self.speed_m_s = later

    def _later_speed(self, command: Command, dt_s: float) -> float:
        v = self._vehicle
        a = command.acceleration_m_s2
        if command.speed_m_s < _STANDING_M_S:
            a = min(a, -v.braking_m_s2)
        a = float(np.clip(a, -v.braking_max_m_s2, v.acceleration_max_m_s2))
        return float(np.clip(self.speed_m_s + a * dt_s, 0.0, v.speed_max_m_s))
