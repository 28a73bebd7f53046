"""EuRoC's layout: a body frame whose x is up becomes a base_link that looks ahead."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from tests.data.convert.motion import (
    Motion,
    assert_gyro_agrees,
    assert_images,
    assert_imu,
    assert_reference,
    camera_pose,
    pose,
    write_images,
)

WIDTH, HEIGHT = 96, 60
MOTION = Motion()
# The MAV's body: x up, y right, z forward, and some degrees beside that.
T_BASE_BODY = pose((0.05, -0.1, 0.02)) @ np.array(
    [[0.0, 0, 1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
)
T_BASE_CAMERA = camera_pose((0, 0, 0), (0.02, -0.06, 0.01))
T_BODY_IMU = pose((0.3, 0.2, -0.1))
T_BODY_VICON = pose((0.1, -0.4, 2.0), (0.1, 0.2, 0.3))
COEFFICIENTS = {
    "radial-tangential": [-0.28, 0.07, 0.0002, 1.8e-05],
    "equidistant": [0.003, 0.0007, -0.002, 0.0002],
}
SENSOR = """sensor_type: {kind}
T_BS:
  cols: 4
  rows: 4
  data: {T}
"""
CAMERA = """rate_hz: 10
resolution: [96, 60]
camera_model: pinhole
intrinsics: [70.5, 71.5, 48.25, 30.5] #fu, fv, cu, cv
distortion_model: {model}
distortion_coefficients: {coefficients}
"""
IMU_HEADING = (
    "#timestamp [ns],w_RS_S_x [rad s^-1],w_RS_S_y,w_RS_S_z,a_RS_S_x [m s^-2],a_RS_S_y,a_z"
)


def sensor(folder, T, more="", head=""):
    folder.mkdir(parents=True, exist_ok=True)
    text = head + SENSOR.format(kind="any", T=T.ravel().tolist()) + more
    (folder / "sensor.yaml").write_text(text)


def table(path, heading, stamps, rows):
    lines = [
        ",".join([str(stamp), *(f"{value:.15g}" for value in row)])
        for stamp, row in zip(stamps.tolist(), rows, strict=True)
    ]
    # The data set's files end their lines as DOS did.
    path.write_bytes("\r\n".join([heading, *lines, ""]).encode())


def reference(root, name, T_body_sensor, motion):
    t = motion.image_s()
    T = motion.poses(t) @ T_BASE_BODY @ T_body_sensor
    x, y, z, w = Rotation.from_matrix(T[:, :3, :3]).as_quat().T
    velocity_and_biases = np.full((len(t), 9), 5.0)
    rows = np.hstack([T[:, :3, 3], np.stack([w, x, y, z], -1), velocity_and_biases])
    sensor(root / name, T_body_sensor)
    heading = "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], ..."
    table(root / name / "data.csv", heading, motion.stamps(t), rows)


def write_euroc(root, model="radial-tangential", motion=MOTION, camera="cam0", head=""):
    t = motion.image_s()
    stamps = motion.stamps(t)
    names = [f"{stamp}.png" for stamp in stamps.tolist()]
    images = write_images([root / camera / "data" / name for name in names], WIDTH, HEIGHT)
    lines = [f"{stamp},{name}" for stamp, name in zip(stamps.tolist(), names, strict=True)]
    text = "#timestamp [ns],filename\r\n" + "\r\n".join(lines) + "\r\n"
    (root / camera / "data.csv").write_text(text)
    more = CAMERA.format(model=model, coefficients=COEFFICIENTS.get(model, []))
    sensor(root / camera, np.linalg.inv(T_BASE_BODY) @ T_BASE_CAMERA, more, head)
    sensor(root / "imu0", T_BODY_IMU)
    R_imu_base = (T_BASE_BODY @ T_BODY_IMU)[:3, :3].T
    imu_t = motion.imu_s()
    samples = motion.samples(imu_t)
    rows = np.hstack([samples[:, 3:] @ R_imu_base.T, samples[:, :3] @ R_imu_base.T])
    table(root / "imu0" / "data.csv", IMU_HEADING, motion.stamps(imu_t), rows)
    reference(root, "state_groundtruth_estimate0", np.eye(4), motion)
    return images


@pytest.mark.parametrize("inner", ["mav0", "."])
@pytest.mark.parametrize("model", ["radial-tangential", "equidistant"])
def test_a_sequence(tmp_path, model, inner):
    images = write_euroc(tmp_path / "set" / inner, model)
    result = convert(Layout.EUROC, tmp_path / "set", tmp_path / "bag")
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, MOTION.stamps(MOTION.image_s()), images)
    assert_imu(streams, MOTION)
    assert_reference(streams, MOTION, MOTION.image_s())
    assert_gyro_agrees(streams, 1e-3)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, T_BASE_CAMERA, atol=1e-9)
    np.testing.assert_allclose(streams.extrinsics.T_base_imu, T_BASE_BODY @ T_BODY_IMU, atol=1e-9)
    np.testing.assert_array_equal(streams.camera.K, [[70.5, 0, 48.25], [0, 71.5, 30.5], [0, 0, 1]])
    padding = [0.0] if model == "radial-tangential" else []
    np.testing.assert_array_equal(streams.camera.coefficients, COEFFICIENTS[model] + padding)
    name = "plumb_bob" if model == "radial-tangential" else "equidistant"
    assert streams.camera.distortion == name
    assert "the reference is state_groundtruth_estimate0" in result.notes


def test_base_link_looks_along_the_camera_and_sits_in_the_body(tmp_path):
    write_euroc(tmp_path / "mav0")
    convert(Layout.EUROC, tmp_path, tmp_path / "bag")
    T = open_streams(tmp_path / "bag").extrinsics.T_base_camera
    np.testing.assert_allclose(T[:3, :3], R_BASE_OPTICAL, atol=1e-9)
    body = np.linalg.inv(np.linalg.inv(T_BASE_BODY) @ T_BASE_CAMERA)[:3, 3]
    np.testing.assert_allclose(np.linalg.inv(T)[:3, 3], body, atol=1e-9)


def test_markers_of_a_motion_capture_stand_in_for_the_estimate(tmp_path):
    write_euroc(tmp_path / "mav0")
    root = tmp_path / "mav0"
    (root / "state_groundtruth_estimate0" / "data.csv").unlink()
    reference(root, "vicon0", T_BODY_VICON, MOTION)
    result = convert(Layout.EUROC, tmp_path, tmp_path / "bag")
    assert_reference(open_streams(tmp_path / "bag"), MOTION, MOTION.image_s())
    assert "the reference is vicon0" in result.notes


def test_a_laser_tracker_is_no_reference_and_that_is_said(tmp_path):
    write_euroc(tmp_path / "mav0")
    (tmp_path / "mav0" / "state_groundtruth_estimate0" / "data.csv").unlink()
    (tmp_path / "mav0" / "leica0").mkdir()
    result = convert(Layout.EUROC, tmp_path, tmp_path / "bag")
    assert result.notes == ("no reference: leica0 holds positions alone",)
    assert open_streams(tmp_path / "bag").reference is None


def test_another_camera_and_the_heading_of_opencv(tmp_path):
    images = write_euroc(tmp_path / "mav0", camera="cam1", head="%YAML:1.0\n")
    convert(Layout.EUROC, tmp_path, tmp_path / "bag", ConvertOptions(camera="cam1"))
    assert_images(open_streams(tmp_path / "bag"), MOTION.stamps(MOTION.image_s()), images)


def unlinked(name):
    return lambda root: (root / name).unlink()


def edited(name, old, new):
    def edit(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (unlinked("cam0/sensor.yaml"), "cam0/sensor.yaml does not exist"),
        (unlinked("cam0/data.csv"), "cam0/data.csv does not exist"),
        (unlinked("imu0/data.csv"), "imu0/data.csv does not exist"),
        (unlinked("imu0/sensor.yaml"), "imu0/sensor.yaml does not exist"),
        (edited("cam0/sensor.yaml", "pinhole", "omni"), "camera_model is 'omni'"),
        (edited("cam0/sensor.yaml", "radial-tangential", "fov"), "'fov' is not one of"),
        (edited("cam0/sensor.yaml", "[96, 60]", "[96, sixty]"), "resolution in"),
        (edited("cam0/sensor.yaml", "intrinsics:", "intrinsic:"), "intrinsics in"),
        (edited("cam0/sensor.yaml", "1.0]", "2.0]"), "is no rigid transform"),
        (edited("cam0/sensor.yaml", "T_BS", "T_SB"), "T_BS in"),
        (edited("cam0/data.csv", ".png", ".png/../../../../x"), "leads out of"),
        (edited("imu0/data.csv", ",0.", ",O."), "imu0/data.csv line 2"),
    ],
)
def test_malformed_sequences_are_refused(tmp_path, edit, said):
    root = tmp_path / "mav0"
    write_euroc(root, motion=Motion(duration_s=0.4))
    edit(root)
    with pytest.raises(ValueError) as refused:
        convert(Layout.EUROC, tmp_path, tmp_path / "bag")
    assert said in str(refused.value)
    assert not (tmp_path / "bag").exists()


def test_a_camera_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "mav0").mkdir()
    with pytest.raises(ValueError, match="cam7 is no folder"):
        convert(Layout.EUROC, tmp_path, tmp_path / "bag", ConvertOptions(camera="cam7"))
