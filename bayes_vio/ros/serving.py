"""Serve a node until ROS shuts down, and end the process cleanly."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

_SPIN_S = 0.1
_SHUTDOWN_S = 0.5
_BAD_USAGE = 2
# What rcl says of a ROS argument; the places in its source that follow help nobody.
_UNPARSED = re.compile(r"Couldn't parse .*?(?=, at /|$)", re.DOTALL)


def make_executor() -> Any:
    """Return the executor with the least latency that this rclpy has."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def serve(node: Node | StartableNode) -> None:
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


def _interrupt_once() -> None:
    """Let the first interrupt end the process, and those that follow end nothing more."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        return  # ignored, or not Python's

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore_interrupts()
        before(number, frame)

    signal.signal(signal.SIGINT, interrupt)


class StartableNode(Protocol):
    """A lifecycle node that may be asked to configure and activate itself."""

    @property
    def autostart(self) -> bool: ...

    def start(self) -> None: ...

    def destroy_node(self) -> None: ...


def run(make_node: Callable[[], StartableNode], argv: Sequence[str] | None) -> int:
    """Run a node until it is interrupted and return the process's exit code.

    2, and one line on stderr, for ROS arguments that cannot be read.
    """
    _interrupt_once()
    if problem := _initialise(argv):
        print(problem, file=sys.stderr)
        return _BAD_USAGE
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        node = make_node()
        try:
            if node.autostart:
                node.start()
            serve(node)
        finally:
            ignore_interrupts()
            node.destroy_node()
    while not _has_ended():
        pass
    return 0


def _initialise(argv: Sequence[str] | None) -> str:
    """Initialise ROS; return what is wrong with its arguments, empty where nothing is."""
    try:
        rclpy.init(args=list(argv) if argv is not None else None)
    except rclpy_implementation.UnknownROSArgsError as error:
        return f"ROS does not know the arguments {error}"
    except rclpy_implementation.RCLError as error:
        unparsed = _UNPARSED.search(str(error))
        if unparsed is None:
            raise
        return f"a ROS argument cannot be read: {unparsed[0]}"
    return ""


def _has_ended() -> bool:
    """Shut ROS down; return whether no interrupt came between."""
    try:
        rclpy.try_shutdown()
        # Shutting down has put back the handler that was there before rclpy's.
        ignore_interrupts()
    except KeyboardInterrupt:
        return False
    return True
