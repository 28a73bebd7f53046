"""The commands that make bags: of a simulated drive, of a public data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayes_vio.cli_options import (
    KittiRawFolder,
    KittiSequence,
    SourceCamera,
    SourceLayout,
    Storage,
    VideoJpegQuality,
    check_creatable,
    number,
)


def simulate(
    out: Annotated[Path, typer.Option(help="The bag to write", metavar="BAG")],
    duration: Annotated[float, number("Length of the drive, s", 2, 86_400)] = 60.0,
    max_speed: Annotated[float, number("Largest speed, m/s", 1, 100)] = 20.0,
    seed: Annotated[int, typer.Option(help="Of drive, world and noise", min=0, max=2**31)] = 0,
    image_rate: Annotated[float, number("Images, Hz", 1, 1000)] = 10.0,
    imu_rate: Annotated[float, number("IMU samples, Hz", 20, 10_000)] = 100.0,
    width: Annotated[int, typer.Option(help="Image width, pixels", min=16, max=8192)] = 256,
    height: Annotated[int, typer.Option(help="Image height, pixels", min=16, max=8192)] = 80,
    focal: Annotated[float, number("Focal length, pixels", 1, 100_000)] = 148.0,
    exposure: Annotated[float, number("Exposure, s: blurs the motion", 0, 1)] = 0.0,
    jpeg_quality: Annotated[
        int | None,
        typer.Option(help="Compressed images, 1-100", show_default="raw images", min=1, max=100),
    ] = None,
    time_offset: Annotated[float, number("IMU stamp minus image stamp, s", -0.5, 0.5)] = 0.0,
    storage: Annotated[Storage, typer.Option(help="Format of the bag")] = Storage.MCAP,
) -> None:
    """Drive a car through a random world; write its IMU, camera and true pose as a bag."""
    from bayes_vio.progress import Bars
    from bayes_vio.simulation import (
        CameraSettings,
        DriveSettings,
        ImuSettings,
        SimulationSettings,
    )
    from bayes_vio.simulation import simulate as write_simulation

    settings = SimulationSettings(
        seed=seed,
        drive=DriveSettings(duration_s=duration, max_speed_m_s=max_speed),
        camera=CameraSettings(
            width=width,
            height=height,
            focal_px=focal,
            rate_hz=image_rate,
            exposure_s=exposure,
            jpeg_quality=jpeg_quality,
        ),
        imu=ImuSettings(rate_hz=imu_rate, time_offset_s=time_offset),
        storage=storage.value,
    )
    check_creatable(out)
    with Bars() as bars:
        write_simulation(out, settings, lambda done, total: bars.show(out.name, done, total))


def convert(
    layout: SourceLayout,
    source: Annotated[Path, typer.Argument(help="Its folder", metavar="SOURCE", exists=True)],
    out: Annotated[Path, typer.Argument(help="The bag to write", metavar="OUT")],
    sequence: KittiSequence = None,
    camera: SourceCamera = None,
    raw: KittiRawFolder = None,
    jpeg_quality: VideoJpegQuality = None,
    storage: Annotated[Storage, typer.Option(help="Format of the bag")] = Storage.MCAP,
) -> None:
    """Turn a public data set, or a folder of images and CSV files, into a bag for fit.

    Every bag has base_link x forward, y left, z up, image files as they are, stamps to the
    nanosecond, and, where the source has them, an IMU and reference poses.

    kitti-odometry: the folder with sequences/ and poses/; base_link is the OXTS unit.

    kitti-raw: a folder DATE/DATE_drive_NNNN_sync or _extract, calibration files in DATE; base_link
    is the OXTS unit, IMU and reference are its own.

    euroc: a folder with mav0/ (cam0, imu0, state_groundtruth_estimate0); base_link has its
    origin at the IMU, its axes along the camera's.

    comma2k19: a segment with video.hevc, processed_log/ and global_pose/; base_link is the camera,
    x along the direction of travel.

    folder: images.csv (stamp, file), camera.yaml (size, K, distortion, T_base_camera, T_base_imu)
    and, if you have them, imu.csv (stamp, ax, ay, az, gx, gy, gz) and poses.csv (stamp, x, y, z,
    qx, qy, qz, qw of base_link). m, m/s^2 (gravity included), rad/s; a whole number is a stamp in
    nanoseconds, one with a point in seconds. T_base_camera, T_base_imu: four rows of four numbers.
    """
    from bayes_vio.data.convert.conversion import ConvertOptions
    from bayes_vio.data.convert.conversion import convert as write_converted
    from bayes_vio.progress import Bars

    options = ConvertOptions(sequence, camera, raw, jpeg_quality)
    with Bars() as bars:
        conversion = write_converted(
            layout, source, out, options, storage.value,
            lambda done, total: bars.show(out.name, done, total),
        )  # fmt: skip
    print("\n".join(conversion.lines()))
