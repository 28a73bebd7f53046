"""Reference poses follow constant twists, and offsets of both signs are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.flow_yaw import _templates, rotation_from_flow
from bayes_vio.data.samples import ImuStream, ReferenceStream
from bayes_vio.data.sync import (
    TimeOffsetError,
    estimate_time_offset,
    increments_between,
    offset_from_reference,
    pose_at,
)
from bayes_vio.geometry import se3, so3
from bayes_vio.simulation import DriveSettings, ImuSettings
from bayes_vio.simulation.drives import random_drive
from bayes_vio.simulation.imu import simulate_imu
from tests.data.drives import START_NS, Drive

TWIST = torch.tensor([3.0, 0.2, -0.1, 0.05, -0.1, 0.4], dtype=torch.float64)


def constant_twist(t: np.ndarray) -> np.ndarray:
    return se3.exp(torch.from_numpy(np.asarray(t, float))[:, None] * TWIST).numpy()


def nanoseconds(t: np.ndarray) -> np.ndarray:
    return START_NS + np.round(np.asarray(t) * NS_PER_S).astype(np.int64)


def test_poses_between_references_follow_a_constant_twist():
    t = np.array([0, 0.1, 0.25, 0.3, 0.7])
    reference = ReferenceStream(nanoseconds(t), constant_twist(t))
    query = np.linspace(0, 0.7, 29)
    T, ok = pose_at(reference, nanoseconds(query))
    assert ok.all()
    np.testing.assert_allclose(T, constant_twist(query), atol=1e-7)


def test_no_pose_outside_or_across_a_long_gap():
    t = np.array([0, 0.1, 0.65, 0.7])
    reference = ReferenceStream(nanoseconds(t), constant_twist(t))
    T, ok = pose_at(reference, nanoseconds([-0.001, 0, 0.05, 0.1, 0.3, 0.65, 0.7, 0.701]))
    np.testing.assert_array_equal(ok, [0, 1, 1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(T[4], np.eye(4))


def test_a_single_reference_pose_holds_at_its_stamp():
    reference = ReferenceStream(nanoseconds([0.5]), constant_twist(np.array([0.5])))
    _, ok = pose_at(reference, nanoseconds([0.5, 0.6]))
    np.testing.assert_array_equal(ok, [True, False])


def test_increments_are_logs_of_relative_poses():
    t = np.array([0, 0.1, 0.2, 0.3])
    reference = ReferenceStream(nanoseconds(t), constant_twist(t))
    xi, ok = increments_between(reference, nanoseconds([0.05, 0.2]), nanoseconds([0.15, 0.4]))
    np.testing.assert_array_equal(ok, [True, False])
    np.testing.assert_allclose(xi[0], 0.1 * TWIST.numpy(), atol=1e-7)


def recorded(drive: Drive, rate_noise: float = 0.01, seed: int = 0) -> ImuStream:
    """The drive's IMU, its stamps late by the offset, noise on every sample."""
    t = drive.imu_t()
    samples = drive.samples(t)
    samples += rate_noise * np.random.default_rng(seed).normal(size=samples.shape)
    return ImuStream(nanoseconds(t + drive.offset_s), samples)


def turns(drive: Drive, noise: float = 1e-3, seed: int = 1):
    t = drive.image_t()
    turned = noise * np.random.default_rng(seed).normal(size=(len(t) - 1, 3))
    turned[:, 2] += np.diff(drive.yaw(t))
    return turned, nanoseconds(t[:-1]), nanoseconds(t[1:])


@pytest.mark.parametrize("offset_s", [-0.2, -0.063, -0.004, 0.0, 0.0705, 0.21])
def test_offsets_of_both_signs_are_found(offset_s):
    drive = Drive(duration_s=20, offset_s=offset_s)
    found = estimate_time_offset(*turns(drive), recorded(drive), "test")
    assert found.offset_s == pytest.approx(offset_s, abs=4 * found.std_s)
    assert found.std_s < 0.004
    assert found.correlation > 0.99
    assert found.source == "test"


def test_scale_bias_and_outliers_do_not_move_the_offset():
    drive = Drive(duration_s=20, offset_s=0.08)
    turned, start_ns, end_ns = turns(drive)
    turned = 0.6 * turned + 0.004
    turned[[5, 60, 120], 2] += [1.5, -2, 1]
    turned[10] = np.nan
    found = estimate_time_offset(turned, start_ns, end_ns, recorded(drive), "test")
    assert found.offset_s == pytest.approx(0.08, abs=0.004)


def test_the_standard_error_covers_the_error():
    drive = Drive(duration_s=20, offset_s=0.05)
    scores = []
    for seed in range(40):
        turned, start_ns, end_ns = turns(drive, noise=0.005, seed=seed)
        found = estimate_time_offset(turned, start_ns, end_ns, recorded(drive, seed=seed), "test")
        scores.append((found.offset_s - 0.05) / found.std_s)
    # 40 draws: the RMS of unit normals lies within 1 +- 0.34 at three sigma; the estimate is
    # allowed to be cautious.
    assert 0.4 < np.sqrt(np.mean(np.square(scores))) < 1.4


def test_a_straight_drive_tells_no_offset():
    drive = Drive(duration_s=20, amplitude=0.0)
    with pytest.raises(TimeOffsetError, match=r"turns too little.*give it by --time-offset"):
        estimate_time_offset(*turns(drive), recorded(drive), "test")


