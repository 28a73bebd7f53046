"""Read what KITTI's layouts share: OXTS rows, stamps, calibration files.

``base_link`` is the frame of the OXTS unit (GPS and IMU: x forward, y left, z up) in every bag
made of KITTI, with an IMU stream or without, so that all of them train one model. It sits above
the rear axle, 1.08 m behind, 0.32 m left of and 0.72 m below cam0.

Facts from: Geiger, Lenz, Stiller, Urtasun, "Vision meets robotics: the KITTI dataset" (2013), and
the readme and oxts/dataformat.txt of the raw data's development kit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.convert.source import SourceError
from bayes_vio.data.convert.tables import array_of, lines_of, numbers, text_of
from bayes_vio.data.mounting import is_rigid
from bayes_vio.geometry import se3, so3

EARTH_RADIUS_M = 6_378_137.0
OXTS_COLUMNS = 30
# lat, lon (deg), alt (m), roll, pitch, yaw (rad).
POSE_COLUMNS = slice(0, 6)
# ve, vn, vu (m/s), and pos_accuracy (m): what the unit takes its position's deviation to be.
_VELOCITY_COLUMNS, _ACCURACY_COLUMN, _FIXED_PHASE_ACCURACY_M = (7, 6, 10), 23, 0.1
REFERENCE_COLUMNS = (0, 1, 2, 3, 4, 5, 6, 7, 10, 23)
# ax ay az (m/s^2) and wx wy wz (rad/s) are in the unit's own axes. Their twins af al au and
# wf wl wu are levelled: measured on drives of the data set, ax - af = -9.8 m/s^2 sin(pitch).
IMU_COLUMNS = (11, 12, 13, 17, 18, 19)


@dataclass(frozen=True)
class Oxts:
    """Rows of the OXTS unit: stamp_ns [n], rows [n, 30]."""

    stamp_ns: NDArray[np.int64]
    rows: NDArray[np.float64]

    @property
    def imu(self) -> NDArray[np.float64]:
        """IMU samples [n, 6] in the unit's axes: specific force (m/s^2), angular rate (rad/s)."""
        return self.rows[:, IMU_COLUMNS]

    def between(self, start_ns: int, end_ns: int) -> Oxts:
        """Return the rows within two stamps."""
        kept = (self.stamp_ns >= start_ns) & (self.stamp_ns <= end_ns)
        return Oxts(self.stamp_ns[kept], self.rows[kept])


def read_oxts(folder: Path, dropped: dict[str, int]) -> Oxts:
    """Read oxts/timestamps.txt and oxts/data/NNNNNNNNNN.txt; missing rows are counted."""
    stamp_ns = read_stamps(folder / "timestamps.txt")
    files = [folder / "data" / f"{i:010d}.txt" for i in range(len(stamp_ns))]
    there = np.array([file.is_file() for file in files])
    if not there.any():
        raise SourceError(f"{folder / 'data'} holds no rows named like 0000000000.txt")
    if not there.all():
        dropped["oxts: missing file"] = int(np.count_nonzero(~there))
    rows = [_oxts_row(file) for file, good in zip(files, there.tolist(), strict=True) if good]
    return Oxts(stamp_ns[there], np.array(rows))


def _oxts_row(file: Path) -> list[float]:
    row = numbers(text_of(file).split(), str(file))
    if len(row) != OXTS_COLUMNS:
        raise SourceError(f"{file} holds {len(row)} numbers, not {OXTS_COLUMNS}")
    return row


