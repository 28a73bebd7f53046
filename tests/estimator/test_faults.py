import itertools

import cv2
import numpy as np
import pytest
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator import Estimator, MotionEstimate, TrackingState
from bayes_vio.geometry import se3
from tests.estimator_cases import (
    SPEED_M_S,
    START_NS,
    YAW_RATE_RAD_S,
    Drive,
    KnownArtifact,
    assert_publishable,
    no_inertia,
    scene,
)

MS = 1_000_000
TRACKING, DEGRADED, LOST = (
    TrackingState.TRACKING,
    TrackingState.DEGRADED,
    TrackingState.LOST,
)


def by_frame(estimates: list[MotionEstimate]) -> dict[int, MotionEstimate]:
    """Return estimates by the index of the 10 Hz frame at which they end."""
    return {round((e.stamp_ns - START_NS) / (100 * MS)): e for e in estimates}


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 12), np.uint8)


UNUSABLE = {
    "image_dark": lambda image: image // 16,
    "image_bright": lambda image: 255 - image // 16,
    "image_blurred": blurred,
    "image_frozen": lambda image: scene(19),
}


@pytest.mark.parametrize("cause", UNUSABLE)
def test_an_unusable_image_masks_the_camera_until_a_pair_is_sound_again(cause):
    artifact = KnownArtifact()
    spoil = lambda k, image: UNUSABLE[cause](image) if 20 <= k < 25 else image  # noqa: E731
    estimator = Estimator(artifact)
    estimates = by_frame(Drive(images=spoil).run(estimator, 4.0))
    for k in range(20, 25):
        assert (estimates[k].state, estimates[k].cause) == (DEGRADED, cause)
        assert artifact.asked[k - 1].camera_valid == 0
        assert artifact.asked[k - 1].flow.abs().sum() == 0
    assert (estimates[25].state, estimates[25].cause) == (DEGRADED, "earlier_image_unusable")
    assert estimates[19].state is TRACKING
    assert all(estimates[k].state is TRACKING for k in range(26, 41))
    # Aside: ahead, the speed is carried on.
    assert estimates[22].cov[1, 1] > 100 * estimates[19].cov[1, 1]
    assert estimates[22].cov[0, 0] < 30 * estimates[19].cov[0, 0]
    assert estimates[22].cov[5, 5] < 20 * estimates[19].cov[5, 5]
    assert estimator.counters[cause] == 5
    assert any(event.startswith(cause) for event in estimator.events())


def test_errors_of_a_run_without_camera_last_in_the_odometry_not_in_the_frame():
    spoil = lambda k, image: image // 16 if k >= 10 else image  # noqa: E731
    drives = {
        tau_s: by_frame(
            Drive(images=spoil).run(
                Estimator(KnownArtifact(), no_inertia(unseen_speed_correlation_s=tau_s)),
                3.0,
            )
        )
        for tau_s in (1e-3, 0.5)
    }
    white, lasting = drives[1e-3], drives[0.5]
    for k in range(10, 31):
        np.testing.assert_allclose(lasting[k].noise_cov, lasting[10].noise_cov, rtol=1e-6)
        np.testing.assert_allclose(lasting[k].noise_cov, white[k].noise_cov, rtol=1e-6)
    single = lasting[10].noise_cov[2, 2]
    n, rho = 21, np.exp(-0.1 / 0.5)
    lags = np.arange(1, n)
    # Height takes no part in the circle's turning: what lasts adds up as in one dimension.
    added = single * 2 * np.sum((n - lags) * rho**lags)
    difference = lasting[30].odom_cov[2, 2] - white[30].odom_cov[2, 2]
    assert difference == pytest.approx(added, rel=1e-3)


def nearly(index: int, image: np.ndarray) -> np.ndarray:
    """The same image again, with a few pixels changed by one gray level."""
    if index < 20:
        return image
    again = scene(19).copy()
    again[::10, index % 5 :: 10] ^= 1
    return again


def test_nearly_the_same_image_is_frozen_only_if_the_imu_says_motion():
    driving = by_frame(Drive(images=nearly).run(Estimator(KnownArtifact()), 3.0))
    assert driving[25].cause == "image_frozen"
    still = lambda k, s: np.array([1e-3 * (k % 2), 0, 9.8, 0, 0, 0.001])  # noqa: E731
    standing = by_frame(Drive(images=nearly, samples=still).run(Estimator(KnownArtifact()), 3.0))
    assert standing[25].state is TRACKING


