"""The estimator node's parameters: one field of `NodeParameters` is one ROS parameter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bayes_vio.choices import Predictive
from bayes_vio.data.messages import DISTORTION_MODELS
from bayes_vio.estimator import EstimatorSettings
from bayes_vio.ros.parameter_spec import ParameterSpec
from bayes_vio.ros.parameter_table import about as _about
from bayes_vio.ros.parameter_table import choice as _choice
from bayes_vio.ros.parameter_table import own_values, table_of
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


def _depth(of: str, minimum: int) -> dict[str, ParameterSpec]:
    description = f"QoS history depth of {of}"
    return _about(description, unit="messages", minimum=minimum, maximum=10000)


@dataclass(frozen=True)
class NodeParameters:
    """The estimator node's parameters, as checked; read when the node configures."""

    artifact: str = field(
        default="", metadata=_about("Folder of the fitted artifact; empty: the packaged one")
    )
    device: str = field(
        default="auto",
        metadata=_about(
            "Where the network runs: auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N",
            pattern=r"auto|cpu|cuda(:\d+)?",
        ),
    )
    predictive: Predictive = field(
        default=Predictive.AUTO,
        metadata=_choice(
            "Layers whose posterior a prediction uses; auto: all, or what latency_budget_ms "
            "leaves, found by measuring when the node configures",
            *Predictive,
        ),
    )
    latency_budget_ms: float = field(
        default=0.0,
        metadata=_about(
            "Time that a prediction of the network may take on this machine; 0: no bound",
            unit="ms",
            minimum=0.0,
            maximum=10000.0,
        ),
    )
    autostart: bool = field(
        default=True,
        metadata=_about("Configure and activate when the process starts", read_only=True),
    )
    torch_threads: int = field(
        default=1,
        metadata=_about("Threads of PyTorch on the CPU", unit="threads", minimum=1, maximum=64),
    )
    image_transport: ImageTransport = field(
        default=ImageTransport.RAW,
        metadata=_choice(
            "raw: sensor_msgs/Image on image; compressed: image/compressed", *ImageTransport
        ),
    )
    imu_reliability: Reliability = field(
        default=Reliability.BEST_EFFORT, metadata=_choice("QoS reliability of imu", *Reliability)
    )
    imu_depth: int = field(
        default=400, metadata=_depth("imu; below 200 samples are lost at 400 Hz", minimum=200)
    )
    image_reliability: Reliability = field(
        default=Reliability.BEST_EFFORT,
        metadata=_choice("QoS reliability of the image", *Reliability),
    )
    image_depth: int = field(default=60, metadata=_depth("the image", minimum=1))
    camera_info_reliability: Reliability = field(
        default=Reliability.BEST_EFFORT,
        metadata=_choice("QoS reliability of camera_info", *Reliability),
    )
    camera_info_depth: int = field(default=10, metadata=_depth("camera_info", minimum=1))
    reference_reliability: Reliability = field(
        default=Reliability.BEST_EFFORT,
        metadata=_choice("QoS reliability of reference", *Reliability),
    )
    reference_depth: int = field(default=100, metadata=_depth("reference", minimum=1))

    odom_frame: str = field(
        default="odom", metadata=_about("Frame in which the odometry's pose stands")
    )
    base_frame: str = field(
        default="base_link", metadata=_about("Frame that moves; twists are given in it")
    )
    imu_frame: str = field(
        default="", metadata=_about("Frame of the IMU; empty: the messages' frame_id")
    )
    camera_frame: str = field(
        default="", metadata=_about("Optical frame of the camera; empty: the messages' frame_id")
    )
    publish_tf: bool = field(
        default=False,
        metadata=_about(
            "Publish odom_frame -> base_frame on /tf; needs tf2_ros, and nobody else doing it"
        ),
    )
    twist_stamp: TwistStamp = field(
        default=TwistStamp.MIDDLE,
        metadata=_choice(
            "Stamp of twist: middle of the interval over which it is a mean, or the later image, "
            "with the possible change of velocity since added to the covariance",
            *TwistStamp,
        ),
    )
    acceleration_std_m_s2: float = field(
        default=2.0,
        metadata=_about(
            "Standard deviation of the linear acceleration; used where twist_stamp is later",
            unit="m/s^2",
            minimum=0.0,
            maximum=100.0,
        ),
    )
    angular_acceleration_std_rad_s2: float = field(
        default=0.5,
        metadata=_about(
            "Standard deviation of the angular acceleration; used where twist_stamp is later",
            unit="rad/s^2",
            minimum=0.0,
            maximum=100.0,
        ),
    )

    time_offset_s: float | None = field(
        default=None,
        metadata=_about(
            "An image stamped t matches the IMU sample stamped t + time_offset_s",
            unit="s",
            minimum=-0.5,
            maximum=0.5,
            nan_means="the artifact's",
        ),
    )
    camera_source: CalibrationSource = field(
        default=CalibrationSource.CAMERA_INFO,
        metadata=_choice(
            "Where the camera's intrinsics come from",
            CalibrationSource.CAMERA_INFO,
            CalibrationSource.ARTIFACT,
            CalibrationSource.PARAMETERS,
        ),
    )
    camera_size: tuple[int, ...] = field(
        default=(640, 480),
        metadata=_about("Width and height; used where camera_source is parameters", unit="pixels"),
    )
    camera_matrix: tuple[float, ...] = field(
        default=(370.0, 370.0, 320.0, 240.0),
        metadata=_about("fx, fy, cx, cy, as camera_size", unit="pixels"),
    )
    camera_distortion: str = field(
        default="plumb_bob",
        metadata=_about("Distortion model, as camera_size", choices=DISTORTION_MODELS),
    )
    camera_coefficients: tuple[float, ...] = field(
        default=(0.0,) * 8,
        metadata=_about("Distortion coefficients padded with zeros to 8, as camera_size"),
    )
    extrinsics_source: CalibrationSource = field(
        default=CalibrationSource.ARTIFACT,
        metadata=_choice(
            "Where the sensors' poses on base_frame come from",
            CalibrationSource.ARTIFACT,
            CalibrationSource.PARAMETERS,
            CalibrationSource.TF_STATIC,
        ),
    )
    base_imu: tuple[float, ...] = field(
        default=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        metadata=_about(
            "Pose of the IMU in base_frame, x y z qx qy qz qw; used where extrinsics_source is "
            "parameters",
            unit="m",
        ),
    )
    base_camera: tuple[float, ...] = field(
        default=(0.0, 0.0, 0.0, -0.5, 0.5, -0.5, 0.5),
        metadata=_about("Pose of the camera's optical frame in base_frame, as base_imu", unit="m"),
    )
    extrinsics_tolerance_m: float = field(
        default=0.1,
        metadata=_about(
            "Largest distance from the artifact's extrinsics that is accepted",
            unit="m",
            minimum=0.0,
            maximum=10.0,
        ),
    )
    extrinsics_tolerance_rad: float = field(
        default=0.05,
        metadata=_about(
            "Largest angle from the artifact's extrinsics that is accepted",
            unit="rad",
            minimum=0.0,
            maximum=3.1416,
        ),
    )
    reference_max_gap_s: float = field(
        default=0.3,
        metadata=_about(
            "Largest gap between reference poses that is interpolated for the online NEES",
            unit="s",
            minimum=0.001,
            maximum=10.0,
        ),
    )
    consistency_window: int = field(
        default=300,
        metadata=_about(
            "Increments in the online NEES", unit="increments", minimum=10, maximum=100000
        ),
    )
    thresholds: EstimatorSettings = field(default_factory=EstimatorSettings)

    @property
    def latency_budget_s(self) -> float | None:
        """The latency budget in s; None where there is none."""
        return self.latency_budget_ms / 1e3 or None


def specs() -> dict[str, tuple[Any, ParameterSpec]]:
    """Return every ROS parameter's default and specification, by name."""
    table = table_of(NodeParameters)
    settings = EstimatorSettings()
    return table | {
        THRESHOLD_PREFIX + name: (getattr(settings, name), spec)
        for name, spec in THRESHOLDS.items()
    }


def from_values(values: dict[str, Any]) -> NodeParameters:
    """Return the parameters of a complete table of ROS values, by name."""
    own = own_values(NodeParameters, values)
    thresholds = {name: values[THRESHOLD_PREFIX + name] for name in THRESHOLDS}
    return NodeParameters(**own, thresholds=EstimatorSettings(**thresholds))
