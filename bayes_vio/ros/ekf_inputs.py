"""Turn messages into the filter's measurements: twists paired with their epistemic part, fixes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from geometry_msgs.msg import TwistWithCovarianceStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from sensor_msgs.msg import NavSatFix, NavSatStatus

from bayes_vio.filters.geodetic import LocalFrame
from bayes_vio.filters.measurements import PositionFix, TwistMeasurement
from bayes_vio.ros.ekf_parameters import EkfParameters
from bayes_vio.ros.messages import stamp_ns_of, unpacked

Array = NDArray[np.float64]
_WAITING_TWISTS = 50


class UnusableError(ValueError):
    """A message that cannot be used; ``cause`` is the counter's key."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class TwistPairs:
    """Pair every twist with the epistemic part that has its stamp."""

    def __init__(self, base_frame: str, split: bool) -> None:
        self._base_frame, self._split = base_frame, split
        self._twists: OrderedDict[int, TwistWithCovarianceStamped] = OrderedDict()
        self._epistemic: OrderedDict[int, Array] = OrderedDict()
        self.unpaired = 0

    def add_twist(self, message: TwistWithCovarianceStamped) -> TwistMeasurement | None:
        """Take a twist; return the measurement if its epistemic part is there, or not awaited.

        Raises UnusableError for a frame, a number or a covariance that cannot be used.
        """
        self._check_frame(message)
        stamp_ns = stamp_ns_of(message.header.stamp)
        if not self._split:
            return _twist(message, np.zeros((6, 6)))
        if stamp_ns in self._epistemic:
            return _twist(message, self._epistemic.pop(stamp_ns))
        self._twists[stamp_ns] = message
        if len(self._twists) > _WAITING_TWISTS:
            self._twists.popitem(last=False)
            self.unpaired += 1
        return None

    def add_epistemic(self, message: TwistWithCovarianceStamped) -> TwistMeasurement | None:
        """Take an epistemic part; return the measurement if its twist is there."""
        self._check_frame(message)
        stamp_ns, cov = stamp_ns_of(message.header.stamp), unpacked(message.twist.covariance)
        if stamp_ns in self._twists:
            return _twist(self._twists.pop(stamp_ns), cov)
        self._epistemic[stamp_ns] = cov
        if len(self._epistemic) > _WAITING_TWISTS:
            self._epistemic.popitem(last=False)
        return None

    @property
    def waiting(self) -> int:
        """Twists whose epistemic part has not come yet."""
        return len(self._twists)

    def _check_frame(self, message: TwistWithCovarianceStamped) -> None:
        frame = message.header.frame_id
        if frame != self._base_frame:
            text = f"a twist is in frame '{frame}', not in {self._base_frame}"
            raise UnusableError("twist_frame", text)


def _twist(message: TwistWithCovarianceStamped, epistemic_cov: Array) -> TwistMeasurement:
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    stamp_ns, cov = stamp_ns_of(message.header.stamp), unpacked(message.twist.covariance)
    try:
        return TwistMeasurement.of_published(stamp_ns, twist, cov, epistemic_cov)
    except ValueError as error:
        raise UnusableError("twist_unusable", str(error)) from error


class Fixes:
    """Turn NavSatFix, and odometry in the world frame, into fixes of a position."""

    def __init__(self, parameters: EkfParameters) -> None:
        self._world_frame = parameters.world_frame
        self._unknown_std_m = parameters.fix_unknown_std_m
        self._local = None if parameters.origin is None else LocalFrame(*parameters.origin)

    def of_odometry(self, message: Odometry) -> PositionFix:
        """Return the position of an odometry in the world frame; its attitude is not used.

        Raises UnusableError for another frame or what is no position with a covariance.
        """
        frame = message.header.frame_id
        if frame != self._world_frame:
            text = f"fix_odometry is in frame '{frame}', not in {self._world_frame}"
            raise UnusableError("fix_frame", text)
        p, cov = message.pose.pose.position, unpacked(message.pose.covariance)[:3, :3]
        return _fix(stamp_ns_of(message.header.stamp), np.array([p.x, p.y, p.z]), cov)

    def of_nav_sat(self, message: NavSatFix) -> PositionFix:
        """Return a satellite fix as metres east, north, up of the origin, which it may set.

        Raises UnusableError for a message without a fix, without covariance, or no place on Earth.
        """
        if message.status.status == NavSatStatus.STATUS_NO_FIX:
            raise UnusableError("fix_absent", "the receiver says that it has no fix")
        cov = np.array(message.position_covariance).reshape(3, 3)
        if message.position_covariance_type == NavSatFix.COVARIANCE_TYPE_UNKNOWN:
            if self._unknown_std_m is None:
                text = "a fix says that its covariance is unknown: set fix_unknown_std_m to use it"
                raise UnusableError("fix_covariance_unknown", text)
            cov = self._unknown_std_m**2 * np.eye(3)
        place = (message.latitude, message.longitude, message.altitude)
        try:
            local = self._local or LocalFrame(*place)
            fix = _fix(stamp_ns_of(message.header.stamp), local.position(*place), cov)
        except UnusableError:
            raise
        except ValueError as error:
            raise UnusableError("fix_unusable", str(error)) from error
        self._local = local
        return fix


def _fix(stamp_ns: int, position: Array, cov: Array) -> PositionFix:
    try:
        return PositionFix(stamp_ns, position, cov)
    except ValueError as error:
        raise UnusableError("fix_unusable", str(error)) from error
