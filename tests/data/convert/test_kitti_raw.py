"""KITTI's raw drives: OXTS poses and IMU, rectified or distorted cameras, exact stamps."""

import math

import numpy as np
import pytest

from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from tests.data.convert.kitti_folders import (
    DISTORTED,
    P_RECT,
    RECTIFIED,
    T_BASE_RECT0,
    T_CAM0_CAM1,
    T_RECT0_CAM0,
    D,
    K,
    line,
    write_drive,
)
from tests.data.convert.motion import (
    Motion,
    assert_gyro_agrees,
    assert_images,
    assert_imu,
    assert_reference,
    pose,
)

MOTION = Motion()
SYNC = "2011_09_26/2011_09_26_drive_0005_sync"
EXTRACT = "2011_09_26/2011_09_26_drive_0005_extract"


def test_a_rectified_drive(tmp_path):
    images = write_drive(tmp_path / SYNC, MOTION, "image_00", RECTIFIED, MOTION.imu_s())
    result = convert(Layout.KITTI_RAW, tmp_path / SYNC, tmp_path / "bag")
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, MOTION.stamps(MOTION.image_s()), images)
    assert_imu(streams, MOTION)
    assert_reference(streams, MOTION, MOTION.imu_s(), atol=1e-5)
    assert_gyro_agrees(streams, 1e-3)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, T_BASE_RECT0, atol=1e-9)
    np.testing.assert_array_equal(streams.extrinsics.T_base_imu, np.eye(4))
    np.testing.assert_array_equal(streams.camera.K, P_RECT[:, :3])
    np.testing.assert_array_equal(streams.camera.coefficients, np.zeros(5))
    assert result.dropped == {}


def test_the_offset_of_a_rectified_camera_is_that_of_its_projection(tmp_path):
    """A point of the rectified frame projects through P as through K at the camera's place."""
    write_drive(tmp_path / SYNC, MOTION, "image_01", RECTIFIED, MOTION.imu_s())
    convert(Layout.KITTI_RAW, tmp_path / SYNC, tmp_path / "bag", ConvertOptions(camera="image_01"))
    streams = open_streams(tmp_path / "bag")
    point = np.array([2.0, -1.0, 15.0, 1.0])
    at_camera = np.linalg.inv(streams.extrinsics.T_base_camera) @ T_BASE_RECT0 @ point
    pixel, truth = streams.camera.K @ at_camera[:3], P_RECT @ point
    np.testing.assert_allclose(pixel[:2] / pixel[2], truth[:2] / truth[2], atol=1e-9)


def test_an_unsynchronised_drive_keeps_its_distortion(tmp_path):
    images = write_drive(tmp_path / EXTRACT, MOTION, "image_01", DISTORTED, MOTION.imu_s())
    options = ConvertOptions(camera="image_01")
    convert(Layout.KITTI_RAW, tmp_path / EXTRACT, tmp_path / "bag", options)
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, MOTION.stamps(MOTION.image_s()), images)
    truth = T_BASE_RECT0 @ T_RECT0_CAM0 @ T_CAM0_CAM1
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, truth, atol=1e-9)
    np.testing.assert_array_equal(streams.camera.K, K)
    np.testing.assert_array_equal(streams.camera.coefficients, D)


def test_without_a_fixed_carrier_phase_the_reference_is_the_sum_of_velocities(tmp_path):
    """Positions wander by decimetres then; increments of the reference must not."""
    write_drive(tmp_path / SYNC, MOTION, "image_00", RECTIFIED, MOTION.imu_s())
    for index, file in enumerate(sorted((tmp_path / SYNC / "oxts" / "data").iterdir())):
        row = [float(word) for word in file.read_text().split()]
        row[1] += 5e-6 * math.sin(0.1 * index)  # of longitude: 0.4 m
        row[23] = 0.4
        file.write_text(" ".join(map(repr, row)))
    convert(Layout.KITTI_RAW, tmp_path / SYNC, tmp_path / "bag")
    assert_reference(open_streams(tmp_path / "bag"), MOTION, MOTION.imu_s(), atol=1e-3)


def test_rows_that_run_backwards_are_left_out(tmp_path):
    """Unsynchronised OXTS stamps of the data set do that, and rows are missing."""
    write_drive(tmp_path / EXTRACT, MOTION, "image_00", DISTORTED, MOTION.imu_s())
    oxts = tmp_path / EXTRACT / "oxts"
    stamps = (oxts / "timestamps.txt").read_text().splitlines()
    stamps[100], stamps[101] = stamps[101], stamps[100]
    (oxts / "timestamps.txt").write_text("\n".join(stamps))
    (oxts / "data" / "0000000050.txt").unlink()
    result = convert(Layout.KITTI_RAW, tmp_path / EXTRACT, tmp_path / "bag")
    assert result.dropped == {"oxts: missing file": 1, "oxts: backward stamp": 1}
    assert result.imu_samples == len(MOTION.imu_s()) - 2
    assert open_streams(tmp_path / "bag").dropped == {}


def unlinked(name):
    return lambda drive: (drive / name).unlink()


def written(name, text):
    return lambda drive: (drive / name).write_text(text)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (unlinked("oxts/timestamps.txt"), "oxts/timestamps.txt does not exist"),
        (unlinked("image_00/timestamps.txt"), "image_00/timestamps.txt does not exist"),
        (unlinked("../calib_cam_to_cam.txt"), "calib_cam_to_cam.txt does not exist"),
        (unlinked("../calib_imu_to_velo.txt"), "calib_imu_to_velo.txt does not exist"),
        (written("../calib_velo_to_cam.txt", "T: 0 0 0\n"), "calib_velo_to_cam.txt lacks R"),
        (written("../calib_velo_to_cam.txt", "R: 1 0\nT: 0 0 0"), "is not 3 x 3 numbers"),
        (
            written("../calib_velo_to_cam.txt", line("R", 2 * pose()[:3, :3]) + "T: 0 0 0"),
            "is no rotation",
        ),
        (written("oxts/timestamps.txt", "26.9.2011\n"), "line 1: '26.9.2011' is no date"),
        (written("oxts/timestamps.txt", "\n"), "holds no stamps"),
        (written("oxts/data/0000000003.txt", "1 2 3"), "holds 3 numbers, not 30"),
        (written("oxts/data/0000000003.txt", "1 two 3"), "0000000003.txt"),
    ],
)
def test_malformed_drives_are_refused(tmp_path, edit, said):
    motion = Motion(duration_s=0.4)
    write_drive(tmp_path / SYNC, motion, "image_00", RECTIFIED, motion.imu_s())
    edit(tmp_path / SYNC)
    with pytest.raises(ValueError) as refused:
        convert(Layout.KITTI_RAW, tmp_path / SYNC, tmp_path / "bag")
    assert said in str(refused.value)
    assert not (tmp_path / "bag").exists()


def test_resized_images_and_unknown_cameras_are_refused(tmp_path):
    motion = Motion(duration_s=0.4)
    write_drive(tmp_path / SYNC, motion, "image_00", (30, 20), motion.imu_s())
    with pytest.raises(ValueError, match=r"30 x 20, but .* resized or cropped"):
        convert(Layout.KITTI_RAW, tmp_path / SYNC, tmp_path / "bag")
    with pytest.raises(ValueError, match=r"camera '../up' is not one of"):
        convert(
            Layout.KITTI_RAW, tmp_path / SYNC, tmp_path / "bag", ConvertOptions(camera="../up")
        )
