"""Build the outgoing messages from motion estimates, and read them back; no node, no topics.

Message covariances are 6x6, row-major, about the fixed axes of the frame in which the value
stands; inside the package they are of right (body-frame) perturbations. The two differ by a
rotation only (REP 103, REP 105).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseWithCovariance,
    Quaternion,
    Transform,
    TransformStamped,
    Twist,
    TwistWithCovariance,
    TwistWithCovarianceStamped,
    Vector3,
)
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator.tracking import MotionEstimate
from bayes_vio.filters.covariance import CovarianceError, check_spd
from bayes_vio.filters.ekf_state import EkfState
from bayes_vio.filters.published import (
    fixed_axes_cov,
    mean_twist_with_covs,
    right_perturbation_cov,
)
from bayes_vio.geometry import so3

Array = NDArray[np.float64]
_QUATERNION_TOLERANCE = 1e-2
# Beyond any map (the Earth is 1.3e7 m wide); a number without meaning otherwise.
_FARTHEST_M = 1e8
# Of a given pose: m^2 and rad^2 that no one means.
_VARIANCE_MIN, _VARIANCE_MAX = 1e-24, 1e24


@dataclass(frozen=True)
class FrameNames:
    """The frames that messages name: the odometry's fixed frame and the moving base frame."""

    odom: str = "odom"
    base: str = "base_link"


def time_of(stamp_ns: int) -> Time:
    """Return a builtin_interfaces/Time of nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(int(stamp_ns), NS_PER_S)
    return Time(sec=seconds, nanosec=nanoseconds)


def stamp_ns_of(stamp: Time) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def _header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=time_of(stamp_ns), frame_id=frame_id)


def packed(cov: Array) -> Array:
    """Return a covariance [6, 6] as 36 numbers, row-major; CovarianceError where it is none."""
    cov = np.asarray(cov, dtype=np.float64)
    if cov.shape != (6, 6):
        raise CovarianceError(f"a covariance has the shape {cov.shape}, not 6x6")
    return check_spd(cov, "covariance").reshape(36)


def unpacked(numbers: Any) -> Array:
    """Return the covariance [6, 6] of a message's 36 numbers, row-major."""
    return np.array(numbers, dtype=np.float64).reshape(6, 6)


def quaternion_of(R: Array) -> Quaternion:
    """Return a rotation [3, 3] as a message, w >= 0."""
    x, y, z, w = Rotation.from_matrix(R).as_quat(canonical=True).tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def pose_matrix(position: Any, orientation: Any) -> Array:
    """Return T [4, 4] of a message's position and orientation.

    Raises ValueError unless the position is within 1e8 m and the quaternion has norm 1 within 1 %.
    """
    q = np.array([orientation.x, orientation.y, orientation.z, orientation.w])
    t = np.array([position.x, position.y, position.z])
    if not (np.isfinite(q).all() and np.isfinite(t).all()):
        raise ValueError("a pose holds a number that is not finite")
    farthest_m = np.abs(t).max()
    if farthest_m > _FARTHEST_M:
        raise ValueError(f"a pose lies {farthest_m:.3g} m away, beyond {_FARTHEST_M:.0e} m")
    norm = float(np.hypot.reduce(q))
    if abs(norm - 1) > _QUATERNION_TOLERANCE:
        raise ValueError(f"a pose's quaternion has norm {norm:.3g}, not 1")
    T = np.eye(4)
    T[:3, :3] = so3.from_quaternion(torch.from_numpy(q)).numpy()
    T[:3, 3] = t
    return T


def pose_with_covariance(T: Array, right_cov: Array) -> PoseWithCovariance:
    """Return a pose T_a_b [4, 4]; its covariance [6, 6] is turned to the axes of frame a."""
    x, y, z = (float(v) for v in T[:3, 3])
    pose = Pose(position=Point(x=x, y=y, z=z), orientation=quaternion_of(T[:3, :3]))
    return PoseWithCovariance(pose=pose, covariance=packed(fixed_axes_cov(T, right_cov)))


def pose_and_right_cov(message: PoseWithCovariance) -> tuple[Array, Array]:
    """Return T_a_b [4, 4] and the covariance [6, 6] of its right perturbation.

    Raises ValueError for a bad pose and CovarianceError for a bad covariance.
    """
    T = pose_matrix(message.pose.position, message.pose.orientation)
    cov = unpacked(message.covariance)
    if not (np.abs(cov) < _VARIANCE_MAX).all() or not (np.diagonal(cov) > _VARIANCE_MIN).all():
        raise CovarianceError(
            f"a pose's variances must lie in {_VARIANCE_MIN:.0e} to {_VARIANCE_MAX:.0e} m^2, rad^2"
        )
    cov = packed(cov).reshape(6, 6)
    return T, right_perturbation_cov(T, cov)


