"""Serve a node until ROS shuts down, and end the process cleanly."""

from __future__ import annotations

import signal
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

_SPIN_S = 0.1
_SHUTDOWN_S = 0.5


def make_executor() -> Any:
    """Return the executor with the least latency that this rclpy has."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def serve(node: Node) -> None:
    """Serve a node until ROS shuts down."""
    executor = make_executor()
    executor.add_node(node)
    # EventsExecutor.spin() ignores SIGINT; spin_once with a timeout does not.
    while rclpy.ok():
        try:
            executor.spin_once(timeout_sec=_SPIN_S)
        except (RuntimeError, SystemError):
            # A message that was being taken when the interrupt came cannot be converted any more;
            # the shutdown that the interrupt has asked for comes a moment later.
            if not shuts_down_within(_SHUTDOWN_S):
                raise


def shuts_down_within(timeout_s: float) -> bool:
    """Wait for ROS to shut down; return whether it did in time."""
    deadline_s = time.monotonic() + timeout_s
    while rclpy.ok() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not rclpy.ok()


def ignore_interrupts() -> None:
    """Keep a second Ctrl-C, which `ros2 launch` forwards, from cutting a clean end short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
