# ruff: noqa: E402, the imports need what is skipped for
"""Messages built from estimates: packing, frames, stamps, round trips, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.geometry import se3
from bayes_vio.ros import messages

FRAMES = messages.FrameNames()
EARLIER_NS, LATER_NS = 1_700_000_000_000_000_007, 1_700_000_000_100_000_007


def random_cov(seed: int, scale: float = 1.0) -> np.ndarray:
    """Return a positive definite matrix of 21 distinct numbers."""
    A = np.random.default_rng(seed).normal(size=(6, 6))
    return scale * (A @ A.T + np.eye(6))


def pose(seed: int, distance_m: float = 3.0) -> np.ndarray:
    xi = np.random.default_rng(seed).normal(size=6)
    xi[:3] *= distance_m
    return se3.exp(torch.from_numpy(xi)).numpy()


def estimate(seed: int = 0) -> MotionEstimate:
    return MotionEstimate(
        earlier_stamp_ns=EARLIER_NS,
        stamp_ns=LATER_NS,
        dt_s=0.1,
        T_earlier_later=pose(seed),
        epistemic_cov=random_cov(seed + 1, 1e-3),
        noise_cov=random_cov(seed + 2, 1e-3),
        state=TrackingState.TRACKING,
        cause="",
        T_odom_base=pose(seed + 3, 500.0),
        odom_cov=random_cov(seed + 4, 0.1),
    )


def rotation_block(R: np.ndarray) -> np.ndarray:
    B = np.zeros((6, 6))
    B[:3, :3] = B[3:, 3:] = R
    return B


def test_a_covariance_is_packed_row_by_row():
    # 36 distinct numbers, as the upper and the lower triangle differ by less than the tolerance.
    cov = random_cov(0) + 1e-12 * np.arange(36).reshape(6, 6)
    packed = messages.packed(cov)
    for i in range(6):
        for j in range(6):
            assert packed[6 * i + j] == pytest.approx(cov[i, j], abs=1e-10)
    np.testing.assert_array_equal(messages.unpacked(np.arange(36.0))[2], np.arange(12.0, 18.0))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: np.where(np.eye(6) > 0, np.nan, c),
        lambda c: c - 100 * np.eye(6),
        lambda c: c + np.triu(np.ones((6, 6)), 1),
        lambda c: np.zeros((6, 6)),
        lambda c: np.where(np.arange(36).reshape(6, 6) == 7, np.inf, c),
        lambda c: c[:5, :5],
    ],
)
def test_what_is_no_covariance_is_refused(spoil):
    with pytest.raises(CovarianceError):
        messages.packed(spoil(random_cov(1)))


def test_the_odometry_stands_where_and_when_it_should():
    e = estimate()
    moving = messages.MeanTwist.of(e)
    m = messages.odometry(e, moving, FRAMES)
    assert (m.header.frame_id, m.child_frame_id) == ("odom", "base_link")
    assert messages.stamp_ns_of(m.header.stamp) == LATER_NS
    assert (m.header.stamp.sec, m.header.stamp.nanosec) == (1_700_000_000, 100_000_007)
    v, w = m.twist.twist.linear, m.twist.twist.angular
    np.testing.assert_array_equal([v.x, v.y, v.z, w.x, w.y, w.z], moving.mean)
    B = rotation_block(e.T_odom_base[:3, :3])
    np.testing.assert_allclose(
        messages.unpacked(m.pose.covariance), B @ e.odom_cov @ B.T, rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(messages.unpacked(m.twist.covariance), moving.cov, rtol=1e-12)


def test_the_published_position_block_is_that_of_samples_far_from_the_origin():
    e = replace(estimate(), odom_cov=np.diag([0.2, 0.1, 0.05, 0.01, 0.01, 0.02]) ** 2)
    assert np.linalg.norm(e.T_odom_base[:3, 3]) > 200
    message = messages.odometry(e, messages.MeanTwist.of(e), FRAMES)
    published = messages.unpacked(message.pose.covariance)[:3, :3]
    n = 20000
    g = torch.Generator().manual_seed(0)
    xi = torch.randn(n, 6, generator=g, dtype=torch.float64)
    xi *= torch.from_numpy(np.sqrt(np.diagonal(e.odom_cov)))
    T = torch.from_numpy(e.T_odom_base) @ se3.exp(xi)
    sampled = np.cov(T[:, :3, 3].numpy().T)
    # Standard error of a sampled covariance entry: sigma_i sigma_j sqrt(2 / n).
    bound = 5 * 0.2**2 * np.sqrt(2 / n)
    np.testing.assert_allclose(published, sampled, atol=bound)


def test_the_relative_pose_names_the_earlier_stamp():
    e = estimate()
    m = messages.relative_pose(e, messages.MeanTwist.of(e), FRAMES)
    assert m.header.frame_id == "base_link"
    assert m.child_frame_id == "base_link@1700000000.000000007"
    assert messages.earlier_stamp_ns(m.child_frame_id) == EARLIER_NS
    assert messages.stamp_ns_of(m.header.stamp) == LATER_NS
    T, cov = messages.pose_and_right_cov(m.pose)
    np.testing.assert_allclose(T, e.T_earlier_later, atol=1e-12)
    np.testing.assert_allclose(cov, e.cov, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("text", ["base_link", "base_link@12", "base_link@a.000000000", "b@1.5"])
def test_a_child_frame_without_an_earlier_stamp_is_refused(text):
    with pytest.raises(ValueError, match=r"SEC\.NANOSEC"):
        messages.earlier_stamp_ns(text)


def test_the_twist_is_the_increment_over_its_time():
    e = estimate()
    middle_ns = messages.middle_stamp_ns(e)
    assert middle_ns == LATER_NS - 50_000_000
    moving = messages.MeanTwist.of(e)
    m = messages.twist(moving.mean, moving.cov, middle_ns, FRAMES)
    assert m.header.frame_id == "base_link"
    assert messages.stamp_ns_of(m.header.stamp) == middle_ns
    v, w = m.twist.twist.linear, m.twist.twist.angular
    xi = torch.tensor([v.x, v.y, v.z, w.x, w.y, w.z], dtype=torch.float64) * e.dt_s
    np.testing.assert_allclose(se3.exp(xi).numpy(), e.T_earlier_later, atol=1e-12)


def test_the_published_twist_covariance_is_that_of_samples():
    xi = torch.tensor([2.0, 0.03, 0.0, 0.002, -0.003, 0.06], dtype=torch.float64)
    std = np.array([0.05, 0.01, 0.01, 1e-3, 1e-3, 4e-3])  # 20 m/s and 0.6 rad/s at 10 Hz
    cov = np.diag(std**2)
    e = replace(
        estimate(),
        T_earlier_later=se3.exp(xi).numpy(),
        noise_cov=0.75 * cov,
        epistemic_cov=0.25 * cov,
    )
    moving = messages.MeanTwist.of(e)
    m = messages.odometry(e, moving, FRAMES)
    published = messages.unpacked(m.twist.covariance)
    n = 50_000
    errors = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 6)) * std)
    twists = se3.log(se3.exp(xi) @ se3.exp(errors)).numpy() / e.dt_s
    sampled = np.cov(twists.T)
    # Standard error of a sampled covariance entry: sqrt((S_ii S_jj + S_ij^2) / n).
    spread = np.sqrt((np.outer(np.diagonal(sampled), np.diagonal(sampled)) + sampled**2) / n)
    assert np.abs((published - sampled) / spread).max() < 5
    # The increment's covariance over dt^2 alone misses the lever arm of half the way, 1 m.
    assert (np.abs(cov / e.dt_s**2 - sampled) / spread).max() > 20
    np.testing.assert_allclose(moving.epistemic_cov, 0.25 * published, rtol=1e-9)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), stamp_ns=st.integers(0, 2**31 * 10**9 - 1))
def test_poses_covariances_and_stamps_come_back(seed, stamp_ns):
    assert messages.stamp_ns_of(messages.time_of(stamp_ns)) == stamp_ns
    T, cov = pose(seed), random_cov(seed, 1e-4)
    T_back, cov_back = messages.pose_and_right_cov(messages.pose_with_covariance(T, cov))
    np.testing.assert_allclose(T_back, T, atol=1e-9)
    np.testing.assert_allclose(cov_back, cov, rtol=1e-9, atol=1e-14)
    name = messages.earlier_frame("car/base_link", stamp_ns)
    assert messages.earlier_stamp_ns(name) == stamp_ns


def test_a_pose_without_a_rotation_is_refused():
    m = messages.pose_with_covariance(np.eye(4), np.eye(6))
    m.pose.orientation.w = 0.5
    with pytest.raises(ValueError, match=r"norm 0\.5"):
        messages.pose_and_right_cov(m)
    m.pose.orientation.w = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        messages.pose_and_right_cov(m)


def test_the_transform_is_the_odometry_pose():
    e = estimate()
    m = messages.transform(e, FRAMES)
    assert (m.header.frame_id, m.child_frame_id) == ("odom", "base_link")
    T = messages.pose_matrix(m.transform.translation, m.transform.rotation)
    np.testing.assert_allclose(T, e.T_odom_base, atol=1e-9)
