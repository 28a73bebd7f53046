"""Write KITTI's folders for a known motion of the OXTS unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from tests.data.convert.motion import Motion, camera_pose, pose, write_images

EARTH_RADIUS_M = 6_378_137.0
RECTIFIED, DISTORTED = (60, 40), (80, 48)
P_RECT = np.array([[70.0, 0, 30, 42], [0, 70, 20, 1.4], [0, 0, 1, 0.004]])
K = np.array([[90.0, 0, 40], [0, 91, 24], [0, 0, 1]])
D = (-0.37, 0.2, 0.002, 0.001, -0.07)
# The truth: where cam0, rectified, and camera 1, as it is, sit in the OXTS unit's frame.
T_BASE_RECT0 = camera_pose((0.01, -0.02, 0.03), (1.1, -0.3, 0.7))
T_RECT0_CAM0 = pose((0.004, -0.01, 0.007))
T_CAM0_CAM1 = pose((0.02, 0.01, -0.005), (0.54, 0.01, -0.02))
T_VELO_IMU = pose((0.01, 0.015, -0.001), (-0.81, 0.32, -0.8))


def date_text(stamp_ns: int) -> str:
    """A stamp as KITTI writes it, nine decimals."""
    seconds, rest = divmod(int(stamp_ns), NS_PER_S)
    return f"{np.datetime64(seconds, 's')}".replace("T", " ") + f".{rest:09d}"


def write_stamps(path: Path, stamp_ns: NDArray[np.int64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(date_text, stamp_ns.tolist())) + "\n")


def write_oxts(folder: Path, motion: Motion, t: NDArray[np.float64], lag_ns: int = 0) -> None:
    """Write OXTS rows: the motion's world is x east, y north, at 49 deg of latitude."""
    T, samples = motion.poses(t), motion.samples(t)
    first = np.radians(49.0)
    scale = np.cos(first) * EARTH_RADIUS_M
    north = scale * np.log(np.tan(np.pi / 4 + first / 2)) + T[:, 1, 3] - T[0, 1, 3]
    rows = np.full((len(t), 30), 7.0)  # whatever else there is must not be read
    rows[:, 0] = np.degrees(2 * np.arctan(np.exp(north / scale)) - np.pi / 2)
    rows[:, 1] = 8.0 + np.degrees(T[:, 0, 3] / scale)
    rows[:, 2] = 110 + T[:, 2, 3]
    rows[:, 3:6] = motion.euler(t)
    velocity = motion.speed_m_s * T[:, :3, 0]  # along its own x axis
    rows[:, 6], rows[:, 7], rows[:, 10] = velocity[:, 1], velocity[:, 0], velocity[:, 2]
    rows[:, 11:14], rows[:, 17:20] = samples[:, :3], samples[:, 3:]
    rows[:, 23] = 0.03
    write_stamps(folder / "timestamps.txt", motion.stamps(t) + lag_ns)
    (folder / "data").mkdir()
    for index, row in enumerate(rows):
        text = " ".join(f"{value:.15g}" for value in row)
        (folder / "data" / f"{index:010d}.txt").write_text(text + "\n")


def line(key: str, values: NDArray[np.float64] | tuple) -> str:
    return f"{key}: " + " ".join(f"{v:.12e}" for v in np.ravel(values)) + "\n"


def write_day(day: Path) -> None:
    """Write the three calibration files of a day, from the truth above."""
    day.mkdir(parents=True, exist_ok=True)
    inverse = np.linalg.inv
    T_cam0_velo = inverse(T_VELO_IMU @ T_BASE_RECT0 @ T_RECT0_CAM0)
    head = "calib_time: 25-May-2012 16:47:16\n"
    for name, T in (("imu_to_velo", T_VELO_IMU), ("velo_to_cam", T_cam0_velo)):
        text = head + line("R", T[:3, :3]) + line("T", T[:3, 3])
        (day / f"calib_{name}.txt").write_text(text)
    T_cam1_cam0 = inverse(T_CAM0_CAM1)
    text = head + "corner_dist: 9.950000e-02\n" + line("R_rect_00", T_RECT0_CAM0[:3, :3])
    for number, P, T in (("00", P_RECT * [1, 1, 1, 0], np.eye(4)), ("01", P_RECT, T_cam1_cam0)):
        text += line(f"S_{number}", DISTORTED) + line(f"S_rect_{number}", RECTIFIED)
        text += line(f"K_{number}", K) + line(f"D_{number}", D)
        text += line(f"R_{number}", T[:3, :3]) + line(f"T_{number}", T[:3, 3])
        text += line(f"P_rect_{number}", P)
    (day / "calib_cam_to_cam.txt").write_text(text)


def write_drive(
    drive: Path, motion: Motion, camera: str, size: tuple[int, int], oxts_s: NDArray[np.float64]
) -> list[NDArray[np.uint8]]:
    """Write a raw drive and its day's calibration; return the images."""
    write_day(drive.parent)
    t = motion.image_s()
    paths = [drive / camera / "data" / f"{i:010d}.png" for i in range(len(t))]
    write_stamps(drive / camera / "timestamps.txt", motion.stamps(t))
    write_oxts(drive / "oxts", motion, oxts_s)
    return write_images(paths, *size)
