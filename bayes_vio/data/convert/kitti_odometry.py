"""Read a sequence of KITTI's odometry benchmark.

SOURCE is the folder that holds ``sequences`` (NN/image_0 gray or NN/image_2 colour, calib.txt,
times.txt) and ``poses`` (NN.txt; published for 00-10). ``base_link`` is the OXTS frame as in all
of KITTI (see kitti.py), though the benchmark's poses are cam0's: its place follows from Tr of
calib.txt and the published transform from IMU to laser, or, in the calib.txt files that lack Tr,
from the sketch of the car. The world is base_link at the first frame.

The benchmark has no IMU. Its sequences were cut from synchronised raw drives, all but 03 of them
published: with ``raw``, the folder of the drive's day, images get their true stamps from the
drive's _sync folder and IMU samples come from _extract (100 Hz) if it is there, else from _sync
(10 Hz). Otherwise stamps are those of times.txt, one second later, since a message stamped zero
counts as unstamped.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.convert.kitti import (
    Calibration,
    T_rectified_imu,
    inverse,
    read_oxts,
    read_stamps,
)
from bayes_vio.data.convert.source import (
    SourceError,
    SourceRecording,
    image_files,
    image_size,
    imu_stream,
    reference_stream,
)
from bayes_vio.data.convert.tables import lines_of, numbers, required_folder, stamp_ns_of
from bayes_vio.data.mounting import is_rigid
from bayes_vio.data.samples import CameraModel, Extrinsics, ImuStream

CAMERAS = ("image_0", "image_2", "image_1", "image_3")
# Drive and first frame of each training sequence: the benchmark's readme, "Mapping to raw data".
RAW_DRIVES = {
    "00": ("2011_10_03_drive_0027", 0),
    "01": ("2011_10_03_drive_0042", 0),
    "02": ("2011_10_03_drive_0034", 0),
    "03": ("2011_09_26_drive_0067", 0),
    "04": ("2011_09_30_drive_0016", 0),
    "05": ("2011_09_30_drive_0018", 0),
    "06": ("2011_09_30_drive_0020", 0),
    "07": ("2011_09_30_drive_0027", 0),
    "08": ("2011_09_30_drive_0028", 1100),
    "09": ("2011_09_30_drive_0033", 0),
    "10": ("2011_09_30_drive_0034", 0),
}
# calib_imu_to_velo.txt of 25-May-2012, the same for every day of recording.
T_VELO_IMU = np.array(
    [
        [9.999976e-01, 7.553071e-04, -2.035826e-03, -8.086759e-01],
        [-7.854027e-04, 9.998898e-01, -1.482298e-02, 3.195559e-01],
        [2.024406e-03, 1.482454e-02, 9.998881e-01, -7.997231e-01],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
# Where cam0 sits in base_link by the sketch of the car (setup page of the data set).
CAM0_IN_BASE_M = (1.08, -0.32, 0.72)
_FIRST_STAMP_NS = NS_PER_S
# Stamps of times.txt and of the raw drive agree to microseconds; frames are 100 ms apart.
_SAME_FRAME_NS = 20_000_000
_IMU_MARGIN_NS = NS_PER_S


def read_kitti_odometry(
    root: Path, sequence: str, camera: str | None = None, raw: Path | None = None
) -> SourceRecording:
    """Read one sequence, "00" to "21"; camera: image_0 to image_3, by default the first there.

    raw: the folder of the raw drive's day, or the folder that holds it.
    """
    if not re.fullmatch(r"\d\d", sequence):
        raise SourceError(f"sequence '{sequence}' is not two digits like 00")
    folder = required_folder(root / "sequences" / sequence, "kitti-odometry")
    camera = _camera(folder, camera)
    times_ns = _times(folder / "times.txt")
    image_ns, imu, dropped = times_ns + _FIRST_STAMP_NS, None, {}
    day = None if raw is None else _day_folder(raw, sequence)
    if day is not None:
        image_ns, imu = _from_raw(day, sequence, times_ns, dropped)
    calibration = Calibration(folder / "calib.txt")
    K, T_camera_cam0 = calibration.projection(f"P{camera[-1]}")
    T_base_cam0, origin = _mounting(calibration, day)
    T_world_base = _poses(root / "poses" / f"{sequence}.txt", T_base_cam0, len(times_ns))
    paths = [folder / camera / f"{i:06d}.png" for i in range(len(times_ns))]
    size = image_size(paths)
    images = image_files(folder / camera, image_ns, paths, size, dropped)
    reference = None
    if T_world_base is not None:
        reference = reference_stream(root / "poses", image_ns, T_world_base, dropped)
    return SourceRecording(
        camera=CameraModel(*size, K),
        extrinsics=Extrinsics(np.eye(4), T_base_cam0 @ inverse(T_camera_cam0), origin),
        image_ns=images.stamp_ns,
        images=images,
        imu=imu,
        reference=reference,
        dropped=dropped,
        notes=(f"cam0's place in base_link (the OXTS unit) is from {origin}",),
    )


def _camera(folder: Path, camera: str | None) -> str:
    if camera is not None and camera not in CAMERAS:
        raise SourceError(f"camera '{camera}' is not one of {', '.join(sorted(CAMERAS))}")
    wanted = CAMERAS if camera is None else (camera,)
    for name in wanted:
        if (folder / name).is_dir():
            return name
    raise SourceError(f"{folder} has no folder {' or '.join(wanted)}")


def _times(path: Path) -> NDArray[np.int64]:
    """Return times [n] (ns) since the first frame."""
    times = [stamp_ns_of(_as_seconds(line), where) for where, line in lines_of(path)]
    if not times:
        raise SourceError(f"{path} holds no times")
    return np.array(times, dtype=np.int64)


def _as_seconds(text: str) -> str:
    return f"{text}.0" if text.isdigit() else text


def _poses(path: Path, T_base_cam0: NDArray[np.float64], n: int) -> NDArray[np.float64] | None:
    """Return T_world_base [n, 4, 4] of a file of cam0's poses; None for an unpublished one."""
    if not path.exists():
        return None
    T = np.tile(np.eye(4), (n, 1, 1))
    rows = list(lines_of(path))
    if len(rows) != n:
        raise SourceError(f"{path} holds {len(rows)} poses, but times.txt {n} times")
    for pose, (where, line) in zip(T, rows, strict=True):
        row = numbers(line.split(), where)
        if len(row) != 12:
            raise SourceError(f"{where}: {len(row)} numbers, not 12")
        pose[:3] = np.reshape(row, (3, 4))
        if not is_rigid(pose):
            raise SourceError(f"{where} is no pose")
    return T_base_cam0 @ T @ inverse(T_base_cam0)


