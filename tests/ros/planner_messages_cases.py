"""Messages for tests of the planner's node."""

from __future__ import annotations

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path

from bayes_vio.ros.messages import time_of

STDS = [0.05, 0.05, 0.05, 0.005, 0.005, 0.005]
TWIST_STDS = [0.1, 0.02, 0.02, 0.005, 0.005, 0.003]


def odometry_message(stamp_ns: int, speed: float = 4.0, x: float = 0.0) -> Odometry:
    message = Odometry(child_frame_id="base_link")
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "odom"
    message.pose.pose.position.x, message.pose.pose.orientation.w = x, 1.0
    message.twist.twist.linear.x = speed
    message.pose.covariance = np.diag(np.square(STDS)).ravel()
    message.twist.covariance = np.diag(np.square(TWIST_STDS)).ravel()
    return message


def map_message(width: int = 400, height: int = 100, resolution: float = 0.25) -> OccupancyGrid:
    """Return a free map with a wall on either side, the car in its lower left."""
    cells = np.zeros((height, width), dtype=np.int8)
    cells[:2] = cells[-2:] = 100
    message = OccupancyGrid(data=cells.ravel().tolist())
    message.header.frame_id = "odom"
    message.info.width, message.info.height = width, height
    message.info.resolution = resolution
    message.info.origin.position.x = -20.0
    message.info.origin.position.y = -0.5 * height * resolution
    message.info.origin.orientation.w = 1.0
    return message


def goal_message(x: float = 60.0, frame: str = "odom") -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id = frame
    message.pose.position.x, message.pose.orientation.w = x, 1.0
    return message


def route_message(points: list[tuple[float, float]], frame: str = "odom") -> Path:
    path = Path()
    path.header.frame_id = frame
    for x, y in points:
        pose = goal_message(x, frame)
        pose.pose.position.y = y
        path.poses.append(pose)
    return path


def state_message(state: str, name: str = "/estimator: motion") -> DiagnosticArray:
    status = DiagnosticStatus(name=name, values=[KeyValue(key="state", value=state)])
    return DiagnosticArray(status=[status])
