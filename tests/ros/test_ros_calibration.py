# ruff: noqa: E402, the imports need what is skipped for
"""Where camera and extrinsics come from, what is waited for, what contradicts the artifact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.messages import BagError
from bayes_vio.data.samples import CameraModel, Extrinsics
from bayes_vio.geometry import se3
from bayes_vio.ros.calibration import Calibration, CalibrationError
from bayes_vio.ros.messages import quaternion_of
from bayes_vio.ros.parameters import CalibrationSource, NodeParameters

CAMERA = CameraModel(640, 480, np.array([[370.0, 0, 320], [0, 371, 240], [0, 0, 1]]))


def fitted() -> Extrinsics:
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_BASE_OPTICAL
    T_base_camera[:3, 3] = [1.1, 0.2, 1.3]
    T_base_imu = se3.exp(torch.tensor([0.1, -0.2, 0.3, 0.1, 0.2, 0.3], dtype=torch.float64))
    return Extrinsics(T_base_imu.numpy(), T_base_camera, "artifact")


class Transforms:
    """Stands for tf2_msgs/TFMessage, which has one field."""

    def __init__(self, *links: tuple[str, str, np.ndarray]) -> None:
        self.transforms = [stamped(*link) for link in links]


def stamped(parent: str, child: str, T: np.ndarray) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    t = message.transform.translation
    t.x, t.y, t.z = (float(v) for v in T[:3, 3])
    message.transform.rotation = quaternion_of(T[:3, :3])
    return message


def from_tf(**changes) -> Calibration:
    parameters = NodeParameters(
        camera_source=CalibrationSource.ARTIFACT, extrinsics_source=CalibrationSource.TF_STATIC
    )
    return Calibration(replace(parameters, **changes), CAMERA, fitted())


def camera_info(fx: float = 370.0) -> CameraInfo:
    message = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [fx, 0.0, 320.0, 0.0, 371.0, 240.0, 0.0, 0.0, 1.0]
    return message


def test_the_artifact_needs_nothing_more():
    parameters = NodeParameters(camera_source=CalibrationSource.ARTIFACT)
    calibration = Calibration(parameters, CAMERA, fitted())
    assert calibration.missing == ""
    assert calibration.camera is CAMERA


def test_the_first_camera_info_is_taken_and_another_one_noticed():
    calibration = Calibration(NodeParameters(), CAMERA, fitted())
    assert "camera_info" in calibration.missing
    assert calibration.take_camera_info(camera_info())
    assert calibration.missing == ""
    np.testing.assert_array_equal(calibration.camera.K, CAMERA.K)
    assert calibration.take_camera_info(camera_info())
    assert not calibration.take_camera_info(camera_info(fx=371.0))
    assert calibration.camera.K[0, 0] == 370


def test_a_camera_info_that_cannot_be_used_is_refused():
    calibration = Calibration(NodeParameters(), CAMERA, fitted())
    with pytest.raises(BagError, match="no calibration"):
        calibration.take_camera_info(camera_info(fx=0.0))
    strange = camera_info()
    strange.distortion_model = "fisheye624"
    with pytest.raises(BagError, match="fisheye624"):
        calibration.take_camera_info(strange)
    assert calibration.camera is None


def test_parameters_describe_the_camera():
    parameters = NodeParameters(
        camera_source=CalibrationSource.PARAMETERS,
        camera_size=(800, 600),
        camera_matrix=(400.0, 401.0, 402.0, 303.0),
        camera_distortion="equidistant",
        camera_coefficients=(0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0),
    )
    camera = Calibration(parameters, CAMERA, fitted()).camera
    assert (camera.width, camera.height, camera.distortion) == (800, 600, "equidistant")
    np.testing.assert_array_equal(camera.K, [[400, 0, 402], [0, 401, 303], [0, 0, 1]])
    np.testing.assert_array_equal(camera.coefficients, [0.1, 0.2, 0.3, 0.4])


def test_transforms_are_chained_in_both_directions():
    e = fitted()
    T_base_mast = se3.exp(torch.tensor([0.5, 0, 1, 0, 0, 0.7], dtype=torch.float64)).numpy()
    calibration = from_tf()
    calibration.take_frames(imu_frame="imu_link")
    assert "names the sensors' frames" in calibration.missing
    calibration.take_frames(camera_frame="camera_optical")
    assert "imu_link" in calibration.missing
    calibration.take_transforms(
        Transforms(
            ("base_link", "mast", T_base_mast),
            ("camera_optical", "mast", np.linalg.inv(e.T_base_camera) @ T_base_mast),
        )
    )
    assert calibration.extrinsics is None
    calibration.take_transforms(Transforms(("base_link", "imu_link", e.T_base_imu)))
    assert calibration.missing == ""
    np.testing.assert_allclose(calibration.extrinsics.T_base_camera, e.T_base_camera, atol=1e-9)
    np.testing.assert_allclose(calibration.extrinsics.T_base_imu, e.T_base_imu, atol=1e-9)
    assert calibration.extrinsics.source == "tf_static"


def test_frames_can_be_overridden():
    e = fitted()
    calibration = from_tf(imu_frame="imu", camera_frame="cam")
    calibration.take_transforms(
        Transforms(("base_link", "imu", e.T_base_imu), ("base_link", "cam", e.T_base_camera))
    )
    assert calibration.missing == ""


@pytest.mark.parametrize(("shift_m", "turn_rad"), [(0.15, 0.0), (0.0, 0.08)])
def test_a_disagreement_with_the_artifact_is_an_error_beyond_the_tolerance(shift_m, turn_rad):
    e = fitted()
    moved = torch.tensor([0, shift_m, 0, 0, 0, turn_rad], dtype=torch.float64)
    T_base_camera = e.T_base_camera @ se3.exp(moved).numpy()
    links = Transforms(("base_link", "imu", e.T_base_imu), ("base_link", "cam", T_base_camera))
    strict = from_tf(imu_frame="imu", camera_frame="cam")
    with pytest.raises(CalibrationError, match="T_base_camera of tf_static"):
        strict.take_transforms(links)
    assert strict.extrinsics is None
    lenient = from_tf(
        imu_frame="imu",
        camera_frame="cam",
        extrinsics_tolerance_m=0.2,
        extrinsics_tolerance_rad=0.1,
    )
    lenient.take_transforms(links)
    assert lenient.missing == ""


def test_extrinsics_from_parameters():
    q = quaternion_of(R_BASE_OPTICAL)
    parameters = NodeParameters(
        camera_source=CalibrationSource.ARTIFACT,
        extrinsics_source=CalibrationSource.PARAMETERS,
        base_camera=(1.1, 0.2, 1.3, q.x, q.y, q.z, q.w),
    )
    identity = Extrinsics(np.eye(4), fitted().T_base_camera, "artifact")
    calibration = Calibration(parameters, CAMERA, identity)
    np.testing.assert_allclose(
        calibration.extrinsics.T_base_camera, fitted().T_base_camera, atol=1e-9
    )
    for bad in ((0.0,) * 7, (0.0, 0, 0, 1, 1, 0, 0)):
        with pytest.raises(CalibrationError, match="base_imu"):
            Calibration(replace(parameters, base_imu=bad), CAMERA, identity)
