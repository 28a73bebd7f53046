"""The car obeys its vehicle; sampled errors are what is claimed; drives end as they must."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.consistency import nees
from bayes_vio.filters.published import fixed_axes_cov, mean_twist_cov
from bayes_vio.geometry import se3
from bayes_vio.planning import (
    Belief,
    Decision,
    Lattice,
    Planner,
    PlannerSettings,
    Route,
    Vehicle,
    World,
)
from bayes_vio.planning.car import Car, Command
from bayes_vio.planning.claims import AsEstimated, Constant, Nothing
from bayes_vio.planning.closed_loop import ClosedLoop, Ending, LoopSettings
from bayes_vio.planning.course import Condition, random_course
from bayes_vio.planning.estimated import belief_of, steered
from bayes_vio.planning.judged import judged, overhang_m
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.sampled import (
    ErrorStatistics,
    SampledEstimator,
    planar_matrix,
)

VEHICLE = Vehicle(speed_max_m_s=8.0)
EXACT = ErrorStatistics(scale=1e-4)


def planner(**settings) -> Planner:
    given = {"samples": 1, "lane_half_width_m": 3.6, "offset_weight": 0.1} | settings
    lattice = Lattice(offsets=9, offset_max_m=2.0, speeds=2, horizon_s=4.8)
    return Planner(vehicle=VEHICLE, lattice=lattice, settings=PlannerSettings(**given))


def course(seed: int = 0, **changes):
    return replace(random_course(np.random.default_rng(seed)), **changes)


def loop(course, estimator, settings=None) -> ClosedLoop:
    given = settings or LoopSettings(time_limit_s=20.0)
    return ClosedLoop(course, planner(), estimator, AsEstimated(), np.random.default_rng(0), given)


def test_courses_are_clear_at_the_start_and_can_be_driven_through():
    for seed in range(8):
        c = course(seed)
        start = torch.from_numpy(c.start)
        assert not touches(start, VEHICLE, c.world.obstacles).any()
        assert overhang_m(c.start[None], c, VEHICLE)[0] < 0
        assert len(c.obstacles) == 5
        assert c.dark_at(c.obstacles[2].mean(0))
        # Across the road at both gates there is room for the car and a bit.
        for left, right in (c.obstacles[1::-1], c.obstacles[4:2:-1]):
            gap = np.linalg.norm(left[0] - right[3])
            assert 2 * VEHICLE.half_width_m + 1.0 < gap < 3.7


def test_a_car_drives_the_circle_of_its_steering_and_keeps_its_limits():
    car = Car(VEHICLE, np.zeros(3), speed_m_s=5.0)
    steering = np.arctan(VEHICLE.wheelbase_m / 20.0)
    motions = [car.drive(Command(5.0, 0.0, steering), 0.1) for _ in range(60)]
    settled = motions[30].poses[0]
    centre = settled[:2] + 20.0 * np.array([-np.sin(settled[2]), np.cos(settled[2])])
    for motion in motions[30:]:
        radius = np.linalg.norm(motion.poses[:, :2] - centre, axis=1)
        np.testing.assert_allclose(radius, 20.0, atol=1e-3)
    turned = np.diff(np.concatenate([m.steering for m in motions]))
    assert np.abs(turned).max() <= VEHICLE.steering_rate_max_rad_s * 0.01 + 1e-12


def test_a_car_told_to_stand_brakes_and_stays():
    car = Car(VEHICLE, np.zeros(3), speed_m_s=6.0)
    first = car.drive(Command.stop(VEHICLE, 0.0), 0.5)
    assert first.speeds[-1] == pytest.approx(3.0)
    last = [car.drive(Command(0.0, 0.0, 0.0), 0.5) for _ in range(4)][-1]
    assert last.speeds[-1] == 0.0
    assert (last.poses[-1] == last.poses[0]).all()


@pytest.mark.parametrize("believed_m_s", [0.0, 0.2, 0.6, 3.0])
def test_a_stop_brakes_in_full_whatever_speed_is_believed(believed_m_s):
    # A wall so near that nothing is within the bounds; the car really drives 3 m/s.
    across = np.array([[5.0, -9.0], [6.0, -9.0], [6.0, 9.0], [5.0, 9.0]])
    plan = planner().plan(
        Belief(np.zeros(3), 0.25 * np.eye(3), np.array([believed_m_s, 0, 0]), *(np.eye(3),) * 2),
        World.of_polygons([across]),
        Route.along(np.array([[0.0, 0.0], [40.0, 0.0]])),
    )
    assert plan.decision is Decision.STOP
    car = Car(VEHICLE, np.zeros(3), speed_m_s=3.0)
    motion = car.drive(Command.of(plan, VEHICLE), 0.1)
    slowed = np.diff(motion.speeds) / motion.dt_s
    np.testing.assert_allclose(slowed, -VEHICLE.braking_max_m_s2)
    standing = Car(VEHICLE, np.zeros(3))
    assert (standing.drive(Command.of(plan, VEHICLE), 0.1).speeds == 0.0).all()


def test_a_plan_within_the_bounds_brakes_comfortably():
    plan = planner().plan(
        Belief(np.zeros(3), 1e-4 * np.eye(3), np.array([4.0, 0, 0]), *(1e-6 * np.eye(3),) * 2),
        World.of_polygons([]),
        Route.along(np.array([[0.0, 0.0], [2.0, 0.0]])),
    )
    assert plan.decision is Decision.FOLLOW
    command = Command.of(plan, VEHICLE)
    assert command.acceleration_m_s2 == pytest.approx(-VEHICLE.braking_m_s2)


def test_a_belief_is_the_planar_part_of_an_estimate():
    generator = np.random.default_rng(1)
    roots = generator.normal(size=(3, 6, 6)) * 0.03
    epistemic, noise, odom_cov = roots @ roots.swapaxes(-1, -2) + 1e-6 * np.eye(6)
    T_inc = se3.exp(torch.tensor([0.6, 0.0, 0.0, 0.0, 0.0, 0.05]).double()).numpy()
    T = planar_matrix(np.array([10.0, -4.0, 0.7]))
    estimate = MotionEstimate(
        0, NS_PER_S // 10, 0.1, T_inc, epistemic, noise,
        TrackingState.DEGRADED, "", T, odom_cov,
    )  # fmt: skip
    belief, plane = belief_of(estimate), [0, 1, 5]
    np.testing.assert_allclose(belief.pose, [10.0, -4.0, 0.7])
    np.testing.assert_allclose(belief.twist, [6.0, 0.0, 0.5], atol=1e-9)
    np.testing.assert_allclose(belief.cov, fixed_axes_cov(T, odom_cov)[np.ix_(plane, plane)])
    told = mean_twist_cov(T_inc, noise, 0.1)[np.ix_(plane, plane)]
    np.testing.assert_allclose(belief.noise_twist_cov, told)
    assert belief.state is TrackingState.DEGRADED
    bend = VEHICLE.wheelbase_m * 0.5 / 6.0
    assert steered(belief, 0.3, VEHICLE).steering_rad == pytest.approx(np.arctan(bend))
    slow = replace(belief, twist=np.array([0.5, 0.0, 0.1]))
    assert steered(slow, 0.3, VEHICLE).steering_rad == 0.3


def arc(periods: int):
    car = Car(VEHICLE, np.zeros(3), speed_m_s=6.0)
    return [car.drive(Command(6.0, 0.0, 0.05), 0.1) for _ in range(periods)]


@pytest.mark.parametrize("condition", [Condition.CLEAR, Condition.DARK])
def test_sampled_errors_have_the_covariance_that_is_told(condition):
    motions, squared = arc(20), []
    for seed in range(40):
        estimator = SampledEstimator(ErrorStatistics(scale=0.5), np.random.default_rng(seed))
        for motion in motions:
            last = estimator.observe(motion, condition)
        T_true = planar_matrix(motions[-1].poses[-1])
        error = se3.log(torch.from_numpy(np.linalg.inv(last.T_odom_base) @ T_true)).numpy()
        squared.append(nees(error[None], last.odom_cov[None])[0])
    # The mean of 40 chi-square numbers with 6 degrees of freedom, to four sigmas.
    assert abs(np.mean(squared) - 6) < 4 * np.sqrt(12 / 40)


def test_an_outage_is_lost_goes_on_at_constant_twist_and_grows():
    estimator = SampledEstimator(EXACT, np.random.default_rng(0))
    motions = arc(20)
    measured = [estimator.observe(m, Condition.CLEAR) for m in motions[:10]][-1]
    lost = [estimator.observe(m, Condition.OUTAGE) for m in motions[10:]]
    assert {e.state for e in lost} == {TrackingState.LOST}
    np.testing.assert_allclose(lost[-1].T_earlier_later, measured.T_earlier_later, atol=1e-6)
    std = [np.sqrt(e.odom_cov[0, 0]) for e in lost]
    # E-G1 after a second: half of 3 m/s^2; the noise told lasts, which adds to it.
    assert std[-1] > 1.5
    assert (np.diff(std) > 0).all()


def test_claims_say_the_same_always_or_nothing():
    true = SampledEstimator(ErrorStatistics(), np.random.default_rng(0))
    motions = arc(10)
    twist_cov = np.diag([0.1, 0.01, 0.01, 0.001, 0.001, 0.002]) ** 2
    constant = Constant(twist_cov, 4 * twist_cov, Odometry(np.inf, np.eye(6)))
    for claim in (constant, Nothing()):
        claim.set_pose(np.eye(4), 1e-6 * np.eye(6))
    for motion in motions:
        estimate = true.observe(motion, Condition.DARK)
        told, nothing = constant.restated(estimate), Nothing().restated(estimate)
        for said in (told, nothing):
            assert said.state is TrackingState.TRACKING
            np.testing.assert_array_equal(said.T_odom_base, estimate.T_odom_base)
        np.testing.assert_allclose(told.cov, 5 * twist_cov * 0.1**2)
    # x by epistemic errors that add up over a second, and white noise.
    expected = 1e-6 + (0.1 * 1.0) ** 2 + 10 * (2 * 0.1 * 0.1) ** 2
    assert told.odom_cov[0, 0] == pytest.approx(expected, rel=0.05)
    assert nothing.odom_cov.max() < 1e-7
    assert AsEstimated().restated(estimate) is estimate


def test_an_exact_estimator_brings_the_car_to_the_finish():
    c = course(3, outage_m=1e3)
    drive = loop(c, SampledEstimator(EXACT, np.random.default_rng(0))).drive()
    judgement = judged(drive, c, VEHICLE)
    assert judgement.ending is Ending.ARRIVED
    assert not judgement.left_lane
    assert judgement.time_s < 15
    assert all(s.belief is not None for s in drive.steps)


def test_the_same_seed_is_the_same_drive():
    c, ends = course(5), []
    for _ in range(2):
        estimator = SampledEstimator(ErrorStatistics(scale=0.5), np.random.default_rng(1))
        ends.append(loop(c, estimator, LoopSettings(time_limit_s=2.0)).drive().poses)
    np.testing.assert_array_equal(*ends)


class Faulty(SampledEstimator):
    """Says nothing, or something that is no number, for a while."""

    def __init__(self, fault, from_s: float, until_s: float) -> None:
        super().__init__(EXACT, np.random.default_rng(0))
        self._fault, self._from_s, self._until_s = fault, from_s, until_s

    def observe(self, motion, condition):
        estimate = super().observe(motion, condition)
        bad = self._from_s <= motion.end_s < self._until_s
        return self._fault(estimate) if bad else estimate


def not_a_number(estimate):
    T = estimate.T_odom_base.copy()
    T[0, 3] = np.nan
    return replace(estimate, T_odom_base=T)


@pytest.mark.parametrize("fault", [lambda estimate: None, not_a_number])
def test_without_usable_odometry_the_car_stops_and_goes_on_when_there_is(fault):
    c = course(3, outage_m=1e3, finish_m=22.0)
    drive = loop(c, Faulty(fault, 1.0, 3.0)).drive()
    silent = [s for s in drive.steps if 1.0 + 0.5 < s.time_s - 0.05 < 2.95]
    assert {s.decision for s in silent} == {Decision.STOP}
    assert all(s.reason.startswith("no usable odometry for") for s in silent)
    assert silent[-1].speed_m_s < 0.5
    after = [s for s in drive.steps if s.time_s > 3.05]
    assert max(s.speed_m_s for s in after) > 2.0
    assert drive.ending is Ending.ARRIVED


def test_a_collision_ends_the_drive():
    c = course(3)
    ahead = c.start[:2] + np.array([12.0, 0.0])
    wall = ahead + np.array([[0.0, -6.0], [1.0, -6.0], [1.0, 6.0], [0.0, 6.0]])

    class Blind(SampledEstimator):
        """Always at the start, as far as it says."""

        def observe(self, motion, condition):
            estimate = super().observe(motion, condition)
            return replace(estimate, T_odom_base=planar_matrix(c.start))

    blocked = replace(c, polygons=(*c.polygons, wall))
    drive = loop(blocked, Blind(EXACT, np.random.default_rng(0))).drive()
    assert drive.ending is Ending.COLLIDED
    assert drive.poses[-1, 0] == pytest.approx(12.0 - VEHICLE.front_m, abs=1.0)


def test_the_overhang_is_that_of_the_outermost_corner():
    c = course(3)
    side = np.array([-np.sin(c.start[2]), np.cos(c.start[2])])
    pose = c.start + np.array([*(2.0 * side), 0.0])
    # Two metres aside, and half the car's width, of a lane that bends hardly in three metres.
    expected = 2.0 + VEHICLE.half_width_m - c.lane_half_width_m
    assert overhang_m(pose[None], c, VEHICLE)[0] == pytest.approx(expected, abs=0.25)
