"""The estimator node's parameters: one field of `NodeParameters` is one ROS parameter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from bayes_vio.choices import Predictive
from bayes_vio.data.messages import DISTORTION_MODELS
from bayes_vio.device import DEVICE_PATTERN
from bayes_vio.estimator import EstimatorSettings
from bayes_vio.ros.parameter_table import choice, group, number, parameter
from bayes_vio.ros.thresholds import THRESHOLDS

# Fields of EstimatorSettings are parameters under this prefix.
THRESHOLD_PREFIX = "estimator."


class ImageTransport(str, Enum):
    """How images arrive: Image on topic `image`, or CompressedImage on `image/compressed`."""

    RAW = "raw"
    COMPRESSED = "compressed"


class CalibrationSource(str, Enum):
    """Who says how the camera sees and where the sensors sit."""

    ARTIFACT = "artifact"
    PARAMETERS = "parameters"
    CAMERA_INFO = "camera_info"
    TF_STATIC = "tf_static"


class TwistStamp(str, Enum):
    """The instant to which a twist, a mean over an interval, is assigned."""

    MIDDLE = "middle"
    LATER = "later"


class Reliability(str, Enum):
    """QoS reliability of a subscription."""

    BEST_EFFORT = "best_effort"
    RELIABLE = "reliable"


def _depth(default: int, of: str, minimum: int) -> Any:
    return number(default, f"QoS history depth of {of}", "messages", minimum, 10000)


@dataclass(frozen=True)
class NodeParameters:
    """The estimator node's parameters, as checked; read when the node configures."""

    artifact: str = parameter("", "Folder of the fitted artifact; empty: the packaged one")
    device: str = parameter(
        "auto",
        "Where the network runs: auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N",
        pattern=DEVICE_PATTERN,
    )
    predictive: Predictive = choice(
        Predictive.AUTO,
        "Layers whose posterior a prediction uses; auto: all, or what latency_budget_ms "
        "leaves, found by measuring when the node configures",
    )
    latency_budget_ms: float = number(
        0.0,
        "Time that a prediction of the network may take on this machine; 0: no bound",
        "ms",
        0.0,
        10000.0,
    )
    autostart: bool = parameter(
        True, "Configure and activate when the process starts", read_only=True
    )
    torch_threads: int = number(1, "Threads of PyTorch on the CPU", "threads", 1, 64)
    image_transport: ImageTransport = choice(
        ImageTransport.RAW, "raw: sensor_msgs/Image on image; compressed: image/compressed"
    )
    imu_reliability: Reliability = choice(Reliability.BEST_EFFORT, "QoS reliability of imu")
    imu_depth: int = _depth(1000, "imu; below 200 samples are lost at 400 Hz", minimum=200)
    image_reliability: Reliability = choice(
        Reliability.BEST_EFFORT, "QoS reliability of the image"
    )
    image_depth: int = _depth(60, "the image", minimum=1)
    image_backlog: int = number(
        30,
        "Images that may wait when the node was held up, if it works them off within 2 s; 2: a "
        "third overtakes those that wait",
        "images",
        2,
        1000,
    )
    camera_info_reliability: Reliability = choice(
        Reliability.BEST_EFFORT, "QoS reliability of camera_info"
    )
    camera_info_depth: int = _depth(10, "camera_info", minimum=1)
    reference_reliability: Reliability = choice(
        Reliability.BEST_EFFORT, "QoS reliability of reference"
    )
    reference_depth: int = _depth(100, "reference", minimum=1)

    odom_frame: str = parameter("odom", "Frame in which the odometry's pose stands")
    base_frame: str = parameter("base_link", "Frame that moves; twists are given in it")
    imu_frame: str = parameter("", "Frame of the IMU; empty: the messages' frame_id")
    camera_frame: str = parameter("", "Optical frame of the camera; empty: the messages' frame_id")
    publish_tf: bool = parameter(
        False, "Publish odom_frame -> base_frame on /tf; needs tf2_ros, and nobody else doing it"
    )
    twist_stamp: TwistStamp = choice(
        TwistStamp.MIDDLE,
        "Stamp of twist: middle of the interval over which it is a mean, or the later image, "
        "with the possible change of velocity since added to the covariance",
    )
    acceleration_std_m_s2: float = number(
        2.0,
        "Standard deviation of the linear acceleration; used where twist_stamp is later",
        "m/s^2",
        0.0,
        100.0,
    )
    angular_acceleration_std_rad_s2: float = number(
        0.5,
        "Standard deviation of the angular acceleration; used where twist_stamp is later",
        "rad/s^2",
        0.0,
        100.0,
    )

    time_offset_s: float | None = number(
        None,
        "An image stamped t matches the IMU sample stamped t + time_offset_s",
        "s",
        -0.5,
        0.5,
        nan_means="the artifact's",
    )
    camera_source: CalibrationSource = choice(
        CalibrationSource.CAMERA_INFO,
        "Where the camera's intrinsics come from",
        CalibrationSource.CAMERA_INFO,
        CalibrationSource.ARTIFACT,
        CalibrationSource.PARAMETERS,
    )
    camera_size: tuple[int, ...] = parameter(
        (640, 480), "Width and height; used where camera_source is parameters", unit="pixels"
    )
    camera_matrix: tuple[float, ...] = parameter(
        (370.0, 370.0, 320.0, 240.0), "fx, fy, cx, cy, as camera_size", unit="pixels"
    )
    camera_distortion: str = parameter(
        "plumb_bob", "Distortion model, as camera_size", choices=DISTORTION_MODELS
    )
    camera_coefficients: tuple[float, ...] = parameter(
        (0.0,) * 8, "Distortion coefficients padded with zeros to 8, as camera_size"
    )
    extrinsics_source: CalibrationSource = choice(
        CalibrationSource.ARTIFACT,
        "Where the sensors' poses on base_frame come from",
        CalibrationSource.ARTIFACT,
        CalibrationSource.PARAMETERS,
        CalibrationSource.TF_STATIC,
    )
    base_imu: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        "Pose of the IMU in base_frame, x y z qx qy qz qw; used where extrinsics_source is "
        "parameters",
        unit="m",
    )
    base_camera: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5),
        "Pose of the camera's optical frame in base_frame, as base_imu",
        unit="m",
    )
    extrinsics_tolerance_m: float = number(
        0.1, "Largest distance from the artifact's extrinsics that is accepted", "m", 0.0, 10.0
    )
    extrinsics_tolerance_rad: float = number(
        0.05, "Largest angle from the artifact's extrinsics that is accepted", "rad", 0.0, 3.1416
    )
    reference_max_gap_s: float = number(
        0.3,
        "Largest gap between reference poses that is interpolated for the online NEES",
        "s",
        0.001,
        10.0,
    )
    consistency_window: int = number(
        300, "Increments in the online NEES", "increments", 10, 100000
    )
    thresholds: EstimatorSettings = group(EstimatorSettings, THRESHOLD_PREFIX, THRESHOLDS)

    @property
    def latency_budget_s(self) -> float | None:
        """The latency budget in s; None where there is none."""
        return self.latency_budget_ms / 1e3 or None
