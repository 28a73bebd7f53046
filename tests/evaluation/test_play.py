from collections import Counter

import numpy as np
import pytest

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.samples import CameraModel, Extrinsics, ImuStream, ReferenceStream, Streams
from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.evaluation.play import estimates, events, in_imu_axes, play
from tests.evaluation.synthetic import chain, drive, exp

MS = NS_PER_S // 1000
N_IMAGES = 12


def recording(reference=True, n_imu=200):
    """Return images at 10 Hz, numbered in their pixels, and IMU samples every 10 ms."""
    image_ns = np.arange(N_IMAGES) * 100 * MS
    imu_ns = np.arange(n_imu) * 10 * MS - 50 * MS
    T_base_imu = exp([0.1, 0, 0, 0.3, -0.2, 1.0])
    samples = np.arange(n_imu * 6, dtype=float).reshape(n_imu, 6)

    def frames():
        for k, stamp in enumerate(image_ns):
            yield int(stamp), np.full((4, 6), k, np.uint8)

    return Streams(
        name="made up",
        camera=CameraModel(6, 4, np.eye(3)),
        extrinsics=Extrinsics(T_base_imu, np.eye(4), "test"),
        image_stamp_ns=image_ns,
        frames=frames,
        imu=ImuStream(imu_ns, samples),
        reference=ReferenceStream(image_ns[1:], chain(drive(N_IMAGES - 2))) if reference else None,
        dropped={"truncated images": 2},
    )


class Recorder:
    """An estimator that notes what it is fed and answers as soon as the IMU covers it."""

    def __init__(self, offset_ns=30 * MS):
        self.fed, self.counters, self.offset_ns = [], Counter({"imu_gap": 1}), offset_ns
        self.waiting, self.earlier_ns, self.newest_imu_ns = [], None, None

    def feed_imu(self, stamp_ns, sample):
        self.fed.append(("imu", stamp_ns, sample))
        self.newest_imu_ns = stamp_ns

    def feed_image(self, stamp_ns, gray):
        self.fed.append(("image", stamp_ns, gray))
        self.waiting.append(stamp_ns)

    def estimate(self, now_ns):
        covered = self.newest_imu_ns
        if not self.waiting or covered is None or covered < self.waiting[0] + self.offset_ns:
            return None
        earlier_ns, self.earlier_ns = self.earlier_ns, self.waiting.pop(0)
        if earlier_ns is None:
            return None
        return MotionEstimate(
            earlier_stamp_ns=earlier_ns,
            stamp_ns=self.earlier_ns,
            dt_s=0.1,
            T_earlier_later=np.eye(4),
            epistemic_cov=np.eye(6) * 0.1,
            noise_cov=np.eye(6),
            state=TrackingState.TRACKING,
            cause="",
            T_odom_base=np.eye(4),
            odom_cov=np.eye(6),
        )


def test_events_come_in_the_order_of_their_stamps_imu_first():
    found = [(e.stamp_ns, e.gray is not None) for e in events(recording())]
    assert found == sorted(found)
    assert sum(is_image for _, is_image in found) == N_IMAGES
    # Samples long after the last image would only say that the camera stopped.
    assert found[-1][0] == (N_IMAGES - 1) * 100 * MS + 400 * MS


def test_samples_go_back_into_the_sensors_axes():
    streams = recording()
    R_base_imu = streams.extrinsics.T_base_imu[:3, :3]
    turned = in_imu_axes(streams.imu, streams.extrinsics)
    np.testing.assert_allclose(turned[:, :3] @ R_base_imu.T, streams.imu.samples[:, :3], atol=1e-9)
    np.testing.assert_allclose(turned[:, 3:] @ R_base_imu.T, streams.imu.samples[:, 3:], atol=1e-9)
    estimator = Recorder()
    list(estimates(estimator, events(streams)))
    fed = np.array([sample for kind, _, sample in estimator.fed if kind == "imu"])
    np.testing.assert_array_equal(fed, turned[: len(fed)])


def test_an_estimate_waits_for_its_imu_samples_on_the_streams_clock():
    run = play(Recorder(), recording())
    np.testing.assert_allclose(run.wait_s, 0.03)
    assert (run.compute_s > 0).all()


def test_run_pairs_estimates_with_the_reference_at_their_stamps():
    streams = recording()
    run = play(Recorder(), streams)
    # 11 intervals, of which the reference, starting at the second image, misses one.
    assert len(run) == N_IMAGES - 2
    assert run.unreferenced == 1
    np.testing.assert_allclose(run.T_world_earlier, streams.reference.T_world_base[:-1])
    np.testing.assert_allclose(run.T_world_base, streams.reference.T_world_base[1:])
    assert run.counters == {"imu_gap": 1, "recording: truncated images": 2}
    assert set(run.state) == {"tracking"}


def test_an_estimate_over_a_jump_of_the_reference_is_not_judged():
    streams = recording()
    streams.reference.T_world_base[5:, 0, 3] += 30.0
    run = play(Recorder(), streams)
    assert run.stamp_ns.tolist() == np.delete(streams.image_stamp_ns[2:], 4).tolist()
    assert run.unreferenced == 2
    assert run.counters["recording: reference: jumps"] == 1


def test_compute_time_includes_the_image_that_was_fed_before(monkeypatch):
    clock = iter(np.arange(0, 10_000, 1.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    run = play(Recorder(), recording())
    # One tick for the call that took the image, one for the call that completed the estimate.
    np.testing.assert_array_equal(run.compute_s, 2.0)


def test_progress_counts_images():
    told = []
    play(Recorder(), recording(), lambda done, total: told.append((done, total)))
    assert told == [(k + 1, N_IMAGES) for k in range(N_IMAGES)]


def test_a_recording_without_reference_or_estimates_is_refused():
    with pytest.raises(ValueError, match="no reference pose"):
        play(Recorder(), recording(reference=False))
    with pytest.raises(ValueError, match="gave no estimate"):
        play(Recorder(offset_ns=10**12), recording())


def test_a_reference_on_another_clock_is_refused():
    streams = recording()
    moved = ReferenceStream(streams.reference.stamp_ns + 10**15, streams.reference.T_world_base)
    shifted = Streams(**{**vars(streams), "reference": moved})
    with pytest.raises(ValueError, match="one clock"):
        play(Recorder(), shifted)
