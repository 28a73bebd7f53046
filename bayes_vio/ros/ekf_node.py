"""The node `ekf`: fuse the estimator's twists with position fixes, publish filtered odometry."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped, TwistWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import NavSatFix
from std_srvs.srv import Trigger

from bayes_vio.artifact import default_artifact_path, read_error_correlation
from bayes_vio.filters.alignment import FixAlignment
from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.filters.fusion import MotionFilter, Outcome
from bayes_vio.filters.innovations import InnovationMonitor
from bayes_vio.filters.measurements import Measurement, Source
from bayes_vio.ros.declaration import Declaration
from bayes_vio.ros.diagnostics import counted, diagnostic_array
from bayes_vio.ros.ekf_inputs import Fixes, TwistPairs, UnusableError
from bayes_vio.ros.ekf_parameters import EkfParameters
from bayes_vio.ros.messages import FrameNames, filtered_odometry, pose_and_right_cov
from bayes_vio.ros.serving import ignore_interrupts, serve
from bayes_vio.ros.throttle import ThrottledLog

_DEPTH = 50
_DIAGNOSTICS_PERIOD_S = 1.0
_FEWEST_INNOVATIONS = 30  # before their mean is judged
# What a measurement that was left out is told as.
_TOLD = {
    Outcome.GATED: "is farther off than the gate allows: left out",
    Outcome.INSISTED: "was left out too often in a row: the filter gives way to it",
    Outcome.LATE: "is stamped before all that is kept (history_s): left out",
    Outcome.AHEAD: "is stamped far ahead of all before: left out until others confirm it",
    Outcome.FOLLOWED: "confirms a jump of stamps: followed",
}


class EkfNode(Node):
    """Publish pose and twist of base_link in the world frame, filtered, with their covariance."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(
            "ekf", automatically_declare_parameters_from_overrides=True, **node_arguments
        )
        self.parameters = Declaration(self, EkfParameters).read()
        self._frames = FrameNames(self.parameters.world_frame, self.parameters.base_frame)
        self._filter = _motion_filter(self.parameters)
        self._monitor = InnovationMonitor(self.parameters.nis_window)
        self._pairs = TwistPairs(self._frames.base, self.parameters.split_covariance)
        self._fixes = Fixes(self.parameters)
        self._refused: Counter[str] = Counter()
        self._log = ThrottledLog(self.get_logger())
        self._published = self.create_publisher(Odometry, "filtered/odometry", _DEPTH)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._tell_diagnostics)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._subscribe()

    def _subscribe(self) -> None:
        reliable = QoSProfile(depth=self.parameters.input_depth)
        lenient = QoSProfile(
            depth=self.parameters.input_depth, reliability=ReliabilityPolicy.BEST_EFFORT
        )
        twist = TwistWithCovarianceStamped
        self._listen(twist, "twist", self._pairs.add_twist, reliable)
        if self.parameters.split_covariance:
            self._listen(twist, "twist/epistemic", self._pairs.add_epistemic, reliable)
        if self.parameters.use_fixes:
            self._listen(NavSatFix, "fix", self._fixes.of_nav_sat, lenient)
            self._listen(Odometry, "fix_odometry", self._fixes.of_odometry, lenient)
        self.create_subscription(
            PoseWithCovarianceStamped, "set_pose", self._on_set_pose, reliable
        )

    def _listen(
        self,
        kind: Any,
        topic: str,
        measured: Callable[[Any], Measurement | None],
        quality: QoSProfile,
    ) -> None:
        """Subscribe: every message becomes a measurement, none yet, or a counted refusal."""

        def take(message: Any) -> None:
            try:
                measurement = measured(message)
            except UnusableError as error:
                self._refuse(error.cause, f"{topic}: {error}")
                return
            if measurement is not None:
                self._feed(measurement)

        self.create_subscription(kind, topic, take, quality)

    def _feed(self, measurement: Measurement) -> None:
        fed = self._filter.feed(measurement)
        if fed.innovation is not None and fed.innovation_cov is not None:
            accepted = fed.outcome in (Outcome.APPLIED, Outcome.FOLLOWED)
            self._monitor.add(measurement.source, fed.innovation, fed.innovation_cov, accepted)
        if fed.outcome in _TOLD:
            cause = f"{measurement.source.value}_{fed.outcome.value}"
            self._log.warn(cause, f"{measurement.source.value} {_TOLD[fed.outcome]}")
        if measurement.source is Source.TWIST and fed.nis is not None and self._filter.aligned:
            self._publish()

    def _publish(self) -> None:
        state = self._filter.state
        if state is None:
            return
        try:
            message = filtered_odometry(state, self._frames)
        except CovarianceError as error:
            self._refused["bad_covariance"] += 1
            self._log.error("bad_covariance", f"a state is not published: {error}; start anew")
            self._filter.reset()
            return
        self._published.publish(message)

    def _on_set_pose(self, message: PoseWithCovarianceStamped) -> None:
        frame = message.header.frame_id
        if frame not in ("", self._frames.odom):
            text = f"set_pose is in frame '{frame}', not in {self._frames.odom}: left out"
            return self._refuse("set_pose", text)
        try:
            self._filter.set_pose(*pose_and_right_cov(message.pose))
        except ValueError as error:
            return self._refuse("set_pose", f"set_pose: {error}: left out")
        return None

    def _refuse(self, cause: str, text: str) -> None:
        self._refused[cause] += 1
        self._log.warn(cause, text)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._filter.reset()
        self._monitor.clear()
        response.success, response.message = True, "reset"
        return response

    # Diagnostics.

    def _tell_diagnostics(self) -> None:
        level, summary = self._health()
        values = self._nis_values()
        for (source, outcome), n in sorted(self._filter.outcomes.items(), key=str):
            values[f"{source.value} {outcome.value}"] = str(n)
        values["twists without epistemic part"] = str(self._pairs.unpaired)
        values |= counted(self._refused)
        name = f"{self.get_fully_qualified_name()}: filter"
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostic_array(now_ns, name, level, summary, values))

    def _health(self) -> tuple[bytes, str]:
        if self._filter.state is None:
            if self._pairs.waiting:
                text = "waiting: twist comes, twist/epistemic does not (split_covariance)"
                return DiagnosticStatus.ERROR, text
            return DiagnosticStatus.WARN, "waiting: no twist yet"
        if not self._filter.aligned:
            return DiagnosticStatus.WARN, "aligning: the fixes do not tell the heading yet"
        wrong = self._monitor.overconfident(_FEWEST_INNOVATIONS)
        if wrong:
            names = ", ".join(s.value for s in Source if s in wrong)
            return DiagnosticStatus.WARN, f"NIS above its band: {names}"
        return DiagnosticStatus.OK, "filtering"

    def _nis_values(self) -> dict[str, str]:
        values = {}
        for source in Source:
            window, name = self._monitor.windows.get(source), source.value
            if window is None:
                continue
            low, high = (bound / window.degrees for bound in window.band)
            values[f"{name} NIS / {window.degrees}"] = f"{window.mean / window.degrees:.3f}"
            values[f"{name} NIS / {window.degrees} band (95 %)"] = f"{low:.3f} to {high:.3f}"
            values[f"{name} NIS consistent"] = str(window.consistent)
            values[f"{name} share gated"] = f"{self._monitor.rejected_share(source):.4f}"
        return values


def _motion_filter(parameters: EkfParameters) -> MotionFilter:
    """Return the filter; raise ValueError for settings or an artifact that cannot be used."""
    path = Path(parameters.artifact) if parameters.artifact else default_artifact_path()
    settings = parameters.settings(*read_error_correlation(path))
    alignment = None
    if parameters.use_fixes:
        alignment = FixAlignment(parameters.alignment_distance_m, parameters.alignment_yaw_std_rad)
    return MotionFilter(settings, alignment=alignment)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; 2 where its parameters cannot be used."""
    rclpy.init(args=list(argv) if argv is not None else None)
    status = 0
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        try:
            node = EkfNode()
        except (ValueError, OSError) as error:
            get_logger("ekf").error(f"cannot start: {error}")
            status = 2
        else:
            gc.freeze()
            try:
                serve(node)
            finally:
                ignore_interrupts()
                node.destroy_node()
    rclpy.try_shutdown()
    ignore_interrupts()
    return status


if __name__ == "__main__":
    raise SystemExit(main())
