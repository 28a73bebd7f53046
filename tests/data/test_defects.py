"""Messages that cannot be used are counted by cause, or the bag is refused."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, open_streams
from bayes_vio.data.message_parts import TYPESTORE, transform_message
from bayes_vio.data.messages import MessageType
from bayes_vio.data.recording import prepare
from tests.data.bag_cases import GRAY, camera_bag, image_message, mounted, stamps
from tests.data.drives import START_NS, VIEW_CAMERA


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
    with pytest.raises(
        BagError, match="topic /imu: 9 of 10 messages cannot be used: 9 x imu: backward stamp"
    ):
        open_streams(tmp_path / "bag")


def test_clocks_that_share_no_time_are_refused(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
        for k in range(5):
            bag.imu(NS_PER_S + k, np.zeros(6))
    with pytest.raises(BagError, match="share no time"):
        open_streams(tmp_path / "bag")


def test_stray_headers_without_stamp_are_dropped_and_counted(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag, 30)
        for k, stamp in enumerate(stamps(30)):
            bag.imu(0 if k < 3 else stamp, np.zeros(6), log_ns=stamp)
    streams = open_streams(tmp_path / "bag")
    assert streams.dropped == {"imu: zero stamp": 3}


@pytest.mark.parametrize("role", ["imu", "image", "reference"])
def test_streams_of_which_some_headers_have_stamps_are_refused(tmp_path, role):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for k, stamp in enumerate(stamps(20)):
            stray = {role: 0} if k % 4 == 0 else {}
            bag.image(stray.get("image", stamp), GRAY, log_ns=stamp)
            bag.imu(stray.get("imu", stamp), np.zeros(6), topic="sensor/imu", log_ns=stamp)
            bag.odometry(stray.get("reference", stamp), np.eye(4), topic="truth", log_ns=stamp)
    topic = {"imu": "/sensor/imu", "image": "/image", "reference": "/truth"}[role]
    with pytest.raises(BagError, match=f"bag, topic {topic}: 5 of 20 {role} headers have no"):
        open_streams(tmp_path / "bag")


def test_log_stamps_are_told_in_the_summary(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for stamp in stamps(5):
            bag.image(0, GRAY, log_ns=stamp)
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache")
    assert "5 x image: header unstamped, log stamp used" in recording.summary()


def test_absurd_numbers_are_dropped_and_counted(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag, 10)
        for k, stamp in enumerate(stamps(10)):
            bag.imu(stamp, np.array([0, 0, 9.8, 0, 0, 1e300 if k == 4 else 0]))
            far = np.eye(4)
            far[0, 3] = 1e12 if k == 7 else 0
            bag.odometry(stamp, far)
    streams = open_streams(tmp_path / "bag")
    assert streams.dropped == {"imu: absurd value": 1, "reference: absurd value": 1}


def test_a_calibration_that_changes_is_counted(tmp_path):
    """The first holds; the same numbers at another time are no change."""
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag, 4)
        for k, stamp in enumerate(stamps(4)):
            zoomed = replace(VIEW_CAMERA, K=VIEW_CAMERA.K * (2 if k == 1 else 1))
            bag.camera_info(stamp, VIEW_CAMERA if k != 2 else replace(zoomed, width=0))
            bag.camera_info(stamp, zoomed)
    streams = open_streams(tmp_path / "bag")
    np.testing.assert_array_equal(streams.camera.K, VIEW_CAMERA.K)
    assert streams.dropped == {"camera_info: unlike the first": 2}


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (np.nan, 0, 0, 1), (0, 0, 0, 1e200)])
def test_a_mounting_that_is_no_transform_is_refused(tmp_path, quaternion):
    with BagWriter(tmp_path / "bag") as bag:
        camera_bag(bag)
        transform = transform_message(START_NS, np.eye(4), "base_link", "lidar")
        names = zip("xyzw", quaternion, strict=True)
        for name, value in names:
            setattr(transform.transform.rotation, name, float(value))
        message = TYPESTORE.types[MessageType.TF.value](transforms=[transform])
        bag.write("/tf_static", MessageType.TF, message, START_NS)
    with pytest.raises(BagError, match="no rigid transform from 'base_link' to 'lidar'"):
        open_streams(tmp_path / "bag")
