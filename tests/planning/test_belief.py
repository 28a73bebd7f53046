"""The belief's roll-out against samples, its growth, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.filters.covariance import CovarianceError, check_spd
from bayes_vio.planning import Belief, Growth
from bayes_vio.planning.belief import roll_out
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
    gained = later.cov[0, 0] - growth.tracking_cov[0, 0]
    assert np.sqrt(gained) == pytest.approx(0.5 * growth.coasting.acceleration_std_m_s2 * 4)
    assert later.lost_s == 2.0


def test_a_belief_goes_on_with_its_twist():
    start = Belief(
        np.array([1.0, 2.0, np.pi / 2]), diagonal(0.1, 0.1, 0.01), np.array([4.0, 0.0, 0.0]),
        *(diagonal(0.1, 0.1, 0.01),) * 2,
    )  # fmt: skip
    later = start.after(0.5, Growth())
    np.testing.assert_allclose(later.pose, [1.0, 4.0, np.pi / 2], atol=1e-12)
    assert np.linalg.eigvalsh(later.cov - start.cov).min() > 0
    assert start.after(0.0, Growth()) is start


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
    with pytest.raises(ValueError, match="noise_correlation_s"):
        Growth(noise_correlation_s=bad)
