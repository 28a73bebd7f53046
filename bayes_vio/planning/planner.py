"""Choose the best motion whose bounds on collision and on leaving the lane hold; else stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning.belief import Belief, Growth, RolledBelief, roll_out
from bayes_vio.planning.candidates import Candidates, Lattice, Start, candidates
from bayes_vio.planning.lane import lane_borders
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.reach import within_reach
from bayes_vio.planning.risk import collision_bound
from bayes_vio.planning.route import Route
from bayes_vio.planning.standing import moving_steps
from bayes_vio.planning.stations import Stations, station_indices, stations_of
from bayes_vio.planning.vehicle import Vehicle
from bayes_vio.planning.world import World

Array = NDArray[np.float64]
# Slower than this the car counts as standing.
_STANDING_M_S = 0.3


class Decision(Enum):
    """What a plan does."""

    FOLLOW = "follow"  # the route at full speed
    SLOW = "slow"  # slower, since faster is not within the bounds
    STOP = "stop"  # no motion is within the bounds, or there is nothing to plan on
    ARRIVED = "arrived"


@dataclass(frozen=True)
class PlannerSettings:
    """Bounds, weights and what is shown.

    collision_max, lane_departure_max: largest probabilities that a plan may have, by their bounds.
    lane_half_width_m: None where there is no lane. spacing_m: between stations of risk. Weights
    of a candidate's cost: speed (share of the full speed missing), offset (share of the lattice's
    largest), steering (share of the full lock), risk (share of the bound used). samples: of the
    Monte Carlo estimate on the chosen plan, 0 for none. goal_tolerance_m: arrived within it,
    standing.
    """

    collision_max: float = 0.01
    lane_departure_max: float = 0.05
    lane_half_width_m: float | None = None
    spacing_m: float = 0.9
    speed_weight: float = 1.0
    offset_weight: float = 0.3
    steering_weight: float = 0.1
    risk_weight: float = 0.05
    samples: int = 500
    goal_tolerance_m: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for a probability outside (0, 1) or a length that is not positive."""
        for name in ("collision_max", "lane_departure_max"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a probability")
        for name in ("spacing_m", "goal_tolerance_m"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0")
        if self.samples < 0:
            raise ValueError(f"samples is {self.samples}: give 0, for no estimate, or more")


@dataclass(frozen=True)
class Plan:
    """What the car is to do, and what may go wrong on the way.

    poses [t, 3]: x, y (m), yaw (rad), one per dt_s, the first where the car is. speeds [t] (m/s),
    steering [t - 1] (rad). covs [t, 3, 3]: of the poses, about fixed axes. collision_bound,
    lane_departure_bound: upper bounds on the probabilities; collision_probability,
    lane_departure_probability: Monte Carlo estimates of the same, NaN where none was made.
    reason: why the decision is not FOLLOW. within_bounds: number of candidates that were.
    """

    decision: Decision
    reason: str
    dt_s: float
    poses: Array
    speeds: Array
    steering: Array
    covs: Array
    collision_bound: float
    lane_departure_bound: float
    collision_probability: float
    lane_departure_probability: float
    within_bounds: int


@dataclass(frozen=True)
class Risks:
    """Bounds [c] on what may go wrong with each candidate, and which keep both limits.

    index [c, s]: the times of the stations at which they are counted.
    """

    collision: Tensor
    departure: Tensor
    allowed: Tensor
    index: Tensor
    stations: Stations


@dataclass(frozen=True)
class Planner:
    """Plan on a belief, a world and a goal; keeps nothing from one plan to the next.

    Drive it from a loop at 10 Hz or better, and carry out the first step of each plan.
    """

    vehicle: Vehicle = field(default_factory=Vehicle)
    growth: Growth = field(default_factory=Growth)
    lattice: Lattice = field(default_factory=Lattice)
    settings: PlannerSettings = field(default_factory=PlannerSettings)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @torch.inference_mode()
    def plan(self, belief: Belief, world: World, goal: Route | Array, seed: int = 0) -> Plan:
        """Return the candidate of least cost within the bounds, or else the hardest stop.

        goal: a route, or a pose [3] (x, y in m, yaw in rad) to which a curve leads. seed: of the
        Monte Carlo estimate. Raises ValueError for a goal that is not finite.
        """
        route = self._route(belief, goal)
        start = Start(belief.pose, belief.speed_m_s, belief.steering_rad)
        moves = candidates(start, route, self.vehicle, self.lattice, self.device)
        dt_s, braking = self.lattice.dt_s, self.vehicle.braking_m_s2
        moving = moving_steps(moves.speeds, dt_s, belief, braking)
        rolled = roll_out(belief, moves.poses, dt_s, self.growth, moving=moving)
        obstacles = world.obstacles.to(self.device)
        lane = self._lane(belief, route)
        risks = self._risks(rolled, obstacles, lane)
        chosen, decision, reason = self._decide(belief, world, route, moves, risks)
        collision, departure = self._estimates(rolled, risks, chosen, (obstacles, lane), seed)
        return Plan(
            decision=decision,
            reason=reason,
            dt_s=dt_s,
            poses=moves.poses[chosen].cpu().numpy(),
            speeds=moves.speeds[chosen].cpu().numpy(),
            steering=moves.steering[chosen].cpu().numpy(),
            covs=rolled.of(chosen).cov[0].cpu().numpy(),
            collision_bound=float(risks.collision[chosen]),
            lane_departure_bound=float(risks.departure[chosen]),
            collision_probability=collision,
            lane_departure_probability=departure,
            within_bounds=int(risks.allowed.sum()),
        )

    def _route(self, belief: Belief, goal: Route | Array) -> Route:
        if isinstance(goal, Route):
            return goal
        goal = np.asarray(goal, dtype=np.float64)
        if goal.shape != (3,) or not np.isfinite(goal).all():
            raise ValueError(f"the goal is {goal}, not three finite numbers x, y, yaw")
        if np.hypot(*(goal[:2] - belief.pose[:2])) < self.settings.goal_tolerance_m:
            ahead = [np.cos(goal[2]), np.sin(goal[2])]
            return Route.along(goal[:2] + np.outer([-self.settings.goal_tolerance_m, 0], ahead))
        return Route.to_goal(belief.pose, goal)

    def _lane(self, belief: Belief, route: Route) -> Obstacles:
        """Return the lane's borders beside the way that the candidates can take."""
        half_width_m = self.settings.lane_half_width_m
        if half_width_m is None:
            return Obstacles.of([]).to(self.device)
        start_m = route.nearest(belief.pose[:2]) - 3 * self.vehicle.radius_m
        speed_m_s = max(belief.speed_m_s, self.vehicle.speed_max_m_s)
        reach_m = speed_m_s * self.lattice.horizon_s + 6 * self.vehicle.radius_m
        return lane_borders(route, start_m, start_m + reach_m, half_width_m).to(self.device)

    def _risks(self, rolled: RolledBelief, obstacles: Obstacles, lane: Obstacles) -> Risks:
        s = self.settings
        index = station_indices(rolled.poses, s.spacing_m)
        stations = stations_of(rolled, index, self.vehicle)
        collision = collision_bound(stations, self.vehicle, obstacles, s.collision_max)
        clear = collision <= s.collision_max
        departure = collision_bound(stations, self.vehicle, lane, s.lane_departure_max, clear)
        allowed = clear & (departure <= s.lane_departure_max)
        return Risks(collision, departure, allowed, index, stations)

    def _decide(
        self, belief: Belief, world: World, route: Route, moves: Candidates, risks: Risks
    ) -> tuple[int, Decision, str]:
        """Return the chosen candidate, what it does and why."""
        hardest_stop = len(moves.poses) - 1
        if not world.holds(route.points[-1]):
            return hardest_stop, Decision.STOP, "the goal lies outside the map"
        if belief.state is TrackingState.WAITING:
            return hardest_stop, Decision.STOP, "the estimator waits for data"
        to_go = float(np.hypot(*(route.points[-1] - belief.pose[:2])))
        standing = belief.speed_m_s < _STANDING_M_S
        if standing and to_go < self.settings.goal_tolerance_m:
            return hardest_stop, Decision.ARRIVED, "at the goal"
        if not risks.allowed[:-1].any():
            return hardest_stop, Decision.STOP, self._why_none(belief, risks)
        cost = self._cost(moves, risks).masked_fill(~risks.allowed, torch.inf)
        chosen = int(cost[:-1].argmin())
        faster = moves.target_speeds > moves.target_speeds[chosen]
        if not (faster & ~risks.allowed).any():
            return chosen, Decision.FOLLOW, ""
        least = float(risks.collision[faster].min()), float(risks.departure[faster].min())
        return chosen, Decision.SLOW, "faster is not within the bounds: " + self._told(*least)

    def _why_none(self, belief: Belief, risks: Risks) -> str:
        """Say why no candidate is within the bounds."""
        least = float(risks.collision.min()), float(risks.departure.min())
        return f"no motion is within the bounds ({belief.state.value}): " + self._told(*least)

    def _told(self, collision: float, departure: float) -> str:
        s = self.settings
        text = f"collision at least {collision:.2g} (limit {s.collision_max:.2g})"
        if s.lane_half_width_m is None:
            return text
        return f"{text}, lane {departure:.2g} (limit {s.lane_departure_max:.2g})"

    def _cost(self, moves: Candidates, risks: Risks) -> Tensor:
        """Return what each candidate [c] costs, without unit; see ``PlannerSettings``."""
        s, steps = self.settings, round(self.lattice.commit_s / self.lattice.dt_s)
        missing = 1 - moves.speeds[:, : steps + 1].mean(-1) / self.vehicle.speed_max_m_s
        aside = moves.offsets.abs() / self.lattice.offset_max_m
        lock = moves.steering[:, :steps].abs().mean(-1) / self.vehicle.steering_max_rad
        used = risks.collision / s.collision_max + risks.departure / s.lane_departure_max
        return (
            s.speed_weight * missing
            + s.offset_weight * aside
            + s.steering_weight * lock
            + s.risk_weight * used
        )

    def _estimates(
        self,
        rolled: RolledBelief,
        risks: Risks,
        chosen: int,
        kinds: tuple[Obstacles, ...],
        seed: int,
    ) -> list[float]:
        """Return, of each kind, the share of true motions along a candidate that touch any.

        NaN where none are to be sampled.
        """
        if not self.settings.samples:
            return [float("nan")] * len(kinds)
        stations = risks.stations.of(chosen)
        near = [within_reach(stations, self.vehicle, kind).any(1)[0] for kind in kinds]
        if not any(which.any() for which in near):
            return [0.0] * len(kinds)
        generator = torch.Generator().manual_seed(seed)
        times = risks.index[chosen, stations.counts[0]]
        motions = rolled.of(chosen).sample(0, self.settings.samples, generator, times)
        hits = [
            touches(motions, self.vehicle, kind[which]).any(-1)
            for kind, which in zip(kinds, near, strict=True)
        ]
        return [float(hit.double().mean()) for hit in hits]
