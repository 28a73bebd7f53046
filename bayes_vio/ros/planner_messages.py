"""Between messages and what the planner thinks in; no node, no topics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from geometry_msgs.msg import Point, Pose, PoseStamped, Twist, TwistWithCovarianceStamped, Vector3
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from numpy.typing import NDArray
from std_msgs.msg import Header

from bayes_vio.conventions import ROT_Z, X, Y
from bayes_vio.filters.covariance import check_spd
from bayes_vio.geometry import so3
from bayes_vio.planning import Belief, Occupancy, Plan, Route, Vehicle
from bayes_vio.ros.messages import pose_matrix, quaternion_of, time_of, unpacked

Array = NDArray[np.float64]
_PLANE = np.array([X, Y, ROT_Z])
# Where nothing says which part of a twist's covariance is epistemic, all of it may be.
_SMALL_SHARE = 1e-3
_UNKNOWN = -1


def planar_pose(position: Any, orientation: Any) -> Array:
    """Return x, y (m), yaw (rad) of a message; ValueError as for ``pose_matrix``."""
    T = pose_matrix(position, orientation)
    return np.array([T[0, 3], T[1, 3], np.arctan2(T[1, 0], T[0, 0])])


def planar_cov(numbers: Any, name: str) -> Array:
    """Return the covariance [3, 3] of x, y, yaw of 36 numbers; CovarianceError if it is none."""
    cov = check_spd(unpacked(numbers), name)
    return cov[np.ix_(_PLANE, _PLANE)]


def planar_twist(twist: Twist) -> Array:
    """Return vx, vy (m/s), yaw rate (rad/s); ValueError where one is not finite."""
    values = np.array([twist.linear.x, twist.linear.y, twist.angular.z])
    if not np.isfinite(values).all():
        raise ValueError("a twist holds a number that is not finite")
    return values


def belief_of(message: Odometry, epistemic: TwistWithCovarianceStamped | None) -> Belief:
    """Return the belief of an odometry message, tracking.

    epistemic: the epistemic part of the twist's covariance, None where it is not known: then
    nearly all of it counts as epistemic, which errs alike all along a plan. Raises ValueError
    (CovarianceError) naming what is not sound.
    """
    pose, twist = message.pose, message.twist
    twist_cov = planar_cov(twist.covariance, "the odometry's twist covariance")
    part = (1 - _SMALL_SHARE) * twist_cov
    if epistemic is not None:
        part = planar_cov(epistemic.twist.covariance, "the epistemic twist covariance")
    return Belief(
        pose=planar_pose(pose.pose.position, pose.pose.orientation),
        cov=planar_cov(pose.covariance, "the odometry's pose covariance"),
        twist=planar_twist(twist.twist),
        epistemic_twist_cov=part,
        noise_twist_cov=_remainder(twist_cov, part),
    )


def _remainder(total: Array, part: Array) -> Array:
    """Return total - part [3, 3], where that is no covariance a small share of the total.

    The two come in separate messages and may belong to neighbouring images.
    """
    floor = _SMALL_SHARE * total
    least = np.linalg.eigvalsh(total - part - floor).min()
    return total - part if least >= 0 else floor


def occupancy_of(
    message: OccupancyGrid, occupied_from: int, unknown_is_occupied: bool
) -> Occupancy:
    """Return the grid of a message.

    Raises ValueError for a grid that is empty, whose data do not fill it, or whose origin is not
    a level pose.
    """
    info = message.info
    data = np.asarray(message.data, dtype=np.int8)
    if data.size != info.width * info.height:
        raise ValueError(f"the map has {data.size} cells, not {info.width} x {info.height}")
    cells = data.reshape(info.height, info.width)
    occupied = cells >= occupied_from
    if unknown_is_occupied:
        occupied |= cells == _UNKNOWN
    origin = planar_pose(info.origin.position, info.origin.orientation)
    return Occupancy(occupied, origin, float(info.resolution))


def route_of(message: Path) -> Route:
    """Return the route of a path; ValueError where it is none."""
    places = [(p.pose.position.x, p.pose.position.y) for p in message.poses]
    if len(places) < 2:
        raise ValueError(f"the route has {len(places)} poses, not at least 2")
    return Route.along(np.array(places))


def path_of(plan: Plan | None, stamp_ns: int, frame: str) -> Path:
    """Return the message of a plan, its poses stamped when they are due; empty for None."""
    path = Path(header=Header(stamp=time_of(stamp_ns), frame_id=frame))
    if plan is not None:
        path.poses = [
            _stamped(pose, stamp_ns + round(1e9 * k * plan.dt_s), frame)
            for k, pose in enumerate(plan.poses)
        ]
    return path


def _stamped(pose: Array, stamp_ns: int, frame: str) -> PoseStamped:
    position = Point(x=float(pose[0]), y=float(pose[1]))
    R = so3.exp(torch.tensor([0.0, 0.0, pose[2]], dtype=torch.float64)).numpy()
    message = Pose(position=position, orientation=quaternion_of(R))
    return PoseStamped(header=Header(stamp=time_of(stamp_ns), frame_id=frame), pose=message)


def twist_of(plan: Plan | None, vehicle: Vehicle, speed_m_s: float | None = None) -> Twist:
    """Return the command of a plan's first step; zero for None. speed_m_s: in place of its own."""
    if plan is None:
        return Twist()
    speed = float(plan.speeds[1]) if speed_m_s is None else speed_m_s
    rate = speed * float(np.tan(plan.steering[0])) / vehicle.wheelbase_m
    return Twist(linear=Vector3(x=speed), angular=Vector3(z=rate))
