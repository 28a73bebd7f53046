"""Bin averages are exact, holes are told, and the input is the same offline and online."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.frames import FlowEstimator, to_grid_levels
from bayes_vio.data.samples import IMU_BINS
from bayes_vio.data.windows import imu_bins, imu_bins_many, motion_batch, motion_input
from tests.data.drives import START_NS, texture


def jittered(n: int, seed: int, period_s: float = 0.01):
    rng = np.random.default_rng(seed)
    steps = np.round(period_s * NS_PER_S * rng.uniform(0.3, 1.7, n)).astype(np.int64)
    samples = rng.normal(size=(n, 6)) + np.array([0, 0, 9.8, 0, 0, 0])
    return START_NS + np.cumsum(steps), samples


def dense_means(stamp_ns, samples, start_ns, end_ns, n_bins, points=20_000):
    """Quadrature of the interpolated signal: the midpoint rule on a dense grid."""
    share = (np.arange(points * n_bins) + 0.5) / (points * n_bins)
    t = (start_ns - stamp_ns[0]) + share * (end_ns - start_ns)
    known = (stamp_ns - stamp_ns[0]).astype(float)
    values = np.stack([np.interp(t, known, column) for column in samples.T], -1)
    return values.reshape(n_bins, points, 6).mean(1)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    start=st.floats(0.05, 0.5),
    length=st.floats(0.005, 0.4),
    n_bins=st.sampled_from([1, 7, IMU_BINS]),
)
def test_bins_are_the_exact_means(seed, start, length, n_bins):
    stamp_ns, samples = jittered(120, seed)
    start_ns = START_NS + round(start * NS_PER_S)
    end_ns = start_ns + round(length * NS_PER_S)
    bins, valid = imu_bins(stamp_ns, samples, start_ns, end_ns, n_bins)
    assert bins.shape == (n_bins, 6)
    assert bins.dtype == valid.dtype == np.float32
    assert valid.all()
    truth = dense_means(stamp_ns, samples, start_ns, end_ns, n_bins, points=4000)
    np.testing.assert_allclose(bins, truth, atol=2e-5)


def test_many_windows_are_single_windows_and_long_recordings_lose_no_digits():
    stamp_ns, samples = jittered(60_000, 3)  # ten minutes
    start_ns = stamp_ns[-60] + NS_PER_S // 10 * np.arange(3)
    end_ns = start_ns + NS_PER_S // 10
    bins, valid = imu_bins_many(stamp_ns, samples, start_ns, end_ns)
    for k in range(3):
        one, one_valid = imu_bins(stamp_ns[-200:], samples[-200:], start_ns[k], end_ns[k])
        np.testing.assert_allclose(bins[k], one, atol=1e-5)
        np.testing.assert_array_equal(valid[k], one_valid)


def test_a_linear_signal_is_met_at_the_middle_of_each_bin():
    stamp_ns = START_NS + np.array([0, NS_PER_S // 50, NS_PER_S // 10], np.int64)
    t = (stamp_ns - START_NS) / NS_PER_S
    samples = t[:, None] * np.arange(1.0, 7)
    bins, _ = imu_bins(stamp_ns[[0, 2]], samples[[0, 2]], int(stamp_ns[0]), int(stamp_ns[2]), 5)
    middles = 0.1 * (np.arange(5) + 0.5) / 5
    np.testing.assert_allclose(bins, middles[:, None] * np.arange(1.0, 7), rtol=1e-6)


def test_a_hole_spoils_exactly_the_bins_it_touches():
    stamp_ns = START_NS + (NS_PER_S // 100) * np.arange(41, dtype=np.int64)
    keep = np.ones(41, bool)
    keep[11:19] = False  # 90 ms without a sample, from 100 to 190 ms
    samples = np.ones((41, 6))
    bins, valid = imu_bins(stamp_ns[keep], samples[keep], START_NS, int(stamp_ns[-1]), 40)
    expected = np.ones(40)
    expected[10:19] = 0
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(bins, expected[:, None] * np.ones(6), atol=1e-6)


def test_short_gaps_are_bridged():
    stamp_ns = START_NS + (NS_PER_S // 100) * np.arange(41, dtype=np.int64)
    keep = np.ones(41, bool)
    keep[11:15] = False  # 50 ms: five median periods
    _, valid = imu_bins(stamp_ns[keep], np.ones((37, 6)), START_NS, int(stamp_ns[-1]), 40)
    assert valid.all()


def test_bins_outside_the_samples_are_invalid():
    stamp_ns, samples = jittered(100, 0)
    start_ns, end_ns = int(stamp_ns[0]) - NS_PER_S // 10, int(stamp_ns[0]) + NS_PER_S // 10
    bins, valid = imu_bins(stamp_ns, samples, start_ns, end_ns)
    np.testing.assert_array_equal(valid, [0] * 10 + [1] * 10)
    assert not bins[:10].any()
    for few in (0, 1):
        assert not imu_bins(stamp_ns[:few], samples[:few], start_ns, end_ns)[1].any()


def test_a_window_that_ends_before_it_starts_is_refused():
    stamp_ns, samples = jittered(100, 0)
    with pytest.raises(ValueError, match="must end after it starts"):
        imu_bins(stamp_ns, samples, START_NS + 5, START_NS + 5)


def test_online_and_offline_inputs_agree():
    stamp_ns, samples = jittered(100, 1)
    earlier, later = texture(80, 256, 1), texture(80, 256, 1)[:, ::-1].copy()
    flow = FlowEstimator()(earlier, later)
    view_valid = np.ones((40, 128), np.float32)
    view_valid[:, :10], view_valid[:, 10] = 0, 0.25
    imu, imu_valid = imu_bins(stamp_ns, samples, int(stamp_ns[5]), int(stamp_ns[40]))
    online = motion_input(later, flow, view_valid, imu, imu_valid, 0.35)
    offline = motion_batch(
        to_grid_levels(later)[None],
        flow[None].astype(np.float16),
        view_valid,
        imu[None],
        imu_valid[None],
        np.array([0.35]),
        np.ones(1, np.float32),
    )
    assert len(online) == 1
    assert (online.gray == offline.gray).all()
    assert (online.flow - offline.flow).abs().max() < 1e-3 * online.flow.abs().max()
    assert (online.imu == offline.imu).all()
    assert online.gray[..., :10].abs().max() == 0
    assert online.flow[..., :10].abs().max() == 0
    assert online.gray[..., 10:].mean() > 0.3


def test_without_an_image_the_camera_is_absent():
    zeros = np.zeros((IMU_BINS, 6), np.float32)
    x = motion_input(None, None, np.ones((40, 128), np.float32), zeros, zeros[:, 0], 0.1)
    assert x.camera_valid.item() == 0
    assert not x.gray.any()
    assert not x.flow.any()
    assert not x.view_valid.any()
