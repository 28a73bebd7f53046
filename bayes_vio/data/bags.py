"""Read recordings: a rosbag2 bag, mcap or sqlite3, becomes streams in base axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.data.bag_files import bag_name
from bayes_vio.data.bag_images import FrameReader
from bayes_vio.data.bag_reader import BagReader, RawMessage
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
from bayes_vio.data.samples import (
    CameraModel,
    Extrinsics,
    ImuStream,
    ReferenceStream,
    Streams,
    same_camera,
)
from bayes_vio.data.series import Series, cdr_header
from bayes_vio.data.topics import Selection, Topics, select_topics
from bayes_vio.data.units import check_units

_BEHIND_STAMP = 12  # in a serialised message that begins with a header

__all__ = ["BagError", "Topics", "open_streams"]


def open_streams(
    path: Path, topics: Topics | None = None, extrinsics: Extrinsics | None = None
) -> Streams:
    """Read a recording's IMU, calibration and reference; leave its images on disk.

    path: a bag's folder, or a bare .mcap or .db3 file, as it is or compressed with Zstandard.
    Memory does not grow with the images. ``extrinsics``: where the sensors sit,
    by default the chains of /tf_static from base_link. IMU vectors are rotated into base axes;
    the lever arm's centripetal and tangential terms stay in the specific force. Raises BagError
    where a topic is absent or ambiguous, a frame is unknown, the streams share no time, a unit
    is wrong, or the bag is damaged; it names the recording.
    """
    path, topics = Path(path), topics or Topics()
    bag = BagReader(path)
    first_pass = _FirstPass(path, select_topics(path, bag.topics, topics), topics)
    try:
        for message in bag.messages(first_pass.topics()):
            first_pass.read(message)
        return first_pass.streams(extrinsics)
    except BagError as error:
        if str(path) in str(error):
            raise
        raise BagError(f"{path}: {error}") from error  # of several bags the one at fault


class _FirstPass:
    """What one reading of a bag gathers; of images only the headers."""

    def __init__(self, path: Path, selection: Selection, topics: Topics) -> None:
        self._path, self._selection, self._topics = path, selection, topics
        self._image = Series(0, "image", f"{path}, topic {selection.image}")
        self._imu = Series(6, "imu", f"{path}, topic {selection.imu}")
        self._reference = Series(7, "reference", f"{path}, topic {selection.reference}")
        self._static = StaticFrames()
        self._camera: CameraModel | None = None
        self._calibration, self._other_calibrations = b"", 0
        self._read: dict[str, Callable[[RawMessage], None]] = {"/tf_static": self._read_static}
        readers = {
            selection.image: self._read_image,
            selection.camera_info: self._read_camera,
            selection.imu: self._read_imu,
            selection.reference: self._read_reference,
        }
        self._read |= {topic: read for topic, read in readers.items() if topic}

    def topics(self) -> list[str]:
        """Return the topics to read."""
        return list(self._read)

    def read(self, raw: RawMessage) -> None:
        """Take one message."""
        self._read[raw.topic](raw)

    def _read_static(self, raw: RawMessage) -> None:
        self._static.add_message(raw.decoded())

    def _read_image(self, raw: RawMessage) -> None:
        stamp_ns, frame_id = cdr_header(raw.payload)
        self._image.append(stamp_ns, raw.log_ns, frame_id, ())

    def _read_camera(self, raw: RawMessage) -> None:
        calibration = raw.payload[_BEHIND_STAMP:]
        if self._camera is None:
            self._camera, self._calibration = camera_model(raw.decoded()), calibration
        elif calibration != self._calibration:
            self._other_calibrations += not self._is_known(raw)

    def _is_known(self, raw: RawMessage) -> bool:
        """Return whether a camera_info says the same as the first."""
        assert self._camera is not None
        try:
            return same_camera(camera_model(raw.decoded()), self._camera)
        except BagError:
            return False

    def _read_imu(self, raw: RawMessage) -> None:
        message = raw.decoded()
        header = message.header
        for name in ("linear_acceleration", "angular_velocity"):
            # The message's definition: -1 says that the sensor does not measure this.
            if getattr(message, f"{name}_covariance")[0] == -1:
                raise BagError(f"{self._path}, topic {raw.topic}: the IMU measures no {name}")
        self._imu.append(stamp_ns_of(header), raw.log_ns, header.frame_id, imu_row(message))

    def _read_reference(self, raw: RawMessage) -> None:
        message = raw.decoded()
        if raw.msgtype == MessageType.TF.value:
            self._read_transforms(message, raw.log_ns)
            return
        odometry = raw.msgtype == MessageType.ODOMETRY.value
        pose = message.pose.pose if odometry else message.pose
        frame = getattr(message, "child_frame_id", "") or self._topics.base_frame
        row = pose_row(pose.position, pose.orientation)
        self._reference.append(stamp_ns_of(message.header), raw.log_ns, frame, row)

    def _read_transforms(self, message: Any, log_ns: int) -> None:
        wanted = (self._topics.reference_world, self._topics.reference_frame)
        for t in message.transforms:
            if (frame_name(t.header.frame_id), frame_name(t.child_frame_id)) == wanted:
                row = pose_row(t.transform.translation, t.transform.rotation)
                self._reference.append(stamp_ns_of(t.header), log_ns, t.child_frame_id, row)

    def streams(self, extrinsics: Extrinsics | None) -> Streams:
        """Return the streams, cleaned."""
        path = self._path
        if not self._image.stamps:
            raise BagError(f"{path} holds no image on {self._selection.image}")
        if self._camera is None:
            raise BagError(
                f"{path} holds no message on {self._selection.camera_info}: a camera without "
                "calibration is not supported"
            )
        dropped: dict[str, int] = {}
        if self._other_calibrations:
            dropped["camera_info: unlike the first"] = self._other_calibrations
        image_ns, image_kept, _ = self._image.cleaned(dropped)
        mounting = extrinsics or self._static_extrinsics()
        logged_ns = self._image.logged_ns(image_kept)
        imu = self._imu_stream(mounting, dropped, logged_ns)
        reference = self._reference_stream(dropped, logged_ns)
        for name, stream in (("imu", imu), ("reference", reference)):
            if stream is not None:
                _check_overlap(path, name, stream.stamp_ns, image_ns[image_kept])
        check_units(str(path), imu, reference)
        frames = FrameReader(
            path, self._selection.image, image_ns, image_kept, self._camera, dropped
        )
        return Streams(
            name=bag_name(path),
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

    def _imu_stream(
        self, mounting: Extrinsics, dropped: dict[str, int], logged_ns: tuple[int, int]
    ) -> ImuStream | None:
        if not self._imu.stamps:
            return None
        stamp_ns, kept, rows = self._imu.cleaned(dropped, logged_ns)
        R_base_imu = mounting.T_base_imu[:3, :3]
        samples = rows[kept]
        for part in (SPECIFIC_FORCE, ANGULAR_RATE):
            samples[:, part] = samples[:, part] @ R_base_imu.T
        return ImuStream(stamp_ns[kept], samples)

    def _reference_stream(
        self, dropped: dict[str, int], logged_ns: tuple[int, int]
    ) -> ReferenceStream | None:
        if not self._selection.reference:
            return None
        if not self._reference.stamps:
            world, frame = self._topics.reference_world, self._topics.reference_frame
            raise BagError(
                f"{self._path} holds no reference pose on {self._selection.reference}"
                + (f" from '{world}' to '{frame}'" if world else "")
            )
        stamp_ns, kept, rows = self._reference.cleaned(dropped, logged_ns)
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