def _twist_with_covariance(twist: Array, cov: Array) -> TwistWithCovariance:
    vx, vy, vz, wx, wy, wz = (float(v) for v in twist)
    message = Twist(linear=Vector3(x=vx, y=vy, z=vz), angular=Vector3(x=wx, y=wy, z=wz))
    return TwistWithCovariance(twist=message, covariance=packed(cov))


def middle_stamp_ns(estimate: MotionEstimate) -> int:
    """Return the instant at which an interval's mean twist stands."""
    return (estimate.earlier_stamp_ns + estimate.stamp_ns) // 2


@dataclass(frozen=True)
class MeanTwist:
    """The mean twist [6] over an interval, in base_link, and its covariances [6, 6].

    In m/s and rad/s; epistemic_cov is the part of cov that comes from the weights.
    """

    mean: Array
    cov: Array
    epistemic_cov: Array

    @staticmethod
    def of(estimate: MotionEstimate) -> MeanTwist:
        """Return the mean twist of an increment."""
        T, dt_s = estimate.T_earlier_later, estimate.dt_s
        both = np.stack([estimate.cov, estimate.epistemic_cov])
        mean, covs = mean_twist_with_covs(T, both, dt_s)
        return MeanTwist(mean, covs[0], covs[1])


def twist(
    mean: Array, twist_cov: Array, stamp_ns: int, frames: FrameNames
) -> TwistWithCovarianceStamped:
    """Return a twist [6] in base_link, stamped at will, with its covariance [6, 6]."""
    return TwistWithCovarianceStamped(
        header=_header(stamp_ns, frames.base), twist=_twist_with_covariance(mean, twist_cov)
    )


def odometry(estimate: MotionEstimate, moving: MeanTwist, frames: FrameNames) -> Odometry:
    """Return the accumulated pose and the mean twist over the interval that ends there."""
    return Odometry(
        header=_header(estimate.stamp_ns, frames.odom),
        child_frame_id=frames.base,
        pose=pose_with_covariance(estimate.T_odom_base, estimate.odom_cov),
        twist=_twist_with_covariance(moving.mean, moving.cov),
    )


def filtered_odometry(state: EkfState, frames: FrameNames) -> Odometry:
    """Return a filter's pose in its world frame, ``frames.odom``, and its twist in base_link.

    Raises CovarianceError where the state's covariance is none.
    """
    return Odometry(
        header=_header(state.stamp_ns, frames.odom),
        child_frame_id=frames.base,
        pose=pose_with_covariance(state.T_world_base, state.pose_cov),
        twist=_twist_with_covariance(state.twist, state.twist_cov),
    )


def relative_pose(estimate: MotionEstimate, moving: MeanTwist, frames: FrameNames) -> Odometry:
    """Return the increment T_earlier_later, stamped at the later image, and its mean twist.

    header.frame_id is the base frame; child_frame_id is ``base_link@SEC.NANOSEC``, the same frame
    at the earlier image, so that a consumer notices a message that was lost.
    """
    return Odometry(
        header=_header(estimate.stamp_ns, frames.base),
        child_frame_id=earlier_frame(frames.base, estimate.earlier_stamp_ns),
        pose=pose_with_covariance(estimate.T_earlier_later, estimate.cov),
        twist=_twist_with_covariance(moving.mean, moving.cov),
    )


def earlier_frame(base: str, earlier_stamp_ns: int) -> str:
    """Return ``base_link@SEC.NANOSEC``, with nine digits of nanoseconds."""
    seconds, nanoseconds = divmod(int(earlier_stamp_ns), NS_PER_S)
    return f"{base}@{seconds}.{nanoseconds:09d}"


def earlier_stamp_ns(child_frame_id: str) -> int:
    """Return the earlier stamp that a relative_pose names; ValueError where it names none."""
    stamp = child_frame_id.rpartition("@")[2].split(".")
    if len(stamp) != 2 or not all(part.isdigit() for part in stamp) or len(stamp[1]) != 9:
        raise ValueError(f"'{child_frame_id}' is not of the form base_link@SEC.NANOSEC")
    return int(stamp[0]) * NS_PER_S + int(stamp[1])


def transform(estimate: MotionEstimate, frames: FrameNames) -> TransformStamped:
    """Return odom -> base_link at the later image."""
    x, y, z = (float(v) for v in estimate.T_odom_base[:3, 3])
    rotation = quaternion_of(estimate.T_odom_base[:3, :3])
    return TransformStamped(
        header=_header(estimate.stamp_ns, frames.odom),
        child_frame_id=frames.base,
        transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=rotation),
    )
