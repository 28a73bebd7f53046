"""What the planner node knows from its topics, and what it does next; no node, no publishers."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TwistWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning import Belief, Decision, Plan, Route, World
from bayes_vio.planning.estimated import steered
from bayes_vio.ros.diagnostics import counted
from bayes_vio.ros.messages import stamp_ns_of
from bayes_vio.ros.planner_messages import belief_of, occupancy_of, planar_pose, route_of
from bayes_vio.ros.planner_parameters import PlannerParameters
from bayes_vio.ros.throttle import ThrottledLog

# Diagnostics come once a second; silent for longer, the state is not known any more.
_STATE_TIMEOUT_S = 3.0
_FUTURE_S = 0.5
_TIMES = 300
_LEVELS = {
    Decision.FOLLOW: DiagnosticStatus.OK,
    Decision.ARRIVED: DiagnosticStatus.OK,
    Decision.SLOW: DiagnosticStatus.WARN,
    Decision.STOP: DiagnosticStatus.ERROR,
}


@dataclass(frozen=True)
class Outcome:
    """What is to be done now. plan: None where there is nothing to plan on, the car stops.

    speed_m_s: commanded, by at most command_lead_s ahead of the plan. While the car is to stop it
    falls at each step, whatever the estimator says: one that is lost goes on saying the speed that
    it saw last.
    """

    stamp_ns: int
    decision: Decision
    reason: str
    plan: Plan | None
    speed_m_s: float = 0.0


class PlanningLoop:
    """Take messages as they come; plan on the newest whenever asked to.

    Whatever cannot be used is counted by cause and told in one line, and as long as nothing good
    has followed, the car stops. status_name: of the estimator's diagnostics.
    """

    def __init__(
        self,
        parameters: PlannerParameters,
        status_name: str,
        now_ns: Callable[[], int],
        log: ThrottledLog,
    ) -> None:
        self._parameters, self._status_name = parameters, status_name
        self._now_ns, self._log = now_ns, log
        self.planner = parameters.planner()
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._missing = {
            "odometry": "no odometry yet",
            "map": "no map yet",
            "goal": "no goal yet",
        }
        self._belief: Belief | None = None
        self._stamp_ns = 0
        self._epistemic: TwistWithCovarianceStamped | None = None
        self._world: World | None = None
        self._goal: Route | NDArray[np.float64] | None = None
        self._state = TrackingState.TRACKING
        self._state_ns: int | None = None
        self._lost_since_ns = 0
        self._steering_rad = 0.0
        self._commanded_m_s = 0.0
        self._took_s: deque[float] = deque(maxlen=_TIMES)
        self._outcome: Outcome | None = None

    # Inputs.

    def on_odometry(self, message: Odometry) -> None:
        """Take the pose and twist with their covariances."""
        self._take("odometry", message.header.frame_id, lambda: self._take_odometry(message))

    def _take_odometry(self, message: Odometry) -> None:
        stamp_ns, now_ns = stamp_ns_of(message.header.stamp), self._now_ns()
        if stamp_ns > now_ns + _FUTURE_S * NS_PER_S:
            raise ValueError(f"its stamp lies {(stamp_ns - now_ns) / NS_PER_S:.2f} s ahead")
        if now_ns - stamp_ns > self._timeout_ns:
            raise ValueError(f"its stamp is {(now_ns - stamp_ns) / NS_PER_S:.2f} s old")
        if stamp_ns <= self._stamp_ns and abs(now_ns - self._stamp_ns) <= self._timeout_ns:
            raise ValueError("its stamp goes back")
        self._belief = belief_of(message, self._epistemic)
        self._stamp_ns = stamp_ns

    def on_epistemic(self, message: TwistWithCovarianceStamped) -> None:
        """Take the epistemic part of the twist's covariance."""
        self.counts["twist/epistemic"] += 1
        self._epistemic = message

    def on_map(self, message: OccupancyGrid) -> None:
        """Take a new map in place of the old."""
        self._world = None
        self._take("map", message.header.frame_id, lambda: self._take_map(message))

    def _take_map(self, message: OccupancyGrid) -> None:
        p = self._parameters
        occupancy = occupancy_of(message, p.occupied_from, p.unknown_is_occupied)
        self._world = World.of_map(occupancy)

    def on_goal(self, message: PoseStamped) -> None:
        """Take a goal pose in place of the goal or route before."""
        self._goal = None
        self._take("goal", message.header.frame_id, lambda: self._take_goal(message))

    def _take_goal(self, message: PoseStamped) -> None:
        self._goal = planar_pose(message.pose.position, message.pose.orientation)

    def on_route(self, message: Path) -> None:
        """Take a route in place of the goal or route before."""
        self._goal = None
        self._take("goal", message.header.frame_id, lambda: self._take_route(message))

    def _take_route(self, message: Path) -> None:
        self._goal = route_of(message)

    def _take(self, topic: str, frame: str, take: Callable[[], None]) -> None:
        self.counts[topic] += 1
        try:
            if frame != self._parameters.odom_frame:
                raise ValueError(f"its frame is '{frame}', not '{self._parameters.odom_frame}'")
            take()
            self._missing.pop(topic, None)
        except ValueError as error:
            self._missing[topic] = f"{topic} is not used: {error}"
            self.refused[topic] += 1
            self._log.warn(topic, self._missing[topic])

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        """Take the estimator's state."""
        for status in message.status:
            if status.name != self._status_name:
                continue
            said = {pair.key: pair.value for pair in status.values}.get("state", "")
            if said not in {state.value for state in TrackingState}:
                continue
            now_ns, state = self._now_ns(), TrackingState(said)
            if state is TrackingState.LOST and self._state is not TrackingState.LOST:
                self._lost_since_ns = now_ns
            self._state, self._state_ns = state, now_ns

    # What is done.

    @property
    def _timeout_ns(self) -> float:
        return self._parameters.odometry_timeout_s * NS_PER_S

    def step(self) -> Outcome:
        """Return the plan for now, or why there is none."""
        now_ns, began_s = self._now_ns(), time.perf_counter()
        reason = self._nothing_to_plan_on(now_ns)
        if reason:
            outcome = Outcome(now_ns, Decision.STOP, reason, None)
        else:
            outcome = self._plan(now_ns, *self._required())
            self._took_s.append(time.perf_counter() - began_s)
        self._outcome = outcome
        self._commanded_m_s = outcome.speed_m_s
        return outcome

    def _nothing_to_plan_on(self, now_ns: int) -> str:
        """Say what is missing or out of date, empty where nothing is."""
        age_s = (now_ns - self._stamp_ns) / NS_PER_S
        if self._belief is not None and age_s > self._parameters.odometry_timeout_s:
            return f"no usable odometry for {age_s:.1f} s"
        if self._belief is not None and age_s < -_FUTURE_S:
            return f"the clock went back {-age_s:.1f} s behind the odometry"
        return "; ".join(self._missing.values())

    def _required(self) -> tuple[Belief, World, Route | NDArray[np.float64]]:
        """Return what every plan needs; RuntimeError where something has never come."""
        if self._belief is None or self._world is None or self._goal is None:
            raise RuntimeError("an input counts as there that is not")
        return self._belief, self._world, self._goal

    def _plan(
        self, now_ns: int, last: Belief, world: World, goal: Route | NDArray[np.float64]
    ) -> Outcome:
        try:
            belief = self._belief_now(last, now_ns)
            plan = self.planner.plan(belief, world, goal, seed=now_ns % 2**31)
        except ValueError as error:  # a number that has grown out of its range
            self.refused["plan"] += 1
            self._log.error("plan", f"no plan: {error}")
            return Outcome(now_ns, Decision.STOP, f"no plan: {error}", None)
        self._steering_rad = float(plan.steering[0])
        return Outcome(now_ns, plan.decision, plan.reason, plan, self._speed(plan))

    def _speed(self, plan: Plan) -> float:
        """Return the speed to command (m/s).

        It goes on from the last one as fast as the car may speed up or brake, towards where the
        plan is command_lead_s later: the believed speed lags the car's, which lags the command.
        """
        vehicle, period_s = self.planner.vehicle, 1.0 / self._parameters.rate_hz
        last, wanted = self._commanded_m_s, float(plan.speeds[1])
        if plan.decision is Decision.STOP:
            return min(wanted, max(last - vehicle.braking_max_m_s2 * period_s, 0.0))
        lead_s = max(min(self._parameters.command_lead_s, self._parameters.commit_s), plan.dt_s)
        times_s = plan.dt_s * np.arange(len(plan.speeds))
        ahead = float(np.interp(lead_s, times_s, plan.speeds))
        if ahead < plan.speeds[0]:
            return max(ahead, min(wanted, last - vehicle.braking_m_s2 * period_s))
        return min(ahead, max(wanted, last + vehicle.acceleration_max_m_s2 * period_s))

    def _belief_now(self, belief: Belief, now_ns: int) -> Belief:
        """Return the newest belief with the estimator's state, carried on to now."""
        state = self._state
        if self._state_ns is not None and now_ns - self._state_ns > _STATE_TIMEOUT_S * NS_PER_S:
            state = TrackingState.DEGRADED
        # As of the odometry's stamp: what came since is the belief's age.
        lost_ns = self._stamp_ns - self._lost_since_ns if state is TrackingState.LOST else 0
        seen = replace(belief, state=state, lost_s=max(lost_ns, 0) / NS_PER_S)
        seen = steered(seen, self._steering_rad, self.planner.vehicle)
        return seen.after((now_ns - self._stamp_ns) / NS_PER_S, self.planner.growth)

    def status(self) -> tuple[bytes, str, dict[str, str]]:
        """Return the diagnostic level, a summary and the values by name."""
        outcome = self._outcome
        if outcome is None:
            return DiagnosticStatus.WARN, "no plan yet", counted(self.refused)
        summary = outcome.decision.value
        if outcome.reason:
            summary += f": {outcome.reason}"
        values = {"decision": outcome.decision.value, "reason": outcome.reason}
        values["estimator's state"] = self._state.value
        if outcome.plan is not None:
            values |= plan_values(outcome.plan)
            values["speed (m/s)"] = f"{outcome.speed_m_s:.2f}"
        if self._took_s:
            values["plan time p99 (s)"] = f"{np.quantile(list(self._took_s), 0.99):.4f}"
        values |= {f"{k} count": str(n) for k, n in sorted(self.counts.items())}
        return _LEVELS[outcome.decision], summary, values | counted(self.refused)


def plan_values(plan: Plan) -> dict[str, str]:
    """Return a plan's risks as texts by name."""
    return {
        "collision bound": f"{plan.collision_bound:.3g}",
        "collision probability (sampled)": f"{plan.collision_probability:.3g}",
        "lane departure bound": f"{plan.lane_departure_bound:.3g}",
        "lane departure probability (sampled)": f"{plan.lane_departure_probability:.3g}",
        "candidates within the bounds": str(plan.within_bounds),
    }
