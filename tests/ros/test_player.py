# ruff: noqa: E402, the imports need what is skipped for
"""A bag played over DDS arrives whole, in real time, stamps shifted alike."""

import time
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, Imu

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.messages import gray_of_image, imu_row
from bayes_vio.ros.messages import stamp_ns_of, time_of
from bayes_vio.ros.player import (
    PlayError,
    PlaySettings,
    has_leading_header,
    message_class,
    play,
    restamped,
)
from tests.ros.live import HEIGHT, WIDTH, Client, scene, wait_until

START_NS = 1_600_000_000_999_999_990
IMU_HZ, CAMERA_HZ, SECONDS = 200, 20, 1


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "drive"
    with BagWriter(path) as writer:
        writer.tf_static(START_NS, {"imu_link": np.eye(4)})
        for k in range(SECONDS * IMU_HZ):
            stamp_ns = START_NS + k * NS_PER_S // IMU_HZ
            writer.imu(stamp_ns, np.array([0.1, 0.2, 9.8, 0.0, 0.0, k]))
            if k % (IMU_HZ // CAMERA_HZ) == 0:
                writer.image(stamp_ns, scene(k))
                writer.odometry(stamp_ns, np.eye(4))
    return path


@pytest.fixture
def client():
    client = Client()
    yield client
    client.close()


def test_a_stamp_is_shifted_and_nothing_else():
    message = Imu()
    message.header.stamp, message.header.frame_id = time_of(START_NS), "imu_link"
    message.angular_velocity.z = 0.7
    for shift_ns in (0, 15, NS_PER_S, -3 * NS_PER_S - 7):
        data = restamped(serialize_message(message), shift_ns)
        shifted = deserialize_message(data, Imu)
        assert stamp_ns_of(shifted.header.stamp) == START_NS + shift_ns
        assert (shifted.header.frame_id, shifted.angular_velocity.z) == ("imu_link", 0.7)


def test_message_classes_are_found_by_name():
    assert message_class("sensor_msgs/msg/Imu") is Imu
    assert message_class("nowhere_msgs/msg/Imu") is None
    assert message_class("sensor_msgs/msg/Nothing") is None
    assert has_leading_header(Odometry)
    assert not has_leading_header(message_class("geometry_msgs/msg/Pose"))


def test_a_bag_arrives_whole_and_in_real_time(client, bag):
    received = {"imu": [], "image": [], "truth": []}
    for kind, topic in ((Imu, "imu"), (Image, "image"), (Odometry, "truth")):
        client.node.create_subscription(
            kind, topic, lambda m, t=topic: received[t].append((time.time_ns(), m)), 500
        )
    settings = PlaySettings(remap={"ground_truth/odometry": "truth"}, wait_s=0.0)
    time.sleep(0.3)
    played = play(client.node, bag, settings, client.context.ok)
    expected = Counter(imu=IMU_HZ, image=CAMERA_HZ, truth=CAMERA_HZ)
    wait_until(lambda: all(len(received[t]) >= n for t, n in expected.items()), 5.0)
    assert {topic.lstrip("/"): n for topic, n in played.counts.items() if "tf" not in topic} == {
        "imu": IMU_HZ,
        "image": CAMERA_HZ,
        "ground_truth/odometry": CAMERA_HZ,
    }
    if not find_spec("tf2_msgs"):
        assert "tf2_msgs" in played.left_out["/tf_static"]
    for index, (arrival_ns, message) in enumerate(received["imu"]):
        stamp_ns = stamp_ns_of(message.header.stamp)
        assert stamp_ns == START_NS + index * NS_PER_S // IMU_HZ + played.stamp_shift_ns
        assert -NS_PER_S // 100 < arrival_ns - stamp_ns < NS_PER_S // 2
        np.testing.assert_allclose(imu_row(message), [0.1, 0.2, 9.8, 0, 0, index])
    for index, (_, message) in enumerate(received["image"]):
        gray = gray_of_image(message)
        assert gray.shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(gray, scene(index * IMU_HZ // CAMERA_HZ))
    spread_s = (received["imu"][-1][0] - received["imu"][0][0]) / NS_PER_S
    assert spread_s == pytest.approx(SECONDS, abs=0.3)


def test_part_of_a_bag_with_its_own_stamps(client, bag):
    stamps = []
    client.node.create_subscription(
        Image, "image", lambda m: stamps.append(stamp_ns_of(m.header.stamp)), 100
    )
    time.sleep(0.3)
    settings = PlaySettings(topics=("/image",), start_s=0.5, duration_s=0.25, restamp=False)
    played = play(client.node, bag, settings, client.context.ok)
    wait_until(lambda: len(stamps) == 5, 5.0)
    assert (played.counts, played.stamp_shift_ns) == ({"/image": 5}, 0)
    assert stamps[0] == START_NS + NS_PER_S // 2


def test_a_bag_that_cannot_be_played_is_an_error(client, bag, tmp_path):
    with pytest.raises(PlayError, match="cannot be played"):
        play(client.node, tmp_path / "nowhere")
    with pytest.raises(PlayError, match="no topic to play"):
        play(client.node, bag, PlaySettings(topics=("lidar",)))
    with pytest.raises(PlayError, match="no message in the asked time"):
        play(client.node, bag, PlaySettings(start_s=100.0))


def test_nobody_has_to_wait_for_a_wrong_log_time(client, tmp_path):
    with BagWriter(tmp_path / "gap") as writer:
        for stamp_ns in (START_NS, START_NS + 3600 * NS_PER_S):
            writer.imu(stamp_ns, np.zeros(6))
    with pytest.raises(PlayError, match="only after 3600 s: play the parts before and behind"):
        play(client.node, tmp_path / "gap", None, client.context.ok)
