"""The lifecycle node `estimator`: parameters, topics, services, transitions, diagnostics."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from std_srvs.srv import SetBool, Trigger

from bayes_vio.entry import uncollected
from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.ros.configuration import Configured, configure, transform_message
from bayes_vio.ros.declaration import Declaration
from bayes_vio.ros.diagnostics import (
    Telemetry,
    diagnostic_array,
    memory_values,
    predictive_values,
)
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

_DIAGNOSTICS_PERIOD_S = 1.0


class EstimatorNode(LifecycleNode):
    """Publish odometry, twist and increments of base_link, with covariances, from live topics."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(
            "estimator", automatically_declare_parameters_from_overrides=True, **node_arguments
        )
        self._declaration = Declaration(self)
        self._configured: Configured | None = None
        self._pipeline: Pipeline | None = None
        self._inputs: list[Subscription] = []
        self._failure = ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._tell_diagnostics)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)

    # Transitions. rclpy hides what a transition raises, so each tells it itself.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the artifact, create the publishers."""
        return self._transition("configure", self._configure, state, super().on_configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the estimator."""
        return self._transition("activate", self._activate, state, super().on_activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the estimator."""
        return self._transition("deactivate", self._deactivate, state, super().on_deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the artifact and the publishers."""
        return self._transition("clean up", self._free, state, super().on_cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        return self._transition("shut down", self._free, state, super().on_shutdown)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        return self._transition("recover", self._free, state, super().on_error)

    def _transition(
        self,
        name: str,
        own: Callable[[], None],
        state: LifecycleState,
        inherited: Callable[[LifecycleState], TransitionCallbackReturn],
    ) -> TransitionCallbackReturn:
        try:
            own()
            self._failure = ""
            return inherited(state)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            self._failure = f"cannot {name}: {error}"
            self.get_logger().error(self._failure)
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self._failure = f"cannot {name}: {traceback.format_exc()}"
            self.get_logger().fatal(self._failure)
            return TransitionCallbackReturn.ERROR

    def _configure(self) -> None:
        with uncollected():  # first predictions import, too
            self._configured, line = configure(self, self._declaration.read())
        if self._configured.predictive.holds:
            self.get_logger().info(line)
        else:
            self.get_logger().warn(line)

    def _activate(self) -> None:
        configured = self._require_configured()
        if self._declaration.read() != configured.parameters:
            raise ValueError("parameters changed since configure: clean up and configure first")
        around = Surroundings(
            now_ns=lambda: self.get_clock().now().nanoseconds,
            ros_is_up=self.context.ok,
            telemetry=Telemetry(),
            log=ThrottledLog(self.get_logger()),
            states=ChangeLog(self.get_logger(), TrackingState.WAITING.value),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._deactivate)
            self._pipeline = Pipeline(
                configured.artifact, configured.parameters, configured.outputs, around
            )
            self._subscribe(configured.parameters, self._pipeline)
            self._declaration.fixed = True
            undo.pop_all()
        # Else a full collection over all that torch has loaded stops every thread for 0.1-0.2 s.
        gc.freeze()

    def _deactivate(self) -> None:
        gc.unfreeze()
        self._declaration.fixed = False
        while self._inputs:
            self.destroy_subscription(self._inputs.pop())
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.stop()

    def _free(self) -> None:
        self._deactivate()
        if self._configured is not None:
            self._configured.outputs.destroy()
        self._configured = None

    def _require_configured(self) -> Configured:
        if self._configured is None:
            raise RuntimeError("the node is not configured")
        return self._configured

    # Inputs and services.

    def _subscribe(self, parameters: NodeParameters, pipeline: Pipeline) -> None:
        p, latched = parameters, QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        image_qos = qos(p.image_reliability, p.image_depth)
        image_type, image_topic = Image, "image"
        if p.image_transport is ImageTransport.COMPRESSED:
            image_type, image_topic = CompressedImage, "image/compressed"
        info_qos = qos(p.camera_info_reliability, p.camera_info_depth)
        reference_qos = qos(p.reference_reliability, p.reference_depth)
        inputs = [
            (image_type, image_topic, pipeline.on_image, image_qos),
            (CameraInfo, "camera_info", pipeline.on_camera_info, info_qos),
            (Odometry, "reference", pipeline.on_reference, reference_qos),
            (PoseWithCovarianceStamped, "set_pose", pipeline.on_set_pose, QoSProfile(depth=10)),
        ]
        if p.extrinsics_source is CalibrationSource.TF_STATIC:
            inputs.append((transform_message(), "/tf_static", pipeline.on_tf_static, latched))
        for kind, topic, callback, profile in inputs:
            self._inputs.append(self.create_subscription(kind, topic, callback, profile))
        imu_qos = qos(p.imu_reliability, p.imu_depth)
        on_bytes: Any = pipeline.on_serialised_imu  # rclpy's types do not know of raw
        self._inputs.append(self.create_subscription(Imu, "imu", on_bytes, imu_qos, raw=True))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._pipeline is not None and self._pipeline.reset()
        response.message = "reset" if response.success else "the estimator is not running"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success = self._pipeline is not None and self._pipeline.pause(request.data)
        word = "paused" if request.data else "resumed"
        response.message = word if response.success else "the estimator is not running"
        return response

    # Diagnostics.

    def _tell_diagnostics(self) -> None:
        if self._pipeline is not None:
            level, summary, values = self._pipeline.status()
        elif self._failure:
            level, summary, values = DiagnosticStatus.ERROR, self._failure, {}
        else:
            summary = "inactive" if self._configured else "unconfigured"
            level, values = DiagnosticStatus.OK, {}
        if self._configured is not None:
            values = values | memory_values(self._configured.device)
            values |= predictive_values(self._configured.predictive)
        now_ns = self.get_clock().now().nanoseconds
        name = f"{self.get_fully_qualified_name()}: motion"
        self._diagnostics.publish(diagnostic_array(now_ns, name, level, summary, values))

    def start(self) -> None:
        """Configure and activate, each where the one before succeeded."""
        if self.trigger_configure() is not TransitionCallbackReturn.SUCCESS:
            text = "stays unconfigured: set the parameter and configure, or stop and start again"
            self.get_logger().error(text)
        elif self.trigger_activate() is not TransitionCallbackReturn.SUCCESS:
            self.get_logger().error("stays inactive: mend the cause and activate")

    @property
    def autostart(self) -> bool:
        """Whether the node is to configure and activate itself."""
        return bool(self.get_parameter("autostart").value)

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
