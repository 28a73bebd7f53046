"""The lifecycle node `estimator`: sensors in; odometry, twist and increments out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from std_srvs.srv import SetBool, Trigger

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.ros.configuration import Configured, configure, transform_message
from bayes_vio.ros.diagnostics import Telemetry, memory_values, predictive_values
from bayes_vio.ros.lifecycle import Input, ManagedNode
from bayes_vio.ros.parameters import (
    CalibrationSource,
    ImageTransport,
    NodeParameters,
    Reliability,
)
from bayes_vio.ros.pipeline import Pipeline
from bayes_vio.ros.serving import run
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog
from bayes_vio.ros.worker import StuckError, Surroundings


class EstimatorNode(ManagedNode[Configured, Pipeline]):
    """Publish odometry, twist and increments of base_link, with covariances, from live topics."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("estimator", NodeParameters, "motion", **node_arguments)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def make(self, parameters: NodeParameters) -> Configured:
        """Load the artifact, create the publishers."""
        configured, line = configure(self, parameters)
        if configured.predictive.holds:
            self.get_logger().info(line)
        else:
            self.get_logger().warn(line)
        return configured

    def begin(self, configured: Configured) -> Pipeline:
        """Start the estimator as soon as its inputs allow it."""
        around = Surroundings(
            now_ns=lambda: self.now_ns,
            ros_is_up=self.context.ok,
            telemetry=Telemetry(),
            log=ThrottledLog(self.get_logger()),
            states=ChangeLog(self.get_logger(), TrackingState.WAITING.value),
        )
        return Pipeline(configured.artifact, configured.parameters, configured.outputs, around)

    def inputs(self, running: Pipeline) -> Iterator[Input]:
        """Yield the sensors, and what says where the car is."""
        p = self.configured.parameters
        image_qos = qos(p.image_reliability, p.image_depth)
        if p.image_transport is ImageTransport.COMPRESSED:
            yield Input(CompressedImage, "image/compressed", running.on_image, image_qos)
        else:
            yield Input(Image, "image", running.on_image, image_qos)
        info_qos = qos(p.camera_info_reliability, p.camera_info_depth)
        yield Input(CameraInfo, "camera_info", running.on_camera_info, info_qos)
        reference_qos = qos(p.reference_reliability, p.reference_depth)
        yield Input(Odometry, "reference", running.on_reference, reference_qos)
        yield Input(PoseWithCovarianceStamped, "set_pose", running.on_set_pose, 10)
        if p.extrinsics_source is CalibrationSource.TF_STATIC:
            latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            yield Input(transform_message(), "/tf_static", running.on_tf_static, latched)
        imu_qos = qos(p.imu_reliability, p.imu_depth)
        yield Input(Imu, "imu", running.on_imu, imu_qos, raw=True)

    def facts(self) -> dict[str, str]:
        """Return the memory that is used, and the layers whose posterior is."""
        chosen = self.configured.predictive
        return memory_values(self.configured.device) | predictive_values(chosen)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._running is not None and self._running.reset()
        response.message = "reset" if response.success else "the estimator is not running"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success = self._running is not None and self._running.pause(request.data)
        word = "paused" if request.data else "resumed"
        response.message = word if response.success else "the estimator is not running"
        return response

    def destroy_node(self) -> None:
        """Stop the estimator's thread, then destroy the node."""
        try:
            self._deactivate()
        except StuckError as error:  # the process ends: what does not stop ends with it
            self.get_logger().error(str(error))
        super().destroy_node()


def qos(reliability: Reliability, depth: int) -> QoSProfile:
    """Return a subscription's quality of service."""
    best_effort = reliability is Reliability.BEST_EFFORT
    policy = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    return QoSProfile(depth=depth, reliability=policy)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; argv as given to a ROS executable."""
    return run(EstimatorNode, argv)


if __name__ == "__main__":
    raise SystemExit(main())