def test_imu_gap_and_missing_imu_degrade():
    artifact = KnownArtifact()
    drive = Drive(without_imu=range(203, 208))
    estimates = by_frame(drive.run(Estimator(artifact), 3.0))
    assert (estimates[21].state, estimates[21].cause) == (DEGRADED, "imu_gap")
    assert 0 < artifact.asked[20].imu_valid.sum() < 20
    assert all(estimates[k].state is TRACKING for k in range(1, 31) if k != 21)
    missing = by_frame(Drive(without_imu=range(301)).run(Estimator(KnownArtifact()), 3.0))
    assert {e.cause for e in missing.values()} == {"imu_missing"}
    assert {e.state for e in missing.values()} == {DEGRADED}
    assert len(missing) == 30


def test_imu_that_dies_leaves_the_camera():
    estimates = Drive(without_imu=range(200, 401)).run(Estimator(KnownArtifact()), 4.0)
    assert estimates[-1].cause == "imu_missing"
    assert estimates[-1].stamp_ns == START_NS + 4 * NS_PER_S
    assert all(e.dt_s <= 0.2 for e in estimates)


def test_neither_sensor_is_lost_and_coasts_with_a_growing_covariance():
    spoil = lambda k, image: image // 16 if k >= 20 else image  # noqa: E731
    drive = Drive(images=spoil, without_imu=range(195, 400))
    artifact = KnownArtifact()
    estimates = [e for e in drive.run(Estimator(artifact), 3.5) if e.stamp_ns > START_NS + 2.05e9]
    assert {e.state for e in estimates} == {LOST}
    assert {e.cause for e in estimates} == {"image_dark, imu_missing"}
    variances = np.array([np.diagonal(e.cov) / e.dt_s for e in estimates])
    assert (np.diff(variances, axis=0) > 0).all()
    gone_s = (estimates[-1].stamp_ns - estimates[0].earlier_stamp_ns) / NS_PER_S
    growth = np.sqrt(estimates[-1].odom_cov[0, 0])
    assert growth > 0.5 * 3.0 * gone_s**2
    travelled = estimates[-1].T_odom_base[:3, 3] - estimates[0].T_odom_base[:3, 3]
    assert np.linalg.norm(travelled) > 0.9 * SPEED_M_S * (gone_s - 0.1)


def test_one_dropped_frame_is_told_but_still_measured():
    estimates = by_frame(Drive(without_image={20}).run(Estimator(KnownArtifact()), 3.0))
    assert 20 not in estimates
    assert (estimates[21].state, estimates[21].cause) == (DEGRADED, "frames_dropped")
    twist = torch.tensor([SPEED_M_S, 0, 0, 0, 0, YAW_RATE_RAD_S]).double()
    np.testing.assert_allclose(estimates[21].T_earlier_later, se3.exp(0.2 * twist), atol=1e-6)
    assert estimates[22].state is TRACKING


def test_an_interval_somewhat_longer_than_in_training_is_inflated():
    nominal = Drive().run(Estimator(KnownArtifact()), 1.0)[-1]
    artifact = KnownArtifact(dt_range_s=(0.05, 0.08))
    estimates = Drive().run(Estimator(artifact), 1.0)
    assert {(e.state, e.cause) for e in estimates} == {(DEGRADED, "interval_unusual")}
    np.testing.assert_allclose(estimates[-1].cov, 1.25**4 * nominal.cov, rtol=1e-3, atol=1e-12)


def test_the_model_is_not_asked_about_much_longer_intervals():
    artifact = KnownArtifact()
    estimator = Estimator(artifact)
    estimates = by_frame(Drive(without_image=range(20, 23)).run(estimator, 3.0))
    asked_s = {round(float(x.dt), 6) for x in artifact.asked}
    gap = estimates[23]
    assert asked_s == {0.1}
    assert (gap.state, gap.dt_s) == (LOST, 0.4)
    assert "interval_out_of_range" in gap.cause
    coasted = [SPEED_M_S * 0.4, 0, 0, 0, 0, YAW_RATE_RAD_S * 0.4]
    expected = se3.exp(torch.tensor(coasted).double())
    np.testing.assert_allclose(gap.T_earlier_later, expected, atol=1e-5)
    assert np.sqrt(gap.cov[0, 0]) >= 0.5 * 3.0 * 0.4**2
    assert estimates[24].state is TRACKING


