"""Read ROS 2 messages, whoever deserialised them, into the package's arrays."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.encodings import gray_of_image
from bayes_vio.data.image_files import ImageError, gray_of_jpeg
from bayes_vio.data.samples import CameraModel
from bayes_vio.geometry import se3, so3

__all__ = [
    "DISTORTION_MODELS",
    "BagError",
    "ImageError",
    "MessageType",
    "camera_model",
    "gray_of_image",
    "gray_of_jpeg",
    "imu_row",
    "pose_row",
    "poses_of",
    "stamp_ns_of",
]


class MessageType(str, Enum):
    """The ROS 2 message types that a recording may carry."""

    IMU = "sensor_msgs/msg/Imu"
    IMAGE = "sensor_msgs/msg/Image"
    COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
    CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
    ODOMETRY = "nav_msgs/msg/Odometry"
    POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
    TF = "tf2_msgs/msg/TFMessage"


# Lens models, with the numbers of coefficients that they may have.
_COEFFICIENTS = {
    "plumb_bob": (0, 4, 5, 8, 12, 14),
    "rational_polynomial": (0, 4, 5, 8, 12, 14),
    "equidistant": (0, 4, 5, 8),
}
DISTORTION_MODELS = tuple(_COEFFICIENTS)


class BagError(ValueError):
    """A recording cannot be read as asked; the message says what was wrong, where, what to do."""


def stamp_ns_of(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * NS_PER_S + header.stamp.nanosec


def poses_of(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return poses [n, 4, 4] of rows [n, 7]: position (m), quaternion (x, y, z, w)."""
    data = torch.as_tensor(np.asarray(rows, dtype=np.float64).reshape(-1, 7))
    R = so3.from_quaternion(data[:, 3:])
    return se3.from_rotation_translation(R, data[:, :3]).numpy()


def pose_row(position: Any, orientation: Any) -> list[float]:
    """Return [x, y, z, qx, qy, qz, qw] of a message's position and orientation."""
    q = orientation
    return [position.x, position.y, position.z, q.x, q.y, q.z, q.w]


def imu_row(message: Any) -> list[float]:
    """Return one IMU sample [6] in the sensor's axes: specific force (m/s^2), rate (rad/s)."""
    f, w = message.linear_acceleration, message.angular_velocity
    return [f.x, f.y, f.z, w.x, w.y, w.z]


def camera_model(message: Any) -> CameraModel:
    """Return the calibration that a sensor_msgs/CameraInfo carries.

    Binning and region of interest are not supported and raise BagError, as do an unknown
    distortion model, an uncalibrated camera (K zero) and one without a size.
    """
    K = np.array(message.k, dtype=np.float64).reshape(3, 3)
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.isfinite(K).all() and np.isfinite(message.d).all()):
        raise BagError(
            "camera_info carries no calibration (K is zero or not finite): calibrate the camera"
        )
    if not (message.width and message.height):
        raise BagError("camera_info carries no image size: width and height must be set")
    if max(message.binning_x, message.binning_y) > 1 or message.roi.width or message.roi.height:
        raise BagError("camera_info with binning or a region of interest is not supported")
    model = message.distortion_model or "plumb_bob"
    if model not in DISTORTION_MODELS:
        known = ", ".join(DISTORTION_MODELS)
        raise BagError(f"distortion model '{model}' is not supported; use one of {known}")
    coefficients = np.array(message.d, dtype=np.float64)
    if coefficients.size not in _COEFFICIENTS[model]:
        raise BagError(f"distortion model '{model}' cannot have {coefficients.size} coefficients")
    if coefficients.size == 0:
        coefficients = np.zeros(4 if model == "equidistant" else 5)
    return CameraModel(int(message.width), int(message.height), K, model, coefficients)
