"""Publish motion estimates: odometry, twist, its epistemic part, relative pose, tf if asked."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import TwistWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode

from bayes_vio.estimator.tracking import MotionEstimate
from bayes_vio.filters.published import advanced_twist_cov
from bayes_vio.ros import messages
from bayes_vio.ros.messages import FrameNames, MeanTwist
from bayes_vio.ros.parameters import NodeParameters, TwistStamp

_DEPTH = 50


class Outputs:
    """The estimator's publishers, which are silent while the node is not active.

    Raises ImportError where publish_tf is asked for and tf2_ros does not import.
    """

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node = node
        self._frames = FrameNames(parameters.odom_frame, parameters.base_frame)
        self._acceleration_stds: tuple[float, float] | None = None
        if parameters.twist_stamp is TwistStamp.LATER:
            self._acceleration_stds = (
                parameters.acceleration_std_m_s2,
                parameters.angular_acceleration_std_rad_s2,
            )
        self._broadcaster = _broadcaster(node) if parameters.publish_tf else None
        twist = TwistWithCovarianceStamped
        self._odometry = node.create_lifecycle_publisher(Odometry, "odometry", _DEPTH)
        self._relative = node.create_lifecycle_publisher(Odometry, "relative_pose", _DEPTH)
        self._twist = node.create_lifecycle_publisher(twist, "twist", _DEPTH)
        self._epistemic = node.create_lifecycle_publisher(twist, "twist/epistemic", _DEPTH)

    def publish(self, estimate: MotionEstimate) -> None:
        """Publish everything of one estimate, or, raising CovarianceError, nothing of it."""
        frames, moving = self._frames, MeanTwist.of(estimate)
        stamp_ns, twist_cov = messages.middle_stamp_ns(estimate), moving.cov
        if self._acceleration_stds:
            stamp_ns = estimate.stamp_ns
            twist_cov = advanced_twist_cov(twist_cov, estimate.dt_s, *self._acceleration_stds)
        epistemic = messages.twist(moving.mean, moving.epistemic_cov, stamp_ns, frames)
        outgoing = [
            (self._odometry, messages.odometry(estimate, moving, frames)),
            (self._relative, messages.relative_pose(estimate, moving, frames)),
            (self._twist, messages.twist(moving.mean, twist_cov, stamp_ns, frames)),
            (self._epistemic, epistemic),
        ]
        for publisher, message in outgoing:
            publisher.publish(message)
        if self._broadcaster is not None:
            self._broadcaster.sendTransform(messages.transform(estimate, frames))

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in (self._odometry, self._relative, self._twist, self._epistemic):
            self._node.destroy_lifecycle_publisher(publisher)


def _broadcaster(node: LifecycleNode) -> Any:
    try:
        from tf2_ros import TransformBroadcaster  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"publish_tf needs tf2_ros, which does not import here ({error}): source a ROS 2 that "
            f"has it, or set publish_tf to false"
        ) from error
    return TransformBroadcaster(node)
