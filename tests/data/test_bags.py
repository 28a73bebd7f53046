"""Bags come back as they were written, in base axes; what cannot be right is refused."""

import numpy as np
import pytest

from bayes_vio.data.bag_reader import BagReader
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, Topics, open_streams
from bayes_vio.data.mounting import StaticFrames
from bayes_vio.data.samples import CameraModel
from tests.data.bag_cases import GRAY, SIZE, camera_bag, mounted, stamps
from tests.data.drives import (
    START_NS,
    VIEW_CAMERA,
    Drive,
    data_file,
    optical_mount,
    texture,
    write_drive,
)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("jpeg_quality", [None, 95])
def test_round_trip(tmp_path, storage, jpeg_quality):
    drive = write_drive(
        tmp_path / "bag", Drive(duration_s=1.0), storage, jpeg_quality=jpeg_quality
    )
    streams = open_streams(tmp_path / "bag")
    n = len(drive.image_t())
    assert streams.name == "bag"
    assert streams.dropped == {}
    assert streams.image_stamp_ns.tolist() == stamps(n)
    assert (streams.camera.width, streams.camera.height) == SIZE[::-1]
    np.testing.assert_array_equal(streams.camera.K, VIEW_CAMERA.K)
    assert streams.extrinsics.source == "/tf_static"
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, optical_mount(), atol=1e-15)
    assert streams.imu is not None
    np.testing.assert_array_equal(streams.imu.samples, drive.samples(drive.imu_t()))
    assert streams.reference is not None
    expected = np.stack([drive.pose(t) for t in drive.image_t()])
    np.testing.assert_allclose(streams.reference.T_world_base, expected, atol=1e-12)
    frames = list(streams.frames())
    assert [s for s, _ in frames] == stamps(n)
    world = texture(160, round(2 * np.pi * 148.0), smooth=3)
    error = frames[3][1].astype(int) - drive.image(drive.image_t()[3], world)
    assert np.abs(error).max() == 0 if jpeg_quality is None else np.abs(error).mean() < 2
    assert len(list(streams.frames())) == n  # opens anew


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bare_file_is_read(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage) as bag:
        camera_bag(bag)
    (file,) = [p for p in (tmp_path / "bag").iterdir() if p.suffix != ".yaml"]
    assert len(open_streams(file).image_stamp_ns) == 4


def test_absent_topics_are_listed(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.imu(START_NS, np.zeros(6))
    with pytest.raises(BagError, match=r"no topic for image.*/imu \(sensor_msgs/msg/Imu\)"):
        open_streams(tmp_path / "bag")


def test_a_topic_of_another_type_is_refused(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
    with pytest.raises(BagError, match="no topic camera_info of type sensor_msgs/msg/Imu for imu"):
        open_streams(tmp_path / "bag", Topics(imu="camera_info"))


def test_ambiguous_topics_are_refused_and_chosen_by_name(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
        for stamp in stamps(4):
            bag.imu(stamp, np.zeros(6), topic="imu/data")
            bag.imu(stamp, np.ones(6), topic="imu/raw")
    with pytest.raises(BagError, match=r"several topics for imu .*/imu/data, /imu/raw"):
        open_streams(tmp_path / "bag")
    imu = open_streams(tmp_path / "bag", Topics(imu="imu/raw")).imu
    assert imu is not None
    assert imu.samples.min() == 1
    assert open_streams(tmp_path / "bag", Topics(imu="")).imu is None


def test_camera_info_beside_the_image_is_taken(tmp_path):
    left = CameraModel(SIZE[1], SIZE[0], VIEW_CAMERA.K * [[1.1], [1.1], [1]])
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        bag.camera_info(START_NS, left, topic="left/camera_info")
        bag.image(START_NS, GRAY, topic="left/image_raw")
    np.testing.assert_array_equal(open_streams(tmp_path / "bag").camera.K, left.K)


def test_a_camera_alone_is_allowed(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
    streams = open_streams(tmp_path / "bag")
    assert streams.imu is None
    assert streams.reference is None


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (CameraModel(256, 80, np.zeros((3, 3))), "no calibration"),
        (CameraModel(256, 80, VIEW_CAMERA.K, "fov"), "distortion model 'fov'"),
        (CameraModel(0, 80, VIEW_CAMERA.K), "no image size"),
        (CameraModel(256, 0, VIEW_CAMERA.K), "no image size"),
        (CameraModel(256, 80, VIEW_CAMERA.K, "plumb_bob", np.zeros(3)), "cannot have 3 coeff"),
        (CameraModel(256, 80, VIEW_CAMERA.K, "equidistant", np.zeros(2)), "cannot have 2 coeff"),
    ],
)
def test_bad_calibration_is_refused(tmp_path, camera, message):
    with BagWriter(tmp_path / "bag") as bag:
        bag.camera_info(START_NS, camera)
        bag.image(START_NS, GRAY)
    with pytest.raises(BagError, match=rf"{tmp_path / 'bag'}: .*{message}"):
        open_streams(tmp_path / "bag")


def test_what_is_no_bag_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(40))
    (tmp_path / "note.txt").write_text("hello")
    cases = {"folder": "no metadata.yaml", "broken.mcap": "cannot be read"}
    for name, message in (
        cases | {"note.txt": "cannot be read", "gone": "does not exist"}
    ).items():
        with pytest.raises(BagError, match=message):
            open_streams(tmp_path / name)


def test_a_bag_of_other_software():
    path = data_file("bags", "nav2_turtlebot.mcap")
    with pytest.raises(BagError, match=r"no topic for image.*/odom \(nav_msgs/msg/Odometry\)"):
        open_streams(path)
    frames = StaticFrames()
    for message in BagReader(path).messages(["/tf_static"]):
        frames.add_message(message.decoded())
    T = frames.transform("base_link", "imu_link")
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