def oxts_poses(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return T_world_base [n, 4, 4]; the world is base_link at the first row.

    rows [n, 6]: latitude, longitude (deg), altitude (m), roll, pitch, yaw (rad). Mercator
    projection at the first latitude, rotation Rz(yaw) Ry(pitch) Rx(roll): the development kit's.
    """
    latitude, longitude = np.radians(rows[:, 0]), np.radians(rows[:, 1])
    scale = np.cos(latitude[0]) * EARTH_RADIUS_M
    east = scale * longitude
    north = scale * np.log(np.tan(np.pi / 4 + latitude / 2))
    position = torch.from_numpy(np.stack([east, north, rows[:, 2]], -1))
    T = se3.from_rotation_translation(_rotations(rows), position)
    return (se3.inverse(T[:1]) @ T).numpy()


def _rotations(rows: NDArray[np.float64]) -> torch.Tensor:
    """Return R_enu_base [n, 3, 3] of pose rows [n, 6]; east, north, up."""
    axes = torch.eye(3, dtype=torch.float64)
    roll, pitch, yaw = (
        so3.exp(torch.from_numpy(rows[:, 3 + axis])[:, None] * axes[axis]) for axis in range(3)
    )
    return yaw @ pitch @ roll


def oxts_reference(rows: NDArray[np.float64], stamp_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return T_world_base [n, 4, 4] of whole OXTS rows [n, 30] at stamps [n] (ns), for increments.

    Where the unit puts its positions more than 0.1 m off (median), they come from its velocities:
    without a fixed carrier phase fixes pull positions to and fro by decimetres within seconds.
    """
    T = oxts_poses(rows[:, POSE_COLUMNS])
    if np.median(rows[:, _ACCURACY_COLUMN]) > _FIXED_PHASE_ACCURACY_M:
        R_world_enu = _rotations(rows[:1, POSE_COLUMNS])[0].mT.numpy()
        velocity = rows[:, _VELOCITY_COLUMNS] @ R_world_enu.T
        dt_s = np.diff(stamp_ns)[:, None] / NS_PER_S
        T[1:, :3, 3] = np.cumsum(0.5 * dt_s * (velocity[1:] + velocity[:-1]), axis=0)
    return T


def read_stamps(path: Path) -> NDArray[np.int64]:
    """Return stamps [n] (ns) of lines like "2011-09-26 13:04:32.349659964", taken as UTC."""
    stamps = []
    for where, line in lines_of(path):
        try:
            stamps.append(np.datetime64(line.replace(" ", "T"), "ns").astype(np.int64))
        except ValueError as error:
            raise SourceError(f"{where}: '{line}' is no date and time") from error
    if not stamps:
        raise SourceError(f"{path} holds no stamps")
    return np.array(stamps, dtype=np.int64)


def inverse(T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse of a pose [4, 4]."""
    return np.asarray(np.linalg.inv(T), dtype=np.float64)


class Calibration:
    """A calibration file of lines "KEY: numbers"; other lines (the date of calibration) stay out.

    Raises SourceError where it does not exist, and on reading a key that it lacks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, list[str]] = {}
        for _, line in lines_of(path):
            key, _, rest = line.partition(":")
            self._values[key.strip()] = rest.split()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def array(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return one key's numbers in a shape."""
        if key not in self._values:
            raise SourceError(f"{self._path} lacks {key}")
        return array_of(self._values[key], shape, f"{key} in {self._path}")

    def rigid(self, R: str, T: str | None = None) -> NDArray[np.float64]:
        """Return a transform [4, 4] of the keys of a rotation and, if any, a translation (m)."""
        pose = np.eye(4)
        pose[:3, :3] = self.array(R, (3, 3))
        if T is not None:
            pose[:3, 3] = self.array(T, (3,))
        return self._checked(pose, R)

    def rigid_rows(self, key: str) -> NDArray[np.float64]:
        """Return a transform [4, 4] of a key that holds its upper three rows."""
        pose = np.eye(4)
        pose[:3] = self.array(key, (3, 4))
        return self._checked(pose, key)

    def projection(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return K [3, 3] and T_camera_rectified [4, 4] of a projection matrix K [I | t]."""
        P = self.array(key, (3, 4))
        if not (P[0, 0] > 0 and P[1, 1] > 0 and P[2, 2] > 0):
            raise SourceError(f"{key} in {self._path} is no projection matrix")
        T = np.eye(4)
        T[:3, 3] = np.linalg.solve(P[:, :3], P[:, 3])
        return P[:, :3].copy(), T

    def _checked(self, pose: NDArray[np.float64], key: str) -> NDArray[np.float64]:
        if not is_rigid(pose):
            raise SourceError(f"{key} in {self._path} is no rotation")
        return pose


def T_rectified_imu(date_folder: Path) -> NDArray[np.float64]:
    """Return the OXTS frame's pose [4, 4] in cam0's rectified frame, of a day's calibration."""
    R_rect = Calibration(date_folder / "calib_cam_to_cam.txt").rigid("R_rect_00")
    return R_rect @ T_cam0_imu(date_folder)


def T_cam0_imu(date_folder: Path) -> NDArray[np.float64]:
    """Return the OXTS frame's pose [4, 4] in cam0's frame before rectification."""
    T_cam0_velo = Calibration(date_folder / "calib_velo_to_cam.txt").rigid("R", "T")
    return T_cam0_velo @ Calibration(date_folder / "calib_imu_to_velo.txt").rigid("R", "T")