def test_a_mirrored_gyro_tells_no_offset():
    drive = Drive(duration_s=20)
    imu = recorded(drive)
    mirrored = ImuStream(imu.stamp_ns, -imu.samples)
    with pytest.raises(TimeOffsetError):
        estimate_time_offset(*turns(drive), mirrored, "test")


def test_too_few_intervals_are_refused():
    drive = Drive(duration_s=2)
    with pytest.raises(TimeOffsetError, match="needs 30 intervals"):
        estimate_time_offset(*turns(drive), recorded(drive), "test")


def test_the_reference_tells_the_offset():
    drive = Drive(duration_s=20, offset_s=-0.03)
    t = drive.image_t()
    poses = np.stack([drive.pose(time_s) for time_s in t])
    reference = ReferenceStream(nanoseconds(t), poses)
    found = offset_from_reference(reference, recorded(drive), nanoseconds(t))
    assert found.offset_s == pytest.approx(-0.03, abs=0.003)
    assert found.source == "reference"


def test_yaw_is_told_from_flow_under_translation_and_other_cars():
    rng = np.random.default_rng(0)
    n = 60
    yaw, pitch, roll = rng.normal(size=(3, n)) * [[0.02], [0.004], [0.004]]
    rotations, road = _templates()
    depth_change = rng.uniform(0.6, 1.4, size=(n, 1))
    blocks = np.stack([yaw, pitch, roll], 1) @ rotations.T + 0.1 * depth_change * road
    blocks = blocks.reshape(n, 2, 10, 32)
    for frame, column in enumerate(rng.integers(0, 27, n)):
        blocks[frame, :, 4:7, column : column + 5] = 0.15  # another car, on its own way
    flow = blocks.repeat(4, 2).repeat(4, 3) + 1e-3 * rng.normal(size=(n, 2, 40, 128))
    found = rotation_from_flow(flow, np.ones((40, 128), np.float32))
    assert np.abs(found - np.stack([roll, pitch, yaw], 1)).max() < 3e-3
    assert np.abs(found[:, 2] - yaw).max() < 1e-3


def simulated_offset_errors(noise_rad, duration_s, count):
    """Errors and sigmas (s) of offsets between simulated drives' IMU and a noisy reference."""
    rng = np.random.default_rng(0)
    scores = []
    for seed in range(count):
        offset_s = [-0.08, -0.02, 0.0, 0.03, 0.065][seed % 5]
        drive_rng = np.random.default_rng(300 + seed)
        trajectory = random_drive(DriveSettings(duration_s=duration_s), drive_rng)
        t = np.arange(0.05, duration_s - 0.1, 0.1)
        poses = trajectory.pose(t)
        wobble = torch.from_numpy(noise_rad * rng.standard_normal((len(t), 3)))
        poses[:, :3, :3] = poses[:, :3, :3] @ so3.exp(wobble).numpy()
        record = simulate_imu(trajectory, ImuSettings(time_offset_s=offset_s), drive_rng)
        stream = ImuStream(nanoseconds(record.stamp_s), record.samples)
        stamp_ns = nanoseconds(t)
        found = offset_from_reference(ReferenceStream(stamp_ns, poses), stream, stamp_ns)
        scores.append((found.offset_s - offset_s, found.std_s))
    return np.array(scores).T


@pytest.mark.parametrize("noise_rad", [0.0, 3e-4])
def test_offsets_of_simulated_drives_are_found_and_their_sigma_is_true(noise_rad):
    """Drives of any kind, turns or none, bumps and stops; offsets of both signs."""
    error_s, std_s = simulated_offset_errors(noise_rad, 60.0, 20)
    assert np.abs(error_s).max() < 2e-3
    # 20 draws: the RMS of unit normals lies within 1 +- 0.47 at three sigma.
    assert 0.5 < np.sqrt(np.mean((error_s / std_s) ** 2)) < 1.5


def test_the_phase_of_the_samples_does_not_draw_the_offset():
    """Noise of an interpolated gyro is least between two samples: no offset is drawn there."""
    drive = Drive(duration_s=20, amplitude=0.02)
    errors = []
    for seed in range(20):
        offset_s = 0.03 + 0.0005 * seed
        shifted = replace(drive, offset_s=offset_s)
        steps = turns(shifted, noise=1e-5, seed=seed)
        found = estimate_time_offset(*steps, recorded(shifted, 2e-3, seed), "test")
        errors.append((found.offset_s - offset_s) / found.std_s)
    assert np.sqrt(np.mean(np.square(errors))) < 1.6


def test_axes_that_disagree_widen_the_sigma():
    drive = Drive(duration_s=20, offset_s=0.05)
    steps, start_ns, end_ns = turns(drive, noise=5e-4)
    imu = recorded(drive)
    samples = imu.samples.copy()
    samples[:, 4] = drive.yaw_rate(drive.imu_t()) + 0.01 * np.random.default_rng(3).normal(
        size=len(samples)
    )
    imu = ImuStream(imu.stamp_ns, samples)
    t = drive.image_t()
    agreeing, late = steps.copy(), steps.copy()
    agreeing[:, 1] += np.diff(drive.yaw(t))
    late[:, 1] += np.diff(drive.yaw(t - 0.03))
    narrow = estimate_time_offset(agreeing, start_ns, end_ns, imu, "test")
    wide = estimate_time_offset(late, start_ns, end_ns, imu, "test")
    assert wide.std_s > 3 * narrow.std_s
