"""Classical odometry of the benchmarks against known motion, exact and rendered."""

import numpy as np
import pytest
import torch
from classical import (
    RotationSource,
    Tracks,
    classical_increments,
    gyro_rotations,
    relative_motion,
    travel_direction,
)

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bags import open_streams
from bayes_vio.data.sync import pose_at
from bayes_vio.evaluation import trajectory
from bayes_vio.geometry import so3
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import DriveSettings
from bayes_vio.simulation.imu import PERFECT_IMU

FOCAL_PX, HEIGHT_M = 148.0, 1.65


def scene(rng, n=300):
    """Return points [n, 3] seen ahead in optical axes, half of them on a road HEIGHT_M below."""
    depth = rng.uniform(6, 22, n)
    x, y = rng.uniform(-0.8, 0.8, n) * depth, rng.uniform(-1.5, 0.3, n)
    road = rng.random(n) < 0.5
    x[road] = rng.uniform(-3, 3, road.sum())
    y[road] = HEIGHT_M
    return np.stack([x, y, depth], 1)


def tracks_of(points, R, t, noise=0.0, rng=None):
    """Return tracks of points given in the later camera; R, t: the later camera in the earlier."""
    earlier = points @ R.T + t
    seen = [p[:, :2] / p[:, 2:] for p in (earlier, points)]
    if rng is not None:
        seen = [p + noise * rng.standard_normal(p.shape) for p in seen]
    return Tracks(*seen)


def motion(rng):
    R = so3.exp(torch.from_numpy(rng.normal(0, [0.01, 0.03, 0.01]))).numpy()
    t = rng.uniform(0.4, 1.5) * np.array([rng.normal(0, 0.03), rng.normal(0, 0.02), 1.0])
    return R, t


@pytest.mark.parametrize("gyro", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_exact_tracks_give_the_motion_with_its_scale(gyro, seed):
    rng = np.random.default_rng(seed)
    R, t = motion(rng)
    T = relative_motion(tracks_of(scene(rng), R, t), FOCAL_PX, HEIGHT_M, R if gyro else None)
    assert T is not None
    np.testing.assert_allclose(T[:3, :3], R, atol=1e-6)
    np.testing.assert_allclose(T[:3, 3], t, rtol=1e-5, atol=1e-5)


def test_wrong_tracks_are_outvoted():
    rng = np.random.default_rng(3)
    R, t = motion(rng)
    tracks = tracks_of(scene(rng), R, t, 0.1 / FOCAL_PX, rng)
    wrong = rng.random(len(tracks)) < 0.2
    tracks.earlier[wrong] += rng.normal(0, 0.1, (wrong.sum(), 2))
    for R_gyro in (R, None):
        T = relative_motion(tracks, FOCAL_PX, HEIGHT_M, R_gyro)
        assert T is not None
        assert np.linalg.norm(T[:3, 3] - t) < 0.1 * np.linalg.norm(t)


def test_driving_backwards_is_seen():
    rng = np.random.default_rng(4)
    t = np.array([0.0, 0.0, -0.8])
    direction = travel_direction(tracks_of(scene(rng), np.eye(3), t), np.eye(3), 0.5 / FOCAL_PX)
    np.testing.assert_allclose(direction, [0, 0, -1], atol=1e-6)


def test_standing_still_has_no_direction_and_no_length():
    rng = np.random.default_rng(5)
    tracks = tracks_of(scene(rng), np.eye(3), np.zeros(3), 0.02 / FOCAL_PX, rng)
    T = relative_motion(tracks, FOCAL_PX, HEIGHT_M, None)
    np.testing.assert_array_equal(T, np.eye(4))


def test_nothing_is_said_of_too_few_tracks_or_without_a_road():
    rng = np.random.default_rng(6)
    R, t = motion(rng)
    points = scene(rng)
    few = tracks_of(points[:10], R, t)
    assert relative_motion(few, FOCAL_PX, HEIGHT_M, R) is None
    above = tracks_of(points[points[:, 1] < 0], R, t)
    assert relative_motion(above, FOCAL_PX, HEIGHT_M, R) is None


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    out = tmp_path_factory.mktemp("classical") / "drive"
    camera = CameraSettings(rate_hz=10, height_m=HEIGHT_M, noise_std=1.0)
    drive = DriveSettings(duration_s=6.0, max_speed_m_s=9.0)
    simulate(out, SimulationSettings(seed=12, drive=drive, camera=camera, imu=PERFECT_IMU))
    return open_streams(out)


@pytest.mark.parametrize("source", list(RotationSource))
def test_a_rendered_drive_is_followed(streams, source):
    said = classical_increments(streams, HEIGHT_M, source)
    T_earlier, _ = pose_at(streams.reference, said.earlier_stamp_ns)
    T_later, _ = pose_at(streams.reference, said.stamp_ns)
    truth = trajectory.relative(T_earlier, T_later)
    error = trajectory.right_error(said.T_earlier_later, truth)
    length_m = np.linalg.norm(truth[:, :3, 3], axis=1)
    assert said.found.mean() > 0.9
    assert length_m.max() > 0.3
    assert np.median(np.abs(error[:, 0])) < 0.15 * np.median(length_m)
    assert np.median(np.abs(error[:, 5])) < 2e-3


def test_the_gyro_turns_as_the_reference_does(streams):
    stamp_ns = streams.image_stamp_ns
    R = gyro_rotations(streams, stamp_ns, 0.0)
    T, _ = pose_at(streams.reference, stamp_ns)
    truth = trajectory.relative(T[:-1], T[1:])[:, :3, :3]
    angle = so3.log(torch.from_numpy(np.swapaxes(R, 1, 2) @ truth)).norm(dim=1)
    assert float(angle.max()) < 1e-4
    late = gyro_rotations(streams, stamp_ns[5:-5], 0.1)
    same = gyro_rotations(streams, stamp_ns[5:-5] + NS_PER_S // 10, 0.0)
    np.testing.assert_array_equal(late, same)
