"""Real KITTI drives, laid out as the data set has them, keep every convention."""

import numpy as np
import pytest
import torch

from bayes_vio.conventions import GRAVITY_M_S2
from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from bayes_vio.data.sync import offset_from_reference
from bayes_vio.geometry import se3
from benchmarks.kitti_bags import CAM0_RESIDUAL_DEG, RAW, mounting_residual, read_raw, write
from tests.data.convert.real_kitti import write_odometry, write_raw_drive
from tests.data.drives import data_file


def test_a_raw_drive_gives_the_bag_of_the_benchmarks(tmp_path):
    source = data_file("kitti", f"{RAW}.npz")
    drive = tmp_path / "2011_09_26" / "2011_09_26_drive_0005_sync"
    write_raw_drive(drive, np.load(source))
    convert(Layout.KITTI_RAW, drive, tmp_path / "bag")
    write(read_raw(source), tmp_path / RAW)
    streams, known = open_streams(tmp_path / "bag"), open_streams(tmp_path / RAW)
    np.testing.assert_array_equal(streams.image_stamp_ns, known.image_stamp_ns)
    for mine, theirs in ((streams.imu, known.imu), (streams.reference, known.reference)):
        np.testing.assert_array_equal(mine.stamp_ns, theirs.stamp_ns)
    np.testing.assert_array_equal(streams.imu.samples, known.imu.samples)
    T = streams.reference.T_world_base
    np.testing.assert_allclose(T, known.reference.T_world_base, atol=1e-12)
    for (_, gray), (_, other) in zip(streams.frames(), known.frames(), strict=True):
        np.testing.assert_array_equal(gray, other)
    # The sketch of the car, against which the calibration differs by centimetres and a degree.
    apart = np.linalg.inv(known.extrinsics.T_base_camera) @ streams.extrinsics.T_base_camera
    xi = se3.log(torch.from_numpy(apart)).numpy()
    assert np.abs(xi[:3]).max() < 0.03
    assert np.degrees(np.abs(xi[3:]).max()) < 1


def test_an_odometry_sequence_with_its_raw_drive(tmp_path):
    z = np.load(data_file("kitti", "real_00.npz"))
    stamps = z["oxts_stamp_ns"]
    write_odometry(tmp_path / "set", tmp_path / "raw", "00", z)
    for raw in (None, tmp_path / "raw"):
        out = tmp_path / f"bag_{raw is not None}"
        choice = ConvertOptions(sequence="00", raw=raw)
        convert(Layout.KITTI_ODOMETRY, tmp_path / "set", out, choice)
    camera_only, streams = (
        open_streams(tmp_path / "bag_False"),
        open_streams(tmp_path / "bag_True"),
    )
    np.testing.assert_allclose(
        camera_only.extrinsics.T_base_camera, streams.extrinsics.T_base_camera, atol=1e-6
    )
    np.testing.assert_array_equal(streams.image_stamp_ns, stamps)
    drift_ns = np.diff(camera_only.image_stamp_ns - stamps)
    assert np.abs(drift_ns).max() < 10_000
    assert streams.imu.samples[:, 2].mean() == pytest.approx(GRAVITY_M_S2, abs=0.1)
    offset = offset_from_reference(streams.reference, streams.imu, stamps)
    assert 0.045 < offset.offset_s < 0.085
    # The calibration explains what motion alone tells of the camera's pitch and roll; its yaw is
    # not told by a car that hardly pitches.
    assert np.linalg.norm(CAM0_RESIDUAL_DEG[:2]) > 0.6
    residual = mounting_residual(streams.reference, streams.imu, stamps, offset)
    assert np.degrees(np.abs(residual[:2])).max() < 0.25
