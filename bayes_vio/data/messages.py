"""Read ROS 2 messages, whoever deserialised them, into the package's arrays."""

from __future__ import annotations

from enum import Enum
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.samples import CameraModel
from bayes_vio.geometry import se3, so3


class MessageType(str, Enum):
    """The ROS 2 message types that a recording may carry."""

    IMU = "sensor_msgs/msg/Imu"
    IMAGE = "sensor_msgs/msg/Image"
    COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
    CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
    ODOMETRY = "nav_msgs/msg/Odometry"
    POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
    TF = "tf2_msgs/msg/TFMessage"


DISTORTION_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")


class BagError(ValueError):
    """A recording cannot be read as asked; the message says what was wrong, where, what to do."""


class ImageError(ValueError):
    """One image message cannot be decoded; ``cause`` is the name under which it is counted."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


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
    distortion model and an uncalibrated camera (K zero).
    """
    K = np.array(message.k, dtype=np.float64).reshape(3, 3)
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.isfinite(K).all() and np.isfinite(message.d).all()):
        raise BagError(
            "camera_info carries no calibration (K is zero or not finite): calibrate the camera"
        )
    if max(message.binning_x, message.binning_y) > 1 or message.roi.width or message.roi.height:
        raise BagError("camera_info with binning or a region of interest is not supported")
    model = message.distortion_model or "plumb_bob"
    if model not in DISTORTION_MODELS:
        known = ", ".join(DISTORTION_MODELS)
        raise BagError(f"distortion model '{model}' is not supported; use one of {known}")
    coefficients = np.array(message.d, dtype=np.float64)
    if coefficients.size == 0:
        coefficients = np.zeros(4 if model == "equidistant" else 5)
    return CameraModel(int(message.width), int(message.height), K, model, coefficients)


_CHANNELS = {"mono8": 1, "8UC1": 1, "mono16": 1, "16UC1": 1}
_CHANNELS |= {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4}
_TO_GRAY = {
    "rgb8": cv2.COLOR_RGB2GRAY,
    "bgr8": cv2.COLOR_BGR2GRAY,
    "8UC3": cv2.COLOR_BGR2GRAY,
    "rgba8": cv2.COLOR_RGBA2GRAY,
    "bgra8": cv2.COLOR_BGRA2GRAY,
}


def gray_of_image(message: Any) -> NDArray[np.uint8]:
    """Return the gray image [height, width] uint8 of a sensor_msgs/Image.

    16-bit images are scaled by 1/256. Raises ImageError for an unknown encoding or short data.
    """
    encoding = message.encoding
    if encoding not in _CHANNELS:
        known = ", ".join(_CHANNELS)
        raise ImageError("unknown encoding", f"encoding '{encoding}' is not one of {known}")
    dtype = np.dtype(np.uint16 if encoding in ("mono16", "16UC1") else np.uint8)
    channels, rows, step = _CHANNELS[encoding], message.height, message.step
    row_bytes = message.width * channels * dtype.itemsize
    if not row_bytes or step < row_bytes or len(message.data) < rows * step or not rows:
        raise ImageError("short data", "image data is shorter than its height and width say")
    data = np.asarray(message.data, dtype=np.uint8)[: rows * step].reshape(rows, step)
    pixels = np.ascontiguousarray(data[:, :row_bytes])
    if dtype.itemsize == 2:
        order = ">u2" if message.is_bigendian else "<u2"
        return (pixels.view(order) >> 8).astype(np.uint8)
    if channels == 1:
        return pixels
    colour = pixels.reshape(rows, message.width, channels)
    return np.asarray(cv2.cvtColor(colour, _TO_GRAY[encoding]), dtype=np.uint8)


def gray_of_jpeg(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the gray image [height, width] uint8 of JPEG or PNG bytes; ImageError if broken."""
    buffer = np.asarray(data, dtype=np.uint8)
    # The calibration is of the stored pixels: a rotation noted in the file's tags is not applied.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    gray = cv2.imdecode(buffer, flags) if buffer.size else None
    if gray is None:
        raise ImageError("undecodable", "compressed image cannot be decoded as JPEG or PNG")
    return np.asarray(gray, dtype=np.uint8)
