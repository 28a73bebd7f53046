"""Parts of which the tests of bags are made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.message_parts import TYPESTORE, header_message, vector_message
from bayes_vio.data.messages import MessageType
from tests.data.drives import START_NS, VIEW_CAMERA, optical_mount, texture

SIZE = (VIEW_CAMERA.height, VIEW_CAMERA.width)
GRAY = texture(*SIZE)


def stamps(n: int, step_ns: int = NS_PER_S // 10) -> list[int]:
    return [START_NS + k * step_ns for k in range(n)]


def mounted(bag: BagWriter) -> None:
    """Write the mounting and the calibration."""
    bag.tf_static(START_NS, {"imu_link": np.eye(4), "camera_optical": optical_mount()})
    bag.camera_info(START_NS, VIEW_CAMERA)


def camera_bag(bag: BagWriter, n: int = 4) -> None:
    mounted(bag)
    for stamp in stamps(n):
        bag.image(stamp, GRAY)


def image_message(
    stamp_ns: int, pixels: NDArray, encoding: str, big_endian: bool = False, padding: int = 0
):
    """A sensor_msgs/Image of pixels [h, w, ...]; ``padding`` bytes of noise end each row."""
    height, width = pixels.shape[:2]
    rows = np.frombuffer(np.ascontiguousarray(pixels).tobytes(), np.uint8).reshape(height, -1)
    noise = np.random.default_rng(0).integers(0, 256, (height, padding), dtype=np.uint8)
    data = np.concatenate([rows, noise], axis=1)
    return TYPESTORE.types[MessageType.IMAGE.value](
        header=header_message(stamp_ns, "camera_optical"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=data.shape[1],
        data=data.reshape(-1),
    )


def imu_message(stamp_ns: int, sample: NDArray):
    """A sensor_msgs/Imu of a sample [6] that says it knows no orientation."""
    types = TYPESTORE.types
    return types[MessageType.IMU.value](
        header=header_message(stamp_ns, "imu_link"),
        orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=0.0),
        orientation_covariance=np.array([-1.0, *np.zeros(8)]),
        angular_velocity=vector_message(sample[3:]),
        angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector_message(sample[:3]),
        linear_acceleration_covariance=np.zeros(9),
    )
