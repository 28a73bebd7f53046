import numpy as np
import pytest
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.frames import FlowEstimator, ViewProjector
from bayes_vio.data.windows import imu_bins, motion_input
from bayes_vio.estimator import Estimator, EstimatorSettings, TrackingState
from bayes_vio.geometry import se3
from tests.estimator_cases import (
    CAMERA,
    SPEED_M_S,
    START_NS,
    YAW_RATE_RAD_S,
    Drive,
    KnownArtifact,
    extrinsics,
    scene,
)

MS = 1_000_000


def pose_at(time_s: float) -> np.ndarray:
    twist = torch.tensor([SPEED_M_S, 0, 0, 0, 0, YAW_RATE_RAD_S]).double()
    return se3.exp(twist * time_s).numpy()


def test_nominal_drive_is_tracked_exactly_from_the_second_image_on():
    estimator = Estimator(KnownArtifact())
    assert estimator.state is TrackingState.WAITING
    estimates = Drive().run(estimator, 5.0)
    assert len(estimates) == 50
    assert {e.state for e in estimates} == {TrackingState.TRACKING}
    assert estimator.counters == {}
    assert estimator.events() == []
    for k, e in enumerate(estimates):
        assert e.earlier_stamp_ns == START_NS + 100 * MS * k
        np.testing.assert_allclose(e.T_earlier_later, pose_at(0.1), atol=1e-6)
    np.testing.assert_allclose(estimates[-1].T_odom_base, pose_at(5.0), atol=1e-5)


def test_same_feed_same_estimates():
    a, b = (Drive().run(Estimator(KnownArtifact()), 2.0) for _ in range(2))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.odom_cov, other.odom_cov)
        np.testing.assert_array_equal(one.T_odom_base, other.T_odom_base)


