"""Publish a recorded bag over DDS in real time, without a ROS installation.

    python -m bayes_vio.ros.player BAG [--keep-stamps] [--topic image --topic imu ...]

Messages go out as they were serialised. Only the stamp of a leading header is rewritten: all are
shifted alike, so that the recording seems to happen now.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import remove_ros_args
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_typestore

from bayes_vio.conventions import NS_PER_S

_DEPTH = 200
_LITTLE_ENDIAN_FLAG = 1
_STAMP_OFFSET = 4  # behind the encapsulation header of a CDR message
_LEAD_NS = NS_PER_S // 5
# A silence that is longer is taken for a wrong log time, for which nobody should have to wait.
_LONGEST_SILENCE_S = 600.0


@dataclass(frozen=True)
class PlaySettings:
    """What of a bag is played, and how.

    topics: names in the bag, empty: all. remap: published name by name in the bag. start_s,
    duration_s: from the bag's beginning. restamp: shift stamps to now. wait_s: how long to wait
    for a subscriber of every topic that is played, 0: not at all.
    """

    topics: tuple[str, ...] = ()
    remap: dict[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    duration_s: float = float("inf")
    restamp: bool = True
    wait_s: float = 0.0


@dataclass(frozen=True)
class Played:
    """What was published: messages by topic, the shift of stamps, the largest lateness."""

    counts: dict[str, int]
    stamp_shift_ns: int
    latest_s: float
    left_out: dict[str, str]


class PlayError(ValueError):
    """A bag cannot be played; says why."""


def restamped(data: bytes, shift_ns: int) -> bytes:
    """Return a CDR message that begins with a std_msgs/Header, its stamp shifted."""
    layout = "<iI" if data[1] & _LITTLE_ENDIAN_FLAG else ">iI"
    seconds, nanoseconds = struct.unpack_from(layout, data, _STAMP_OFFSET)
    shifted = divmod(seconds * NS_PER_S + nanoseconds + shift_ns, NS_PER_S)
    patched = bytearray(data)
    struct.pack_into(layout, patched, _STAMP_OFFSET, *shifted)
    return bytes(patched)


def message_class(name: str) -> Any | None:
    """Return the Python class of `sensor_msgs/msg/Imu`, or None where it is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:
        return None


def has_leading_header(kind: Any) -> bool:
    """Return whether a message class begins with a std_msgs/Header."""
    first = next(iter(kind.get_fields_and_field_types().items()), ("", ""))
    return first == ("header", "std_msgs/Header")


@dataclass(frozen=True)
class _Outlet:
    publisher: Publisher
    stamped: bool
    topic: str


def play(
    node: Node,
    bag: Path,
    settings: PlaySettings | None = None,
    keep_on: Callable[[], bool] = rclpy.ok,
) -> Played:
    """Publish a bag's messages at the pace of their log times, until its end or not keep_on().

    Topics whose type is not installed are left out and listed. Raises PlayError for a bag that
    cannot be read or holds nothing to play.
    """
    settings = settings or PlaySettings()
    store = get_typestore(Stores.ROS2_KILTED)
    try:
        with AnyReader([Path(bag)], default_typestore=store) as reader:
            outlets, left_out = _outlets(node, reader, settings)
            if not outlets:
                raise PlayError(f"{bag} has no topic to play: left out are {left_out or 'none'}")
            _wait_for_subscribers(outlets.values(), settings.wait_s, keep_on)
            return _pace(reader, outlets, settings, keep_on, left_out)
    except (AnyReaderError, ReaderError, OSError) as error:
        raise PlayError(f"{bag} cannot be played: {error}") from error


def _outlets(
    node: Node, reader: AnyReader, settings: PlaySettings
) -> tuple[dict[int, _Outlet], dict[str, str]]:
    """Return a publisher per connection that is played, and why topics are left out."""
    outlets: dict[int, _Outlet] = {}
    left_out: dict[str, str] = {}
    for connection in reader.connections:
        topic = connection.topic
        if settings.topics and topic.lstrip("/") not in {t.lstrip("/") for t in settings.topics}:
            continue
        kind = message_class(connection.msgtype)
        if kind is None:
            left_out[topic] = f"{connection.msgtype} is not installed"
            continue
        name = settings.remap.get(topic, settings.remap.get(topic.lstrip("/"), topic.lstrip("/")))
        publisher = node.create_publisher(kind, name, _quality(topic))
        outlets[connection.id] = _Outlet(publisher, has_leading_header(kind), topic)
    return outlets, left_out


