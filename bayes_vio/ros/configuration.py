"""Make what exists from configure to cleanup: the artifact on its device, the publishers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from rclpy.lifecycle import LifecycleNode

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.device import choose_device
from bayes_vio.predictive_choice import PredictiveChoice, choose_predictive
from bayes_vio.ros.calibration import Calibration
from bayes_vio.ros.outputs import Outputs
from bayes_vio.ros.parameters import CalibrationSource, NodeParameters
from bayes_vio.ros.pipeline import effective_offset_s


@dataclass(frozen=True)
class Configured:
    """What exists from configure to cleanup."""

    parameters: NodeParameters
    predictive: PredictiveChoice
    device: torch.device
    outputs: Outputs

    @property
    def artifact(self) -> MotionArtifact:
        """The artifact, with the predictive that was chosen."""
        return self.predictive.artifact


def configure(node: LifecycleNode, parameters: NodeParameters) -> tuple[Configured, str]:
    """Load the artifact and create the publishers; return them and the line that describes them.

    Raises ValueError (ArtifactError, CalibrationError), ImportError or OSError saying what is
    missing or does not fit, before anything has been created on the node.
    """
    torch.set_num_threads(parameters.torch_threads)
    cv2.setNumThreads(1)
    device = choose_device(parameters.device)
    path = Path(parameters.artifact) if parameters.artifact else default_artifact_path()
    artifact = MotionArtifact.load(path, device)
    Calibration(parameters, artifact.camera, artifact.extrinsics)
    if parameters.extrinsics_source is CalibrationSource.TF_STATIC:
        transform_message()
    chosen = choose_predictive(artifact, parameters.predictive, parameters.latency_budget_s)
    configured = Configured(parameters, chosen, device, Outputs(node, parameters))
    return configured, describe(configured, path)


def describe(configured: Configured, path: Path) -> str:
    """Return the line that says what the node runs with."""
    p, artifact = configured.parameters, configured.artifact
    # artifact.json holds the hashes of the other files.
    short_hash = hashlib.sha256((path / "artifact.json").read_bytes()).hexdigest()[:12]
    frames = {"IMU": p.imu_frame, "camera": p.camera_frame}
    sensors = [f"{name} '{frame}'" if frame else f"{name}'s own" for name, frame in frames.items()]
    return (
        f"artifact {path} (sha256 {short_hash}), device {configured.device} with "
        f"{p.torch_threads} threads, {configured.predictive.describe()}, "
        f"time offset {effective_offset_s(p, artifact):+.4f} s, "
        f"frames {p.odom_frame} -> {p.base_frame}, {', '.join(sensors)}, camera from "
        f"{p.camera_source.value}, extrinsics from {p.extrinsics_source.value}, images "
        f"{p.image_transport.value}"
    )


def transform_message() -> Any:
    """Return the class tf2_msgs/TFMessage; ImportError saying what to do where it is missing."""
    try:
        from tf2_msgs.msg import TFMessage  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"extrinsics_source tf_static needs tf2_msgs, which does not import here ({error}): "
            f"source a ROS 2 that has it, or give base_imu and base_camera as parameters"
        ) from error
    return TFMessage
