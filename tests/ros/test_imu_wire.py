"""A sample read off the wire is the one that rclpy reads."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy")
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Imu

from bayes_vio.ros.imu_wire import read_imu, reading_of

pytestmark = pytest.mark.ros
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NUMBERS = st.floats(allow_nan=False, width=64)


@st.composite
def messages(draw) -> Imu:
    message = Imu()
    message.header.stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
    message.header.stamp.nanosec = draw(st.integers(0, 2**32 - 1))
    message.header.frame_id = draw(NAMES)
    for vector in (message.angular_velocity, message.linear_acceleration):
        vector.x, vector.y, vector.z = (draw(NUMBERS) for _ in range(3))
    for cov in (message.angular_velocity_covariance, message.linear_acceleration_covariance):
        cov[0] = draw(st.sampled_from([0.0, -1.0, 1e-4]))
    message.orientation.w = draw(NUMBERS)
    return message


@given(messages())
def test_a_sample_is_read_as_rclpy_reads_it(message):
    data = bytes(serialize_message(message))
    assert read_imu(data) == reading_of(message)


def test_big_endian_bytes_are_read():
    message = Imu()
    message.header.frame_id = "imu"
    message.header.stamp.sec, message.header.stamp.nanosec = 7, 9
    message.linear_acceleration.z, message.angular_velocity.x = 9.8, 0.25
    numbers = [0.0] * 37
    numbers[3] = 1.0
    numbers[13], numbers[27] = 0.25, 9.8
    head = struct.pack(">iII", 7, 9, 4) + b"imu\0"
    assert read_imu(b"\0\0\0\0" + head + struct.pack(">37d", *numbers)) == reading_of(message)


@given(st.binary(max_size=400), st.sampled_from([b"\0\0\0\0", b"\0\1\0\0"]))
def test_other_bytes_are_refused_or_read_as_numbers(rest, kind):
    told = []
    try:
        told.append(len(read_imu(kind + rest).sample))
    except ValueError as error:
        told.append(str(error).partition("bytes ")[2].partition(":")[0])
    assert told in ([6], ["are no sensor_msgs/Imu"])


def test_a_cut_message_is_refused():
    data = bytes(serialize_message(Imu()))
    for length in range(4, len(data) - 4):
        with pytest.raises(ValueError, match="are no sensor_msgs/Imu"):
            read_imu(data[:length])