def _quality(topic: str) -> QoSProfile:
    if topic.endswith("tf_static"):
        return QoSProfile(depth=_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(depth=_DEPTH)


def _wait_for_subscribers(outlets: Any, timeout_s: float, keep_on: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + timeout_s
    publishers = [outlet.publisher for outlet in outlets]
    while time.monotonic() < deadline_s and keep_on():
        if all(p.get_subscription_count() for p in publishers):
            return
        time.sleep(0.02)


def _pace(
    reader: AnyReader,
    outlets: dict[int, _Outlet],
    settings: PlaySettings,
    keep_on: Callable[[], bool],
    left_out: dict[str, str],
) -> Played:
    messages = _messages(reader, outlets, settings)
    first = next(messages, None)
    if first is None:
        raise PlayError("the bag holds no message in the asked time")
    shift_ns = time.time_ns() + _LEAD_NS - first[1]
    counts: Counter[str] = Counter()
    latest_ns = 0
    for outlet, log_ns, data in chain([first], messages):
        stamped = settings.restamp and outlet.stamped
        outgoing = restamped(data, shift_ns) if stamped else bytes(data)
        early_ns = _wait_until(log_ns + shift_ns, keep_on)
        if not keep_on():
            break
        latest_ns = max(latest_ns, -early_ns)
        outlet.publisher.publish(outgoing)
        counts[outlet.topic] += 1
    return Played(
        dict(counts), shift_ns if settings.restamp else 0, latest_ns / NS_PER_S, left_out
    )


def _wait_until(due_ns: int, keep_on: Callable[[], bool]) -> int:
    """Wait for a time, or not keep_on(); return how early it still is (ns)."""
    early_ns = due_ns - time.time_ns()
    if early_ns > _LONGEST_SILENCE_S * NS_PER_S:
        raise PlayError(
            f"the next message comes only after {early_ns / NS_PER_S:.0f} s: play the parts "
            f"before and behind it, each by its start and duration"
        )
    while early_ns > 0 and keep_on():
        time.sleep(min(early_ns / NS_PER_S, 0.1))
        early_ns = due_ns - time.time_ns()
    return early_ns


def _messages(
    reader: AnyReader, outlets: dict[int, _Outlet], settings: PlaySettings
) -> Iterator[tuple[_Outlet, int, bytes]]:
    start_ns = reader.start_time + int(settings.start_s * NS_PER_S)
    length_s = min(settings.duration_s, 1e9)
    stop_ns = start_ns + int(length_s * NS_PER_S)
    connections = [c for c in reader.connections if c.id in outlets]
    for connection, log_ns, data in reader.messages(connections, start_ns, stop_ns):
        yield outlets[connection.id], log_ns, data


def main(argv: Sequence[str] | None = None) -> int:
    """Play a bag as a program; ROS arguments (remapping, namespace) follow --ros-args."""
    rclpy.init(args=list(argv) if argv is not None else None)
    arguments = _arguments(remove_ros_args(argv)[0 if argv is not None else 1 :])
    settings = PlaySettings(
        topics=tuple(arguments.topic),
        start_s=arguments.start,
        duration_s=arguments.duration,
        restamp=not arguments.keep_stamps,
        wait_s=arguments.wait,
    )
    node, status = Node("bag_player"), 0
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        try:
            played = play(node, arguments.bag, settings)
            text = f"published {played.counts}, left out {played.left_out or 'none'}"
            node.get_logger().info(text)
        except PlayError as error:
            node.get_logger().error(str(error))
            status = 2
    node.destroy_node()
    rclpy.try_shutdown()
    return status


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Publish a bag over DDS in real time.")
    parser.add_argument("bag", type=Path, help="folder or file of the bag")
    parser.add_argument("--topic", action="append", default=[], help="play only these topics")
    parser.add_argument("--start", type=float, default=0.0, help="seconds to leave out first")
    parser.add_argument("--duration", type=float, default=float("inf"), help="seconds to play")
    parser.add_argument("--keep-stamps", action="store_true", help="do not shift stamps to now")
    parser.add_argument("--wait", type=float, default=5.0, help="seconds to wait for subscribers")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
