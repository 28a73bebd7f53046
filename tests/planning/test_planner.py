"""Plans keep their bounds, go round what is in the way, and stop where nothing is within them."""

import numpy as np
import pytest
import torch
from planning_scenes import box

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning import (
    Decision,
    Lattice,
    Occupancy,
    Planner,
    PlannerSettings,
    Route,
    Vehicle,
    World,
)
from bayes_vio.planning.candidates import Start, candidates
from tests.planning_cases import belief, one_step_on, street

ROUTE = Route.along(np.array([[0.0, 0.0], [120.0, 0.0]]))
PLANNER = Planner(settings=PlannerSettings(samples=200))


def assert_sound(plan, planner=PLANNER) -> None:
    """A plan ends standing, within the car's limits and, unless it stops, within the bounds."""
    vehicle = planner.vehicle
    for value in (plan.poses, plan.speeds, plan.steering, plan.covs):
        assert np.isfinite(value).all()
    acceleration = np.diff(plan.speeds) / plan.dt_s
    assert acceleration.max() <= vehicle.acceleration_max_m_s2 + 1e-9
    assert acceleration.min() >= -vehicle.braking_max_m_s2 - 1e-9
    assert np.abs(plan.steering).max() <= vehicle.steering_max_rad + 1e-9
    rate = np.diff(plan.steering) / plan.dt_s
    assert np.abs(rate).max() <= vehicle.steering_rate_max_rad_s + 1e-9
    assert plan.speeds[-1] == 0
    if plan.decision in (Decision.FOLLOW, Decision.SLOW):
        assert plan.collision_bound <= planner.settings.collision_max
        assert plan.lane_departure_bound <= planner.settings.lane_departure_max
        assert plan.collision_probability <= planner.settings.collision_max + 0.03


def test_a_free_street_is_followed_at_full_speed():
    plan = PLANNER.plan(belief(), street(), ROUTE)
    assert_sound(plan)
    assert plan.decision is Decision.FOLLOW
    assert not plan.reason
    assert plan.speeds.max() > belief().speed_m_s
    assert np.abs(plan.poses[:, 1]).max() < 0.1


def test_an_obstacle_is_passed_on_the_free_side():
    world = street(box(25, 1.5, 4, 2), half_width=8.0)
    start, poses = belief(0.5, speed=4), []
    for _ in range(60):
        plan = PLANNER.plan(start, world, ROUTE)
        assert_sound(plan)
        start = one_step_on(plan, 0.5)
        poses.append(start.pose)
    beside = [p[1] for p in poses if 20 < p[0] < 27]
    assert max(beside) < 0.5 - PLANNER.vehicle.half_width_m
    assert poses[-1][0] > 32


def test_a_blocked_street_ends_before_the_block():
    world = street(box(30, 0, 2, 8))
    start, x = belief(speed=5), []
    for _ in range(80):
        plan = PLANNER.plan(start, world, ROUTE)
        assert_sound(plan)
        x.append(plan.poses[1, 0])
        start = one_step_on(plan, 1.0)
    front = x[-1] + PLANNER.vehicle.front_m
    assert 20 < front < 29
    assert start.speed_m_s < 0.3


def test_less_certain_is_slower_and_then_stops():
    world = street(half_width=3.5)
    progress = []
    for scale in (1.0, 3.0, 30.0):
        plan = PLANNER.plan(belief(scale), world, ROUTE)
        assert_sound(plan)
        progress.append(plan.poses[-1, 0])
    assert progress[0] > progress[1] > progress[2]
    assert plan.decision is Decision.STOP
    assert "no motion is within the bounds (tracking)" in plan.reason


def test_a_lost_estimator_stops_the_car_sooner_than_a_degraded_one():
    world = street(half_width=3.0)
    planned = {
        state: PLANNER.plan(belief(1.5, 8.0, state, lost_s=1.0), world, ROUTE)
        for state in (TrackingState.TRACKING, TrackingState.DEGRADED, TrackingState.LOST)
    }
    bounds = [p.speeds.max() for p in planned.values()]
    assert bounds[0] >= bounds[1] >= bounds[2]
    lost = planned[TrackingState.LOST]
    assert lost.decision is Decision.STOP
    assert "(lost)" in lost.reason
    # It brakes as hard as the car can.
    assert np.diff(lost.speeds).min() < -0.9 * PLANNER.vehicle.braking_max_m_s2 * lost.dt_s
    waiting = PLANNER.plan(belief(state=TrackingState.WAITING), world, ROUTE)
    assert (waiting.decision, waiting.reason) == (Decision.STOP, "the estimator waits for data")


def test_the_lane_is_kept_or_the_car_slows_down():
    planner = Planner(settings=PlannerSettings(lane_half_width_m=2.2, samples=200))
    free = World.of_polygons([])
    plan = planner.plan(belief(0.5), free, ROUTE)
    assert_sound(plan, planner)
    assert plan.decision is Decision.FOLLOW
    wide = planner.plan(belief(6.0), free, ROUTE)
    assert wide.decision is Decision.STOP
    assert "lane" in wide.reason
    assert wide.lane_departure_bound > planner.settings.lane_departure_max


