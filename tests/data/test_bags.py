"""Bags come back as they were written, in base axes, and every defect is counted or refused."""

import cv2
import numpy as np
import pytest

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_images import opened
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, Topics, open_streams
from bayes_vio.data.message_parts import TYPESTORE, header_message, quaternion_message
from bayes_vio.data.messages import MessageType
from bayes_vio.data.mounting import StaticFrames, read_extrinsics
from bayes_vio.data.samples import CameraModel, Extrinsics
from tests.data.drives import (
    START_NS,
    VIEW_CAMERA,
    Drive,
    data_file,
    optical_mount,
    rotation_z,
    texture,
    write_drive,
)

SIZE = (VIEW_CAMERA.height, VIEW_CAMERA.width)


def stamps(n: int, step_ns: int = NS_PER_S // 10) -> list[int]:
    return [START_NS + k * step_ns for k in range(n)]


def mounted(bag: BagWriter) -> None:
    bag.tf_static(START_NS, {"imu_link": np.eye(4), "camera_optical": optical_mount()})
    bag.camera_info(START_NS, VIEW_CAMERA)


def camera_bag(bag: BagWriter, n: int = 4) -> None:
    mounted(bag)
    for stamp in stamps(n):
        bag.image(stamp, texture(*SIZE))


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


def image_message(stamp_ns: int, pixels: np.ndarray, encoding: str, big_endian: bool = False):
    height, width = pixels.shape[:2]
    return TYPESTORE.types[MessageType.IMAGE.value](
        header=header_message(stamp_ns, "camera_optical"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=pixels.nbytes // height,
        data=np.frombuffer(pixels.tobytes(), np.uint8),
    )


GRAY = texture(*SIZE)
COLOUR = np.stack([GRAY, np.roll(GRAY, 7, 1), np.roll(GRAY, 13, 0)], -1)
ALPHA = np.full((*SIZE, 1), 9, np.uint8)
COLOUR_GRAY = cv2.cvtColor(COLOUR, cv2.COLOR_BGR2GRAY)


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("mono8", GRAY, GRAY),
        ("8UC1", GRAY, GRAY),
        ("bgr8", COLOUR, COLOUR_GRAY),
        ("rgb8", COLOUR[..., ::-1], COLOUR_GRAY),
        ("bgra8", np.concatenate([COLOUR, ALPHA], -1), COLOUR_GRAY),
        ("rgba8", np.concatenate([COLOUR[..., ::-1], ALPHA], -1), COLOUR_GRAY),
        ("mono16", GRAY.astype("<u2") * 256 + 77, GRAY),
    ],
)
def test_encodings(tmp_path, encoding, pixels, expected):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for stamp in stamps(2):
            bag.write("image", MessageType.IMAGE, image_message(stamp, pixels, encoding), stamp)
    for _, gray in open_streams(tmp_path / "bag").frames():
        np.testing.assert_array_equal(gray, expected)