def _mounting(calibration: Calibration, day: Path | None) -> tuple[NDArray[np.float64], str]:
    """Return T_base_cam0 [4, 4] of the rectified camera, and who says so."""
    if day is not None:
        return inverse(T_rectified_imu(day)), "the raw drive's calibration"
    if "Tr" in calibration:
        return inverse(calibration.rigid_rows("Tr") @ T_VELO_IMU), "Tr of calib.txt"
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R_BASE_OPTICAL, CAM0_IN_BASE_M
    return T, "the sketch of the car (calib.txt has no Tr): axes are right to a degree"


def _day_folder(raw: Path, sequence: str) -> Path:
    if sequence not in RAW_DRIVES:
        raise SourceError(f"the raw drive of sequence {sequence} is not published: drop --raw")
    date = RAW_DRIVES[sequence][0][:10]
    day = raw / date if (raw / date).is_dir() else raw
    if day.resolve().name != date or not day.is_dir():
        raise SourceError(f"{raw} neither is nor holds {date}, the day of sequence {sequence}")
    return day


def _from_raw(
    day: Path, sequence: str, times_ns: NDArray[np.int64], dropped: dict[str, int]
) -> tuple[NDArray[np.int64], ImuStream]:
    """Return the frames' true stamps [n] and the IMU around them."""
    name, first = RAW_DRIVES[sequence]
    sync, extract = day / f"{name}_sync", day / f"{name}_extract"
    stamps = read_stamps(sync / "image_00" / "timestamps.txt")
    image_ns = stamps[first : first + len(times_ns)]
    _check_same_frames(image_ns, times_ns, f"{sync.name} and sequence {sequence}")
    oxts = read_oxts((extract if extract.is_dir() else sync) / "oxts", dropped)
    near = oxts.between(int(image_ns[0]) - _IMU_MARGIN_NS, int(image_ns[-1]) + _IMU_MARGIN_NS)
    if not len(near.stamp_ns):
        raise SourceError(f"the OXTS rows of {name} share no time with sequence {sequence}")
    return image_ns, imu_stream(day / name, near.stamp_ns, near.imu, dropped)


def _check_same_frames(
    image_ns: NDArray[np.int64], times_ns: NDArray[np.int64], what: str
) -> None:
    if len(image_ns) < len(times_ns):
        raise SourceError(f"{what}: {len(image_ns)} stamps, but {len(times_ns)} frames")
    apart = np.abs((image_ns - image_ns[0]) - (times_ns - times_ns[0]))
    if apart.max() > _SAME_FRAME_NS:
        frame = int(apart.argmax())
        raise SourceError(
            f"{what} put frame {frame} at times {apart[frame] / 1e6:.0f} ms apart: "
            "these are not the same frames"
        )
