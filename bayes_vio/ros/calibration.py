"""Collect where the sensors sit and how the camera sees, from the sources that parameters name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray

from bayes_vio.data.messages import BagError, camera_model
from bayes_vio.data.mounting import StaticFrames, is_rigid
from bayes_vio.data.samples import CameraModel, Extrinsics, same_camera
from bayes_vio.geometry import so3
from bayes_vio.ros.messages import pose_matrix
from bayes_vio.ros.parameters import CalibrationSource, NodeParameters

Array = NDArray[np.float64]


class CalibrationError(ValueError):
    """A calibration that is contradictory, or that cannot be used; says what and what to do."""


class Calibration:
    """What the estimator must know of the vehicle before it starts, as far as it is known.

    artifact_camera, artifact_extrinsics: what the artifact was fitted with. ``missing`` says what
    is still waited for; then ``camera`` and ``extrinsics`` are set.
    """

    def __init__(
        self,
        parameters: NodeParameters,
        artifact_camera: CameraModel,
        artifact_extrinsics: Extrinsics,
    ) -> None:
        self._parameters = parameters
        self._artifact = artifact_extrinsics
        self._frames = StaticFrames()
        self.camera: CameraModel | None = None
        self.extrinsics: Extrinsics | None = None
        self.imu_frame = parameters.imu_frame
        self.camera_frame = parameters.camera_frame
        if parameters.camera_source is CalibrationSource.ARTIFACT:
            self.camera = artifact_camera
        elif parameters.camera_source is CalibrationSource.PARAMETERS:
            self.camera = camera_of_parameters(parameters)
        if parameters.extrinsics_source is CalibrationSource.ARTIFACT:
            self.extrinsics = artifact_extrinsics
        elif parameters.extrinsics_source is CalibrationSource.PARAMETERS:
            self._take(extrinsics_of_parameters(parameters))

    @property
    def missing(self) -> str:
        """Say what is still waited for; empty where nothing is."""
        if self.camera is None:
            return "no camera_info yet"
        if self.extrinsics is not None:
            return ""
        if not (self.imu_frame and self.camera_frame):
            return "no message yet that names the sensors' frames"
        return (
            f"no transform yet on /tf_static between {self._parameters.base_frame} and both "
            f"{self.imu_frame} and {self.camera_frame}"
        )

    def take_camera_info(self, message: Any) -> bool:
        """Take a CameraInfo; return False where it contradicts the one taken before.

        Raises ValueError for one that cannot be used.
        """
        if self._parameters.camera_source is not CalibrationSource.CAMERA_INFO:
            return True
        camera = camera_model(message)
        if self.camera is None:
            self.camera = camera
        return same_camera(camera, self.camera)

    def take_transforms(self, message: Any) -> None:
        """Take a TFMessage; CalibrationError where it contradicts the artifact."""
        self._frames.add_message(message)
        self._resolve()

    def take_frames(self, imu_frame: str = "", camera_frame: str = "") -> None:
        """Take a frame that a message names, where none is known yet."""
        self.imu_frame = self.imu_frame or imu_frame
        self.camera_frame = self.camera_frame or camera_frame
        self._resolve()

    def _resolve(self) -> None:
        if self.extrinsics is not None or not (self.imu_frame and self.camera_frame):
            return
        T_base_imu, T_base_camera = self._find(self.imu_frame), self._find(self.camera_frame)
        if T_base_imu is not None and T_base_camera is not None:
            self._take(Extrinsics(T_base_imu, T_base_camera, "tf_static"))

    def _find(self, frame: str) -> Array | None:
        """Return T_base_frame [4, 4], or None where no chain of transforms leads there yet."""
        try:
            return self._frames.transform(self._parameters.base_frame, frame)
        except BagError:
            return None

    def _take(self, extrinsics: Extrinsics) -> None:
        check_agreement(extrinsics, self._artifact, self._parameters)
        self.extrinsics = extrinsics


def camera_of_parameters(parameters: NodeParameters) -> CameraModel:
    """Return the camera that the camera_* parameters describe."""
    fx, fy, cx, cy = parameters.camera_matrix
    if not (fx > 0 and fy > 0):
        raise CalibrationError("parameter camera_matrix: fx and fy must be above 0")
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    width, height = parameters.camera_size
    n = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[parameters.camera_distortion]
    coefficients = np.array(parameters.camera_coefficients[:n])
    return CameraModel(width, height, K, parameters.camera_distortion, coefficients)


def extrinsics_of_parameters(parameters: NodeParameters) -> Extrinsics:
    """Return the extrinsics that base_imu and base_camera describe."""
    return Extrinsics(
        _pose_parameter("base_imu", parameters.base_imu),
        _pose_parameter("base_camera", parameters.base_camera),
        "parameters",
    )


def _pose_parameter(name: str, row: tuple[float, ...]) -> Array:
    message = TransformStamped()
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z, q.x, q.y, q.z, q.w = row
    try:
        return pose_matrix(t, q)
    except ValueError as error:
        raise CalibrationError(f"parameter {name}: {error}") from error


def check_agreement(given: Extrinsics, fitted: Extrinsics, parameters: NodeParameters) -> None:
    """Raise CalibrationError where a sensor sits elsewhere than when the artifact was fitted."""
    for name in ("T_base_imu", "T_base_camera"):
        T, T_fitted = getattr(given, name), getattr(fitted, name)
        if not is_rigid(T):
            raise CalibrationError(f"{name} of {given.source} is not a rigid transform")
        distance_m = float(np.linalg.norm(T[:3, 3] - T_fitted[:3, 3]))
        R = torch.from_numpy(T_fitted[:3, :3].T @ T[:3, :3])
        angle_rad = float(so3.log(R).norm())
        if (
            distance_m > parameters.extrinsics_tolerance_m
            or angle_rad > parameters.extrinsics_tolerance_rad
        ):
            raise CalibrationError(
                f"{name} of {given.source} is {distance_m:.3f} m and {angle_rad:.4f} rad from the "
                f"artifact's: correct it, fit an artifact for this vehicle, or raise "
                f"extrinsics_tolerance_m and extrinsics_tolerance_rad"
            )
