"""Lay recordings of the data folder out as KITTI publishes them."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.convert.kitti_odometry import RAW_DRIVES, T_VELO_IMU
from tests.data.convert.kitti_folders import line, write_stamps

Arrays = Mapping[str, NDArray]
# Published calibration of 2011_09_26 (R_rect_00, calib_velo_to_cam) and Tr of sequence 00.
R_RECT = (9.999239e-01, 9.837760e-03, -7.445048e-03, -9.869795e-03, 9.999421e-01, -4.278459e-03,
          7.402527e-03, 4.351614e-03, 9.999631e-01)  # fmt: skip
R_CAM0_VELO = (7.533745e-03, -9.999714e-01, -6.166020e-04, 1.480249e-02, 7.280733e-04,
               -9.998902e-01, 9.998621e-01, 7.523790e-03, 1.480755e-02)  # fmt: skip
CAM0_VELO_M = (-4.069766e-03, -7.631618e-02, -2.717806e-01)
TR = (
    (4.276802385584e-04, -9.999672484946e-01, -8.084491683471e-03, -1.198459927713e-02),
    (-7.210626507497e-03, 8.081198471645e-03, -9.999413164504e-01, -5.403984729748e-02),
    (9.999738645903e-01, 4.859485810390e-04, -7.206933692422e-03, -2.921968648686e-01),
)


def write_calibration(day, K, size, R_rect, R_velo, velo_m):
    P = np.hstack([K, np.zeros((3, 1))])
    T = T_VELO_IMU
    (day / "calib_imu_to_velo.txt").write_text(line("R", T[:3, :3]) + line("T", T[:3, 3]))
    (day / "calib_velo_to_cam.txt").write_text(line("R", R_velo) + line("T", velo_m))
    text = line("R_rect_00", R_rect) + line("P_rect_00", P)
    text += line("S_rect_00", size) + line("S_00", (1392, 512))
    (day / "calib_cam_to_cam.txt").write_text(text)


def write_oxts(folder, z):
    write_stamps(folder / "timestamps.txt", z["oxts_stamp_ns"])
    (folder / "data").mkdir()
    for index, row in enumerate(z["oxts"]):
        (folder / "data" / f"{index:010d}.txt").write_text(" ".join(map(repr, row.tolist())))


def write_png(z, names):
    names[0].parent.mkdir(parents=True)
    for name, a, b in zip(names, z["jpeg_offsets"][:-1], z["jpeg_offsets"][1:], strict=True):
        cv2.imwrite(str(name), cv2.imdecode(z["jpeg"][a:b], cv2.IMREAD_GRAYSCALE))


def write_raw_drive(drive: Path, z: Arrays) -> None:
    """Write a drive DATE/DATE_drive_NNNN_sync of 2011_09_26."""
    stamps = z["cam_stamp_ns"]
    write_png(z, [drive / f"image_00/data/{i:010d}.png" for i in range(len(stamps))])
    write_stamps(drive / "image_00" / "timestamps.txt", stamps)
    write_oxts(drive / "oxts", z)
    height, width = z["shape"].tolist()
    write_calibration(drive.parent, z["K"], (width, height), R_RECT, R_CAM0_VELO, CAM0_VELO_M)


def write_odometry(root: Path, raw: Path, sequence: str, z: Arrays) -> None:
    """Write a sequence of the odometry benchmark, and the raw drive it was cut from."""
    folder, drive_name = root / "sequences" / sequence, RAW_DRIVES[sequence][0]
    day = raw / drive_name[:10]
    n, stamps = len(z["T_world_cam0"]), z["oxts_stamp_ns"]
    write_png(z, [folder / f"image_0/{i:06d}.png" for i in range(n)])
    times = (stamps - stamps[0]) / 1e9
    (folder / "times.txt").write_text("\n".join(f"{t:.6e}" for t in times))
    P = np.hstack([z["K"], np.zeros((3, 1))])
    (folder / "calib.txt").write_text(line("P0", P) + line("Tr", TR))
    (root / "poses").mkdir(exist_ok=True)
    rows = z["T_world_cam0"].reshape(n, 12)
    (root / "poses" / f"{sequence}.txt").write_text(
        "\n".join(" ".join(map(repr, row.tolist())) for row in rows)
    )
    drive = day / f"{drive_name}_sync"
    write_stamps(drive / "image_00/timestamps.txt", stamps)
    write_oxts(drive / "oxts", z)
    tr = np.array(TR)
    write_calibration(day, z["K"], (512, 155), np.eye(3), tr[:, :3], tr[:, 3])
