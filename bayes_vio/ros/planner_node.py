"""The lifecycle node `planner`: odometry, map and goal in; path, command and risk out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile

from bayes_vio.ros.lifecycle import Input, ManagedNode
from bayes_vio.ros.planner_outputs import PlannerOutputs
from bayes_vio.ros.planner_parameters import PlannerParameters
from bayes_vio.ros.planning_loop import PlanningLoop
from bayes_vio.ros.serving import run
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog

_DEPTH = 10


@dataclass(frozen=True)
class ConfiguredPlanner:
    """What exists from configure to cleanup."""

    parameters: PlannerParameters
    outputs: PlannerOutputs


class PlannedDrive:
    """The planning loop at the rate of the parameters, and what it publishes."""

    def __init__(self, node: LifecycleNode, configured: ConfiguredPlanner) -> None:
        p = configured.parameters
        status_name = f"{node.get_namespace().rstrip('/')}/{p.estimator}: motion"
        clock, log = node.get_clock(), ThrottledLog(node.get_logger())
        self.loop = PlanningLoop(p, status_name, lambda: clock.now().nanoseconds, log)
        self._node, self._outputs = node, configured.outputs
        self._changes = ChangeLog(node.get_logger(), "inactive")
        self._timer = node.create_timer(1.0 / p.rate_hz, self._step)

    def _step(self) -> None:
        outcome = self.loop.step()
        self._changes.see(outcome.decision.value, outcome.reason)
        self._outputs.publish(outcome)

    def status(self) -> tuple[bytes, str, dict[str, str]]:
        """Return the diagnostic level, a summary and the values by name."""
        return self.loop.status()

    def stop(self) -> None:
        """Plan no more: stop the car."""
        self._node.destroy_timer(self._timer)
        self._outputs.stand_still()


class PlannerNode(ManagedNode[ConfiguredPlanner, PlannedDrive]):
    """Publish a plan within the bounds on its risk, and the command of its first step."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("planner", PlannerParameters, "plan", **node_arguments)

    def make(self, parameters: PlannerParameters) -> ConfiguredPlanner:
        """Check the parameters against one another, create the publishers."""
        p = parameters
        torch.set_num_threads(p.torch_threads)
        vehicle = p.planner().vehicle
        outputs = PlannerOutputs(self, p.command, vehicle, p.odom_frame)
        self.get_logger().info(
            f"plans at {p.rate_hz:g} Hz on {p.chosen_device}, collision at most "
            f"{p.collision_max:g}, lane departure at most {p.lane_departure_max:g}"
        )
        return ConfiguredPlanner(p, outputs)

    def begin(self, configured: ConfiguredPlanner) -> PlannedDrive:
        """Plan at the rate of the parameters."""
        return PlannedDrive(self, configured)

    def inputs(self, running: PlannedDrive) -> Iterator[Input]:
        """Yield what says where the car is, what is around it and where it is to go."""
        loop, epistemic = running.loop, TwistWithCovarianceStamped
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        yield Input(Odometry, "odometry", loop.on_odometry, _DEPTH)
        yield Input(epistemic, "twist/epistemic", loop.on_epistemic, _DEPTH)
        yield Input(OccupancyGrid, "map", loop.on_map, latched)
        yield Input(PoseStamped, "goal_pose", loop.on_goal, _DEPTH)
        yield Input(Path, "route", loop.on_route, _DEPTH)
        yield Input(DiagnosticArray, "/diagnostics", loop.on_diagnostics, _DEPTH)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; argv as given to a ROS executable."""
    return run(PlannerNode, argv)


if __name__ == "__main__":
    raise SystemExit(main())
