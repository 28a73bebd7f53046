"""References of any frame, topic type and rate, IMUs of any rate, with gaps and jitter."""

import numpy as np
import pytest

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, Topics, open_streams
from bayes_vio.data.message_parts import TYPESTORE, header_message, quaternion_message
from bayes_vio.data.messages import MessageType
from bayes_vio.data.recording import prepare
from tests.data.bag_cases import GRAY, camera_bag, imu_message, mounted, stamps
from tests.data.drives import (
    START_NS,
    VIEW_CAMERA,
    Drive,
    optical_mount,
    rotation_z,
    texture,
)


def posed(bag: BagWriter, T_world_camera: np.ndarray, stamp: int) -> None:
    """A PoseStamped of the camera, as SLAM systems write it."""
    types = TYPESTORE.types
    x, y, z = T_world_camera[:3, 3].tolist()
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](x=x, y=y, z=z),
        orientation=quaternion_message(T_world_camera[:3, :3]),
    )
    message = types[MessageType.POSE_STAMPED.value](
        header=header_message(stamp, "world"), pose=pose
    )
    bag.write("pose", MessageType.POSE_STAMPED, message, stamp)


def test_a_reference_of_another_frame_is_moved_to_base(tmp_path):
    mount = optical_mount((1.0, 0.5, 0.2))
    T_world_base = np.eye(4)
    T_world_base[:3, :3], T_world_base[:3, 3] = rotation_z(0.7), (3, 4, 5)
    with BagWriter(tmp_path / "bag") as bag:
        bag.tf_static(START_NS, {"camera_optical": mount})
        bag.camera_info(START_NS, VIEW_CAMERA)
        for stamp in stamps(3):
            bag.image(stamp, GRAY)
            bag.odometry(stamp, T_world_base @ mount, child_frame_id="camera_optical")
            posed(bag, T_world_base @ mount, stamp)
            bag.tf_static(stamp, {"camera_optical": mount})
    for topics in (
        Topics(reference="ground_truth/odometry"),
        Topics(reference="pose", reference_frame="camera_optical"),
    ):
        reference = open_streams(tmp_path / "bag", topics).reference
        assert reference is not None
        np.testing.assert_allclose(reference.T_world_base[1], T_world_base, atol=1e-12)
    with pytest.raises(BagError, match="several topics for reference"):
        open_streams(tmp_path / "bag")
    with pytest.raises(BagError, match="frame 'lidar'"):
        open_streams(tmp_path / "bag", Topics(reference="pose", reference_frame="lidar"))


def test_a_pair_of_tf_frames_as_reference(tmp_path):
    types = TYPESTORE.types
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
        for k, stamp in enumerate(stamps(3)):
            transforms = []
            for parent, child, x in (("odom", "base_link", float(k)), ("base_link", "wheel", 9.0)):
                translation = types["geometry_msgs/msg/Vector3"](x=x, y=0.0, z=0.0)
                transform = types["geometry_msgs/msg/Transform"](
                    translation=translation, rotation=quaternion_message(np.eye(3))
                )
                transforms.append(
                    types["geometry_msgs/msg/TransformStamped"](
                        header=header_message(stamp, parent),
                        child_frame_id=child,
                        transform=transform,
                    )
                )
            message = types[MessageType.TF.value](transforms=transforms)
            bag.write("/tf", MessageType.TF, message, stamp)
    assert open_streams(tmp_path / "bag").reference is None
    chosen = Topics(reference="/tf", reference_world="odom", reference_frame="base_link")
    reference = open_streams(tmp_path / "bag", chosen).reference
    assert reference is not None
    np.testing.assert_allclose(reference.T_world_base[:, 0, 3], [0, 1, 2])
    with pytest.raises(BagError, match="--reference-world and --reference-frame"):
        open_streams(tmp_path / "bag", Topics(reference="/tf"))
    absent = Topics(reference="/tf", reference_world="map", reference_frame="base_link")
    with pytest.raises(BagError, match="from 'map' to 'base_link'"):
        open_streams(tmp_path / "bag", absent)


def drive_with_reference(path, reference_s: np.ndarray, drive: Drive) -> None:
    """Write a drive whose reference is stamped apart from the images."""
    world = texture(160, round(2 * np.pi * 148.0), smooth=3)
    with BagWriter(path) as bag:
        mounted(bag)
        for time_s, row in zip(drive.imu_t(), drive.samples(drive.imu_t()), strict=True):
            bag.imu(START_NS + round(time_s * NS_PER_S), row)
        for time_s in drive.image_t():
            bag.image(START_NS + round(time_s * NS_PER_S), drive.image(time_s, world))
        for time_s in reference_s:
            bag.odometry(START_NS + round(time_s * NS_PER_S), drive.pose(time_s))