def test_big_endian_16_bit(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        message = image_message(
            START_NS, (GRAY.astype(np.uint16) * 256).astype(">u2"), "mono16", big_endian=True
        )
        bag.write("image", MessageType.IMAGE, message, START_NS)
    ((_, gray),) = open_streams(tmp_path / "bag").frames()
    np.testing.assert_array_equal(gray, GRAY)


def test_png_is_read(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        png = cv2.imencode(".png", COLOUR)[1].reshape(-1)
        bag.compressed_image(START_NS, png, encoding="png")
    ((_, gray),) = open_streams(tmp_path / "bag").frames()
    assert np.abs(gray.astype(int) - COLOUR_GRAY).max() <= 1


def test_an_unknown_encoding_is_refused_by_name(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        bag.write(
            "image", MessageType.IMAGE, image_message(START_NS, GRAY, "bayer_rggb8"), START_NS
        )
    with pytest.raises(BagError, match="bayer_rggb8"):
        list(open_streams(tmp_path / "bag").frames())


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


def test_extrinsics_through_intermediate_frames(tmp_path):
    T_base_mast, T_mast_optical = np.eye(4), np.eye(4)
    T_base_mast[:3, :3], T_base_mast[:3, 3] = rotation_z(0.3), (1, 2, 3)
    T_mast_optical[:3, :3], T_mast_optical[:3, 3] = optical_mount()[:3, :3], (0.1, 0.2, 0.3)
    T_imu_base = np.eye(4)
    T_imu_base[:3, :3] = rotation_z(np.pi / 2).T
    with BagWriter(tmp_path / "bag") as bag:
        bag.tf_static(START_NS, {"base_link": T_imu_base}, parent="/imu_link")
        bag.tf_static(START_NS, {"mast": T_base_mast})
        bag.tf_static(START_NS, {"camera_optical": T_mast_optical}, parent="mast")
        bag.camera_info(START_NS, VIEW_CAMERA)
        for stamp in stamps(3):
            bag.image(stamp, GRAY)
            bag.imu(stamp, np.array([1.0, 2, 3, 4, 5, 6]))
    streams = open_streams(tmp_path / "bag")
    np.testing.assert_allclose(
        streams.extrinsics.T_base_camera, T_base_mast @ T_mast_optical, atol=1e-12
    )
    assert streams.imu is not None
    # The IMU is turned left by 90 deg: its x is base y, its y is base -x.
    np.testing.assert_allclose(streams.imu.samples[0], [-2, 1, 3, -5, 4, 6], atol=1e-12)


def test_a_missing_frame_is_named_unless_extrinsics_are_given(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.camera_info(START_NS, VIEW_CAMERA)
        bag.image(START_NS, GRAY)
    with pytest.raises(BagError, match="'base_link' to frame 'camera_optical'"):
        open_streams(tmp_path / "bag")
    given = Extrinsics(np.eye(4), optical_mount(), "test")
    assert open_streams(tmp_path / "bag", extrinsics=given).extrinsics is given


def test_extrinsics_file(tmp_path):
    path = tmp_path / "extrinsics.yaml"
    path.write_text(
        "T_base_imu: {translation: [1, 2, 3], quaternion_xyzw: [0, 0, 1, 1]}\n"
        "T_base_camera: [[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]\n"
    )
    read = read_extrinsics(path)
    np.testing.assert_allclose(read.T_base_imu[:3, :3], rotation_z(np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(read.T_base_imu[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(read.T_base_camera, optical_mount((0.5, 0, 0)))
    assert read.source == str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("T_base_imu: [[1, 0], [0, 1]]", "not a rigid transform"),
        ("T_base_camera: 3", "lack T_base_imu"),
        ("- 1", "must hold the keys"),
        ("T_base_imu: {translation: [1, 2, 3]}", "quaternion_xyzw"),
        ("T_base_imu: {translation: [1, 2, 3], quaternion_xyzw: [0, 0, 0, 0]}", "not a rigid"),
        ("T_base_imu: [[2,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]", "not a rigid transform"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_extrinsics_files(tmp_path, content, message):
    path = tmp_path / "extrinsics.yaml"
    path.write_text(content)
    with pytest.raises(BagError, match=message):
        read_extrinsics(path)


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
    with pytest.raises(BagError, match="reference_world and reference_frame"):
        open_streams(tmp_path / "bag", Topics(reference="/tf"))
    absent = Topics(reference="/tf", reference_world="map", reference_frame="base_link")
    with pytest.raises(BagError, match="from 'map' to 'base_link'"):
        open_streams(tmp_path / "bag", absent)


def test_every_defect_is_counted_by_cause(tmp_path):
    good = np.array([0, 0, 9.8, 0, 0, 0.1])
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for k, stamp in enumerate(stamps(10)):
            bag.imu(stamp, good * np.nan if k == 3 else good, log_ns=stamp)
            bag.image(stamp, GRAY if k != 5 else GRAY[:40], log_ns=stamp)
        last = stamps(10)[-1]
        bag.imu(last, good, log_ns=last + 1)
        bag.imu(stamps(10)[2], good, log_ns=last + 2)
        bag.imu(0, good, log_ns=last + 3)
        bag.image(last, GRAY, log_ns=last + 4)
        for k in (1, 2):
            broken = image_message(last + k, GRAY, "mono8")
            broken.data = broken.data[:-5]
            bag.write("image", MessageType.IMAGE, broken, last + k, log_ns=last + 4 + k)
    streams = open_streams(tmp_path / "bag")
    assert streams.imu is not None
    assert len(streams.imu.stamp_ns) == 9
    assert np.all(np.diff(streams.imu.stamp_ns) > 0)
    frames = list(streams.frames())
    assert [s for s, _ in frames] == [s for k, s in enumerate(stamps(10)) if k != 5]
    expected = {
        "imu: not finite": 1,
        "imu: duplicate stamp": 1,
        "imu: backward stamp": 1,
        "imu: zero stamp": 1,
        "image: duplicate stamp": 1,
        "image: wrong size": 1,
        "image: short data": 2,
    }
    assert streams.dropped == expected
    assert len(list(streams.frames())) == 9
    assert streams.dropped == expected  # a second pass does not count twice


def test_broken_jpegs_are_dropped_and_a_bag_of_them_refused(tmp_path):
    jpeg = cv2.imencode(".jpg", GRAY)[1].reshape(-1)
    for name, datas in {"some": [jpeg, jpeg[:0], jpeg[:100] * 0], "all": [jpeg[:0]] * 3}.items():
        with BagWriter(tmp_path / name) as bag:
            mounted(bag)
            for stamp, data in zip(stamps(3), datas, strict=True):
                bag.compressed_image(stamp, data)
    streams = open_streams(tmp_path / "some")
    assert len(list(streams.frames())) == 1
    assert streams.dropped == {"image: undecodable": 2}
    with pytest.raises(BagError, match="no image is usable"):
        list(open_streams(tmp_path / "all").frames())


def test_log_stamps_stand_in_for_headers_without_stamps(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for stamp in stamps(3):
            bag.image(0, GRAY, log_ns=stamp)
    streams = open_streams(tmp_path / "bag")
    assert streams.image_stamp_ns.tolist() == stamps(3)
    assert streams.dropped == {"image: header unstamped, log stamp used": 3}


def test_stamps_that_mostly_go_backward_are_refused(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
        for stamp in stamps(10):
            bag.imu(2 * START_NS - stamp, np.zeros(6), log_ns=stamp)
    with pytest.raises(BagError, match="most messages of the imu stream"):
        open_streams(tmp_path / "bag")


def test_clocks_that_share_no_time_are_refused(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
        for k in range(5):
            bag.imu(NS_PER_S + k, np.zeros(6))
    with pytest.raises(BagError, match="share no time"):
        open_streams(tmp_path / "bag")


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
    ],
)
def test_bad_calibration_is_refused(tmp_path, camera, message):
    with BagWriter(tmp_path / "bag") as bag:
        bag.camera_info(START_NS, camera)
        bag.image(START_NS, GRAY)
    with pytest.raises(BagError, match=message):
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_damaged_bags_are_read_or_refused(tmp_path, storage):
    """Truncation and random bytes end in a BagError or a shorter recording, nothing else."""
    write_drive(tmp_path / "bag", Drive(duration_s=0.5), storage)
    (file,) = [p for p in (tmp_path / "bag").iterdir() if p.suffix != ".yaml"]
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for trial in range(40):
        damaged = bytearray(whole)
        if trial % 4 == 0:
            damaged = damaged[: int(len(whole) * rng.uniform())]
        else:
            for place in rng.integers(0, len(whole), 40):
                damaged[place] = rng.integers(256)
        file.write_bytes(bytes(damaged))
        try:
            list(open_streams(file).frames())
        except BagError:
            refused += 1
    assert refused > 10


def test_a_bag_of_other_software():
    path = data_file("bags", "nav2_turtlebot.mcap")
    with pytest.raises(BagError, match=r"no topic for image.*/odom \(nav_msgs/msg/Odometry\)"):
        open_streams(path)
    frames = StaticFrames()
    with opened(path) as reader:
        static = [c for c in reader.connections if c.topic == "/tf_static"]
        for connection, _, raw in reader.messages(static):
            frames.add_message(reader.deserialize(raw, connection.msgtype))
    T = frames.transform("base_link", "imu_link")
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
