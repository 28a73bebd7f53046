"""Read a one-minute segment of comma2k19: a phone-like device behind a car's windscreen.

SOURCE is a segment's folder: video.hevc, processed_log/IMU/{accelerometer,gyro}/{t,value} and
global_pose/{frame_times,frame_positions,frame_orientations}, NumPy files without a suffix. Times
are seconds since the device's start, the same clock for all. IMU vectors are in device axes:
forward, right, down; the accelerometer's is specific force (-9.8 m/s^2 along down at rest), the
gyro's is free of Android's estimate of its bias. Positions are ECEF (m); an orientation is the
Hamilton quaternion w x y z of R_ecef_device. Every image was taken by the EON's camera, 1164 x 874
pixels, focal length 910 pixels, centred, without a published distortion.

``base_link`` has its origin at the camera, whose poses the reference gives; the device's place
over the road is not published. Its x axis is the car's mean direction of travel in device axes,
where the segment tells it, since the device hangs pitched and yawed by some degrees, another angle
in every mounting; roll remains the device's. The world is base_link at the first frame.

Facts from: Schafer et al., "A commute in data: the comma2k19 dataset" (2018), and the data set's
readme; the signs were checked on its example segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.convert.source import (
    Image,
    SourceError,
    SourceRecording,
    imu_stream,
    reference_stream,
    usable,
)
from bayes_vio.data.convert.tables import required_folder, stamps_ns_of_s
from bayes_vio.data.messages import poses_of
from bayes_vio.data.samples import CameraModel, Extrinsics

WIDTH, HEIGHT, FOCAL_PX = 1164, 874, 910.0
CAMERA = CameraModel(
    WIDTH, HEIGHT, np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
)
# Forward, right, down in axes forward, left, up.
_R_UPRIGHT_DEVICE = np.diag([1.0, -1.0, -1.0])
# The direction of travel is told where the car drives fast and straight.
_MIN_SPEED_M_S, _MAX_TURN_RAD_S, _MIN_FRAMES = 5.0, 0.02, 100
_MAX_MOUNTING_RAD = np.radians(20)


def read_comma2k19(segment: Path) -> SourceRecording:
    """Read one segment."""
    required_folder(segment, "comma2k19")
    dropped: dict[str, int] = {}
    video = segment / "video.hevc"
    if not video.is_file():
        raise SourceError(f"{video} does not exist")
    poses, imu_folder = segment / "global_pose", segment / "processed_log" / "IMU"
    frame_ns = stamps_ns_of_s(_array(poses / "frame_times", 1), poses / "frame_times")
    T_ecef_device = _device_poses(poses, len(frame_ns))
    kept = usable("image", poses, frame_ns, np.zeros((len(frame_ns), 0)), dropped)
    R_base_upright, note = _mounting(frame_ns, T_ecef_device)
    T_base_device = np.eye(4)
    T_base_device[:3, :3] = R_base_upright @ _R_UPRIGHT_DEVICE
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_base_upright @ R_BASE_OPTICAL
    T_ecef_base = T_ecef_device @ np.linalg.inv(T_base_device)
    first = int(np.isfinite(T_ecef_base).all((1, 2)).argmax())
    T_world_base = np.linalg.inv(T_ecef_base[first]) @ T_ecef_base
    return SourceRecording(
        camera=CAMERA,
        extrinsics=Extrinsics(T_base_device, T_base_camera, "comma2k19's axes"),
        image_ns=frame_ns[kept],
        images=VideoFrames(video, frame_ns, kept, dropped),
        imu=imu_stream(imu_folder, *_imu(imu_folder, dropped), dropped),
        reference=reference_stream(poses, frame_ns, T_world_base, dropped),
        dropped=dropped,
        notes=(note,),
    )


@dataclass(frozen=True)
class VideoFrames:
    """A video's frames as gray images; frame i is stamped frame_ns[i] if ``kept`` [n] says so."""

    video: Path
    frame_ns: NDArray[np.int64]
    kept: NDArray[np.bool_]
    dropped: dict[str, int]

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        stamps, kept = self.frame_ns.tolist(), self.kept.tolist()
        count = 0
        for index, frame in enumerate(self._frames()):
            count += 1
            if index < len(stamps) and kept[index]:
                yield stamps[index], frame
        if count != len(stamps):
            cause = "frame without a time" if count > len(stamps) else "missing in the video"
            self.dropped[f"image: {cause}"] = abs(count - len(stamps))

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        capture = cv2.VideoCapture(str(self.video))
        try:
            if not capture.isOpened():
                raise SourceError(f"{self.video} cannot be decoded as a video")
            while (read := capture.read())[0]:
                frame = read[1]
                if frame.shape[:2] != (HEIGHT, WIDTH):
                    size = f"{frame.shape[1]} x {frame.shape[0]}"
                    raise SourceError(f"{self.video} is {size}, not the EON's {WIDTH} x {HEIGHT}")
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        finally:
            capture.release()


