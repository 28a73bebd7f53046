"""comma2k19's segments: device axes forward-right-down, ECEF poses, video frames."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from tests.data.convert.motion import (
    Motion,
    assert_gyro_agrees,
    assert_imu,
    assert_reference,
    pose,
)

WIDTH, HEIGHT = 1164, 874
# ECEF is no nearer to gravity's direction than any other frame: some far pose of the world.
T_ECEF_WORLD = pose((1.0, -2.0, 0.5), (-2_712_087.5, -4_261_670.0, 3_881_014.5))
# Straight and fast enough to tell how the device hangs; 46408 s after the device's start.
MOTION = Motion(
    duration_s=12.0,
    speed_m_s=20.0,
    swing_rad=(0.003, 0.003, 0.005),
    start_ns=46408 * NS_PER_S,
    T_world_first=T_ECEF_WORLD,
)
YAW, PITCH = 0.8, -3.8  # deg, of the direction of travel in device axes turned upright
R_UPRIGHT_BASE = Rotation.from_euler("ZY", [YAW, PITCH], degrees=True).as_matrix()
T_BASE_DEVICE = np.eye(4)
T_BASE_DEVICE[:3, :3] = R_UPRIGHT_BASE.T @ np.diag([1, -1, -1])


def gray_level(index):
    return 30 + 10 * (index % 20)


def write_video(path, count, size=(WIDTH, HEIGHT)):
    """Write frames of even gray, upper left corner bright; a decoder looks past the name."""
    avi = path.with_suffix(".avi")
    video = cv2.VideoWriter(str(avi), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, size)
    assert video.isOpened()
    for index in range(count):
        frame = np.full((size[1], size[0], 3), gray_level(index), np.uint8)
        frame[:200, :200] = 250
        video.write(frame)
    video.release()
    avi.rename(path)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # np.save would add a suffix to a path
        np.save(file, values)


def write_segment(root, motion=MOTION, frames=None):
    t, imu_t = motion.image_s(), motion.imu_s()
    T = motion.poses(t) @ T_BASE_DEVICE
    x, y, z, w = Rotation.from_matrix(T[:, :3, :3]).as_quat().T
    save(root / "global_pose" / "frame_times", motion.start_ns / NS_PER_S + t)
    save(root / "global_pose" / "frame_positions", T[:, :3, 3])
    save(root / "global_pose" / "frame_orientations", np.stack([w, x, y, z], -1))
    samples = (motion.samples(imu_t).reshape(-1, 2, 3) @ T_BASE_DEVICE[:3, :3]).reshape(-1, 6)
    for name, part in (("accelerometer", samples[:, :3]), ("gyro", samples[:, 3:])):
        folder = root / "processed_log" / "IMU" / name
        save(folder / "t", motion.start_ns / NS_PER_S + imu_t)
        save(folder / "value", part)
    write_video(root / "video.hevc", len(t) if frames is None else frames)


@pytest.fixture(scope="module")
def segment(tmp_path_factory):
    """A segment, its bag and the report."""
    root = tmp_path_factory.mktemp("comma")
    write_segment(root / "40")
    return root, convert(Layout.COMMA2K19, root / "40", root / "bag")


def test_a_segment(segment):
    root, result = segment
    streams = open_streams(root / "bag")
    np.testing.assert_array_equal(streams.image_stamp_ns, MOTION.stamps(MOTION.image_s()))
    # The direction of travel is an estimate, good to a microradian here.
    assert_imu(streams, MOTION, atol=2e-5)
    assert_reference(streams, MOTION, MOTION.image_s(), atol=5e-4)
    assert result.dropped == {}
    np.testing.assert_array_equal(streams.camera.K, [[910, 0, 582], [0, 910, 437], [0, 0, 1]])


def test_base_link_is_the_camera_turned_to_the_direction_of_travel(segment):
    root, result = segment
    streams = open_streams(root / "bag")
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_UPRIGHT_BASE.T @ R_BASE_OPTICAL
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, T_base_camera, atol=1e-4)
    np.testing.assert_allclose(streams.extrinsics.T_base_imu, T_BASE_DEVICE, atol=1e-4)
    assert any("yaw +0.80, pitch -3.80 deg" in note for note in result.notes)


def test_the_frames_are_those_of_the_video(segment):
    root, _ = segment
    frames = [gray for _, gray in open_streams(root / "bag").frames()]
    assert len(frames) == len(MOTION.image_s())
    for index, gray in enumerate(frames):
        assert abs(float(gray[400:].mean()) - gray_level(index)) < 2
        assert gray[:180, :180].min() > 235
        assert gray[:, 300:].max() < 240


def test_gyro_and_reference_turn_alike(tmp_path):
    motion = Motion(speed_m_s=10.0, start_ns=46408 * NS_PER_S, T_world_first=T_ECEF_WORLD)
    write_segment(tmp_path / "40", motion, frames=12)
    result = convert(
        Layout.COMMA2K19, tmp_path / "40", tmp_path / "bag", ConvertOptions(jpeg_quality=30)
    )
    assert_gyro_agrees(open_streams(tmp_path / "bag"), 1e-3)
    # So short and winding a segment does not tell how the device hangs.
    assert any("axes are the device's" in note for note in result.notes)
    assert result.dropped == {"image: missing in the video": len(motion.image_s()) - 12}
    assert result.images == 12


def test_an_accelerometer_with_times_of_its_own_is_brought_to_the_gyro(tmp_path):
    motion = Motion(duration_s=1.0, start_ns=46408 * NS_PER_S)
    write_segment(tmp_path / "40", motion)
    folder = tmp_path / "40" / "processed_log" / "IMU" / "accelerometer"
    times = motion.imu_s()[:-20] + 0.0049
    samples = motion.samples(times)[:, :3] @ T_BASE_DEVICE[:3, :3]
    save(folder / "t", motion.start_ns / NS_PER_S + times)
    save(folder / "value", samples)
    result = convert(Layout.COMMA2K19, tmp_path / "40", tmp_path / "bag")
    streams = open_streams(tmp_path / "bag")
    assert result.dropped == {"imu: gyro without accelerometer": 1 + 20}
    t = (streams.imu.stamp_ns - motion.start_ns) / NS_PER_S
    force = streams.imu.samples[:, :3] @ streams.extrinsics.T_base_imu[:3, :3]
    truth = motion.samples(t)[:, :3] @ T_BASE_DEVICE[:3, :3]
    np.testing.assert_allclose(force, truth, atol=5e-3)


def test_poses_without_a_position_are_left_out(tmp_path):
    motion = Motion(duration_s=0.5, start_ns=46408 * NS_PER_S)
    write_segment(tmp_path / "40", motion)
    positions = motion.poses(motion.image_s())[:, :3, 3]
    positions[0] = np.nan
    save(tmp_path / "40" / "global_pose" / "frame_positions", positions)
    result = convert(Layout.COMMA2K19, tmp_path / "40", tmp_path / "bag")
    assert result.dropped == {"reference: not finite": 1}
    assert open_streams(tmp_path / "bag").reference.stamp_ns[0] == motion.start_ns + 100_000_000


def saved(name, values):
    return lambda root: save(root / name, np.asarray(values))


def written(name, data):
    return lambda root: (root / name).write_bytes(data)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda root: (root / "video.hevc").unlink(), "video.hevc does not exist"),
        (written("video.hevc", b"no video"), "cannot be decoded as a video"),
        (lambda root: write_video(root / "video.hevc", 5, (64, 48)), "64 x 48, not the EON's"),
        (lambda root: (root / "global_pose" / "frame_times").unlink(), "frame_times does not ex"),
        (written("global_pose/frame_times", b""), "frame_times is no NumPy file"),
        (written("global_pose/frame_times", b"0.1 0.2"), "frame_times is no NumPy file"),
        (saved("global_pose/frame_times", [-1.0, 2.0]), "does not hold a row of times"),
        (saved("global_pose/frame_positions", np.zeros((3, 3))), "5 times, 3 positions"),
        (saved("global_pose/frame_positions", np.zeros((5, 2))), "shape (5, 2), not rows of 3"),
        (saved("global_pose/frame_orientations", np.zeros((5, 4))), "no unit quaternions"),
        (saved("global_pose/frame_times", np.array([{}])), "is no NumPy file"),
        (saved("processed_log/IMU/gyro/value", np.zeros((7, 3))), "50 times, 7 values"),
    ],
)
def test_malformed_segments_are_refused(tmp_path, edit, said):
    write_segment(tmp_path / "40", Motion(duration_s=0.5, start_ns=46408 * NS_PER_S))
    edit(tmp_path / "40")
    with pytest.raises(ValueError) as refused:
        convert(Layout.COMMA2K19, tmp_path / "40", tmp_path / "bag")
    assert said in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["40"]


def test_a_car_that_travels_sideways_is_refused(tmp_path):
    write_segment(tmp_path / "40", frames=2)
    T = MOTION.poses(MOTION.image_s()) @ pose((0, 0, 1.0)) @ T_BASE_DEVICE
    x, y, z, w = Rotation.from_matrix(T[:, :3, :3]).as_quat().T
    save(tmp_path / "40" / "global_pose" / "frame_orientations", np.stack([w, x, y, z], -1))
    with pytest.raises(ValueError, match="deg off the camera's axis"):
        convert(Layout.COMMA2K19, tmp_path / "40", tmp_path / "bag")
