"""Read recordings: a rosbag2 bag, mcap or sqlite3, becomes streams in base axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.data.bag_images import FrameReader, opened
from bayes_vio.data.messages import (
    BagError,
    MessageType,
    camera_model,
    imu_row,
    pose_row,
    poses_of,
    stamp_ns_of,
)
from bayes_vio.data.mounting import StaticFrames, frame_name
from bayes_vio.data.samples import CameraModel, Extrinsics, ImuStream, ReferenceStream, Streams
from bayes_vio.data.series import Series, cdr_header
from bayes_vio.data.topics import Selection, Topics, select_topics

__all__ = ["BagError", "Topics", "open_streams"]


def open_streams(
    path: Path, topics: Topics | None = None, extrinsics: Extrinsics | None = None
) -> Streams:
    """Read a recording's IMU, calibration and reference; leave its images on disk.

    path: a bag's folder, or a bare .mcap or .db3 file. ``extrinsics``: where the sensors sit,
    by default the chains of /tf_static from base_link. IMU vectors are rotated into base axes;
    the lever arm's centripetal and tangential terms stay in the specific force. Raises BagError
    where a topic is absent or ambiguous, a frame is unknown, or the streams share no time.
    """
    path, topics = Path(path), topics or Topics()
    with opened(path) as reader:
        selection = select_topics(path, reader.connections, topics)
        first_pass = _FirstPass(selection, topics)
        for connection, log_ns, raw in reader.messages(first_pass.connections(reader.connections)):
            first_pass.read(reader, connection, log_ns, raw)
    return first_pass.streams(path, extrinsics)


class _FirstPass:
    """What one reading of a bag gathers; of images only the headers."""

    def __init__(self, selection: Selection, topics: Topics) -> None:
        self._selection, self._topics = selection, topics
        self._imu, self._image, self._reference = Series(6), Series(0), Series(7)
        self._static = StaticFrames()
        self._camera: CameraModel | None = None
        self._read: dict[str, Callable[[Any, int, bytes, str], None]] = {
            "/tf_static": self._read_static,
        }
        readers = {
            selection.image: self._read_image,
            selection.camera_info: self._read_camera,
            selection.imu: self._read_imu,
            selection.reference: self._read_reference,
        }
        self._read |= {topic: read for topic, read in readers.items() if topic}

    def connections(self, available: list[Connection]) -> list[Connection]:
        """Return the connections to read."""
        return [c for c in available if c.topic in self._read]

    def read(self, reader: AnyReader, connection: Connection, log_ns: int, raw: bytes) -> None:
        """Take one message."""
        self._read[connection.topic](reader, log_ns, raw, connection.msgtype)

    def _read_static(self, reader: AnyReader, _: int, raw: bytes, kind: str) -> None:
        self._static.add_message(reader.deserialize(raw, kind))

    def _read_image(self, _: AnyReader, log_ns: int, raw: bytes, __: str) -> None:
        stamp_ns, frame_id = cdr_header(raw)
        self._image.append(stamp_ns, log_ns, frame_id, ())

    def _read_camera(self, reader: AnyReader, _: int, raw: bytes, kind: str) -> None:
        if self._camera is None:
            self._camera = camera_model(reader.deserialize(raw, kind))

    def _read_imu(self, reader: AnyReader, log_ns: int, raw: bytes, kind: str) -> None:
        message: Any = reader.deserialize(raw, kind)
        header = message.header
        self._imu.append(stamp_ns_of(header), log_ns, header.frame_id, imu_row(message))

    def _read_reference(self, reader: AnyReader, log_ns: int, raw: bytes, kind: str) -> None:
        message: Any = reader.deserialize(raw, kind)
        if kind == MessageType.TF.value:
            self._read_transforms(message, log_ns)
            return
        pose = message.pose.pose if kind == MessageType.ODOMETRY.value else message.pose
        frame = getattr(message, "child_frame_id", "") or self._topics.base_frame
        row = pose_row(pose.position, pose.orientation)
        self._reference.append(stamp_ns_of(message.header), log_ns, frame, row)

    def _read_transforms(self, message: Any, log_ns: int) -> None:
        wanted = (self._topics.reference_world, self._topics.reference_frame)
        for t in message.transforms:
            if (frame_name(t.header.frame_id), frame_name(t.child_frame_id)) == wanted:
                row = pose_row(t.transform.translation, t.transform.rotation)
                self._reference.append(stamp_ns_of(t.header), log_ns, t.child_frame_id, row)

    def streams(self, path: Path, extrinsics: Extrinsics | None) -> Streams:
        """Return the streams, cleaned."""
        if not self._image.stamps:
            raise BagError(f"{path} holds no image on {self._selection.image}")
        if self._camera is None:
            raise BagError(
                f"{path} holds no message on {self._selection.camera_info}: a camera without "
                "calibration is not supported"
            )
        dropped: dict[str, int] = {}
        image_ns, image_kept, _ = self._image.cleaned("image", dropped)
        mounting = extrinsics or self._static_extrinsics()
        imu = self._imu_stream(mounting, dropped)
        reference = self._reference_stream(path, dropped)
        for name, stream in (("imu", imu), ("reference", reference)):
            if stream is not None:
                _check_overlap(path, name, stream.stamp_ns, image_ns[image_kept])
        frames = FrameReader(
            path, self._selection.image, image_ns, image_kept, self._camera, dropped
        )
        return Streams(
            name=path.stem,
            camera=self._camera,
            extrinsics=mounting,
            image_stamp_ns=image_ns[image_kept],
            frames=frames,
            imu=imu,
            reference=reference,
            dropped=dropped,
        )

    def _static_extrinsics(self) -> Extrinsics:
        base = self._topics.base_frame
        T_base_camera = self._static.transform(base, self._image.frame_id)
        T_base_imu = np.eye(4)
        if self._imu.stamps:
            T_base_imu = self._static.transform(base, self._imu.frame_id)
        return Extrinsics(T_base_imu, T_base_camera, "/tf_static")

    def _imu_stream(self, mounting: Extrinsics, dropped: dict[str, int]) -> ImuStream | None:
        if not self._imu.stamps:
            return None
        stamp_ns, kept, rows = self._imu.cleaned("imu", dropped)
        R_base_imu = mounting.T_base_imu[:3, :3]
        samples = rows[kept]
        for part in (SPECIFIC_FORCE, ANGULAR_RATE):
            samples[:, part] = samples[:, part] @ R_base_imu.T
        return ImuStream(stamp_ns[kept], samples)

    def _reference_stream(self, path: Path, dropped: dict[str, int]) -> ReferenceStream | None:
        if not self._selection.reference:
            return None
        if not self._reference.stamps:
            world, frame = self._topics.reference_world, self._topics.reference_frame
            raise BagError(
                f"{path} holds no reference pose on {self._selection.reference}"
                + (f" from '{world}' to '{frame}'" if world else "")
            )
        stamp_ns, kept, rows = self._reference.cleaned("reference", dropped)
        frame = self._topics.reference_frame or self._reference.frame_id
        T_base_frame = self._static.transform(self._topics.base_frame, frame)
        T_world_base = poses_of(rows[kept]) @ np.linalg.inv(T_base_frame)
        return ReferenceStream(stamp_ns[kept], T_world_base)


def _check_overlap(
    path: Path, name: str, stamp_ns: NDArray[np.int64], image_ns: NDArray[np.int64]
) -> None:
    if stamp_ns[-1] < image_ns[0] or stamp_ns[0] > image_ns[-1]:
        raise BagError(
            f"{path}: {name} stamps {stamp_ns[0]}..{stamp_ns[-1]} ns and image stamps "
            f"{image_ns[0]}..{image_ns[-1]} ns share no time: they come from different clocks"
        )
