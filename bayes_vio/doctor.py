"""Say what this machine has, what is missing for which command, and the line that mends it.

Imports nothing but the standard library, so that it runs where an installation is broken.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TextIO

_GIB = 1024**3
_LEAST_MEMORY_GIB = 4.0
_LEAST_DISK_GIB = 5.0
_GPU_DRIVER = Path("/dev/nvidiactl")
_INSTALL = "pip install . (in the checkout)"
_INSTALL_ROS = "pip install '.[ros]' (in the checkout), or source a ROS 2 (README)"
# rclpy's major version tells the distribution: wheels and ROS installations number alike.
_DISTROS = {3: "humble", 7: "jazzy", 9: "kilted", 10: "lyrical"}

# What the core imports: distribution, module.
_CORE = (
    ("numpy", "numpy"),
    ("scipy", "scipy"),
    ("torch", "torch"),
    ("safetensors", "safetensors"),
    ("rosbags", "rosbags"),
    ("ruamel.yaml", "ruamel.yaml"),
    ("opencv-python", "cv2"),
    ("matplotlib", "matplotlib"),
    ("typer", "typer"),
    ("rich", "rich"),
)
_MESSAGES = ("sensor_msgs", "nav_msgs", "geometry_msgs", "std_msgs", "std_srvs")
_MESSAGES += ("diagnostic_msgs", "lifecycle_msgs")


class Status(Enum):
    """How a finding stands: well, worth knowing, missing for some commands, missing for all."""

    GOOD = "ok"
    NOTE = "--"
    MISSING = "!!"
    BROKEN = "XX"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, what it stops, what mends it."""

    subject: str
    status: Status
    detail: str
    stops: str = ""
    remedy: str = ""


def report(out: TextIO | None = None) -> bool:
    """Print every finding; return whether the core (all but ``run``) works on this machine."""
    out = out or sys.stdout
    findings = list(examine())
    for finding in findings:
        print(f"{finding.status.value}  {finding.subject:<14} {finding.detail}", file=out)
        if finding.stops:
            print(f"    {'':<14} stops: {finding.stops}", file=out)
        if finding.remedy:
            print(f"    {'':<14} mend:  {finding.remedy}", file=out)
    works = all(finding.status is not Status.BROKEN for finding in findings)
    print("the core works" if works else "the core does NOT work: mend the lines XX", file=out)
    return works


def examine() -> Iterator[Finding]:
    """Yield the findings, from Python up to ROS 2."""
    yield _python()
    yield from (_core_package(*names) for names in _CORE)
    yield from _torch()
    yield from _torchvision()
    yield _artifact()
    yield from _ros()
    yield from _machine()


def _python() -> Finding:
    name, version = platform.python_implementation(), platform.python_version()
    return Finding("Python", Status.GOOD, f"{name} {version} at {sys.prefix}")


def _load(module: str) -> ModuleType | str:
    """Import a module; return it, or why it does not load (a broken binary raises anything)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"no module named {error.name}"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _version(distribution: str, module: ModuleType) -> str:
    """Return a version, also of a module that the system's packages installed unnamed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "of unknown version"))


def _core_package(distribution: str, module: str) -> Finding:
    loaded = _load(module)
    if isinstance(loaded, str):
        stops = "every command but doctor"
        return Finding(distribution, Status.BROKEN, loaded, stops, _INSTALL)
    return Finding(distribution, Status.GOOD, _version(distribution, loaded))


def _torch() -> Iterator[Finding]:
    """Say which build torch is and whether it sees a GPU; silent where torch does not load."""
    torch = _load("torch")
    if isinstance(torch, str):
        return
    build, threads = torch.version.cuda, torch.get_num_threads()
    if torch.cuda.is_available():
        name, (_, total) = torch.cuda.get_device_name(0), torch.cuda.mem_get_info(0)
        detail = f"cuda: {name}, {total / _GIB:.0f} GiB, CUDA {build}; cpu: {threads} threads"
        yield Finding("device", Status.GOOD, detail)
    elif build and _GPU_DRIVER.exists():
        detail = f"cpu, {threads} threads: torch is built for CUDA {build} but cannot use the GPU"
        remedy = "update the NVIDIA driver, or install a torch for its CUDA (nvidia-smi names it)"
        yield Finding("device", Status.MISSING, detail, "commands with --device cuda", remedy)
    elif _GPU_DRIVER.exists():
        detail = f"cpu, {threads} threads: there is a GPU, but torch is the build for CPU"
        remedy = "make TORCH=cuda TORCH_PIP_ARGS='--index-url URL' (PyTorch's page names it)"
        yield Finding("device", Status.NOTE, detail, remedy=remedy)
    else:
        yield Finding("device", Status.GOOD, f"cpu, {threads} threads; no GPU here")


