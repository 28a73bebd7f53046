"""Drive a car by an estimator and a planner along a course, and tell what became of it.

The planner never sees where the car is: only what the estimator says, as the planner node hears
it. Now and then a localiser finds the car on the map and sets the odometry's pose, seldom in the
dark and never in an outage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.geometry import se3
from bayes_vio.planning.belief import Belief
from bayes_vio.planning.car import Car, Command, Motion
from bayes_vio.planning.claims import Claim
from bayes_vio.planning.course import Condition, Course
from bayes_vio.planning.estimated import belief_of, steered
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.planner import Decision, Plan, Planner
from bayes_vio.planning.sampled import Estimating, planar_matrix

Array = NDArray[np.float64]


class Ending(Enum):
    """How a drive ended."""

    ARRIVED = "arrived"
    COLLIDED = "collided"
    OUT_OF_TIME = "out of time"


@dataclass(frozen=True)
class LoopSettings:
    """Times (s) of the loop and of the localiser, whose fixes have fix_std [6] (m, rad).

    odometry_timeout_s: without an estimate for longer, the car stops. standing_period_s: a car
    that stands where no motion is within the bounds plans again no sooner, unless fixed.
    """

    period_s: float = 0.1
    standing_period_s: float = 0.5
    time_limit_s: float = 45.0
    odometry_timeout_s: float = 0.5
    fix_interval_s: float = 3.0
    dark_fix_interval_s: float = 6.0
    fix_std: tuple[float, ...] = (0.05, 0.05, 0.001, 0.0003, 0.0003, 0.003)

    @property
    def fix_cov(self) -> Array:
        """Return the covariance [6, 6] of a fix."""
        return np.diag(np.square(self.fix_std))


@dataclass(frozen=True)
class Step:
    """One period: where the car is, what is believed, and what was decided on it.

    pose [3]: the truth. belief: None while nothing usable has come. reason: the planner's or why
    there is no plan.
    """

    time_s: float
    pose: Array
    speed_m_s: float
    condition: Condition
    belief: Belief | None
    decision: Decision
    reason: str
    plan: Plan | None


@dataclass(frozen=True)
class Drive:
    """What became of a drive: its ending, when (s), and every step."""

    ending: Ending
    time_s: float
    steps: tuple[Step, ...]

    @property
    def poses(self) -> Array:
        """Return where the car was [n, 3] (x, y in m, yaw in rad)."""
        return np.array([step.pose for step in self.steps])


@dataclass
class ClosedLoop:
    """A car on a course with what drives it; ``drive`` runs it once."""

    course: Course
    planner: Planner
    estimator: Estimating
    claim: Claim
    rng: np.random.Generator
    settings: LoopSettings = field(default_factory=LoopSettings)

    def __post_init__(self) -> None:
        self._car = Car(self.planner.vehicle, self.course.start, self.course.start_speed_m_s)
        self._belief: Belief | None = None
        self._estimated_s = 0.0
        self._lost_s = 0.0
        self._fixed_s = 0.0
        self._planned_s = 0.0
        self._outage_from_s = np.inf
        self._command = Command(self.course.start_speed_m_s, 0.0, 0.0)
        self._steps: list[Step] = []
        self._fix()

    def drive(self) -> Drive:
        """Drive until the finish, a collision or the end of time."""
        while self._car.time_s < self.settings.time_limit_s:
            motion = self._car.drive(self._command, self.settings.period_s)
            if self._touches(motion):
                return self._ended(Ending.COLLIDED)
            self._sense(motion)
            step = self._decide()
            self._steps.append(step)
            if self.course.route.nearest(self._car.pose[:2]) >= self.course.finish_m:
                return self._ended(Ending.ARRIVED)
        return self._ended(Ending.OUT_OF_TIME)

    def _ended(self, ending: Ending) -> Drive:
        return Drive(ending, self._car.time_s, tuple(self._steps))

    def _touches(self, motion: Motion) -> bool:
        poses = torch.from_numpy(motion.poses[1:])
        return bool(touches(poses, self.planner.vehicle, self.course.world.obstacles).any())

    def _condition(self) -> Condition:
        """Return what the sensors have to see by; the outage comes once."""
        now_s, course, position = self._car.time_s, self.course, self._car.pose[:2]
        if np.isinf(self._outage_from_s) and course.route.nearest(position) >= course.outage_m:
            self._outage_from_s = now_s
        if 0 <= now_s - self._outage_from_s < course.outage_s:
            return Condition.OUTAGE
        return Condition.DARK if course.dark_at(position) else Condition.CLEAR

    def _sense(self, motion: Motion) -> None:
        condition = self._condition()
        estimate = self.estimator.observe(motion, condition)
        if estimate is not None:
            self._believe(self.claim.restated(estimate))
        s = self.settings
        dark = condition is Condition.DARK
        due_s = self._fixed_s + (s.dark_fix_interval_s if dark else s.fix_interval_s)
        if self._car.time_s >= due_s - 1e-6 and condition is not Condition.OUTAGE:
            self._fix()

    def _believe(self, estimate: MotionEstimate) -> None:
        lost = estimate.state is TrackingState.LOST
        self._lost_s = self._lost_s + estimate.dt_s if lost else 0.0
        try:
            self._belief = belief_of(estimate, self._lost_s)
            self._estimated_s = self._car.time_s
        except ValueError:
            return  # not usable: as if it had not come, until the belief is too old

    def _fix(self) -> None:
        """Set the odometry's pose to where a localiser finds the car, give or take fix_std."""
        error = np.array(self.settings.fix_std) * self.rng.standard_normal(6)
        T = planar_matrix(self._car.pose) @ se3.exp(torch.from_numpy(-error)).numpy()
        self.estimator.set_pose(T, self.settings.fix_cov)
        self.claim.set_pose(T, self.settings.fix_cov)
        self._fixed_s = self._car.time_s

    def _decide(self) -> Step:
        now_s, vehicle = self._car.time_s, self.planner.vehicle
        age_s = now_s - self._estimated_s
        if self._belief is None or age_s > self.settings.odometry_timeout_s:
            self._command = Command.stop(vehicle, self._command.steering_rad)
            return self._step(None, Decision.STOP, f"no usable odometry for {age_s:.1f} s", None)
        if self._waits():
            return self._step(self._steps[-1].belief, Decision.STOP, self._steps[-1].reason, None)
        belief = steered(self._belief, self._command.steering_rad, vehicle)
        belief = belief.after(age_s, self.planner.growth)
        plan = self.planner.plan(belief, self.course.world, self.course.route)
        self._planned_s = now_s
        self._command = Command.of(plan, vehicle)
        return self._step(belief, plan.decision, plan.reason, plan)

    def _waits(self) -> bool:
        """Return whether the car stands, and has planned on about the same just before."""
        if not self._steps or self._steps[-1].belief is None:
            return False
        stands = self._car.speed_m_s == 0.0 and self._command.acceleration_m_s2 <= 0.0
        recent = self._car.time_s - self._planned_s < self.settings.standing_period_s - 1e-6
        return stands and recent and self._fixed_s < self._planned_s

    def _step(
        self, belief: Belief | None, decision: Decision, reason: str, plan: Plan | None
    ) -> Step:
        car = self._car
        condition = self._condition()
        return Step(car.time_s, car.pose, car.speed_m_s, condition, belief, decision, reason, plan)
