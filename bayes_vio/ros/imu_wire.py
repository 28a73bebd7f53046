"""Read sensor_msgs/Imu as it came over the wire: a tenth of what building its message takes.

At 400 Hz the messages' construction holds Python's lock for a tenth of the time, and every step of
the estimator waits for it. The wire's format is OMG's CDR (DDS-XTypes 1.3, section 7.4.3).
"""

from __future__ import annotations

from struct import Struct, error
from typing import Any, NamedTuple

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Imu

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.messages import imu_row, stamp_ns_of

# First element of a covariance where the sensor does not give the value.
_ABSENT = -1.0
# By the representation identifier: plain CDR, big and little endian.
_HEADS = {b"\0\0": Struct(">iII"), b"\0\1": Struct("<iII")}
_BODIES = {b"\0\0": Struct(">37d"), b"\0\1": Struct("<37d")}
_BODY_START = 4  # alignment counts from behind the encapsulation header
# Where in the 37 numbers: orientation [4] and covariance [9], rate and covariance, force and so.
_RATE, _RATE_COV, _FORCE, _FORCE_COV = 13, 16, 25, 28


class ImuReading(NamedTuple):
    """One sample [6] in the sensor's axes: specific force (m/s^2), rate (rad/s).

    absent: the sensor says that it does not give one of them.
    """

    stamp_ns: int
    frame_id: str
    sample: tuple[float, ...]
    absent: bool


def reading_of(message: Imu) -> ImuReading:
    """Return what is used of a message."""
    covs = message.angular_velocity_covariance, message.linear_acceleration_covariance
    return ImuReading(
        stamp_ns_of(message.header),
        message.header.frame_id,
        tuple(imu_row(message)),
        _ABSENT in (covs[0][0], covs[1][0]),
    )


def read_imu(data: bytes) -> ImuReading:
    """Return what is used of a serialised message.

    Raises ValueError for bytes that are no such message.
    """
    kind = data[:2]
    if kind not in _HEADS:  # an encoding that no present middleware uses for it
        return reading_of(_deserialised(data))
    try:
        seconds, nanoseconds, length = _HEADS[kind].unpack_from(data, _BODY_START)
        end = _BODY_START + 12 + length
        v = _BODIES[kind].unpack_from(data, end + (_BODY_START - end) % 8)
        frame_id = data[end - length : end - 1].decode()
    except (error, UnicodeDecodeError) as fault:
        raise ValueError(f"{len(data)} bytes are no sensor_msgs/Imu: {fault}") from fault
    return ImuReading(
        seconds * NS_PER_S + nanoseconds,
        frame_id,
        v[_FORCE : _FORCE + 3] + v[_RATE : _RATE + 3],
        _ABSENT in (v[_RATE_COV], v[_FORCE_COV]),
    )


def _deserialised(data: bytes) -> Any:
    try:
        return deserialize_message(data, Imu)
    except Exception as fault:  # rclpy's own type of error is not public
        raise ValueError(f"{len(data)} bytes are no sensor_msgs/Imu: {fault}") from fault
