"""The belief's roll-out against samples, its growth, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from bayes_vio.estimator.coasting import Coasting
from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.filters.covariance import CovarianceError, check_spd
from bayes_vio.planning import Belief, Growth, Vehicle
from bayes_vio.planning.belief import roll_out, step_gains
from bayes_vio.planning.car import Car, Command
from tests.planning_cases import belief, diagonal

DT_S, TIMES = 0.15, 41


def arc(speed: float, yaw_rate: float) -> torch.Tensor:
    yaw = yaw_rate * DT_S * torch.arange(TIMES, dtype=torch.float64)
    radius = speed / yaw_rate
    return torch.stack([radius * torch.sin(yaw), radius * (1 - torch.cos(yaw)), yaw], -1)[None]


@pytest.mark.parametrize("state", list(TrackingState)[1:])
def test_samples_have_the_covariance_that_is_rolled_out(state):
    rolled = roll_out(belief(state=state, lost_s=0.3), arc(6.0, 0.2), DT_S, Growth())
    n = 40_000
    motions = rolled.sample(0, n, torch.Generator().manual_seed(0)).numpy()
    for time in (0, 10, 40):
        cov = rolled.cov[0, time].numpy()
        std = np.sqrt(np.diagonal(cov))
        ratio = np.cov(motions[:, time].T) / np.outer(std, std)
        np.testing.assert_allclose(ratio, cov / np.outer(std, std), atol=5 / np.sqrt(n))


def test_noise_that_is_added_up_step_by_step_has_the_covariance_that_is_rolled_out():
    start, growth, n = belief(2.0), Growth(), 20_000
    poses = arc(5.0, 0.25)
    density = 2 * growth.noise_correlation_s / DT_S * start.noise_twist_cov
    errors = np.random.default_rng(0).multivariate_normal(np.zeros(3), density, (n, TIMES - 1))
    gains = step_gains(poses, DT_S)[0].numpy()
    added = np.einsum("tij,ntj->ni", gains, errors)
    rolled = roll_out(start, poses, DT_S, growth).noise_cov[0, -1].numpy()
    std = np.sqrt(np.diagonal(rolled))
    ratio = np.cov(added.T) / np.outer(std, std)
    np.testing.assert_allclose(ratio, rolled / np.outer(std, std), atol=5 / np.sqrt(n))


def test_samples_at_some_times_are_those_of_the_whole_motion():
    rolled = roll_out(belief(), arc(6.0, 0.2), DT_S, Growth())
    times, n = torch.tensor([0, 3, 17, 40]), 40_000
    some = rolled.sample(0, n, torch.Generator().manual_seed(1), times).numpy()
    later, earlier = torch.tensor([[40]]), torch.tensor([[17]])
    cov = rolled.cov_between(later, earlier)[0, 0].numpy()
    found = np.cov(some[:, 3].T, some[:, 2].T)[:3, 3:]
    std = [np.sqrt(np.diagonal(rolled.cov[0, k].numpy())) for k in (40, 17)]
    scale = np.outer(*std)
    np.testing.assert_allclose(found / scale, cov / scale, atol=5 / np.sqrt(n))


def test_a_simulated_car_errs_as_the_roll_out_says():
    # The truth integrated: a twist in error all along, small enough for first order.
    poses = arc(5.0, 0.3)
    error = np.array([2e-3, -1e-3, 4e-4])
    tiny = 1e-13 * np.eye(3)
    lasting = np.outer(error, error) + tiny
    rolled = roll_out(
        Belief(np.zeros(3), tiny, np.array([5.0, 0, 0.3]), lasting, tiny),
        poses, DT_S, Growth(position_tracking_std_m=1e-6, yaw_tracking_std_rad=1e-6),
    )  # fmt: skip
    ends = []
    for twist in (np.array([5.0, 0, 0.3]), np.array([5.0, 0, 0.3]) + error):
        pose = np.zeros(3)
        for _ in range(200 * (TIMES - 1)):  # fine steps of the continuous motion
            c, s = np.cos(pose[2]), np.sin(pose[2])
            R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            pose = pose + DT_S / 200 * R @ twist
        ends.append(pose)
    std = np.sqrt(np.diagonal(rolled.cov[0, -1].numpy()))
    np.testing.assert_allclose(std, np.abs(ends[1] - ends[0]), rtol=0.01)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 20), st.floats(0, 25), st.floats(0.01, 0.5), st.floats(0, 20))
def test_uncertainty_grows_along_a_plan_and_with_the_state(scale, speed, yaw_rate, lost_s):
    covs = {}
    for state in (TrackingState.TRACKING, TrackingState.DEGRADED, TrackingState.LOST):
        start = belief(scale, speed, state, lost_s=lost_s)
        rolled = roll_out(start, arc(speed, yaw_rate), DT_S, Growth())
        covs[state] = rolled.cov[0].numpy()
        for cov in covs[state]:
            check_spd(cov, "rolled out")
        assert (np.diff(covs[state][:, 2, 2]) > 0).all()
    tracking, degraded, lost = covs.values()
    for less, more in ((tracking, degraded), (degraded, lost)):
        floor = 1e-9 * np.abs(more).max()
        assert np.linalg.eigvalsh(more - less).min() > -floor


def test_a_gap_grows_as_the_estimators_does():
    # While lost, in a straight line and per axis, the displacement's variance is E-G1's.
    growth = Growth()
    start = Belief(
        np.zeros(3), diagonal(1e-6, 1e-6, 1e-6), np.array([5.0, 0, 0]),
        diagonal(1e-6, 1e-6, 1e-6), diagonal(1e-6, 1e-6, 1e-6), TrackingState.LOST,
    )  # fmt: skip
    later = start.after(2.0, growth)
    expected = 0.5 * growth.coasting.acceleration_std_m_s2 * 4
    assert np.sqrt(later.cov[0, 0]) == pytest.approx(expected)
    assert later.unseen_s == later.age_s == 2.0


def test_a_belief_goes_on_with_its_twist():
    start = Belief(
        np.array([1.0, 2.0, np.pi / 2]), diagonal(0.1, 0.1, 0.01), np.array([4.0, 0.0, 0.0]),
        *(diagonal(0.1, 0.1, 0.01),) * 2,
    )  # fmt: skip
    later = start.after(0.5, Growth())
    np.testing.assert_allclose(later.pose, [1.0, 4.0, np.pi / 2], atol=1e-12)
    assert np.linalg.eigvalsh(later.cov - start.cov).min() > 0
    assert start.after(0.0, Growth()) is start


def carried_back(belief):
    """Return the covariance of f: of the errors taken back to the origin, where they add up."""
    lever = np.eye(3)
    lever[:2, 2] = -belief.pose[1], belief.pose[0]
    back = np.linalg.inv(lever)
    return back @ belief.cov @ back.T


def not_below(more, less, share=1e-6):
    return np.linalg.eigvalsh(more - less).min() > -share * np.abs(more).max()


STATES = st.sampled_from(list(TrackingState)[1:])


@settings(deadline=None, max_examples=50)
@given(
    st.floats(0.05, 20), st.floats(-1, 25), st.floats(-0.5, 0.5), STATES,
    st.floats(1e-3, 3), st.floats(1e-3, 3),
)  # fmt: skip
def test_an_ageing_belief_only_grows_however_its_time_is_cut(scale, v, rate, state, a_s, b_s):
    growth, start = Growth(), belief(scale, v, state, lost_s=0.7)
    start = replace(start, twist=np.array([v, 0.0, rate]))
    first, whole = start.after(a_s, growth, 40), start.after(a_s + b_s, growth, 80)
    cut = first.after(b_s, growth, 40)
    for aged in (first, whole, cut):
        check_spd(aged.cov, "aged")
    np.testing.assert_allclose(cut.pose, whole.pose, atol=1e-2)
    assert cut.unseen_s == pytest.approx(whole.unseen_s)
    assert not_below(carried_back(first), start.cov)
    # Yaw adds up exactly; its lever arm over a bend is taken along two ways, within 3 %.
    assert not_below(carried_back(whole), carried_back(first), 0.03)
    assert not_below(carried_back(cut), carried_back(whole), 0.03)
    assert cut.cov[2, 2] == pytest.approx(whole.cov[2, 2], rel=1e-9)


@pytest.mark.parametrize("elapsed_s", [0.1, 0.5, 4.0])
def test_an_aged_belief_is_no_surer_than_a_lost_estimator(elapsed_s):
    start, growth = belief(speed=5.0), Growth()
    twist_cov = np.zeros((6, 6))
    plane = np.ix_([0, 1, 5], [0, 1, 5])
    twist_cov[plane] = start.epistemic_twist_cov + start.noise_twist_cov
    coasting = Coasting(np.array([5.0, 0, 0, 0, 0, 0]), twist_cov, growth.coasting)
    gained = start.after(elapsed_s, growth).cov - start.cov
    told = coasting.displacement_cov(elapsed_s)[plane]
    assert (np.diagonal(gained) > np.diagonal(told)).all()


def test_an_ordinary_latency_costs_next_to_nothing_and_half_a_second_is_told():
    sure = replace(belief(speed=5.0), cov=diagonal(1e-6, 1e-6, 1e-6))
    sure = replace(sure, epistemic_twist_cov=1e-9 * np.eye(3), noise_twist_cov=1e-9 * np.eye(3))
    std = {s: np.sqrt(np.diagonal(sure.after(s, Growth()).cov)) for s in (0.05, 0.5)}
    assert (std[0.05] < [0.004, 0.005, 0.001]).all()
    assert (std[0.5] > [0.37, 0.37, 0.06]).all()


def driven(start, acceleration, elapsed_s, steps=50):
    """Return the true poses [n, 3] of cars whose twists change by accelerations [n, steps, 3]."""
    dt_s, pose = elapsed_s / steps, start[0].copy()
    twist = start[1].copy()
    for k in range(steps):
        later = twist + dt_s * acceleration[:, k]
        middle = 0.5 * (twist + later)
        yaw = pose[:, 2] + 0.5 * dt_s * middle[:, 2]
        c, s = np.cos(yaw), np.sin(yaw)
        way = [c * middle[:, 0] - s * middle[:, 1], s * middle[:, 0] + c * middle[:, 1]]
        pose, twist = pose + dt_s * np.stack([*way, middle[:, 2]], -1), later
    return pose


def covered(aged, poses):
    error = poses - aged.pose
    squared = (error * np.linalg.solve(aged.cov, error.T).T).sum(-1)
    return (squared <= chi2.ppf(0.95, 3)).mean()


@pytest.mark.parametrize("elapsed_s", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("lasting", [True, False])
def test_what_a_car_does_meanwhile_is_covered(elapsed_s, lasting):
    # Accelerations as E-G1 has them; drawn anew again and again, they carry the car less far.
    rng, n, growth = np.random.default_rng(3), 4000, Growth()
    start = replace(belief(speed=6.0), twist=np.array([6.0, 0.0, 0.2]))
    twist_cov = start.epistemic_twist_cov + start.noise_twist_cov
    first = [
        rng.multivariate_normal(mean, cov, n)
        for mean, cov in ((start.pose, start.cov), (start.twist, twist_cov))
    ]
    s = growth.coasting
    std = [s.acceleration_std_m_s2] * 2 + [s.angular_acceleration_std_rad_s2]
    drawn = rng.normal(size=(n, 1 if lasting else 50, 3)) * std
    poses = driven(first, np.broadcast_to(drawn, (n, 50, 3)), elapsed_s)
    aged = start.after(elapsed_s, growth)
    noise = 3 * np.sqrt(0.95 * 0.05 / n)
    assert covered(aged, poses) > 0.95 - noise
    if lasting and elapsed_s >= 0.5:  # and by no more than the twist's noise counted twice
        share = np.sqrt(np.diagonal(aged.cov)) / poses.std(0)
        assert (share < 1.35).all()


def test_a_car_that_steers_and_brakes_while_the_camera_fails_is_where_it_may_be():
    # As in a drive: 0.07 rad of error after half a second in which the wheels were turned.
    vehicle, growth, rng = Vehicle(), Growth(), np.random.default_rng(5)
    far, turned = [], []
    for _ in range(300):
        speed = rng.uniform(1.0, 8.0)
        car = Car(vehicle, np.zeros(3), speed)
        bend = rng.uniform(-1, 1) * vehicle.lateral_acceleration_max_m_s2 / speed**2
        steering = float(np.clip(np.arctan(2.7 * bend), -0.55, 0.55))
        car.drive(Command(speed, rng.choice([-6.0, -2.5, 0.0, 1.5]), steering), 0.5)
        twist = np.array([speed, 0.0, 0.0])
        sure = [diagonal(0.05, 0.05, 0.007), diagonal(0.1, 0.02, 0.002)]
        start = Belief(np.zeros(3), sure[0], twist, sure[1], sure[1])
        aged = start.after(0.5, growth)
        error = car.pose - aged.pose
        far.append(np.sqrt(error @ np.linalg.solve(aged.cov, error)))
        turned.append(abs(error[2]))
    assert np.quantile(far, 0.95) < np.sqrt(chi2.ppf(0.95, 3))
    assert max(far) < np.sqrt(chi2.ppf(0.999, 3))
    assert max(turned) > 0.07


@pytest.mark.parametrize(
    "cov",
    [np.zeros((3, 3)), -np.eye(3), np.full((3, 3), np.nan), np.diag([1.0, 1.0, np.inf]),
     np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), np.triu(np.ones((3, 3)))],
)  # fmt: skip
def test_what_is_no_covariance_is_refused(cov):
    good = np.eye(3)
    for k in range(3):
        covs = [good, good, good]
        covs[k] = cov
        with pytest.raises(CovarianceError, match="belief's"):
            Belief(np.zeros(3), covs[0], np.zeros(3), covs[1], covs[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    for pose, twist in (([0, bad, 0], [0, 0, 0]), ([0, 0, 0], [bad, 0, 0])):
        with pytest.raises(ValueError, match="not finite"):
            Belief(np.array(pose), np.eye(3), np.array(twist), np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match=r"-1\.0 s old"):
        Belief(np.zeros(3), np.eye(3), np.zeros(3), np.eye(3), np.eye(3), age_s=-1.0)
    with pytest.raises(ValueError, match="noise_correlation_s"):
        Growth(noise_correlation_s=bad)
