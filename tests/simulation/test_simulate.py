"""Simulated bags: complete, repeatable, and true to what was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Reader

from bayes_vio.data.bags import open_streams
from bayes_vio.data.samples import ImuStream
from bayes_vio.simulation import (
    PERFECT_IMU,
    CameraSettings,
    DriveSettings,
    Fault,
    FaultKind,
    RecordedDrive,
    RoadStyle,
    SimulationSettings,
    WorldSettings,
    plan,
    simulate,
)
from bayes_vio.simulation.camera import SimulatedCamera, exposure_gains
from bayes_vio.simulation.render import Renderer

SHORT = SimulationSettings(
    seed=2,
    drive=DriveSettings(duration_s=4.0),
    world=WorldSettings(style=RoadStyle.RURAL, scenery_density=0.5),
)


def raw_messages(path: Path):
    with Reader(path) as reader:
        return [(c.topic, t, bytes(data)) for c, t, data in reader.messages()]


@pytest.fixture(scope="module")
def short_bag(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "short"
    seen = []
    simulate(out, SHORT, lambda done, total: seen.append((done, total)))
    return out, seen


def frames_of(out):
    return dict(open_streams(out).frames())


def test_bag_holds_every_stream_on_its_clock(short_bag):
    out, seen = short_bag
    streams = open_streams(out)
    assert seen == [(i + 1, 41) for i in range(41)]
    np.testing.assert_array_equal(np.diff(streams.image_stamp_ns), 10**8)
    assert streams.image_stamp_ns[0] == SHORT.start_ns
    assert streams.imu is not None
    assert streams.reference is not None
    assert streams.imu.samples.shape == (401, 6)
    np.testing.assert_array_equal(streams.reference.stamp_ns, streams.image_stamp_ns)
    truth = plan(SHORT).trajectory.pose(np.arange(41) * 0.1)
    np.testing.assert_allclose(streams.reference.T_world_base, truth, atol=1e-9)
    camera = SHORT.camera
    assert (streams.camera.width, streams.camera.height) == (camera.width, camera.height)
    np.testing.assert_allclose(streams.camera.K, camera.model().K)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, camera.T_base_camera(0.5))
    images = list(frames_of(out).values())
    assert len(images) == 41
    assert all(image.shape == (80, 256) and image.std() > 10 for image in images)


def test_messages_are_logged_in_the_order_of_their_stamps(short_bag):
    times = [t for _, t, _ in raw_messages(short_bag[0])]
    assert times == sorted(times)


def test_same_settings_give_the_same_bag_and_another_seed_another(short_bag, tmp_path):
    simulate(tmp_path / "again", SHORT)
    assert raw_messages(tmp_path / "again") == raw_messages(short_bag[0])
    simulate(tmp_path / "other", replace(SHORT, seed=3))
    assert raw_messages(tmp_path / "other") != raw_messages(short_bag[0])


@pytest.mark.parametrize("offset_s", [0.065, -0.04])
def test_time_offset_of_either_sign_reaches_the_bag(tmp_path, offset_s):
    imu = replace(PERFECT_IMU, time_offset_s=offset_s)
    drive = DriveSettings(duration_s=20.0)
    settings = replace(SHORT, imu=imu, drive=drive, seed=5, camera=CameraSettings(rate_hz=2))
    simulate(tmp_path / "bag", settings)
    stream = open_streams(tmp_path / "bag").imu
    assert stream is not None
    image_s = np.arange(1, 19, 0.1)
    stamp_s = (stream.stamp_ns - settings.start_ns) / 1e9
    rate = np.interp(image_s + offset_s, stamp_s, stream.samples[:, 5])
    np.testing.assert_allclose(
        rate, plan(settings).trajectory.angular_rate(image_s)[:, 2], atol=2e-4
    )


def test_faults_reach_the_bag(short_bag, tmp_path):
    faults = (
        Fault(FaultKind.FRAME_DROP, 0.95, 0.4),
        Fault(FaultKind.FREEZE, 1.95, 0.5),
        Fault(FaultKind.IMU_GAP, 1.0, 0.5),
        Fault(FaultKind.DARKNESS, 2.95, 0.5),
    )
    simulate(tmp_path / "bag", replace(SHORT, faults=faults))
    streams, clean = open_streams(tmp_path / "bag"), frames_of(short_bag[0])
    time_s = (streams.image_stamp_ns - SHORT.start_ns) / 1e9
    assert not ((time_s > 0.95) & (time_s < 1.35)).any()
    assert len(time_s) == 41 - 4
    assert streams.reference is not None
    assert len(streams.reference.stamp_ns) == 41
    images = [image for _, image in streams.frames()]
    before = images[int(np.flatnonzero(time_s < 1.95)[-1])]
    for index in np.flatnonzero((time_s > 1.95) & (time_s < 2.45)):
        np.testing.assert_array_equal(images[index], before)
    for index in np.flatnonzero((time_s > 2.95) & (time_s < 3.45)):
        assert images[index].max() == 0
    np.testing.assert_array_equal(images[0], clean[int(streams.image_stamp_ns[0])])
    assert streams.imu is not None
    assert np.diff(streams.imu.stamp_ns).max() == pytest.approx(0.51e9)
    assert len(streams.imu.stamp_ns) == 401 - 50


def test_recorded_drive_keeps_its_stamps_and_its_imu(tmp_path):
    source = plan(SHORT).trajectory
    stamp_ns = 5 * 10**18 // 4 + np.arange(40) * 10**8
    imu_stamp_ns = stamp_ns[0] + np.arange(390) * 10**7
    samples = np.random.default_rng(0).standard_normal((390, 6))
    poses = source.pose(np.arange(40) * 0.1)
    drive = RecordedDrive(stamp_ns, poses, imu=ImuStream(imu_stamp_ns, samples))
    simulate(tmp_path / "bag", replace(SHORT, drive=drive))
    streams = open_streams(tmp_path / "bag")
    assert streams.image_stamp_ns[0] == stamp_ns[0]
    assert streams.imu is not None
    np.testing.assert_array_equal(streams.imu.stamp_ns, imu_stamp_ns)
    np.testing.assert_allclose(streams.imu.samples, samples, atol=1e-12)
    assert streams.reference is not None
    apart = streams.reference.T_world_base[:, :3, 3] - poses[:, :3, 3]
    assert np.abs(apart).max() < 0.02


def test_jpeg_and_jittered_images_with_a_pitched_camera(tmp_path):
    camera = CameraSettings.with_field_of_view(320, 240, 80.0)
    camera = replace(camera, jpeg_quality=85, interval_jitter_s=0.02, pitch_rad=0.1)
    simulate(tmp_path / "bag", replace(SHORT, camera=camera))
    streams = open_streams(tmp_path / "bag")
    intervals = np.diff(streams.image_stamp_ns) / 1e9
    assert intervals.min() >= 0.06
    assert intervals.max() <= 0.14
    assert intervals.std() > 0.005
    looks_along = streams.extrinsics.T_base_camera[:3, 2]
    np.testing.assert_allclose(looks_along, [np.cos(0.1), 0, -np.sin(0.1)], atol=1e-9)
    _, image = next(iter(streams.frames()))
    assert image.shape == (240, 320)


def test_motion_blur_is_the_mean_over_the_exposure_and_noise_is_as_stated():
    simulation = plan(replace(SHORT, drive=DriveSettings(duration_s=20.0)))
    renderer = Renderer(simulation.world, simulation.camera)
    quiet = replace(SHORT.camera, noise_std=0.0)

    def shoot(settings, time_s):
        camera = SimulatedCamera(
            renderer, simulation.trajectory, settings, simulation.T_base_camera
        )
        return camera.shoot(time_s, 1.0, np.random.default_rng(0)).astype(float)

    speed = np.linalg.norm(simulation.trajectory.velocity(np.arange(0, 20, 0.1)), axis=1)
    time_s = 0.1 * float(np.argmax(speed))
    sharp, blurred = shoot(quiet, time_s), shoot(replace(quiet, exposure_s=0.03), time_s)
    moments = time_s + 0.03 * (np.arange(5) - 2) / 5
    mean = np.mean([shoot(quiet, t) for t in moments], axis=0)
    np.testing.assert_allclose(blurred, mean, atol=0.51)
    assert (
        np.abs(np.diff(blurred[60:], axis=0)).mean() < np.abs(np.diff(sharp[60:], axis=0)).mean()
    )
    noise = shoot(replace(quiet, noise_std=3.0), time_s) - sharp
    middle = (sharp > 20) & (sharp < 235)
    assert abs(noise[middle].std() - np.sqrt(9 + 1 / 12)) < 0.1


def test_exposure_drifts_by_its_standard_deviation():
    time_s = np.arange(0, 20_000, 1.0)
    gains = exposure_gains(time_s, 0.1, np.random.default_rng(0))
    assert abs(np.log(gains).std() / 0.1 - 1) < 0.1
    assert np.abs(np.diff(np.log(gains))).max() < 0.1


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be positive"):
        CameraSettings(rate_hz=0)
    with pytest.raises(ValueError, match="do not fit"):
        CameraSettings(interval_jitter_s=0.06)
    with pytest.raises(ValueError, match="positive focal length"):
        CameraSettings(focal_px=0)
    lossy = replace(SHORT, camera=CameraSettings(drop_probability=1.0))
    with pytest.raises(ValueError, match="below 1"):
        simulate(tmp_path / "bag", lossy)
    assert not list(tmp_path.iterdir())