@pytest.mark.parametrize("clock_ahead_ns", [0, 10**12, -(10**18)])
def test_a_silent_camera_is_coasted_over_and_recovers_within_two_frames(clock_ahead_ns):
    drive = Drive(without_image=range(21, 59), clock_ahead_ns=clock_ahead_ns)
    estimator = Estimator(KnownArtifact())
    estimates = drive.run(estimator, 8.0)
    silent = [e for e in estimates if "image_missing" in e.cause]
    assert len(silent) == 7
    assert {e.state for e in silent} == {LOST}
    assert all(e.dt_s == 0.5 for e in silent)
    std = [np.sqrt(np.diagonal(e.odom_cov)) for e in silent]
    assert (np.diff(std, axis=0) > 0).all()
    twist_var = [e.cov[0, 0] / e.dt_s**2 for e in silent]
    assert (np.diff(twist_var) > 0).all()
    for earlier, later in itertools.pairwise(estimates):
        assert later.earlier_stamp_ns == earlier.stamp_ns
    after = [e for e in estimates if e.stamp_ns >= START_NS + 5900 * MS]
    assert [e.state for e in after[:3]] == [LOST, TRACKING, TRACKING]


def test_a_silent_camera_with_an_imu_that_the_model_knows_is_dead_reckoned():
    artifact = KnownArtifact(dt_range_s=(0.05, 0.4))
    estimates = Drive(without_image=range(21, 60)).run(Estimator(artifact), 8.0)
    silent = [e for e in estimates if "image_missing" in e.cause]
    assert {e.state for e in silent} == {DEGRADED}
    assert all(e.dt_s == pytest.approx(0.6) for e in silent)
    yaw = [np.arctan2(e.T_earlier_later[1, 0], e.T_earlier_later[0, 0]) for e in silent]
    np.testing.assert_allclose(yaw, 0.6 * YAW_RATE_RAD_S, rtol=1e-4)
    std = [np.sqrt(e.odom_cov[0, 0]) for e in silent]
    assert (np.diff(std) > 0).all()


def test_asked_late_one_increment_spans_all_the_silence():
    estimator = Estimator(KnownArtifact())
    last = Drive().run(estimator, 1.0)[-1]
    estimate = estimator.estimate(START_NS + 8 * NS_PER_S)
    assert estimate is not None
    assert_publishable(estimate)
    assert estimate.state is LOST
    assert estimate.earlier_stamp_ns == last.stamp_ns
    assert estimate.dt_s == 7.0
    assert estimator.estimate(START_NS + 8 * NS_PER_S) is None


def test_a_silence_without_end_stays_finite_and_bounded():
    estimator = Estimator(KnownArtifact())
    Drive().run(estimator, 1.0)
    for power in range(1, 10):
        estimate = estimator.estimate(START_NS + 10**power * NS_PER_S)
        if estimate is not None:
            assert_publishable(estimate)
    assert estimate is not None
    assert np.sqrt(estimate.odom_cov[0, 0]) == pytest.approx(1e5)
    assert np.linalg.norm(estimate.T_odom_base[:3, 3]) < 200
    assert estimator.counters["pose_unknown"] > 0


def test_a_replay_slower_than_the_clock_is_no_silence():
    estimator, drive, states = Estimator(KnownArtifact()), Drive(), []
    for time_ns, kind, index in drive.events(3.0):
        stamp_ns = START_NS + time_ns
        if kind:
            estimator.feed_image(stamp_ns, scene(index))
        else:
            estimator.feed_imu(stamp_ns, drive.sample(index))
        estimate = estimator.estimate(START_NS + 10 * time_ns)
        if estimate:
            states.append(estimate.state)
    assert states == [TRACKING] * 30


def test_initialising_while_moving_and_with_a_bad_first_image():
    spoil = lambda k, image: image // 16 if k == 0 else image  # noqa: E731
    estimates = Drive(images=spoil).run(Estimator(KnownArtifact()), 1.0)
    assert [e.state for e in estimates[:3]] == [DEGRADED, TRACKING, TRACKING]
    nothing = Drive(images=spoil, without_imu=range(11)).run(Estimator(KnownArtifact()), 0.1)
    assert nothing[0].state is LOST
    assert np.sqrt(nothing[0].cov[0, 0]) > 0.1 * 0.9 * 30.0


