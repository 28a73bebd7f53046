"""From input messages to published estimates: what exists while the node is active."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.messages import stamp_ns_of
from bayes_vio.estimator import Estimator
from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.ros.calibration import Calibration
from bayes_vio.ros.diagnostics import counted, level_of, nees_values, regime_values
from bayes_vio.ros.imu_wire import ImuReading, read_imu
from bayes_vio.ros.inbox import Inbox
from bayes_vio.ros.messages import pose_and_right_cov, pose_matrix
from bayes_vio.ros.outputs import Outputs
from bayes_vio.ros.parameters import CalibrationSource, NodeParameters
from bayes_vio.ros.reference import ReferenceMonitor
from bayes_vio.ros.worker import EstimationWorker, Surroundings

Array = NDArray[np.float64]


class Pipeline:
    """Take input messages, run the estimator once the calibration is complete, publish.

    Raises ValueError where the calibration that is known already cannot be used.
    """

    def __init__(
        self,
        artifact: MotionArtifact,
        parameters: NodeParameters,
        outputs: Outputs,
        around: Surroundings,
    ) -> None:
        self._artifact, self._parameters, self._outputs = artifact, parameters, outputs
        self._around, self._telemetry, self._log = around, around.telemetry, around.log
        self._calibration = Calibration(parameters, artifact.camera, artifact.extrinsics)
        self._inbox = Inbox(parameters.image_backlog)
        self._monitor = ReferenceMonitor(
            parameters.consistency_window, parameters.reference_max_gap_s
        )
        self._worker: EstimationWorker | None = None
        self._cause = ""
        self._unusable = ""
        if not self._calibration.missing:
            self._start_worker()

    def _start_worker(self) -> None:
        offset_s = effective_offset_s(self._parameters, self._artifact)
        estimator = Estimator(
            self._artifact,
            settings=self._parameters.thresholds,
            camera=self._calibration.camera,
            extrinsics=self._calibration.extrinsics,
            time_offset_s=offset_s,
        )
        self._worker = EstimationWorker(estimator, self._inbox, self._publish, self._around)
        self._worker.start()

    def stop(self) -> None:
        """Stop the estimator's thread, if it runs."""
        if self._worker is not None:
            self._worker.stop()

    # Inputs: each is called in the executor's thread.

    def on_imu(self, data: bytes) -> None:
        """Take an IMU sample as it came over the wire.

        One whose covariance says that a value is absent is left out.
        """
        self._telemetry.counts["imu"] += 1
        try:
            reading = read_imu(data)
        except ValueError as error:
            return self._refuse("imu_malformed", str(error))
        return self._take_imu(reading)

    def _take_imu(self, reading: ImuReading) -> None:
        if not self._started(imu_frame=reading.frame_id):
            return
        if reading.absent:
            self._refuse("imu_absent", "imu says that it has no rate or no specific force")
        elif self._known_frame(reading.frame_id, self._calibration.imu_frame):
            self._inbox.put_imu(reading.stamp_ns, reading.sample)

    def on_image(self, message: Any) -> None:
        """Take an Image or CompressedImage."""
        self._telemetry.counts["image"] += 1
        frame = message.header.frame_id
        if self._started(camera_frame=frame) and self._known_frame(
            frame, self._calibration.camera_frame
        ):
            self._inbox.put_image(message)

    def _started(self, imu_frame: str = "", camera_frame: str = "") -> bool:
        """Return whether the estimator runs, once it has been told a sensor's frame."""
        if self._worker is None and not self._unusable:
            self._complete(lambda: self._calibration.take_frames(imu_frame, camera_frame))
        if self._worker is None:
            cause = self._unusable or self._calibration.missing
            self._telemetry.refused["waiting_for_calibration"] += 1
            self._log.warn("waiting_for_calibration", f"waiting: {cause}")
        return self._worker is not None

    def _known_frame(self, frame: str, calibrated: str) -> bool:
        """Return whether a message comes from the frame whose transform is known.

        Only transforms from /tf_static have frames' names, and parameters may override messages.
        """
        p = self._parameters
        if p.extrinsics_source is not CalibrationSource.TF_STATIC or frame == calibrated:
            return True
        if calibrated in (p.imu_frame, p.camera_frame):
            return True
        self._refuse("frame_without_transform", f"no transform to frame '{frame}' is known")
        return False

    def on_camera_info(self, message: Any) -> None:
        """Take the camera's calibration."""
        self._telemetry.counts["camera_info"] += 1
        self._complete(lambda: self._take_camera_info(message))

    def _take_camera_info(self, message: Any) -> None:
        if not self._calibration.take_camera_info(message):
            self._telemetry.refused["camera_info_changed"] += 1
            text = "camera_info changed and is not taken: deactivate and activate to take it"
            self._log.warn("camera_info_changed", text)

    def on_tf_static(self, message: Any) -> None:
        """Take fixed transforms."""
        self._complete(lambda: self._calibration.take_transforms(message))

    def _complete(self, take: Callable[[], None]) -> None:
        """Add to the calibration, and start the estimator where it has become complete."""
        try:
            take()
            if self._worker is None and not self._calibration.missing:
                self._start_worker()
                self._unusable = ""
        except ValueError as error:
            self._unusable = str(error)
            self._telemetry.refused["unusable_calibration"] += 1
            self._log.error("unusable_calibration", str(error))

    def on_reference(self, message: Odometry) -> None:
        """Take a reference pose of base_link."""
        self._telemetry.counts["reference"] += 1
        if message.child_frame_id != self._parameters.base_frame:
            return self._refuse(
                "reference",
                f"reference is of frame '{message.child_frame_id}', "
                f"not of {self._parameters.base_frame}",
            )
        pose = message.pose.pose
        try:
            T_world_base = pose_matrix(pose.position, pose.orientation)
        except ValueError as error:
            return self._refuse("reference", f"reference: {error}")
        stamp_ns = stamp_ns_of(message.header)
        return self._inbox.put_command(lambda: self._monitor.add_reference(stamp_ns, T_world_base))

    def on_set_pose(self, message: PoseWithCovarianceStamped) -> None:
        """Let the odometry go on from a pose in odom_frame."""
        odom, frame = self._parameters.odom_frame, message.header.frame_id
        worker = self._worker
        if worker is None:
            return self._refuse("set_pose", "set_pose comes before the estimator has started")
        if frame not in ("", odom):
            return self._refuse("set_pose", f"set_pose is in frame '{frame}', not in {odom}")
        try:
            T_odom_base, cov = pose_and_right_cov(message.pose)
        except ValueError as error:
            return self._refuse("set_pose", f"set_pose: {error}")
        return self._inbox.put_command(lambda: self._set_pose(worker, T_odom_base, cov))

    def _set_pose(self, worker: EstimationWorker, T_odom_base: Array, odom_cov: Array) -> None:
        try:
            worker.estimator.set_pose(T_odom_base, odom_cov)
        except ValueError as error:
            self._refuse("set_pose", f"set_pose: {error}")

    def _refuse(self, cause: str, text: str) -> None:
        self._telemetry.refused[cause] += 1
        self._log.warn(cause, f"{text}: left out")

    def reset(self) -> bool:
        """Start the odometry anew; return False where no estimator runs."""
        if self._worker is None:
            return False
        worker = self._worker
        self._inbox.put_command(lambda: worker.estimator.reset("asked for by service"))
        return True

    def pause(self, paused: bool) -> bool:
        """Leave inputs out until resumed; return False where no estimator runs."""
        if self._worker is None:
            return False
        self._worker.paused = paused
        return True

    # Outputs: called in the estimator's thread.

    def _publish(self, estimate: MotionEstimate) -> None:
        self._around.states.see(estimate.state.value, estimate.cause)
        self._cause = estimate.cause
        try:
            self._outputs.publish(estimate)
        except CovarianceError as error:
            self._telemetry.refused["bad_covariance"] += 1
            self._log.error("bad_covariance", f"an estimate is not published: {error}")
            return
        self._telemetry.counts["odometry"] += 1
        now_ns = self._around.now_ns()
        # A lost estimate need not have an image, and time may not have begun (use_sim_time).
        if estimate.state is not TrackingState.LOST and now_ns:
            self._telemetry.add_latency((now_ns - estimate.stamp_ns) / NS_PER_S)
        self._monitor.add_estimate(estimate)

    def status(self) -> tuple[bytes, str, dict[str, str]]:
        """Return the diagnostic level, a summary and the values by name."""
        worker = self._worker
        if worker is None:
            cause = self._unusable or self._calibration.missing
            state = TrackingState.LOST if self._unusable else TrackingState.WAITING
            values = {"state": TrackingState.WAITING.value, "cause": cause}
            return level_of(state), f"waiting: {cause}", values | self._telemetry.values()
        state = worker.estimator.state
        cause = "paused" if worker.paused else self._cause or self._why_waiting(state, worker)
        values = {"state": state.value, "cause": cause} | self._telemetry.values()
        values |= regime_values(worker.estimator.regime)
        values |= counted(dict(worker.estimator.counters)) | nees_values(self._monitor.window)
        return level_of(state), f"{state.value}: {cause}" if cause else state.value, values

    def _why_waiting(self, state: TrackingState, worker: EstimationWorker) -> str:
        """Name the inputs that have never come, or why images are left out, before an estimate."""
        if state is not TrackingState.WAITING:
            return ""
        silent = [name for name in ("image", "imu") if not self._telemetry.counts[name]]
        if len(silent) == 1:
            text = f"no {silent[0]} yet: see its topic, its QoS, image_transport"
            self._log.warn("silent_input", f"waiting: {text}")
        if silent:
            return f"no {' and no '.join(silent)} yet"
        counted = Counter(worker.estimator.counters) + self._telemetry.refused
        counted.pop("image_overtaken", None)  # part of normal work
        faults = {cause: n for cause, n in counted.items() if cause.startswith("image_")}
        return max(faults, key=lambda cause: faults[cause], default="")


def effective_offset_s(parameters: NodeParameters, artifact: MotionArtifact) -> float:
    """Return the time offset: the parameter's, or where it is not given the artifact's."""
    given = parameters.time_offset_s
    return artifact.time_offset_s if given is None else given