def test_a_curved_lane_is_followed():
    angle = np.linspace(0, np.pi / 2, 60)
    curve = Route.along(25 * np.stack([np.sin(angle), 1 - np.cos(angle)], 1))
    planner = Planner(settings=PlannerSettings(lane_half_width_m=2.0, samples=200))
    start = belief(0.3, speed=5.0)
    for _ in range(40):
        plan = planner.plan(start, World.of_polygons([]), curve)
        assert_sound(plan, planner)
        start = one_step_on(plan, 0.3)
    off = np.hypot(*(start.pose[:2] - [0, 25])) - 25
    assert abs(off) < 0.5
    assert start.pose[2] > 0.8


def test_a_goal_pose_is_reached_and_told():
    goal = np.array([25.0, 3.0, 0.2])
    start = belief(0.5, speed=0.0)
    for _ in range(120):
        plan = PLANNER.plan(start, World.of_polygons([]), goal)
        assert_sound(plan)
        if plan.decision is Decision.ARRIVED:
            break
        start = one_step_on(plan, 0.5)
    assert plan.decision is Decision.ARRIVED
    np.testing.assert_allclose(start.pose[:2], goal[:2], atol=1.0)


@pytest.mark.parametrize("goal", [np.array([np.nan, 0, 0]), np.zeros(2)])
def test_a_goal_that_is_none_is_refused(goal):
    with pytest.raises(ValueError, match="three finite numbers"):
        PLANNER.plan(belief(), street(), goal)


def test_a_goal_outside_the_map_and_an_obstacle_on_the_car_stop_it():
    free = np.zeros((100, 200), dtype=bool)
    world = World.of_map(Occupancy(free, np.array([-10.0, -10.0, 0.0]), 0.2))
    plan = PLANNER.plan(belief(0.3, 3.0), world, np.array([60.0, 0, 0]))
    assert (plan.decision, plan.reason) == (Decision.STOP, "the goal lies outside the map")
    assert_sound(plan)
    plan = PLANNER.plan(belief(0.3, 3.0), world, np.array([20.0, 0, 0]))
    assert plan.decision in (Decision.FOLLOW, Decision.SLOW)
    on_it = PLANNER.plan(belief(), street(box(1, 0, 1, 1)), ROUTE)
    assert on_it.decision is Decision.STOP
    assert on_it.collision_bound == 1.0
    assert on_it.collision_probability == 1.0


def test_the_same_input_gives_the_same_plan():
    one, two = (PLANNER.plan(belief(), street(box(25, 2, 3, 2)), ROUTE, seed=3) for _ in range(2))
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(two, name))


def test_settings_that_mean_nothing_are_refused():
    for make in (
        lambda: PlannerSettings(collision_max=0.0),
        lambda: PlannerSettings(lane_departure_max=1.0),
        lambda: PlannerSettings(samples=-1),
        lambda: Lattice(offsets=4),
        lambda: Lattice(commit_s=9.0),
        lambda: Vehicle(wheelbase_m=float("nan")),
        lambda: Vehicle(steering_max_rad=2.0),
        lambda: Route.along(np.zeros((5, 2))),
        lambda: Route.along(np.array([[0, 0], [np.inf, 0]])),
    ):
        with pytest.raises(ValueError):
            make()


def test_where_a_whole_commitment_is_too_much_a_short_one_goes_on():
    world = street(box(14, 2.3, 4.5, 1.9), box(14, -2.6, 4.5, 1.9))
    settings = PlannerSettings(samples=0)
    ways = []
    for short_commit_s in (0.5, 1.5):
        lattice = Lattice(speeds=3, short_commit_s=short_commit_s)
        planner = Planner(lattice=lattice, settings=settings)
        plans = [
            planner.plan(belief(scale, 2.0, TrackingState.DEGRADED), world, ROUTE)
            for scale in np.linspace(1.0, 4.0, 10)
        ]
        ways.append([p.poses[-1, 0] for p in plans if p.decision is not Decision.STOP])
        assert all(p.collision_bound <= 0.01 for p in plans if p.decision is not Decision.STOP)
    (short, whole) = ways
    assert len(short) == len(whole)
    assert (np.array(short) >= np.array(whole) - 1e-9).all()
    assert max(np.subtract(short, whole)) > 0.5


def test_the_slowest_speed_is_held_shortly_too_and_every_candidate_ends_standing():
    lattice = Lattice(offsets=3, speeds=2)
    start = Start(np.zeros(3), 2.0, 0.0)
    made = candidates(start, ROUTE, Vehicle(), lattice, torch.device("cpu"))
    assert len(made.poses) == 3 * (2 + 1 + 1) + 1
    assert not made.speeds[:, -1].any()
    moving_s = lattice.dt_s * (made.speeds > 0).sum(1)
    slowest = made.target_speeds == 5.0
    whole, short = moving_s[slowest][:3], moving_s[slowest][3:]
    # In a second less, 1.5 m/s less are gained and braked away.
    np.testing.assert_allclose(whole - short, 1.0 + 1.5 / 2.5, atol=0.31)