def _array(path: Path, columns: int) -> NDArray[np.float64]:
    """Return a NumPy file's numbers, [n] or [n, columns]."""
    try:
        with path.open("rb") as file:
            values = np.load(file, allow_pickle=False)
        values = np.asarray(values, dtype=np.float64)
    except FileNotFoundError as error:
        raise SourceError(f"{path} does not exist") from error
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise SourceError(f"{path} is no NumPy file of numbers: {error}") from error
    values = values.reshape(-1) if columns == 1 and values.ndim == 2 else values
    expected = values.shape[:1] if columns == 1 else (*values.shape[:1], columns)
    if values.shape != expected or not len(values):
        raise SourceError(f"{path} has shape {values.shape}, not rows of {columns}")
    return values


def _device_poses(folder: Path, n: int) -> NDArray[np.float64]:
    """Return T_ecef_device [n, 4, 4], axes forward, right, down."""
    position = _array(folder / "frame_positions", 3)
    w_xyz = _array(folder / "frame_orientations", 4)
    if not len(position) == len(w_xyz) == n:
        raise SourceError(f"{folder} holds {n} times, {len(position)} positions and "
                          f"{len(w_xyz)} orientations")  # fmt: skip
    if not np.all(np.abs(np.linalg.norm(w_xyz, axis=1) - 1) < 1e-3):
        raise SourceError(f"{folder / 'frame_orientations'} holds what are no unit quaternions")
    return poses_of(np.hstack([position, w_xyz[:, 1:], w_xyz[:, :1]]))


def _imu(folder: Path, dropped: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return stamps [n] and samples [n, 6] in device axes, at the gyro's times."""
    streams = []
    for name in ("accelerometer", "gyro"):
        time_s, value = _array(folder / name / "t", 1), _array(folder / name / "value", 3)
        if len(time_s) != len(value):
            raise SourceError(f"{folder / name} holds {len(time_s)} times, {len(value)} values")
        streams.append((time_s, value))
    (force_s, force), (rate_s, rate) = streams
    if not np.array_equal(force_s, rate_s):
        covered = (rate_s >= force_s[0]) & (rate_s <= force_s[-1])
        if not covered.all():
            dropped["imu: gyro without accelerometer"] = int(np.count_nonzero(~covered))
        rate_s, rate = rate_s[covered], rate[covered]
        force = np.stack([np.interp(rate_s, force_s, axis) for axis in force.T], -1)
    return stamps_ns_of_s(rate_s, folder / "gyro" / "t"), np.hstack([force, rate])


def _mounting(
    frame_ns: NDArray[np.int64], T_ecef_device: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str]:
    """Return R_base_upright [3, 3] (device axes turned upright), and what it is in words."""
    direction = _direction_of_travel(frame_ns, T_ecef_device)
    if direction is None:
        return np.eye(
            3
        ), "too little straight driving to tell the mounting: base_link's axes are the device's"
    forward = _R_UPRIGHT_DEVICE @ direction
    angle = np.arccos(np.clip(forward[0], -1, 1))
    if angle > _MAX_MOUNTING_RAD:
        raise SourceError(
            f"the car travels {np.degrees(angle):.0f} deg off the camera's axis: "
            "the poses are damaged or the device did not face forward"
        )
    left = np.cross([0.0, 0.0, 1.0], forward)
    left /= np.linalg.norm(left)
    yaw, pitch = np.degrees([np.arctan2(forward[1], forward[0]), np.arcsin(-forward[2])])
    note = (
        f"the car travels at yaw {yaw:+.2f}, pitch {pitch:+.2f} deg in device axes: base_link's x"
    )
    return np.stack([forward, left, np.cross(forward, left)]), note


def _direction_of_travel(
    frame_ns: NDArray[np.int64], T_ecef_device: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the mean unit vector [3] of travel in device axes, None where it is not told."""
    dt = np.diff(frame_ns)[:, None] / NS_PER_S
    R, position = T_ecef_device[:, :3, :3], T_ecef_device[:, :3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of the two ends' axes the mean, so that a bend has no first-order effect.
        mid = (R[:-1] + R[1:]) / 2
        velocity = np.einsum("nji,nj->ni", mid, np.diff(position, axis=0) / dt)
        turn = R[:-1].transpose(0, 2, 1) @ R[1:]
        sine = np.linalg.norm(turn - turn.transpose(0, 2, 1), axis=(1, 2)) / np.sqrt(8)
        straight = sine / dt[:, 0] < _MAX_TURN_RAD_S
        speed = np.linalg.norm(velocity, axis=1)
        used = straight & (speed > _MIN_SPEED_M_S) & (dt[:, 0] > 0) & np.isfinite(speed)
    if np.count_nonzero(used) < _MIN_FRAMES:
        return None
    mean = (velocity[used] / speed[used, None]).mean(0)
    return mean / np.linalg.norm(mean)