@pytest.mark.parametrize("rate_hz", [4.0, 17.3, 100.0])
def test_a_reference_at_another_rate(tmp_path, rate_hz):
    drive = Drive(duration_s=4.0)
    times = np.arange(0, drive.duration_s + 0.3, 1 / rate_hz)
    drive_with_reference(tmp_path / "bag", times, drive)
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache", time_offset_s=0.0)
    assert recording.dropped == {}
    truth = np.stack([drive.pose(t) for t in drive.image_t()])
    # Twist taken as constant between poses: the error grows with the square of their spacing.
    error = np.abs(recording.T_world_base - truth)[:, :3, 3].max()
    assert error < 0.15 / rate_hz**2 * drive.speed_m_s
    assert recording.reference_ok.all()


def test_samples_over_gaps_of_the_reference_are_dropped_and_counted(tmp_path):
    drive = Drive(duration_s=6.0)
    times = np.arange(0, 6.01, 0.05)
    times = times[(times < 2.02) | (times > 3.48)]
    drive_with_reference(tmp_path / "bag", times, drive)
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache", time_offset_s=0.0)
    image_s = drive.image_t()
    lost = (image_s > 2.01) & (image_s < 3.49)
    np.testing.assert_array_equal(recording.reference_ok, ~lost)
    pairs = recording.frames.pairs
    touched = lost[pairs].any(1)
    assert recording.dropped == {"samples: no reference": int(touched.sum())}
    np.testing.assert_array_equal(np.sort(recording.samples.pair), np.flatnonzero(~touched))
    assert np.isfinite(recording.samples.target).all()


@pytest.mark.parametrize("orientation", [False, True])
def test_an_imu_with_and_without_orientation(tmp_path, orientation):
    truth = np.array([0.1, 0.2, 9.8, 0.01, 0.02, 0.03])
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for stamp in stamps(4):
            message = imu_message(stamp, truth)
            if orientation:
                message.orientation = quaternion_message(rotation_z(1.0))
                message.orientation_covariance = np.eye(3).reshape(9)
            bag.write("imu", MessageType.IMU, message, stamp)
            bag.image(stamp, GRAY)
    imu = open_streams(tmp_path / "bag").imu
    assert imu is not None
    np.testing.assert_array_equal(imu.samples, np.tile(truth, (4, 1)))


@pytest.mark.parametrize("quantity", ["linear_acceleration", "angular_velocity"])
def test_an_imu_that_does_not_measure_is_refused(tmp_path, quantity):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        message = imu_message(START_NS, np.zeros(6))
        getattr(message, f"{quantity}_covariance")[0] = -1
        bag.write("imu", MessageType.IMU, message, START_NS)
        bag.image(START_NS, GRAY)
    with pytest.raises(BagError, match=f"topic /imu: the IMU measures no {quantity}"):
        open_streams(tmp_path / "bag")


@pytest.mark.parametrize("rate_hz", [50.0, 125.0, 1000.0])
def test_imu_rates_and_jitter(tmp_path, rate_hz):
    """Bins are the mean of the turn's rate, whatever the rate and the jitter of its samples."""
    drive = Drive(duration_s=2.0)
    rng = np.random.default_rng(0)
    t = np.arange(-0.2, 2.2, 1 / rate_hz)
    t += rng.uniform(-0.3, 0.3, len(t)) / rate_hz
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for time_s, row in zip(t, drive.samples(t), strict=True):
            bag.imu(START_NS + round(time_s * NS_PER_S), row)
        for time_s in drive.image_t():
            bag.image(START_NS + round(time_s * NS_PER_S), GRAY)
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache", time_offset_s=0.0)
    pairs = recording.frames.pairs[recording.samples.pair]
    start, end = drive.image_t()[pairs].T
    edges = start[:, None] + (end - start)[:, None] * np.linspace(0, 1, 21)
    truth = np.diff(drive.yaw(edges), axis=1) / np.diff(edges, axis=1)
    assert recording.samples.imu_valid.all()
    largest_slope_change = 0.5 * (2 * np.pi / 5) ** 3
    tolerance = largest_slope_change * (1.6 / rate_hz) ** 2 / 8 + 1e-5
    np.testing.assert_allclose(recording.samples.imu[..., 5], truth, atol=tolerance)
