"""What of ROS 2 is here: rclpy, middleware, messages, launch, TF; standard library alone."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from bayes_vio.doctor_machine import examine_transport
from bayes_vio.findings import Finding, Status, load, version_of

_INSTALL_ROS = "pip install '.[ros]' (in the checkout), or source a ROS 2 (docs/install.md)"
# rclpy's major version tells the distribution: wheels and ROS installations number alike.
_DISTROS = {3: "humble", 7: "jazzy", 9: "kilted", 10: "lyrical"}
SUPPORTED_DISTROS = ("humble", "jazzy", "kilted")
# Nodes that config/sros2/policy.xml speaks of.
_NODES = ("estimator", "ekf", "planner")
_MESSAGES = ("sensor_msgs", "nav_msgs", "geometry_msgs", "std_msgs", "std_srvs")
_MESSAGES += ("diagnostic_msgs", "lifecycle_msgs", "rcl_interfaces", "builtin_interfaces")


def examine_ros() -> Iterator[Finding]:
    """Yield the findings on ROS 2; only the first one where there is no rclpy."""
    rclpy = load("rclpy")
    if isinstance(rclpy, str):
        yield Finding("ROS 2", Status.MISSING, rclpy, "run", _remedy())
        return
    yield _distribution(version_of("rclpy", rclpy))
    yield _middleware()
    yield from examine_transport()
    yield from _discovery()
    absent = [name for name in _MESSAGES if isinstance(load(f"{name}.msg"), str)]
    absent = [name for name in absent if isinstance(load(f"{name}.srv"), str)]
    if absent:
        yield Finding("messages", Status.MISSING, ", ".join(absent), "run", _INSTALL_ROS)
    yield _optional(
        "launch", "launch_ros", "ros2 launch works",
        "no launch_ros: `bayes-vio run` works, launch files do not",
    )  # fmt: skip
    yield _optional(
        "tf2_ros", "tf2_ros", "there", "absent: the node cannot publish TF (publish_tf)"
    )
    yield _optional("tf2_msgs", "tf2_msgs.msg", "there", "absent: the node cannot read /tf_static")
    yield _optional(
        "ackermann_msgs", "ackermann_msgs.msg", "there",
        "absent: the planner commands by cmd_vel alone (command twist)",
    )  # fmt: skip


def _distribution(version: str) -> Finding:
    named = os.environ.get("ROS_DISTRO")
    distro = named or _DISTROS.get(int(version.partition(".")[0]), "unknown distribution")
    origin = distro if named else f"{distro}, wheels of this environment"
    detail = f"rclpy {version} ({origin})"
    if distro in SUPPORTED_DISTROS:
        return Finding("ROS 2", Status.GOOD, detail)
    supported = ", ".join(SUPPORTED_DISTROS)
    return Finding("ROS 2", Status.NOTE, f"{detail}: written for {supported}; others are untried")


def _remedy() -> str:
    """Return how rclpy comes to this kind of machine; wheels exist for one kind only."""
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return _INSTALL_ROS
    here = f"{platform.system()} {platform.machine()}"
    return f"no ROS wheels for {here}: source a ROS 2 (docs/install.md)"


def _middleware() -> Finding:
    implementation = load("rclpy.utilities")
    try:
        name = implementation.get_rmw_implementation_identifier()  # pyright: ignore
    except Exception as error:
        detail = f"does not load: {error}".splitlines()[0]
        remedy = "unset RMW_IMPLEMENTATION, or install the one that it names"
        return Finding("middleware", Status.MISSING, detail, "run", remedy)
    return Finding(
        "middleware", Status.GOOD, f"{name}, domain {os.environ.get('ROS_DOMAIN_ID', 0)}"
    )


def _discovery() -> Iterator[Finding]:
    """Warn of settings under which nodes do not see each other, or security is half set."""
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
    if reach in ("LOCALHOST", "OFF") or os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        detail = "limited to this machine" if reach != "OFF" else "off"
        remedy = "unset ROS_AUTOMATIC_DISCOVERY_RANGE ROS_LOCALHOST_ONLY to reach others"
        yield Finding("discovery", Status.NOTE, detail, remedy=remedy)
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        yield _security(os.environ.get("ROS_SECURITY_KEYSTORE", ""))


def _security(keystore: str) -> Finding:
    """Say for which nodes a keystore has enclaves; in which namespaces is not looked at."""
    if not os.path.isdir(keystore):
        return Finding(
            "security", Status.MISSING, f"is on, its keystore '{keystore}' is no folder",
            "run", "set ROS_SECURITY_KEYSTORE (docs/security.md) or ROS_SECURITY_ENABLE=false",
        )  # fmt: skip
    enclaves = {path.parent.name for path in Path(keystore, "enclaves").rglob("cert.pem")}
    absent = [name for name in _NODES if name not in enclaves]
    if not absent:
        return Finding("security", Status.GOOD, f"is on, with enclaves for {', '.join(_NODES)}")
    detail = f"is on, without enclaves named {', '.join(absent)}"
    remedy = "ros2 security create_enclave, create_permission (docs/security.md)"
    return Finding("security", Status.NOTE, detail, remedy=remedy)


def _optional(subject: str, module: str, good: str, note: str) -> Finding:
    if isinstance(load(module), ModuleType):
        return Finding(subject, Status.GOOD, good)
    remedy = "install a full ROS 2 if you want it (docs/install.md)"
    return Finding(subject, Status.NOTE, note, remedy=remedy)
