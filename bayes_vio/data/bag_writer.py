"""Write recordings as rosbag2 bags (mcap or sqlite3) without a ROS installation."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.data.message_parts import (
    TYPESTORE,
    header_message,
    quaternion_message,
    transform_message,
    vector_message,
)
from bayes_vio.data.messages import BagError, MessageType
from bayes_vio.data.samples import CameraModel
from bayes_vio.whole_files import folder_aside

# Version 9 of the metadata is what ROS 2 Jazzy, Kilted and Lyrical write.
_METADATA_VERSION = 9
_INFINITE = QosTime(9223372036, 854775807)
_STATIC_TF_QOS = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=_INFINITE,
    lifespan=_INFINITE,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_INFINITE,
    avoid_ros_namespace_conventions=False,
)
_STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


class BagWriter:
    """Write one bag, a folder with metadata.yaml, as a context manager.

    The bag is written into a temporary folder beside ``path`` and renamed on success, so a failed
    or killed run leaves nothing under ``path``; what a killed one left beside it is removed by the
    next, with a warning in the log. Raises BagError where ``path`` exists. Every
    method takes the header's ``stamp_ns``; messages are logged at ``log_ns``, by default the same.
    """

    def __init__(self, path: Path, storage: Literal["mcap", "sqlite3"] = "mcap") -> None:
        self._path = Path(path)
        if self._path.exists():
            raise BagError(f"{self._path} exists already: choose another path or remove it")
        if storage not in _STORAGE:
            raise BagError(f"storage '{storage}' is not known: use 'mcap' or 'sqlite3'")
        self._storage = _STORAGE[storage]
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        # __exit__ is called only from the end of this on: until then, what fails undoes the rest.
        with contextlib.ExitStack() as undo:
            # Files inside a bag carry its name, so the bag has its final name from the start.
            self._bag = undo.enter_context(folder_aside(self._path)) / self._path.name
            self._writer = Writer(
                self._bag, version=_METADATA_VERSION, storage_plugin=self._storage
            )
            self._writer.open()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._undo:
            self._writer.close()
            if exc_type is None:
                self._bag.rename(self._path)

    def tf_static(
        self,
        stamp_ns: int,
        transforms: Mapping[str, NDArray[np.float64]],
        parent: str = "base_link",
        log_ns: int | None = None,
    ) -> None:
        """Write T_parent_child [4, 4] for every child frame, latched on /tf_static."""
        message = TYPESTORE.types[MessageType.TF.value](
            transforms=[
                transform_message(stamp_ns, T_parent_child, parent, child)
                for child, T_parent_child in transforms.items()
            ]
        )
        self.write("/tf_static", MessageType.TF, message, stamp_ns, log_ns, [_STATIC_TF_QOS])

    def imu(
        self,
        stamp_ns: int,
        sample: NDArray[np.float64],
        topic: str = "imu",
        frame_id: str = "imu_link",
        log_ns: int | None = None,
    ) -> None:
        """Write one sample [6] in the IMU's axes: specific force (m/s^2), angular rate (rad/s)."""
        types = TYPESTORE.types
        absent = np.zeros(9)
        absent[0] = -1
        message = types[MessageType.IMU.value](
            header=header_message(stamp_ns, frame_id),
            orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
            orientation_covariance=absent,
            angular_velocity=vector_message(sample[ANGULAR_RATE]),
            angular_velocity_covariance=np.zeros(9),
            linear_acceleration=vector_message(sample[SPECIFIC_FORCE]),
            linear_acceleration_covariance=np.zeros(9),
        )
        self.write(topic, MessageType.IMU, message, stamp_ns, log_ns)

    def image(
        self,
        stamp_ns: int,
        image: NDArray[np.uint8],
        topic: str = "image",
        frame_id: str = "camera_optical",
        jpeg_quality: int | None = None,
        log_ns: int | None = None,
    ) -> None:
        """Write a gray [h, w] or bgr [h, w, 3] image, raw or as JPEG of a quality in 1..100."""
        if jpeg_quality is not None:
            done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
            if not done:
                raise BagError(f"image of shape {image.shape} cannot be encoded as JPEG")
            self.compressed_image(stamp_ns, data.reshape(-1), topic, frame_id, log_ns=log_ns)
            return
        height, width = image.shape[:2]
        message = TYPESTORE.types[MessageType.IMAGE.value](
            header=header_message(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding="mono8" if image.ndim == 2 else "bgr8",
            is_bigendian=0,
            step=width * (1 if image.ndim == 2 else 3),
            data=np.ascontiguousarray(image, dtype=np.uint8).reshape(-1),
        )
        self.write(topic, MessageType.IMAGE, message, stamp_ns, log_ns)

    def compressed_image(
        self,
        stamp_ns: int,
        data: NDArray[np.uint8],
        topic: str = "image",
        frame_id: str = "camera_optical",
        encoding: str = "jpeg",
        log_ns: int | None = None,
    ) -> None:
        """Write the bytes [n] of a JPEG (or, by ``encoding``, PNG) file as they are."""
        message = TYPESTORE.types[MessageType.COMPRESSED_IMAGE.value](
            header=header_message(stamp_ns, frame_id),
            format=encoding,
            data=np.asarray(data, dtype=np.uint8),
        )
        self.write(topic, MessageType.COMPRESSED_IMAGE, message, stamp_ns, log_ns)

    def camera_info(
        self,
        stamp_ns: int,
        camera: CameraModel,
        topic: str = "camera_info",
        frame_id: str = "camera_optical",
        log_ns: int | None = None,
    ) -> None:
        """Write the camera's calibration."""
        types = TYPESTORE.types
        roi = types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        message = types[MessageType.CAMERA_INFO.value](
            header=header_message(stamp_ns, frame_id),
            height=camera.height,
            width=camera.width,
            distortion_model=camera.distortion,
            d=np.asarray(camera.coefficients, dtype=np.float64),
            k=np.asarray(camera.K, dtype=np.float64).reshape(9),
            r=np.eye(3).reshape(9),
            p=np.hstack([camera.K, np.zeros((3, 1))]).reshape(12),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )
        self.write(topic, MessageType.CAMERA_INFO, message, stamp_ns, log_ns)

    def odometry(
        self,
        stamp_ns: int,
        T_world_base: NDArray[np.float64],
        topic: str = "ground_truth/odometry",
        frame_id: str = "world",
        child_frame_id: str = "base_link",
        log_ns: int | None = None,
    ) -> None:
        """Write a reference pose [4, 4] of ``child_frame_id`` in ``frame_id``; no velocity."""
        types = TYPESTORE.types
        x, y, z = (float(v) for v in T_world_base[:3, 3])
        pose = types["geometry_msgs/msg/Pose"](
            position=types["geometry_msgs/msg/Point"](x=x, y=y, z=z),
            orientation=quaternion_message(T_world_base[:3, :3]),
        )
        zero = vector_message(np.zeros(3))
        message = types[MessageType.ODOMETRY.value](
            header=header_message(stamp_ns, frame_id),
            child_frame_id=child_frame_id,
            pose=types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
            twist=types["geometry_msgs/msg/TwistWithCovariance"](
                twist=types["geometry_msgs/msg/Twist"](linear=zero, angular=zero),
                covariance=np.zeros(36),
            ),
        )
        self.write(topic, MessageType.ODOMETRY, message, stamp_ns, log_ns)

    def write(
        self,
        topic: str,
        kind: MessageType,
        message: Any,
        stamp_ns: int,
        log_ns: int | None = None,
        qos: list[Qos] | None = None,
    ) -> None:
        """Write a message of TYPESTORE; a topic keeps the type and the QoS of its first one."""
        topic = topic if topic.startswith("/") else f"/{topic}"
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic, kind.value, typestore=TYPESTORE, offered_qos_profiles=qos or []
            )
            self._connections[topic] = connection
        elif connection.msgtype != kind.value:
            raise BagError(f"topic {topic} already carries {connection.msgtype}, not {kind.value}")
        data = TYPESTORE.serialize_cdr(message, kind.value)
        self._writer.write(connection, int(stamp_ns if log_ns is None else log_ns), data)
