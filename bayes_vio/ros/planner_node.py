"""The lifecycle node `planner`: odometry, map and goal in; path, command and risk out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Twist, TwistWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile

from bayes_vio.ros.declaration import Declaration
from bayes_vio.ros.diagnostics import diagnostic_array
from bayes_vio.ros.messages import time_of
from bayes_vio.ros.planner_messages import path_of, twist_of
from bayes_vio.ros.planner_parameters import Command, PlannerParameters, planner_specs
from bayes_vio.ros.planning_loop import Outcome, PlanningLoop
from bayes_vio.ros.serving import run
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog

_DIAGNOSTICS_PERIOD_S = 1.0
_DEPTH = 10


class PlannerNode(LifecycleNode):
    """Publish a plan within the bounds on its risk, and the command of its first step."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(
            "planner", automatically_declare_parameters_from_overrides=True, **node_arguments
        )
        self._declaration = Declaration(self, planner_specs())
        self._configured: PlannerParameters | None = None
        self._loop: PlanningLoop | None = None
        self._attached: list[Any] = []
        self._publishers_made: list[Any] = []
        self._kind: Any = Twist
        self._failure = ""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", _DEPTH)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._tell_diagnostics)

    # Transitions. rclpy hides what a transition raises, so each tells it itself.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, create the publishers."""
        return self._transition("configure", self._configure, state, super().on_configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and plan."""
        return self._transition("activate", self._activate, state, super().on_activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the car, unsubscribe."""
        return self._transition("deactivate", self._deactivate, state, super().on_deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the publishers."""
        return self._transition("clean up", self._free, state, super().on_cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the car and free everything."""
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
        except (ValueError, ImportError, RuntimeError) as error:
            self._failure = f"cannot {name}: {error}"
            self.get_logger().error(self._failure)
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self._failure = f"cannot {name}: {traceback.format_exc()}"
            self.get_logger().fatal(self._failure)
            return TransitionCallbackReturn.ERROR

    def _configure(self) -> None:
        parameters = PlannerParameters(**self._declaration.values())
        torch.set_num_threads(parameters.torch_threads)
        self._vehicle = parameters.planner().vehicle
        self._free()
        self._make_publishers(Command(parameters.command))
        self._configured = parameters
        self.get_logger().info(
            f"plans at {parameters.rate_hz:g} Hz on {parameters.chosen_device}, collision at most "
            f"{parameters.collision_max:g}, lane departure at most "
            f"{parameters.lane_departure_max:g}"
        )

    def _make_publishers(self, command: Command) -> None:
        self._path = self.create_lifecycle_publisher(Path, "plan", _DEPTH)
        if command is Command.ACKERMANN:
            self._kind, topic = ackermann_message(), "ackermann_cmd"
        else:
            self._kind, topic = Twist, "cmd_vel"
        self._command = self.create_lifecycle_publisher(self._kind, topic, _DEPTH)
        self._publishers_made = [self._path, self._command]

    def _activate(self) -> None:
        p = self._configured
        if p is None:
            raise RuntimeError("the node is not configured")
        if PlannerParameters(**self._declaration.values()) != p:
            raise ValueError("parameters changed since configure: clean up and configure first")
        status_name = f"{self.get_namespace().rstrip('/')}/{p.estimator}: motion"
        log = ThrottledLog(self.get_logger())
        self._loop = loop = PlanningLoop(p, status_name, self._now_ns, log)
        self._changes = ChangeLog(self.get_logger(), "inactive")
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        inputs: list[tuple[Any, str, Callable[[Any], None], Any]] = [
            (Odometry, "odometry", loop.on_odometry, _DEPTH),
            (TwistWithCovarianceStamped, "twist/epistemic", loop.on_epistemic, _DEPTH),
            (OccupancyGrid, "map", loop.on_map, latched),
            (PoseStamped, "goal_pose", loop.on_goal, _DEPTH),
            (Path, "route", loop.on_route, _DEPTH),
            (DiagnosticArray, "/diagnostics", loop.on_diagnostics, _DEPTH),
        ]
        for kind, topic, callback, profile in inputs:
            self._attached.append(self.create_subscription(kind, topic, callback, profile))
        self._timer = self.create_timer(1.0 / p.rate_hz, self._plan)
        self._declaration.fixed = True

    def _deactivate(self) -> None:
        self._declaration.fixed = False
        if self._loop is None:
            return
        self.destroy_timer(self._timer)
        while self._attached:
            self.destroy_subscription(self._attached.pop())
        self._loop = None
        self._command.publish(self._command_of(None))  # nobody plans any more: stand still

    def _free(self) -> None:
        self._deactivate()
        while self._publishers_made:
            self.destroy_lifecycle_publisher(self._publishers_made.pop())
        self._configured = None

    # Planning.

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _plan(self) -> None:
        loop, p = self._loop, self._configured
        if loop is None or p is None:
            return
        outcome = loop.step()
        self._changes.see(outcome.decision.value, outcome.reason)
        self._path.publish(path_of(outcome.plan, outcome.stamp_ns, p.odom_frame))
        self._command.publish(self._command_of(outcome))

    def _command_of(self, outcome: Outcome | None) -> Any:
        plan, speed_m_s = (outcome.plan, outcome.speed_m_s) if outcome else (None, 0.0)
        if self._kind is Twist:
            return twist_of(plan, self._vehicle, speed_m_s)
        message = self._kind()
        message.header.stamp, message.header.frame_id = time_of(self._now_ns()), "base_link"
        if plan is not None:
            message.drive.speed = speed_m_s
            message.drive.steering_angle = float(plan.steering[0])
        return message

    def _tell_diagnostics(self) -> None:
        if self._loop is not None:
            level, summary, values = self._loop.status()
        elif self._failure:
            level, summary, values = DiagnosticStatus.ERROR, self._failure, {}
        else:
            summary = "inactive" if self._configured else "unconfigured"
            level, values = DiagnosticStatus.OK, {}
        name = f"{self.get_fully_qualified_name()}: plan"
        message = diagnostic_array(self._now_ns(), name, level, summary, values)
        self._diagnostics.publish(message)

    # Beginning and end.

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; argv as given to a ROS executable."""
    return run(PlannerNode, argv)


if __name__ == "__main__":
    raise SystemExit(main())
