"""Publish plans: the path, and the command of its first step."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import Twist
from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode

from bayes_vio.planning import Plan, Vehicle
from bayes_vio.ros.messages import time_of
from bayes_vio.ros.planner_messages import path_of, twist_of
from bayes_vio.ros.planner_parameters import Command
from bayes_vio.ros.planning_loop import Outcome

_DEPTH = 10


class PlannerOutputs:
    """The planner's publishers, which are silent while the node is not active.

    odom_frame: in which plans stand. Raises ImportError where the command's message is not there.
    """

    def __init__(
        self, node: LifecycleNode, command: Command, vehicle: Vehicle, odom_frame: str
    ) -> None:
        self._node, self._vehicle, self._odom_frame = node, vehicle, odom_frame
        kind, topic = Twist, "cmd_vel"
        if command is Command.ACKERMANN:
            kind, topic = ackermann_message(), "ackermann_cmd"
        self._kind: Any = kind
        self._path = node.create_lifecycle_publisher(Path, "plan", _DEPTH)
        self._command = node.create_lifecycle_publisher(kind, topic, _DEPTH)

    def publish(self, outcome: Outcome) -> None:
        """Publish the plan, empty where there is none, and the command."""
        self._path.publish(path_of(outcome.plan, outcome.stamp_ns, self._odom_frame))
        self._command.publish(self._command_of(outcome.plan, outcome.speed_m_s))

    def stand_still(self) -> None:
        """Publish the command to stop."""
        self._command.publish(self._command_of(None, 0.0))

    def _command_of(self, plan: Plan | None, speed_m_s: float) -> Any:
        if self._kind is Twist:
            return twist_of(plan, self._vehicle, speed_m_s)
        message = self._kind()
        now_ns = self._node.get_clock().now().nanoseconds
        message.header.stamp, message.header.frame_id = time_of(now_ns), "base_link"
        if plan is not None:
            message.drive.speed = speed_m_s
            message.drive.steering_angle = float(plan.steering[0])
        return message

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in (self._path, self._command):
            self._node.destroy_lifecycle_publisher(publisher)


def ackermann_message() -> Any:
    """Return the class AckermannDriveStamped; ImportError saying what to do without it."""
    try:
        from ackermann_msgs.msg import (  # pyright: ignore[reportMissingImports]
            AckermannDriveStamped,
        )
    except ImportError as error:
        raise ImportError(
            f"command ackermann needs ackermann_msgs, which does not import here ({error}): "
            f"source a ROS 2 that has it, or set command to twist"
        ) from error
    return AckermannDriveStamped