def test_a_bag_that_loops_resets():
    estimator = Estimator(KnownArtifact())
    Drive().run(estimator, 3.0)
    again = Drive().run(estimator, 3.0)
    assert estimator.counters["reset"] in (1, 2)
    assert any("reset: " in event and "went back" in event for event in estimator.events())
    assert {e.state for e in again} == {TRACKING}
    fresh = Drive().run(Estimator(KnownArtifact()), 3.0)
    np.testing.assert_allclose(again[-1].T_odom_base, fresh[-1].T_odom_base, atol=1e-9)
    np.testing.assert_allclose(again[-1].odom_cov, fresh[-1].odom_cov, rtol=1e-6)


def test_small_steps_back_are_dropped_and_counted():
    estimator = Estimator(KnownArtifact())
    last = Drive().run(estimator, 1.0)[-1]
    estimator.feed_imu(START_NS + 900 * MS, np.zeros(6))
    estimator.feed_imu(START_NS + 1000 * MS, np.zeros(6))
    estimator.feed_image(START_NS + 900 * MS, scene(0))
    estimator.feed_image(START_NS + 1000 * MS, scene(0))
    assert estimator.estimate(START_NS + 1000 * MS) is None
    assert estimator.counters == {
        "imu_stamp_backwards": 1,
        "imu_stamp_duplicate": 1,
        "image_stamp_backwards": 1,
        "image_stamp_duplicate": 1,
    }
    assert last.state is estimator.state is TRACKING


@pytest.mark.parametrize(
    ("sample", "cause", "told"),
    [
        (np.full(6, np.nan), "imu_not_finite", "a number that is not finite"),
        ([0, 0, 9.8, 0, 0, np.inf], "imu_not_finite", "a number that is not finite"),
        (np.zeros(5), "imu_shape", "the shape (5,), not (6,)"),
        ([0, 0, 9.8, 0, 0, 1e4], "imu_out_of_range", "0, 0, 9.8, 0, 0, 1e+04 (m/s^2, rad/s)"),
        ([1e30, 0, 9.8, 0, 0, 0], "imu_out_of_range", "1e+30, 0, 9.8, 0, 0, 0"),
    ],
)
def test_bad_imu_values_are_left_out_and_counted(sample, cause, told):
    estimator = Estimator(KnownArtifact())
    estimator.feed_imu(START_NS, sample)
    estimator.feed_imu(0, np.zeros(6))
    assert estimator.counters == {cause: 1, "imu_stamp_invalid": 1}
    event = estimator.events()[0]
    assert event.startswith(f"{cause}: ")
    assert told in event
    spoiled = Drive(samples=lambda k, s: np.asarray(sample) if k % 50 == 25 else s)
    states = {e.state for e in spoiled.run(estimator, 2.0)}
    assert states == {TRACKING}


@pytest.mark.parametrize(
    ("image", "cause", "told"),
    [
        (
            np.zeros((80, 255), np.uint8),
            "image_size",
            "is 255 x 80, but the calibration is for 256",
        ),
        (np.zeros((80, 256), np.float32), "image_type", "no [height, width] of uint8"),
        (np.zeros((80, 256, 3), np.uint8), "image_type", "no [height, width] of uint8"),
        (np.zeros((0, 0), np.uint8), "image_size", "is 0 x 0"),
        (None, "image_type", "no [height, width] of uint8"),
    ],
)
def test_bad_images_are_left_out_and_counted(image, cause, told):
    estimator = Estimator(KnownArtifact())
    estimator.feed_image(START_NS, image)
    estimator.feed_image(0, scene(0))
    assert estimator.counters == {cause: 1, "image_stamp_invalid": 1}
    event = estimator.events()[0]
    assert event.startswith(f"{cause}: ")
    assert told in event
    assert estimator.estimate(START_NS) is None


def test_an_image_behind_the_odometry_is_late():
    estimator = Estimator(KnownArtifact())
    Drive(without_image=range(11, 99)).run(estimator, 2.0)
    estimator.feed_image(START_NS + 1200 * MS, scene(12))
    assert estimator.estimate(START_NS + 2000 * MS) is None
    assert estimator.counters["image_late"] == 1


def test_a_clock_that_goes_back_restarts_the_timers_only():
    estimator, drive = Estimator(KnownArtifact()), Drive()
    drive.run(estimator, 1.0)
    assert estimator.estimate(START_NS - 10 * NS_PER_S) is None
    assert estimator.counters == {"clock_backwards": 1}
    assert estimator.estimate(START_NS - 10 * NS_PER_S + 400 * MS) is None
    estimate = estimator.estimate(START_NS - 10 * NS_PER_S + 500 * MS)
    assert estimate is not None
    assert estimate.state is LOST
