"""Play a bag over DDS to a real estimator process and collect what it publishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from bayes_vio.ros.player import Played, PlaySettings, play
from bayes_vio.ros.recorder import Recorder

# From the process' start to an active node: loading torch and the artifact on a slow machine.
_START_S = 60.0
_STOP_S = 10.0


class ReplayError(RuntimeError):
    """The node did not start, or did not publish."""


@dataclass(frozen=True)
class Replay:
    """What was played, and what came back: arrays as in recorder.Recorder.arrays."""

    played: Played
    arrays: dict[str, NDArray]


def replay(
    bag: Path,
    parameters: Mapping[str, str],
    log: Path,
    settings: PlaySettings | None = None,
) -> Replay:
    """Run the node with parameters in a process of its own and play a bag to it in real time.

    ``settings.remap`` leads the bag's topics to the node's. The node's log goes to ``log``. Both
    sides use a DDS domain of their own on this machine alone. Raises ReplayError, naming the log,
    where the node ends early or publishes nothing.
    """
    with _local_domain() as domain_id, _client(domain_id) as (node, recorder):
        with _node_process(parameters, log) as process:
            _wait_until_active(node, process, log)
            played = play(node, bag, settings, keep_on=lambda: process.poll() is None)
            time.sleep(1.0)  # the last image waits for IMU beyond its stamp
            if process.poll() is not None:
                raise ReplayError(f"the node ended with status {process.returncode}; see {log}")
        arrays = recorder.arrays()
    if "odometry_stamp_ns" not in arrays:
        raise ReplayError(f"the node published no odometry; see {log}")
    return Replay(played, arrays)


@contextmanager
def _local_domain() -> Iterator[int]:
    """Keep discovery on this machine, in a domain that depends on the process."""
    names = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "AMENT_PREFIX_PATH")
    before = {name: os.environ.get(name) for name in names}
    domain_id = 1 + os.getpid() % 100
    os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    try:
        yield domain_id
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _client(domain_id: int) -> Iterator[tuple[Node, Recorder]]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node("replay", context=context)
    recorder = Recorder(node)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = Thread(target=_spin, args=(executor, context.ok), daemon=True)
    thread.start()
    try:
        yield node, recorder
    finally:
        context.try_shutdown()
        thread.join(_STOP_S)
        if thread.is_alive():
            raise ReplayError(f"ROS did not shut down within {_STOP_S:g} s")
        node.destroy_node()


def _spin(executor: SingleThreadedExecutor, ok: Callable[[], bool]) -> None:
    try:
        while ok():
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        return


@contextmanager
def _node_process(parameters: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "bayes_vio.ros", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_active(node: Node, process: subprocess.Popen, log: Path) -> None:
    """Wait for the node's subscriptions, which exist once it is active."""
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ReplayError(f"the node ended with status {process.returncode}; see {log}")
        if node.count_subscribers("imu"):
            return
        time.sleep(0.05)
    raise ReplayError(f"the node was not active after {_START_S:.0f} s; see {log}")


def latency_s(arrays: dict[str, NDArray]) -> NDArray[np.float64]:
    """Return the seconds [n] from each odometry's stamp to its arrival."""
    return (arrays["odometry_arrival_ns"] - arrays["odometry_stamp_ns"]) * 1e-9
