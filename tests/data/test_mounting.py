"""Where the sensors sit: chains of static transforms, YAML files."""

import numpy as np
import pytest

from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, open_streams
from bayes_vio.data.mounting import read_extrinsics
from bayes_vio.data.samples import Extrinsics
from tests.data.bag_cases import GRAY, stamps
from tests.data.drives import (
    START_NS,
    VIEW_CAMERA,
    optical_mount,
    rotation_z,
)


def test_extrinsics_through_intermediate_frames(tmp_path):
    T_base_mast, T_mast_optical = np.eye(4), np.eye(4)
    T_base_mast[:3, :3], T_base_mast[:3, 3] = rotation_z(0.3), (1, 2, 3)
    T_mast_optical[:3, :3], T_mast_optical[:3, 3] = optical_mount()[:3, :3], (0.1, 0.2, 0.3)
    T_imu_base = np.eye(4)
    T_imu_base[:3, :3] = rotation_z(np.pi / 2).T
    with BagWriter(tmp_path / "bag") as bag:
        bag.tf_static(START_NS, {"base_link": T_imu_base}, parent="/imu_link")
        bag.tf_static(START_NS, {"mast": T_base_mast})
        bag.tf_static(START_NS, {"camera_optical": T_mast_optical}, parent="mast")
        bag.camera_info(START_NS, VIEW_CAMERA)
        for stamp in stamps(3):
            bag.image(stamp, GRAY)
            bag.imu(stamp, np.array([1.0, 2, 3, 4, 5, 6]))
    streams = open_streams(tmp_path / "bag")
    np.testing.assert_allclose(
        streams.extrinsics.T_base_camera, T_base_mast @ T_mast_optical, atol=1e-12
    )
    assert streams.imu is not None
    # The IMU is turned left by 90 deg: its x is base y, its y is base -x.
    np.testing.assert_allclose(streams.imu.samples[0], [-2, 1, 3, -5, 4, 6], atol=1e-12)


def test_a_missing_frame_is_named_unless_extrinsics_are_given(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.camera_info(START_NS, VIEW_CAMERA)
        bag.image(START_NS, GRAY)
    with pytest.raises(BagError, match="'base_link' to frame 'camera_optical'"):
        open_streams(tmp_path / "bag")
    given = Extrinsics(np.eye(4), optical_mount(), "test")
    assert open_streams(tmp_path / "bag", extrinsics=given).extrinsics is given


def test_extrinsics_file(tmp_path):
    path = tmp_path / "extrinsics.yaml"
    path.write_text(
        "T_base_imu: {translation: [1, 2, 3], quaternion_xyzw: [0, 0, 1, 1]}\n"
        "T_base_camera: [[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]\n"
    )
    read = read_extrinsics(path)
    np.testing.assert_allclose(read.T_base_imu[:3, :3], rotation_z(np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(read.T_base_imu[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(read.T_base_camera, optical_mount((0.5, 0, 0)))
    assert read.source == str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("T_base_imu: [[1, 0], [0, 1]]", "not a rigid transform"),
        ("T_base_camera: 3", "lack T_base_imu"),
        ("- 1", "must hold the keys"),
        ("T_base_imu: {translation: [1, 2, 3]}", "quaternion_xyzw"),
        ("T_base_imu: {translation: [1, 2, 3], quaternion_xyzw: [0, 0, 0, 0]}", "not a rigid"),
        ("T_base_imu: [[2,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]", "not a rigid transform"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_extrinsics_files(tmp_path, content, message):
    path = tmp_path / "extrinsics.yaml"
    path.write_text(content)
    with pytest.raises(BagError, match=message):
        read_extrinsics(path)
