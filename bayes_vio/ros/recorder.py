"""Collect the estimator's outputs as arrays, for replays, benchmarks and plots.

python -m bayes_vio.ros.recorder OUT.npz [--duration S] [--ros-args -r __ns:=/car]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistWithCovarianceStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args

from bayes_vio.filters.published import right_perturbation_cov
from bayes_vio.ros.messages import earlier_stamp_ns, pose_matrix, stamp_ns_of, unpacked

_DEPTH = 1000


class Recorder:
    """Subscribe to the estimator's outputs on a node and keep every message as numbers.

    The node must be spun by the caller; another thread may ask for the arrays meanwhile. Arrival
    times are those of time.time_ns().
    """

    def __init__(self, node: Node) -> None:
        self._rows: dict[str, list[Any]] = defaultdict(list)
        self._lock = Lock()
        quality = QoSProfile(depth=_DEPTH)
        lenient = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        twist = TwistWithCovarianceStamped
        inputs: list[tuple[Any, str, Any, QoSProfile]] = [
            (Odometry, "odometry", self._on_odometry, quality),
            (Odometry, "relative_pose", self._on_relative_pose, quality),
            (twist, "twist", lambda m: self._on_twist("twist", m), quality),
            (twist, "twist/epistemic", lambda m: self._on_twist("epistemic_twist", m), quality),
            (Odometry, "reference", self._on_reference, lenient),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, quality),
        ]
        for kind, topic, callback, profile in inputs:
            node.create_subscription(kind, topic, callback, profile)

    def _add(self, stream: str, **values: Any) -> None:
        with self._lock:
            for name, value in values.items():
                self._rows[f"{stream}_{name}"].append(value)

    def _on_odometry(self, message: Odometry) -> None:
        self._add_pose("odometry", message)

    def _on_relative_pose(self, message: Odometry) -> None:
        earlier_ns = earlier_stamp_ns(message.child_frame_id)
        self._add_pose("relative_pose", message, earlier_stamp_ns=earlier_ns)

    def _add_pose(self, stream: str, message: Odometry, **more: Any) -> None:
        arrival_ns = time.time_ns()  # before the work on it
        pose = message.pose.pose
        T = pose_matrix(pose.position, pose.orientation)
        cov = right_perturbation_cov(T, unpacked(message.pose.covariance))
        stamp_ns = stamp_ns_of(message.header.stamp)
        self._add(stream, stamp_ns=stamp_ns, T=T, cov=cov, arrival_ns=arrival_ns, **more)

    def _on_twist(self, stream: str, message: TwistWithCovarianceStamped) -> None:
        v, w = message.twist.twist.linear, message.twist.twist.angular
        twist = np.array([v.x, v.y, v.z, w.x, w.y, w.z])
        cov = unpacked(message.twist.covariance)
        self._add(stream, stamp_ns=stamp_ns_of(message.header.stamp), mean=twist, cov=cov)

    def _on_reference(self, message: Odometry) -> None:
        pose = message.pose.pose
        T = pose_matrix(pose.position, pose.orientation)
        self._add("reference", stamp_ns=stamp_ns_of(message.header.stamp), T=T)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self._add(
                "diagnostics",
                stamp_ns=stamp_ns_of(message.header.stamp),
                json=json.dumps(
                    {
                        "name": status.name,
                        "level": status.level[0],
                        "message": status.message,
                        "values": values,
                    }
                ),
            )

    def arrays(self) -> dict[str, NDArray]:
        """Return what came so far: `odometry_stamp_ns` [n], `odometry_T` [n, 4, 4], ...

        Streams are odometry and relative_pose (stamp_ns, T, cov of the right perturbation,
        arrival_ns; relative_pose also earlier_stamp_ns), twist and epistemic_twist (stamp_ns,
        mean, cov), reference (stamp_ns, T), diagnostics (stamp_ns, json).
        """
        with self._lock:
            rows = {name: list(values) for name, values in self._rows.items()}
        return {name: np.array(values) for name, values in rows.items()}

    def save(self, path: Path) -> None:
        """Write the arrays as a compressed npz."""
        np.savez_compressed(path, **self.arrays())  # pyright: ignore[reportArgumentType]


def main(argv: Sequence[str] | None = None) -> int:
    """Record until interrupted or the duration is over."""
    rclpy.init(args=list(argv) if argv is not None else None)
    parser = argparse.ArgumentParser(description="Record the estimator's outputs as npz.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--duration", type=float, default=float("inf"), help="seconds")
    plain = remove_ros_args(argv)[0 if argv is not None else 1 :]
    arguments = parser.parse_args(plain)
    node = Node("recorder")
    recorder = Recorder(node)
    deadline_s = time.monotonic() + arguments.duration
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        while rclpy.ok() and time.monotonic() < deadline_s:
            rclpy.spin_once(node, timeout_sec=0.1)
    recorder.save(arguments.out)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
