"""Say what this machine has, what is missing for which command, and the line that mends it.

Imports nothing but the standard library by itself, so that it runs where an installation is
broken.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TextIO

from bayes_vio.doctor_machine import examine_machine
from bayes_vio.doctor_ros import examine_ros
from bayes_vio.findings import Finding, Status, first_line, load, version_of

_GIB = 1024**3
_GPU_DRIVER = Path("/dev/nvidiactl")
_INSTALL = "pip install . (in the checkout)"
LEAST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)

# What the core imports: distribution, module, least version.
CORE = (
    ("numpy", "numpy", "1.26"),
    ("scipy", "scipy", "1.11"),
    ("torch", "torch", "2.6"),
    ("safetensors", "safetensors", "0.4"),
    ("rosbags", "rosbags", "0.11"),
    ("lz4", "lz4", "4.3"),
    ("ruamel.yaml", "ruamel.yaml", "0.18"),
    ("opencv-python", "cv2", "4.8"),
    ("matplotlib", "matplotlib", "3.8"),
    ("typer", "typer", "0.15"),
    ("rich", "rich", "13"),
)


def report(out: TextIO | None = None) -> bool:
    """Print every finding; return whether the core (all but ``run``, ``view``) works here."""
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
    """Yield the findings, from Python up to ROS 2 and the machine."""
    yield _python()
    yield from (_core_package(*names) for names in CORE)
    yield from _torch()
    yield from _torchvision()
    yield _artifact()
    yield _rerun()
    yield from examine_ros()
    yield from examine_machine()


def _python() -> Finding:
    name, version = platform.python_implementation(), platform.python_version()
    detail = f"{name} {version} at {sys.prefix}"
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        remedy = f"make a virtual environment of CPython {least} or newer"
        return Finding("Python", Status.BROKEN, detail, "every command", remedy)
    if name != "CPython" or sys.version_info[:2] > NEWEST_PYTHON:
        return Finding("Python", Status.NOTE, f"{detail}: untried here")
    return Finding("Python", Status.GOOD, detail)


def _core_package(distribution: str, module: str, least: str) -> Finding:
    loaded = load(module)
    if isinstance(loaded, str):
        stops = "every command but doctor"
        return Finding(distribution, Status.BROKEN, loaded, stops, _INSTALL)
    version = version_of(distribution, loaded)
    if _numbers(version) < _numbers(least):
        detail = f"{version}, older than {least}, the least that is asked for"
        remedy = f"pip install '{distribution}>={least}', unless a ROS 2 of this system needs it"
        return Finding(distribution, Status.NOTE, detail, remedy=remedy)
    return Finding(distribution, Status.GOOD, version)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with; none where it is not known."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else (sys.maxsize,)


def _torch() -> Iterator[Finding]:
    """Say which build torch is and whether it sees a GPU; silent where torch does not load."""
    torch = load("torch")
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
    loaded = load("torchvision")
    if isinstance(loaded, str):
        detail = f"does not load beside this torch ({loaded}); nothing here needs it"
        remedy = "pip uninstall torchvision"
        yield Finding("torchvision", Status.NOTE, detail, remedy=remedy)


def _artifact() -> Finding:
    """Load the artifact that is installed, which predicts once on loading."""
    artifact = load("bayes_vio.artifact")
    if isinstance(artifact, ModuleType):
        try:
            loaded = artifact.MotionArtifact.load(artifact.default_artifact_path())
        except Exception as error:
            problem = first_line(error)
        else:
            n_parameters = sum(p.numel() for p in loaded.model.parameters())
            detail = f"the default one loads and predicts ({n_parameters} parameters)"
            return Finding("artifact", Status.GOOD, detail)
    else:
        problem = artifact
    stops = "evaluate, inspect and run without --artifact"
    remedy = "give --artifact one of `bayes-vio fit`, or install the package again"
    return Finding("artifact", Status.MISSING, problem, stops, remedy)


def _rerun() -> Finding:
    """Say whether `view` can draw; found, not loaded, for loading it takes a second."""
    if importlib.util.find_spec("rerun") is not None:
        return Finding("rerun-sdk", Status.GOOD, "installed: view can draw")
    detail = "not installed; nothing but view needs it"
    remedy = "pip install '.[view]' (in the checkout; CPython 3.11 or newer)"
    return Finding("rerun-sdk", Status.MISSING, detail, "view", remedy)
