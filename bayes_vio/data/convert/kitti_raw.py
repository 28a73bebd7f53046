"""Read a drive of KITTI's raw data, synchronised or not.

SOURCE is the drive's folder, DATE/DATE_drive_NNNN_sync or _extract; the day's three calibration
files stand beside it, in DATE. ``base_link`` is the OXTS frame (see kitti.py): IMU and reference
are its own, the cameras' places come from the calibration. ``_sync`` has rectified images and
OXTS rows at 10 Hz; ``_extract`` has distorted images and OXTS rows at 100 Hz, the better source
for an IMU. Which of the two calibrations holds is told by the images' size. The IMU samples are
ax ay az wx wy wz, in the unit's axes; they lag images and poses by 60-70 ms, which a fit
estimates. The reference's positions are OXTS's where its GPS had a fixed carrier phase, else the
sum of its velocities (``oxts_reference``). Stamps are read to the nanosecond and taken as UTC.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.convert.kitti import (
    REFERENCE_COLUMNS,
    Calibration,
    T_cam0_imu,
    T_rectified_imu,
    inverse,
    oxts_reference,
    read_oxts,
    read_stamps,
)
from bayes_vio.data.convert.source import (
    SourceError,
    SourceRecording,
    image_files,
    image_size,
    imu_stream,
    usable,
)
from bayes_vio.data.convert.tables import required_folder
from bayes_vio.data.samples import CameraModel, Extrinsics, ReferenceStream

CAMERAS = ("image_00", "image_01", "image_02", "image_03")


def read_kitti_raw(drive: Path, camera: str = "image_00") -> SourceRecording:
    """Read one drive; camera: image_00, image_01 (gray), image_02, image_03 (colour)."""
    required_folder(drive, "kitti-raw")
    if camera not in CAMERAS:
        raise SourceError(f"camera '{camera}' is not one of {', '.join(CAMERAS)}")
    dropped: dict[str, int] = {}
    oxts = read_oxts(drive / "oxts", dropped)
    image_ns = read_stamps(drive / camera / "timestamps.txt")
    paths = [drive / camera / "data" / f"{i:010d}.png" for i in range(len(image_ns))]
    size = image_size(paths)
    model, T_camera_imu = _calibration(drive.resolve().parent, camera[-2:], size)
    images = image_files(drive / camera, image_ns, paths, size, dropped)
    needed = oxts.rows[:, REFERENCE_COLUMNS]
    kept = usable("oxts", drive / "oxts", oxts.stamp_ns, needed, dropped)
    return SourceRecording(
        camera=model,
        extrinsics=Extrinsics(np.eye(4), inverse(T_camera_imu), "KITTI's calibration"),
        image_ns=images.stamp_ns,
        images=images,
        imu=imu_stream(drive / "oxts", oxts.stamp_ns[kept], oxts.imu[kept], dropped),
        reference=ReferenceStream(
            oxts.stamp_ns[kept], oxts_reference(oxts.rows[kept], oxts.stamp_ns[kept])
        ),
        dropped=dropped,
    )


def _calibration(
    date_folder: Path, number: str, size: tuple[int, int]
) -> tuple[CameraModel, NDArray[np.float64]]:
    """Return the camera and T_camera_imu [4, 4], rectified or not as the images' size says."""
    path = date_folder / "calib_cam_to_cam.txt"
    calibration = Calibration(path)
    rectified, distorted = (
        tuple(calibration.array(f"{key}_{number}", (2,)).astype(int).tolist())
        for key in ("S_rect", "S")
    )
    if size == rectified:
        K, T_camera_rectified = calibration.projection(f"P_rect_{number}")
        return CameraModel(*size, K), T_camera_rectified @ T_rectified_imu(date_folder)
    if size == distorted:
        K = calibration.array(f"K_{number}", (3, 3))
        coefficients = calibration.array(f"D_{number}", (5,))
        T_camera_cam0 = calibration.rigid(f"R_{number}", f"T_{number}")
        camera = CameraModel(*size, K, "plumb_bob", coefficients)
        return camera, T_camera_cam0 @ T_cam0_imu(date_folder)
    raise SourceError(
        f"images are {size[0]} x {size[1]}, but {path} is for {rectified} (rectified) and "
        f"{distorted}: images that were resized or cropped are not supported"
    )
