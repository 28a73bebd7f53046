# ruff: noqa: E402, the imports need what is skipped for
"""What the planner does with what comes in: bad inputs stop the car, each with one clear line."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from dataclasses import fields
from pathlib import Path

from geometry_msgs.msg import TwistWithCovarianceStamped
from ruamel.yaml import YAML

from bayes_vio.conventions import NS_PER_S
from bayes_vio.planning import Decision, Planner, PlannerSettings
from bayes_vio.ros.parameter_table import table_of
from bayes_vio.ros.planner_messages import belief_of, occupancy_of, path_of, twist_of
from bayes_vio.ros.planner_parameters import PlannerParameters
from bayes_vio.ros.planning_loop import PlanningLoop
from bayes_vio.ros.throttle import ThrottledLog
from tests.ros.planner_messages_cases import (
    STDS,
    TWIST_STDS,
    goal_message,
    map_message,
    odometry_message,
    route_message,
    state_message,
)

NOW_NS = 1_700_000_000 * NS_PER_S
CONFIG = Path(__file__).parents[2] / "config" / "planner.yaml"


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)

    error = warning


class Fed:
    """A loop with good inputs, and a clock that the test sets."""

    def __init__(self, **parameters) -> None:
        self.now_ns = NOW_NS
        self.log = Log()
        p = PlannerParameters(samples=20, offsets=3, speeds=3, **parameters)
        status = "/estimator: motion"
        self.loop = PlanningLoop(p, status, lambda: self.now_ns, ThrottledLog(self.log))
        self.loop.on_map(map_message())
        self.loop.on_goal(goal_message())
        self.drive()

    def drive(self, seconds: float = 0.0, **given):
        """Let time pass, then odometry of this instant come in."""
        self.now_ns += round(seconds * NS_PER_S)
        self.loop.on_odometry(odometry_message(self.now_ns, **given))
        return self.loop.step()


@pytest.fixture
def fed() -> Fed:
    return Fed()


def test_good_inputs_give_a_plan_and_its_risk(fed):
    outcome = fed.loop.step()
    assert outcome.decision is Decision.FOLLOW
    assert outcome.plan.collision_bound <= 0.01
    level, summary, values = fed.loop.status()
    assert (level, summary) == (b"\x00", "follow")
    assert float(values["collision bound"]) == pytest.approx(outcome.plan.collision_bound, rel=0.1)
    assert float(values["plan time p99 (s)"]) > 0
    assert not fed.log.lines


def test_inputs_that_never_came_are_named():
    loop = PlanningLoop(PlannerParameters(), "", lambda: NOW_NS, ThrottledLog(Log()))
    outcome = loop.step()
    assert (outcome.decision, outcome.plan) == (Decision.STOP, None)
    assert outcome.reason == "no odometry yet; no map yet; no goal yet"


def bad_odometry():
    def case(name, change):
        return pytest.param(change, name, id=name)

    def put(part, covariance):
        return lambda m: setattr(getattr(m, part), "covariance", covariance)

    indefinite = np.diag(np.square(STDS))
    indefinite[0, 1] = indefinite[1, 0] = 1.0
    skew = np.diag(np.square(STDS))
    skew[0, 5] = 1e-3
    yield case("not positive definite", put("pose", indefinite.ravel()))
    yield case("not symmetric", put("pose", skew.ravel()))
    yield case("variance that is not positive", put("pose", np.zeros(36)))
    yield case("is not finite", put("twist", np.full(36, np.nan)))
    yield case("not finite", lambda m: setattr(m.pose.pose.position, "x", math.nan))
    yield case("a twist holds", lambda m: setattr(m.twist.twist.linear, "x", math.inf))
    yield case("norm 0", lambda m: setattr(m.pose.pose.orientation, "w", 0.0))
    yield case("frame is 'map'", lambda m: setattr(m.header, "frame_id", "map"))
    yield case("s ahead", lambda m: setattr(m.header.stamp, "sec", m.header.stamp.sec + 5))
    yield case("s old", lambda m: setattr(m.header.stamp, "sec", m.header.stamp.sec - 5))
    yield case("goes back", lambda m: setattr(m.header.stamp, "sec", m.header.stamp.sec - 0))


@pytest.mark.parametrize(("change", "reason"), list(bad_odometry()))
def test_bad_odometry_stops_the_car_with_one_line_until_good_comes(fed, change, reason):
    step_ns = 0 if reason == "goes back" else NS_PER_S // 20
    for _ in range(3):
        fed.now_ns += step_ns
        message = odometry_message(fed.now_ns)
        change(message)
        fed.loop.on_odometry(message)
        outcome = fed.loop.step()
        assert outcome.decision is Decision.STOP
        assert reason in outcome.reason
        assert twist_of(outcome.plan, fed.loop.planner.vehicle).linear.x == 0.0
    (line,) = fed.log.lines
    assert reason in line
    assert fed.loop.refused["odometry"] == 3
    assert fed.drive(0.1).decision is Decision.FOLLOW


def test_silence_stops_the_car_and_data_start_it_again(fed):
    fed.now_ns += NS_PER_S
    outcome = fed.loop.step()
    assert (outcome.decision, outcome.reason) == (Decision.STOP, "no usable odometry for 1.0 s")
    assert fed.drive().decision is Decision.FOLLOW


def test_between_messages_the_belief_goes_on(fed):
    at_once = fed.loop.step().plan
    fed.now_ns += round(0.3 * NS_PER_S)
    later = fed.loop.step().plan
    assert later.poses[0, 0] == pytest.approx(0.3 * 4.0)
    assert np.linalg.eigvalsh(later.covs[0] - at_once.covs[0]).min() > 0


def test_a_clock_that_goes_back_stops_the_car_until_odometry_follows(fed):
    fed.now_ns -= 100 * NS_PER_S
    assert "clock went back" in fed.loop.step().reason
    assert fed.drive(0.1).decision is Decision.FOLLOW


def bad_map(name, value):
    message = map_message()
    target = message
    *path, last = name.split(".")
    for part in path:
        target = getattr(target, part)
    setattr(target, last, value)
    return message


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("info.width", 0, "0 x 100"),
        ("info.resolution", 0.0, "resolution"),
        ("info.resolution", math.nan, "resolution"),
        ("info.origin.position.x", math.inf, "not finite"),
        ("header.frame_id", "map", "frame is 'map'"),
    ],
)
def test_a_bad_map_stops_the_car_until_a_good_one_comes(fed, name, value, reason):
    fed.loop.on_map(bad_map(name, value))
    outcome = fed.drive(0.1)
    assert outcome.decision is Decision.STOP
    assert reason in outcome.reason
    fed.loop.on_map(map_message())
    assert fed.drive(0.1).decision is Decision.FOLLOW


def test_an_empty_map_a_goal_outside_and_an_obstacle_on_the_car(fed):
    empty = map_message(0, 0)
    fed.loop.on_map(empty)
    assert "the map is empty" in fed.drive(0.1).reason
    fed.loop.on_map(map_message())
    fed.loop.on_goal(goal_message(x=500.0))
    assert fed.drive(0.1).reason == "the goal lies outside the map"
    fed.loop.on_goal(goal_message())
    full = map_message()
    full.data = [100] * len(full.data)
    fed.loop.on_map(full)
    outcome = fed.drive(0.1)
    assert outcome.decision is Decision.STOP
    assert outcome.plan.collision_bound == 1.0
    assert outcome.plan.speeds[-1] == 0
    unknown = map_message()
    unknown.data = [-1] * len(unknown.data)
    fed.loop.on_map(unknown)
    assert fed.drive(0.1).decision is Decision.STOP


def test_goals_and_routes_that_are_none_are_refused(fed):
    for send, bad, reason in (
        (fed.loop.on_goal, goal_message(math.nan), "not finite"),
        (fed.loop.on_goal, goal_message(frame="map"), "frame is 'map'"),
        (fed.loop.on_route, route_message([(0, 0)]), "1 poses"),
        (fed.loop.on_route, route_message([(0, 0), (0, 0)]), "long"),
        (fed.loop.on_route, route_message([(0, 0), (math.nan, 0)]), "not finite"),
    ):
        send(bad)
        outcome = fed.drive(0.1)
        assert outcome.decision is Decision.STOP
        assert reason in outcome.reason
        fed.loop.on_route(route_message([(-5.0, 0.0), (60.0, 0.0)]))
        assert fed.drive(0.1).decision is Decision.FOLLOW


def test_the_estimators_state_widens_the_belief_and_lost_stops_the_car():
    fed = Fed(lane_half_width_m=2.0)
    fed.loop.on_route(route_message([(-5.0, 0.0), (70.0, 0.0)]))
    spread = {}
    for state in ("tracking", "degraded", "lost"):
        fed.loop.on_diagnostics(state_message(state))
        fed.loop.on_diagnostics(state_message("tracking", "/other: motion"))
        fed.loop.on_diagnostics(state_message("nonsense"))
        outcome = fed.drive(0.1)
        spread[state] = outcome.plan.covs[5, 1, 1]
    assert spread["tracking"] < spread["degraded"] < spread["lost"]
    assert outcome.decision is Decision.STOP
    assert "(lost)" in outcome.reason
    fed.loop.on_diagnostics(state_message("tracking"))
    assert fed.drive(0.1).decision in (Decision.FOLLOW, Decision.SLOW)
    for _ in range(12):  # diagnostics fall silent: the state is not known any more
        outcome = fed.drive(0.3)
    assert outcome.plan.covs[5, 1, 1] > spread["tracking"]


def test_a_car_that_is_to_stop_is_commanded_to_whatever_speed_the_estimator_goes_on_saying():
    fed = Fed(lane_half_width_m=2.0)
    fed.loop.on_route(route_message([(-5.0, 0.0), (70.0, 0.0)]))
    before = fed.drive(0.1)
    assert 3.0 < before.plan.speeds[1] <= before.speed_m_s
    fed.loop.on_diagnostics(state_message("lost"))
    told = [fed.drive(0.1, speed=4.0) for _ in range(12)]
    assert {outcome.decision for outcome in told} == {Decision.STOP}
    speeds = [before.speed_m_s] + [outcome.speed_m_s for outcome in told]
    braking = fed.loop.planner.vehicle.braking_max_m_s2
    assert (-np.diff(speeds) >= min(0.1 * braking, speeds[0]) - 1e-9)[:3].all()
    assert speeds[-1] == 0.0
    assert told[-1].plan.speeds[1] > 2.0  # what the plan alone would have commanded
    fed.loop.on_diagnostics(state_message("tracking"))
    assert fed.drive(0.1).speed_m_s > 3.0


def driven(fed: Fed, believed, seconds: float = 4.5, response_s: float = 0.2):
    """Return the speeds (m/s) of a car that meets commands late, and the commands."""
    speed, x, speeds, commands = 0.0, 0.0, [], []
    past = [0.0] * 2
    for _ in range(round(seconds * 10)):
        past.append(speed)
        outcome = fed.drive(0.1, x=x, speed=believed(past[-2]))
        before = speed
        speed += (1 - np.exp(-0.1 / response_s)) * (outcome.speed_m_s - speed)
        x += 0.05 * (before + speed)
        speeds.append(speed)
        commands.append(outcome.speed_m_s)
    return np.array(speeds), np.array(commands)


@pytest.mark.parametrize("response_s", [0.05, 0.4])
@pytest.mark.parametrize(
    "believed",
    [
        pytest.param(lambda v: v, id="as it is"),
        pytest.param(lambda v: 0.0 if v < 0.26 else v, id="slow motion does not show"),
        pytest.param(lambda v: max(v - 0.3, 0.0), id="too slow by 0.3 m/s"),
    ],
)
def test_a_car_that_stands_gets_going_whatever_lags(believed, response_s):
    fed = Fed(speed_max_m_s=3.0)
    fed.loop.on_route(route_message([(-5.0, 0.0), (70.0, 0.0)]))
    speeds, commands = driven(fed, believed, response_s=response_s)
    assert np.argmax(speeds > 2.0) < 30  # at the full 1.5 m/s^2 it would be 14 steps
    assert speeds[-1] == pytest.approx(3.0, abs=0.05)
    assert commands.max() <= 3.0 + 1e-9
    assert np.diff(commands).max() <= 0.15 + 0.1  # one step's acceleration, and what is seen


def test_a_car_that_is_held_is_not_commanded_further_and_further(fed):
    commands = [fed.drive(0.1, speed=0.0).speed_m_s for _ in range(30)]
    assert commands[-1] == pytest.approx(0.5 * 1.5)
    assert max(commands) == commands[-1]


def test_the_epistemic_part_is_told_apart():
    message = odometry_message(NOW_NS)
    total = np.diag(np.square(np.array(TWIST_STDS)[[0, 1, 5]]))
    alone = belief_of(message, None)
    np.testing.assert_allclose(alone.epistemic_twist_cov + alone.noise_twist_cov, total)
    assert (np.diagonal(alone.epistemic_twist_cov) > 0.99 * np.diagonal(total)).all()
    part = TwistWithCovarianceStamped()
    part.twist.covariance = (0.25 * message.twist.covariance.reshape(6, 6)).ravel()
    told = belief_of(message, part)
    np.testing.assert_allclose(told.epistemic_twist_cov, 0.25 * total)
    np.testing.assert_allclose(told.noise_twist_cov, 0.75 * total)
    part.twist.covariance = (4.0 * message.twist.covariance.reshape(6, 6)).ravel()
    more = belief_of(message, part)  # of another image: never less than the total
    np.linalg.cholesky(more.noise_twist_cov)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=4, max_size=4),
    st.floats(allow_nan=True),
    st.integers(-(2**31), 2**31 - 1),
)
def test_no_odometry_crashes_the_loop(values, speed, second):
    fed = FUZZED
    message = odometry_message(fed.now_ns + NS_PER_S // 100)
    pose = message.pose.pose
    pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w = values
    message.twist.twist.linear.x = speed
    if second % 2:
        message.header.stamp.sec = second
    fed.loop.on_odometry(message)
    outcome = fed.loop.step()
    command = twist_of(outcome.plan, fed.loop.planner.vehicle)
    assert math.isfinite(command.linear.x)
    assert math.isfinite(command.angular.z)
    fed.now_ns += NS_PER_S // 20
    fed.loop.on_odometry(odometry_message(fed.now_ns))


FUZZED = Fed()


def test_cells_count_as_the_parameters_say():
    message = map_message(4, 4)
    message.data = [-1, 0, 49, 50] * 4
    occupied = occupancy_of(message, 50, unknown_is_occupied=True).occupied
    assert occupied[0].tolist() == [True, False, False, True]
    occupied = occupancy_of(message, 30, unknown_is_occupied=False).occupied
    assert occupied[0].tolist() == [False, False, True, True]


def test_a_plan_becomes_a_path_with_due_times_and_a_command(fed):
    outcome = fed.loop.step()
    path = path_of(outcome.plan, outcome.stamp_ns, "odom")
    assert path.header.frame_id == "odom"
    assert len(path.poses) == len(outcome.plan.poses)
    last = path.poses[-1]
    assert last.pose.position.x == outcome.plan.poses[-1, 0]
    due_ns = last.header.stamp.sec * NS_PER_S + last.header.stamp.nanosec - outcome.stamp_ns
    assert due_ns == pytest.approx(6.0 * NS_PER_S)
    vehicle = fed.loop.planner.vehicle
    command = twist_of(outcome.plan, vehicle)
    assert command.linear.x == outcome.plan.speeds[1]
    bend = math.tan(outcome.plan.steering[0]) / vehicle.wheelbase_m
    assert command.angular.z == pytest.approx(command.linear.x * bend)
    assert not path_of(None, 0, "odom").poses


def test_every_parameter_is_described_and_stands_in_the_file():
    table = YAML(typ="safe").load(CONFIG.read_text())["/**/planner"]["ros__parameters"]
    known = table_of(PlannerParameters)
    assert set(table) == set(known) == {f.name for f in fields(PlannerParameters)}
    lines = CONFIG.read_text().splitlines()
    for name, (default, spec) in known.items():
        assert (table[name], type(table[name])) == (default, type(default)), name
        assert not spec.refusal(default, default), name
        numeric = isinstance(default, float) or type(default) is int
        assert not numeric or (spec.minimum is not None and spec.unit), name
        row = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        assert lines[row - 1].lstrip().startswith("#"), name


def test_defaults_are_the_planners():
    made, plain = PlannerParameters().planner(), Planner()
    assert made == plain
    assert PlannerParameters(lane_half_width_m=2.0).planner().settings == PlannerSettings(
        lane_half_width_m=2.0
    )