def _torchvision() -> Iterator[Finding]:
    """Warn of a torchvision that is there and does not load: other packages trip over it."""
    if importlib.util.find_spec("torchvision") is None:
        return
    loaded = _load("torchvision")
    if isinstance(loaded, str):
        detail = f"does not load beside this torch ({loaded}); nothing here needs it"
        remedy = "pip uninstall torchvision"
        yield Finding("torchvision", Status.NOTE, detail, remedy=remedy)


def _artifact() -> Finding:
    folder = Path(__file__).parent / "assets" / "default_artifact"
    if (folder / "artifact.json").is_file():
        return Finding("artifact", Status.GOOD, "the default one is installed")
    stops = "commands without --artifact"
    return Finding(
        "artifact", Status.MISSING, "no default one", stops, "bayes-vio fit, or reinstall"
    )


def _ros() -> Iterator[Finding]:
    rclpy = _load("rclpy")
    if isinstance(rclpy, str):
        yield Finding("ROS 2", Status.MISSING, rclpy, "run", _ros_remedy())
        return
    version = _version("rclpy", rclpy)
    origin = os.environ.get("ROS_DISTRO") or f"{_distro_of(version)}, wheels of this environment"
    yield Finding("ROS 2", Status.GOOD, f"rclpy {version} ({origin})")
    yield _middleware()
    absent = [name for name in _MESSAGES if isinstance(_load(f"{name}.msg"), str)]
    absent = [name for name in absent if isinstance(_load(f"{name}.srv"), str)]
    if absent:
        yield Finding("messages", Status.MISSING, ", ".join(absent), "run", _INSTALL_ROS)
    launch = isinstance(_load("launch_ros"), ModuleType)
    yield Finding("launch", Status.GOOD, "ros2 launch works") if launch else Finding(
        "launch", Status.NOTE, "no launch_ros: `bayes-vio run` works, launch files do not",
        remedy="install a full ROS 2 if you want launch files",
    )  # fmt: skip
    tf = isinstance(_load("tf2_ros"), ModuleType)
    yield Finding("tf2_ros", Status.GOOD if tf else Status.NOTE, "there" if tf else "absent: "
                  "the node cannot publish TF (publish_tf)")  # fmt: skip


def _distro_of(rclpy_version: str) -> str:
    return _DISTROS.get(int(rclpy_version.partition(".")[0]), "unknown distribution")


def _ros_remedy() -> str:
    """Return how rclpy comes to this kind of machine; wheels exist for one kind only."""
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return _INSTALL_ROS
    return f"no ROS wheels for {platform.system()} {platform.machine()}: source a ROS 2 (README)"


def _middleware() -> Finding:
    implementation = _load("rclpy.utilities")
    try:
        name = implementation.get_rmw_implementation_identifier()  # pyright: ignore
    except Exception as error:
        detail = f"does not load: {error}".splitlines()[0]
        remedy = "unset RMW_IMPLEMENTATION, or install the one that it names"
        return Finding("middleware", Status.MISSING, detail, "run", remedy)
    return Finding(
        "middleware", Status.GOOD, f"{name}, domain {os.environ.get('ROS_DOMAIN_ID', 0)}"
    )


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", Status.GOOD, f"{cores} ({platform.system()} {platform.machine()})")
    yield _amount("memory", _memory_gib(), _LEAST_MEMORY_GIB, "free", "close other programs")
    yield _amount("disk", shutil.disk_usage(Path.cwd()).free / _GIB, _LEAST_DISK_GIB,
                  "free here", "free some space: bags are large")  # fmt: skip


def _memory_gib() -> float:
    """Return the memory (GiB) that is available, or all of it where only that is known."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) / 1024**2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB


def _amount(subject: str, gib: float, least: float, what: str, remedy: str) -> Finding:
    if gib >= least:
        return Finding(subject, Status.GOOD, f"{gib:.1f} GiB {what}")
    return Finding(subject, Status.NOTE, f"{gib:.1f} GiB {what}; a fit wants {least:.0f}",
                   remedy=remedy)  # fmt: skip