def test_covariance_is_taken_from_log_coordinates_to_the_right_perturbation():
    estimate = Drive().run(Estimator(KnownArtifact()), 0.3)[-1]
    xi = torch.tensor([SPEED_M_S, 0, 0, 0, 0, YAW_RATE_RAD_S]).double() * 0.1
    log_cov = torch.tensor([0.01] * 3 + [0.001] * 3).double().square().diag()
    expected = se3.log_cov_to_right_cov(xi, log_cov).numpy()
    np.testing.assert_allclose(estimate.noise_cov, expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(estimate.epistemic_cov, 0.04 * expected, rtol=1e-4, atol=1e-11)
    np.testing.assert_allclose(estimate.cov, 1.04 * expected, rtol=1e-4, atol=1e-11)


def test_odometry_covariance_grows_coherently_with_the_artifacts_correlation_time():
    final = {}
    for tau_s in (0.0, 1000.0):
        artifact = KnownArtifact(epistemic_correlation_s=tau_s)
        final[tau_s] = Drive().run(Estimator(artifact), 10.0)[-1].odom_cov
    assert final[1000.0][5, 5] > 2 * final[0.0][5, 5]


@pytest.mark.parametrize("offset_s", [-0.08, 0.065])
def test_time_offset_of_either_sign(offset_s):
    """The rate changes along the drive; samples are stamped ``offset_s`` late."""
    angle = lambda t: 0.3 * (1 - np.cos(t))  # noqa: E731

    def feed(estimator: Estimator) -> list:
        estimates, images = [], 0
        for k in range(-20, 320):
            time_s = k / 100
            sample = [0, 0, 9.8, 0, 0, 0.3 * np.sin(time_s)]
            estimator.feed_imu(START_NS + round((time_s + offset_s) * NS_PER_S), sample)
            if k >= 0 and k % 10 == 0:
                estimator.feed_image(START_NS + k * 10 * MS, scene(images))
                images += 1
            estimates.append(estimator.estimate(START_NS + k * 10 * MS))
        return [e for e in estimates if e]

    right = feed(Estimator(KnownArtifact(time_offset_s=offset_s)))
    wrong = feed(Estimator(KnownArtifact(), time_offset_s=-offset_s))

    def worst(estimates: list) -> float:
        errors = []
        for e in estimates:
            start_s, end_s = ((t - START_NS) / NS_PER_S for t in (e.earlier_stamp_ns, e.stamp_ns))
            yaw = np.arctan2(e.T_earlier_later[1, 0], e.T_earlier_later[0, 0])
            errors.append(yaw - (angle(end_s) - angle(start_s)))
        return float(np.abs(errors).max())

    assert len(right) >= 29
    assert {e.state for e in right} == {TrackingState.TRACKING}
    assert worst(right) < 1e-5
    assert worst(wrong) > 1e-3


def test_imu_axes_are_turned_into_base_axes():
    T_base_imu = se3.exp(torch.tensor([0.3, 0, 1, 0.5, -1.0, 2.0]).double()).numpy()
    R = T_base_imu[:3, :3]
    turned = Drive(samples=lambda index, s: np.concatenate([R.T @ s[:3], R.T @ s[3:]]))
    estimates = turned.run(Estimator(KnownArtifact(), extrinsics=extrinsics(T_base_imu)), 2.0)
    np.testing.assert_allclose(estimates[-1].T_odom_base, pose_at(2.0), atol=1e-5)


def test_model_sees_what_the_offline_functions_make_of_the_same_data():
    artifact, drive = KnownArtifact(), Drive()
    Drive().run(Estimator(artifact), 1.0)
    projector = ViewProjector(CAMERA, extrinsics().T_base_camera[:3, :3])
    views = [projector.project(scene(k)) for k in range(11)]
    flow = FlowEstimator(projector.valid_pixels)
    stamps = START_NS + 10 * MS * np.arange(101)
    samples = np.stack([drive.sample(k) for k in range(101)])
    for k, asked in enumerate(artifact.asked):
        start_ns, end_ns = START_NS + 100 * MS * k, START_NS + 100 * MS * (k + 1)
        bins = imu_bins(stamps, samples, start_ns, end_ns)
        motion = flow(views[k], views[k + 1])
        expected = motion_input(views[k + 1], motion, projector.valid, *bins, 0.1)
        for name in ("gray", "flow", "view_valid", "imu_valid", "dt", "camera_valid"):
            torch.testing.assert_close(getattr(asked, name), getattr(expected, name))
        torch.testing.assert_close(asked.imu, expected.imu, rtol=0, atol=1e-5)


def fed_until(estimator: Estimator, imu_ms: int, images_ms: list[int]) -> None:
    drive = Drive()
    for k in range(imu_ms // 10 + 1):
        estimator.feed_imu(START_NS + 10 * MS * k, drive.sample(k))
    for ms in images_ms:
        estimator.feed_image(START_NS + ms * MS, scene(ms // 100))


def test_an_image_waits_for_its_imu_samples():
    estimator = Estimator(KnownArtifact())
    fed_until(estimator, 100, [0])
    assert estimator.estimate(START_NS) is None
    assert estimator.awaited_imu_stamp_ns is None
    estimator.feed_image(START_NS + 105 * MS, scene(1))
    assert estimator.estimate(START_NS + 105 * MS) is None
    assert estimator.awaited_imu_stamp_ns == START_NS + 105 * MS
    estimator.feed_imu(START_NS + 110 * MS, Drive().sample(0))
    estimate = estimator.estimate(START_NS + 110 * MS)
    assert estimate is not None
    assert estimate.state is TrackingState.TRACKING
    assert estimator.awaited_imu_stamp_ns is None


@pytest.mark.parametrize("clock_ns", [START_NS, 5 * NS_PER_S, 0])
def test_an_image_waits_no_longer_than_it_should_on_whatever_clock(clock_ns):
    estimator = Estimator(KnownArtifact())
    fed_until(estimator, 60, [0])
    assert estimator.estimate(clock_ns) is None
    estimator.feed_image(START_NS + 100 * MS, scene(1))
    assert estimator.estimate(clock_ns + 100 * MS) is None
    assert estimator.estimate(clock_ns + 199 * MS) is None
    estimate = estimator.estimate(clock_ns + 200 * MS)
    assert estimate is not None
    assert estimate.state is TrackingState.DEGRADED
    assert estimate.cause == "imu_gap"


def test_newest_image_wins_and_the_increment_spans_the_longer_interval():
    estimator = Estimator(KnownArtifact())
    fed_until(estimator, 300, [0])
    assert estimator.estimate(START_NS) is None
    estimator.feed_image(START_NS + 100 * MS, scene(1))
    estimator.feed_image(START_NS + 200 * MS, scene(2))
    estimate = estimator.estimate(START_NS + 300 * MS)
    assert estimate is not None
    assert estimate.dt_s == 0.2
    np.testing.assert_allclose(estimate.T_earlier_later, pose_at(0.2), atol=1e-6)
    assert estimator.counters == {"frames_skipped": 1}


def test_after_a_stall_images_within_the_models_reach_are_caught_up_with():
    estimator = Estimator(KnownArtifact())
    fed_until(estimator, 900, [0])
    assert estimator.estimate(START_NS) is None
    for k in range(1, 9):
        estimator.feed_image(START_NS + 100 * MS * k, scene(k))
    now_ns = START_NS + 900 * MS
    estimates = [e for e in (estimator.estimate(now_ns) for _ in range(5)) if e]
    assert [e.dt_s for e in estimates] == [0.3, 0.3, 0.2]
    assert estimator.state is not TrackingState.LOST
    np.testing.assert_allclose(estimates[-1].T_odom_base, pose_at(0.8), atol=1e-5)


def test_a_sample_stamped_later_is_waited_for_longer():
    estimator = Estimator(KnownArtifact(time_offset_s=0.07))
    fed_until(estimator, 100, [0])
    assert estimator.estimate(START_NS) is None
    estimator.feed_image(START_NS + 100 * MS, scene(1))
    assert estimator.estimate(START_NS + 100 * MS) is None
    assert estimator.estimate(START_NS + 269 * MS) is None
    assert estimator.estimate(START_NS + 270 * MS) is not None


def test_an_older_image_is_not_held_up_by_a_newer_one_that_waits():
    estimator = Estimator(KnownArtifact())
    fed_until(estimator, 150, [0])
    assert estimator.estimate(START_NS) is None
    estimator.feed_image(START_NS + 100 * MS, scene(1))
    estimator.feed_image(START_NS + 200 * MS, scene(2))
    estimate = estimator.estimate(START_NS + 200 * MS)
    assert estimate is not None
    assert estimate.stamp_ns == START_NS + 100 * MS


def test_waiting_images_are_bounded():
    estimator = Estimator(KnownArtifact(), EstimatorSettings(pending_images=3))
    for k in range(10):
        estimator.feed_image(START_NS + k * MS, scene(k))
    assert estimator.counters["frames_skipped"] == 7


def test_a_faster_camera_than_in_training_is_thinned_out():
    artifact = KnownArtifact(dt_range_s=(0.09, 0.2))
    estimates = Drive(camera_hz=60.0, imu_hz=240.0).run(Estimator(artifact), 3.0)
    assert min(e.dt_s for e in estimates) >= 0.06
    assert max(e.dt_s for e in estimates) < 0.08
    np.testing.assert_allclose(
        estimates[-1].T_odom_base,
        pose_at(estimates[-1].stamp_ns / NS_PER_S - START_NS / NS_PER_S),
        atol=1e-4,
    )


def test_the_callers_buffer_may_be_used_again():
    estimator, other = Estimator(KnownArtifact()), Estimator(KnownArtifact())
    image = np.empty((80, 256), np.uint8)

    def reused(index: int, fresh: np.ndarray) -> np.ndarray:
        image[:] = fresh
        return image

    states = [e.state for e in Drive(images=reused).run(estimator, 2.0)]
    assert states == [e.state for e in Drive().run(other, 2.0)]


def test_set_pose_continues_from_there():
    estimator = Estimator(KnownArtifact())
    drive = Drive()
    drive.run(estimator, 1.0)
    T0, cov0 = pose_at(-3.0), np.diag([0.5, 0.4, 0.3, 0.02, 0.02, 0.05]) ** 2
    estimator.set_pose(T0, cov0)
    estimator.feed_imu(START_NS + 1100 * MS, drive.sample(0))
    estimator.feed_image(START_NS + 1100 * MS, scene(11))
    estimate = estimator.estimate(START_NS + 1100 * MS)
    assert estimate is not None
    np.testing.assert_allclose(estimate.T_odom_base, T0 @ estimate.T_earlier_later, atol=1e-12)
    moved = se3.compound(
        torch.from_numpy(cov0),
        torch.from_numpy(estimate.T_earlier_later),
        torch.from_numpy(estimate.cov),
    )
    np.testing.assert_allclose(estimate.odom_cov, moved, rtol=1e-9, atol=1e-15)
    with pytest.raises(ValueError, match="above"):
        estimator.set_pose(T0, 1e12 * np.eye(6))


def test_reset_starts_anew_and_keeps_the_counters():
    estimator = Estimator(KnownArtifact())
    Drive().run(estimator, 1.0)
    estimator.reset("a test")
    assert estimator.state is TrackingState.WAITING
    assert estimator.events() == ["reset: a test"]
    assert estimator.counters == {"reset": 1}
    later = Drive(start_ns=START_NS - 3600 * NS_PER_S).run(estimator, 1.0)
    np.testing.assert_allclose(later[-1].T_odom_base, pose_at(1.0), atol=1e-5)
    assert estimator.counters == {"reset": 1}


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_s": 0.0}, {"imu_wait_s": -1.0}, {"dt_margin": 0.9}, {"floor_std": np.nan}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EstimatorSettings(**wrong)


class WithFeatures(KnownArtifact):
    """The weights err alike in every frame, or in each frame anew."""

    alike = True

    def predict_features(self, x, sketch):
        p = self.predict(x)
        features = torch.zeros(1, 6, 6 * 200, dtype=torch.float64)
        k = 0 if self.alike else 6 * len(self.asked)
        features[0, :, k : k + 6] = torch.linalg.cholesky(p.epistemic_cov[0])
        return p, features


@pytest.mark.parametrize("tau_s", [0.0, 1000.0])
def test_odometry_takes_what_errors_share_from_features_not_from_a_time(tau_s):
    alike, anew = (WithFeatures(epistemic_correlation_s=tau_s) for _ in range(2))
    anew.alike = False
    coherent, white = (Drive().run(Estimator(a), 10.0) for a in (alike, anew))
    timeless = KnownArtifact(epistemic_correlation_s=0.0)
    compounded = Drive().run(Estimator(timeless), 10.0)[-1]
    np.testing.assert_allclose(white[-1].odom_cov, compounded.odom_cov, rtol=1e-5, atol=1e-12)
    assert coherent[-1].odom_cov[5, 5] > 2 * white[-1].odom_cov[5, 5]
    first, other = coherent[0].odom_cov, white[0].odom_cov
    np.testing.assert_allclose(first, other, rtol=1e-6, atol=1e-14)


def test_a_reset_forgets_the_sum():
    estimator = Estimator(WithFeatures())
    before = Drive().run(estimator, 3.0)[-1]
    guess = estimator.estimate(START_NS + 30 * NS_PER_S)
    assert guess.state is TrackingState.LOST
    estimator.reset()
    again = Drive().run(estimator, 3.0)[-1]
    np.testing.assert_array_equal(again.odom_cov, before.odom_cov)
