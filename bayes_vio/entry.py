"""Where processes begin: the command line and the nodes, from before anything is imported.

Loading torch takes seconds. An interrupt meanwhile ends the process in one line, and the garbage
collector, which would go through all of torch again and again, waits.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

INTERRUPTED = 130  # what a shell says of a process that SIGINT ended
# Functions of these modules import what a command needs, before there is anything to clean up.
_MODULES = tuple(
    str(Path(__file__).with_name(name)) for name in ("entry.py", "cli.py", "cli_bags.py")
)
_IMPORT_SYSTEM = "<frozen importlib"


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run ``bayes-vio`` and return its exit code."""
    with _interruptible():
        from bayes_vio.cli import main

        return main(argv)


def estimator_node(argv: Sequence[str] | None = None) -> int:
    """Run the node `estimator` and return its exit code; argv as given to a ROS executable."""
    with _interruptible():
        with uncollected():
            from bayes_vio.ros.estimator_node import main
        return _until_interrupted(main, argv)


def ekf(argv: Sequence[str] | None = None) -> int:
    """Run the node `ekf` and return its exit code; argv as given to a ROS executable."""
    with _interruptible():
        with uncollected():
            from bayes_vio.ros.ekf_node import main
        return _until_interrupted(main, argv)


def planner_node(argv: Sequence[str] | None = None) -> int:
    """Run the node `planner` and return its exit code; argv as given to a ROS executable."""
    with _interruptible():
        with uncollected():
            from bayes_vio.ros.planner_node import main
        return _until_interrupted(main, argv)


def _until_interrupted(
    main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None
) -> int:
    try:
        return main(argv)
    except KeyboardInterrupt:  # before rclpy has its own handler
        _say_interrupted()
        return INTERRUPTED


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import without garbage collections, and keep what was imported out of later ones.

    ``gc.unfreeze`` takes it in again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End the process at once where an interrupt comes while a command imports what it needs.

    As an exception it would become other errors, or be lost, in the modules that it cuts in two.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # ignored, as a shell has it in the background, or a caller's business
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    yield
    # The work is done: an interrupt from here on would only cut the interpreter's end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        _say_interrupted()
        os._exit(INTERRUPTED)
    signal.default_int_handler(number, frame)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether the innermost function of _MODULES waits for an import."""
    name = ""
    while frame is not None:
        inner, name = name, frame.f_code.co_filename
        if name in _MODULES and frame.f_code.co_name != "<module>":
            return inner.startswith(_IMPORT_SYSTEM)
        frame = frame.f_back
    return False


def _say_interrupted() -> None:
    with contextlib.suppress(OSError, AttributeError):  # closed, or there is none
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
