"""Real KITTI drives, laid out as the data set has them, keep every convention."""

import cv2
import numpy as np
import pytest
import torch

from bayes_vio.conventions import GRAVITY_M_S2
from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from bayes_vio.data.convert.kitti_odometry import T_VELO_IMU
from bayes_vio.data.sync import offset_from_reference
from bayes_vio.geometry import se3
from benchmarks.kitti_bags import CAM0_RESIDUAL_DEG, RAW, mounting_residual, read_raw, write
from tests.data.convert.kitti_folders import line, write_stamps
from tests.data.drives import data_file

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


def test_a_raw_drive_gives_the_bag_of_the_benchmarks(tmp_path):
    source = data_file("kitti", f"{RAW}.npz")
    z = np.load(source)
    drive = tmp_path / "2011_09_26" / "2011_09_26_drive_0005_sync"
    stamps = z["cam_stamp_ns"]
    write_png(z, [drive / f"image_00/data/{i:010d}.png" for i in range(len(stamps))])
    write_stamps(drive / "image_00" / "timestamps.txt", stamps)
    write_oxts(drive / "oxts", z)
    height, width = z["shape"].tolist()
    write_calibration(drive.parent, z["K"], (width, height), R_RECT, R_CAM0_VELO, CAM0_VELO_M)
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
    folder, day = tmp_path / "set/sequences/00", tmp_path / "raw/2011_10_03"
    n, stamps = len(z["T_world_cam0"]), z["oxts_stamp_ns"]
    write_png(z, [folder / f"image_0/{i:06d}.png" for i in range(n)])
    times = (stamps - stamps[0]) / 1e9
    (folder / "times.txt").write_text("\n".join(f"{t:.6e}" for t in times))
    P = np.hstack([z["K"], np.zeros((3, 1))])
    (folder / "calib.txt").write_text(line("P0", P) + line("Tr", TR))
    (tmp_path / "set/poses").mkdir()
    rows = z["T_world_cam0"].reshape(n, 12)
    (tmp_path / "set/poses/00.txt").write_text(
        "\n".join(" ".join(map(repr, row.tolist())) for row in rows)
    )
    drive = day / "2011_10_03_drive_0027_sync"
    write_stamps(drive / "image_00/timestamps.txt", stamps)
    write_oxts(drive / "oxts", z)
    tr = np.array(TR)
    write_calibration(day, z["K"], (512, 155), np.eye(3), tr[:, :3], tr[:, 3])
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
