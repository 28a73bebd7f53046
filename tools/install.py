"""Install the package, editable and with pinned versions, into the environment that runs this.

``make`` calls it once per environment. A PyTorch that is already there is kept, whatever its
version; a sourced ROS 2 is used as it is instead of the ROS wheels.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
# Run in a fresh interpreter: prints version and CUDA version of the torch that is there.
TORCH_PROBE = "import torch; print(torch.__version__, torch.version.cuda or 'cpu')"


def main() -> int:
    """Install everything and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--torch-pip-args", default="", help="passed to pip for torch alone")
    arguments = parser.parse_args()
    torch_version = install_torch(arguments.torch, shlex.split(arguments.torch_pip_args))
    constraints = write_constraints(torch_version)
    print("installing the package and its tools", flush=True)
    if os.environ.get("ROS_DISTRO"):
        install_beside_ros()
    else:
        install_with_wheels(constraints)
    # BackPACK requires torchvision, which only its examples import and which does not load beside
    # a torch of another build: left out, together with all else that it would pull in.
    pip("--no-deps", "-c", constraints, "backpack-for-pytorch", "unfoldNd", "einops")
    install_data_files()
    return 0


def pip(*arguments: object) -> None:
    """Run ``pip install`` in this environment; raise SystemExit with pip's code on failure."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    command += [] if sys.stdout.isatty() else ["--quiet"]
    done = subprocess.run([*command, *map(str, arguments)], cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)


def present_torch() -> tuple[str, str] | None:
    """Return (version, CUDA version or "cpu") of the torch that imports here, None without one."""
    probe = subprocess.run([sys.executable, "-c", TORCH_PROBE], capture_output=True, text=True)
    if probe.returncode:
        return None
    version, build = probe.stdout.split()
    return version, build


def pinned_torch() -> str:
    """Return the pin of torch as the constraints say it."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def write_constraints(torch_version: str) -> Path:
    """Write the environment's own constraints: the pins, with the torch that is there."""
    pins = CONSTRAINTS.read_text(encoding="utf-8")
    path = Path(sys.prefix) / "constraints.txt"
    path.write_text(pins.replace(pinned_torch(), f"torch=={torch_version}"), encoding="utf-8")
    return path


def install_torch(wanted: str, pip_arguments: list[str]) -> str:
    """Keep or install torch, and return its version without the build's tag."""
    found = present_torch()
    if found is None or not _is_build(found[1], wanted):
        reinstall = ["--force-reinstall"] if found else []
        print(f"installing {pinned_torch()}", flush=True)
        pip(*reinstall, *pip_arguments, "-c", CONSTRAINTS, pinned_torch())
        found = present_torch()
    if found is None:
        raise SystemExit("torch was installed but does not import: run `make clean` and try again")
    version, build = found
    if not _is_build(build, wanted):
        raise SystemExit(
            f"torch {version} is a build for {build}, not for {wanted}: pass pip the place that "
            f"PyTorch's installation page names for {wanted}, as in "
            f"make TORCH={wanted} TORCH_PIP_ARGS='--index-url URL'"
        )
    print(f"torch {version} ({build})", flush=True)
    return version.partition("+")[0]


def _is_build(build: str, wanted: str) -> bool:
    return wanted == "auto" or (build == "cpu") == (wanted == "cpu")


def install_beside_ros() -> None:
    """Install what a full ROS 2 does not ship, and leave its NumPy and OpenCV alone."""
    print(f"ROS 2 {os.environ['ROS_DISTRO']} is sourced: its own packages are used", flush=True)
    pip("-r", "requirements-ros.txt")
    pip("--no-deps", "--editable", ".")


def install_with_wheels(constraints: Path) -> None:
    """Install with the ROS wheels where they exist for this machine, else without ROS."""
    missing = why_no_ros_wheels()
    if missing:
        print(f"ROS 2 is left out: {missing}. Source a ROS 2 and make again to use it", flush=True)
    pip("-c", constraints, "--editable", ".[test]" if missing else ".[ros,test]")


def install_data_files() -> None:
    """Copy what ROS 2 looks for under share/ and lib/: an editable installation leaves it out."""
    command = [sys.executable, "-W", "ignore", "setup.py", "--quiet", "install_data"]
    subprocess.run([*command, "--install-dir", sys.prefix], cwd=ROOT, check=True)


def why_no_ros_wheels() -> str:
    """Return why the ``ros`` extra cannot be installed here, empty if it can."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"its wheels are for Linux on x86_64, this is {system} on {machine}"
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 15):
        return f"its wheels are for CPython 3.10 to 3.14, this is {platform.python_version()}"
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split("."))) < (2, 28):
        return f"its wheels need glibc 2.28 or newer, this is {libc} {version}"
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
