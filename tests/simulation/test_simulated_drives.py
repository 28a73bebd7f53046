"""Drives: continuous, drivable, and the derivatives of one another."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import (
    ANGULAR_RATE,
    GRAVITY_M_S2,
    R_BASE_OPTICAL,
    SPECIFIC_FORCE,
)
from bayes_vio.geometry import so3
from bayes_vio.simulation.drives import DriveSettings, RecordedDrive, random_drive, recorded_drive
from bayes_vio.simulation.imu import PERFECT_IMU, ImuSettings, simulate_imu
from bayes_vio.simulation.trajectory import smooth

DATA = Path(os.environ.get("BAYES_VIO_DATA", Path(__file__).parents[2] / "../shared/data"))
KITTI = DATA / "kitti" / "imu_poses.npz"
SETTINGS = DriveSettings(duration_s=60.0)


@pytest.fixture(scope="module", params=[0, 1, 2])
def drive(request):
    return random_drive(SETTINGS, np.random.default_rng(request.param))


def integrated_rotation(rates, dt):
    """Compose body rates [n, 3], constant plus linear over each step (coning term included)."""
    first, second = torch.from_numpy(rates[:-1]), torch.from_numpy(rates[1:])
    steps = (first + second) / 2 * dt + torch.linalg.cross(first, second) * dt**2 / 12
    R = torch.eye(3, dtype=torch.float64)
    for step in so3.exp(steps):
        R = R @ step
    return R.numpy()


def test_integrated_gyroscope_reproduces_the_rotation_over_a_minute(drive):
    record = simulate_imu(drive, PERFECT_IMU, np.random.default_rng(0))
    R = integrated_rotation(record.samples[:, ANGULAR_RATE], 0.01)
    first, last = drive.pose([0.0, 60.0])[:, :3, :3]
    error = Rotation.from_matrix((first @ R).T @ last).magnitude()
    assert error < 1e-4


def test_imu_agrees_with_numerical_derivatives_of_poses(drive):
    t, h = np.linspace(1, 59, 500), 1e-3
    before, now, after = drive.pose(t - h), drive.pose(t), drive.pose(t + h)
    R = now[:, :3, :3]
    relative = before[:, :3, :3].transpose(0, 2, 1) @ after[:, :3, :3]
    rate = Rotation.from_matrix(relative).as_rotvec() / (2 * h)
    acceleration = (after[:, :3, 3] - 2 * now[:, :3, 3] + before[:, :3, 3]) / h**2
    force = np.einsum("nji,nj->ni", R, acceleration + np.array([0, 0, GRAVITY_M_S2]))
    np.testing.assert_allclose(drive.angular_rate(t), rate, atol=1e-5)
    np.testing.assert_allclose(drive.specific_force(t), force, atol=1e-3)


def test_specific_force_integrates_to_the_velocity(drive):
    t = np.linspace(0, 60, 60001)
    R = drive.pose(t)[:, :3, :3]
    world = np.einsum("nij,nj->ni", R, drive.specific_force(t)) - [0, 0, GRAVITY_M_S2]
    change = ((world[1:] + world[:-1]) / 2 * np.diff(t)[:, None]).sum(0)
    ends = drive.velocity_world([0.0, 60.0])
    np.testing.assert_allclose(change, ends[1] - ends[0], atol=1e-3)


def test_lever_arm_measures_what_a_point_there_feels(drive):
    arm, t, h = np.array([1.0, -0.4, 0.7]), np.linspace(2, 58, 200), 1e-3
    poses = [drive.pose(t + shift) for shift in (-h, 0.0, h)]
    before, now, after = (p[:, :3, 3] + p[:, :3, :3] @ arm for p in poses)
    acceleration = (after - 2 * now + before) / h**2 + [0, 0, GRAVITY_M_S2]
    expected = np.einsum("nji,nj->ni", poses[1][:, :3, :3], acceleration)
    np.testing.assert_allclose(drive.specific_force(t, arm), expected, atol=2e-3)


@pytest.mark.parametrize("seed", range(8))
def test_speed_acceleration_and_jerk_stay_within_their_bounds(seed):
    settings = DriveSettings(duration_s=120.0)
    drive = random_drive(settings, np.random.default_rng(seed))
    t = np.arange(0, 120, 0.01)
    velocity = drive.velocity_world(t)
    speed = np.hypot(velocity[:, 0], velocity[:, 1])
    acceleration = np.gradient(speed, 0.01)
    lateral = speed * drive.angular_rate(t)[:, 2]
    assert speed.max() <= settings.max_speed_m_s
    assert np.abs(acceleration).max() <= 1.02 * settings.max_acceleration_m_s2
    assert np.abs(np.gradient(acceleration, 0.01)).max() <= 1.05 * settings.max_jerk_m_s3
    assert np.abs(lateral).max() <= settings.max_lateral_acceleration_m_s2


def test_drives_stop_turn_climb_and_differ():
    drives = [random_drive(SETTINGS, np.random.default_rng(seed)) for seed in range(8)]
    t = np.arange(0, 60, 0.05)
    speed = np.array([np.linalg.norm(d.velocity_world(t), axis=1) for d in drives])
    heading = np.array([d.attitude(t)[:, 0] for d in drives])
    height = np.array([d.position(t)[:, 2] for d in drives])
    assert (speed < 0.01).any(1).sum() >= 4
    assert speed.max(1).min() > 8
    assert (np.ptp(heading, axis=1) > np.pi / 3).sum() >= 4
    assert np.median(np.ptp(height, axis=1)) > 2
    assert len({float(s.mean()) for s in speed}) == 8


def test_car_moves_along_its_nose_and_pitches_with_the_slope(drive):
    t = np.arange(0, 60, 0.05)
    velocity, world = drive.velocity(t), drive.velocity_world(t)
    moving = velocity[:, 0] > 3
    sideways = np.abs(velocity[moving, 1]) / velocity[moving, 0]
    assert sideways.max() < 0.02
    slope = np.arctan2(world[moving, 2], np.hypot(*world[moving, :2].T))
    pitch = drive.attitude(t[moving])[:, 1]
    # Suspension and bumps move the pitch by at most 0.03 rad about the road's.
    assert np.abs(pitch + slope).max() < 0.04


def test_same_seed_same_drive():
    first, second = (random_drive(SETTINGS, np.random.default_rng(5)) for _ in range(2))
    t = np.linspace(0, 60, 100)
    np.testing.assert_array_equal(first.pose(t), second.pose(t))


def test_at_rest_an_imu_reads_gravity_and_no_rotation():
    poses = np.tile(np.eye(4), (100, 1, 1))
    still = recorded_drive(RecordedDrive(np.arange(100) * 10**8, poses))
    record = simulate_imu(still, PERFECT_IMU, np.random.default_rng(0))
    np.testing.assert_allclose(record.samples, [[0, 0, GRAVITY_M_S2, 0, 0, 0]] * 991, atol=1e-9)


def test_recorded_poses_are_followed_and_their_noise_is_not_magnified():
    true = random_drive(SETTINGS, np.random.default_rng(3))
    rng = np.random.default_rng(0)
    t = np.arange(0, 60, 0.1)
    noisy = true.pose(t)
    noisy[:, :3, 3] += rng.normal(0, 0.01, (len(t), 3))
    drive = recorded_drive(RecordedDrive((t * 1e9).astype(np.int64), noisy))
    inner = np.arange(2, 57, 0.05)
    apart = drive.position(inner) - true.position(inner)
    assert np.sqrt((apart**2).mean()) < 0.012
    force_error = drive.specific_force(inner) - true.specific_force(inner)
    # A spline through every pose would add about 0.01 sqrt(6) / 0.1^2 = 2.4 m/s^2.
    assert np.sqrt((force_error**2).mean()) < 0.6
    record = simulate_imu(drive, PERFECT_IMU, rng)
    R = integrated_rotation(record.samples[:, ANGULAR_RATE], 0.01)
    ends = drive.pose([0.0, record.stamp_s[-1]])[:, :3, :3]
    assert Rotation.from_matrix((ends[0] @ R).T @ ends[1]).magnitude() < 1e-4


@pytest.mark.parametrize("offset_s", [0.065, -0.04])
def test_sample_of_time_t_is_stamped_t_plus_the_offset(drive, offset_s):
    settings = ImuSettings(**{**vars(PERFECT_IMU), "time_offset_s": offset_s})
    record = simulate_imu(drive, settings, np.random.default_rng(0))
    image_s = np.arange(5, 55, 0.1)
    at_image_stamp_plus_offset = np.interp(
        image_s + offset_s, record.stamp_s, record.samples[:, ANGULAR_RATE][:, 2]
    )
    true = drive.angular_rate(image_s)[:, 2]
    np.testing.assert_allclose(at_image_stamp_plus_offset, true, atol=1e-4)
    at_image_stamp = np.interp(image_s, record.stamp_s, record.samples[:, ANGULAR_RATE][:, 2])
    assert np.abs(at_image_stamp - true).max() > 10 * 1e-4


def test_noise_and_bias_have_the_stated_statistics():
    poses = np.tile(np.eye(4), (3000, 1, 1))
    still = recorded_drive(RecordedDrive(np.arange(3000) * 10**8, poses))
    settings = ImuSettings(rate_hz=100.0, accelerometer_random_walk=1e-3)
    record = simulate_imu(still, settings, np.random.default_rng(1))
    white = record.samples - record.bias - [0, 0, GRAVITY_M_S2, 0, 0, 0]
    n = len(white)
    for part, density in ((SPECIFIC_FORCE, 2e-3), (ANGULAR_RATE, 2e-4)):
        variance = (white[:, part] ** 2).mean() / (density**2 * 100)
        assert abs(variance - 1) < 4 * np.sqrt(2 / (3 * n))
    steps = np.diff(record.bias[:, SPECIFIC_FORCE], axis=0)
    variance = (steps**2).mean() / (1e-3**2 / 100)
    assert abs(variance - 1) < 4 * np.sqrt(2 / (3 * n))


def test_mounted_imu_reports_in_its_own_axes(drive):
    T_base_imu = np.eye(4)
    T_base_imu[:3, :3] = Rotation.from_euler("ZYX", [0.3, -0.2, 3.0]).as_matrix()
    settings = ImuSettings(**{**vars(PERFECT_IMU), "T_base_imu": T_base_imu})
    turned = simulate_imu(drive, settings, np.random.default_rng(0)).samples
    straight = simulate_imu(drive, PERFECT_IMU, np.random.default_rng(0)).samples
    for part in (SPECIFIC_FORCE, ANGULAR_RATE):
        in_base = turned[:, part] @ T_base_imu[:3, :3].T
        np.testing.assert_allclose(in_base, straight[:, part], atol=1e-9)


def test_impossible_requests_are_refused(drive):
    with pytest.raises(ValueError, match="leave the trajectory"):
        drive.pose(61.0)
    with pytest.raises(ValueError, match="max_speed_m_s is 0"):
        random_drive(DriveSettings(max_speed_m_s=0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 2 s"):
        random_drive(DriveSettings(duration_s=1), np.random.default_rng(0))
    with pytest.raises(ValueError, match="must be positive"):
        ImuSettings(rate_hz=0)
    with pytest.raises(ValueError, match="not a pose"):
        ImuSettings(T_base_imu=2 * np.eye(4))


@pytest.mark.skipif(not KITTI.exists(), reason=f"real data are absent: {KITTI}")
def test_imu_simulated_along_real_poses_is_the_real_one_some_60_ms_before():
    """KITTI's IMU lags its poses by 60 to 73 ms; what it measures then follows from the poses."""
    with np.load(KITTI) as data:
        poses, real = data["pose_00"][:1000], data["imu_00"][:9991]
    T_world_camera = np.tile(np.eye(4), (1000, 1, 1))
    T_world_camera[:, :3] = poses
    T_base_camera, T_up = np.eye(4), np.eye(4)
    T_base_camera[:3, :3] = T_up[:3, :3] = R_BASE_OPTICAL
    T_base_camera[:3, 3] = 1.08, -0.32, 0.72
    T_world_base = T_up @ T_world_camera @ np.linalg.inv(T_base_camera)
    drive = recorded_drive(RecordedDrive(np.arange(1000) * 103_600_000, T_world_base))
    time_s = np.arange(100, 9800) * 0.01036
    offsets = np.arange(-0.1, 0.2, 0.005)
    yaw = [drive.angular_rate(time_s - offset)[:, 2] for offset in offsets]
    apart = [np.std(real[100:9800, 5] - rate) for rate in yaw]
    assert 0.05 < offsets[int(np.argmin(apart))] < 0.08
    assert min(apart) < 0.1 * np.std(real[:, 5])
    force = drive.specific_force(time_s - 0.065)
    for axis in (0, 1):
        assert np.corrcoef(force[:, axis], real[100:9800, axis])[0, 1] > 0.85
    assert abs(force[:, 2].mean() - real[100:9800, 2].mean()) < 0.1


def test_poses_that_are_no_drive_are_refused():
    t, poses = np.arange(100) * 0.1, np.tile(np.eye(4), (100, 1, 1))
    with pytest.raises(ValueError, match="one pose per stamp"):
        smooth(t[:50], poses, 0.4)
    with pytest.raises(ValueError, match="too few"):
        smooth(t[:8], poses[:8], 0.4)
    with pytest.raises(ValueError, match="does not increase"):
        smooth(np.where(t == t[7], t[6], t), poses, 0.4)
    with pytest.raises(ValueError, match=r"gap of 2\.1"):
        smooth(t + 2 * (t > 5), poses, 0.4)
