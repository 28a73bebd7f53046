"""doctor tells what is there, what is missing, and runs where nothing else does."""

import importlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_vio import doctor
from bayes_vio.doctor import Status

ROOT = Path(__file__).resolve().parent.parent


def findings() -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine()}


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Make modules fail to import, as on a machine that lacks them."""
    real = importlib.import_module

    def load(name, package=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", load)


def test_core_works_here_and_every_version_is_told():
    out = io.StringIO()
    assert doctor.report(out)
    text = out.getvalue()
    for subject in ("Python", "numpy", "torch", "rosbags", "device", "ROS 2", "cores", "memory"):
        assert any(line[4:].startswith(subject) for line in text.splitlines()), subject
    assert text.endswith("the core works\n")


def test_missing_dependency_breaks_the_core_and_is_mended_by_a_line(monkeypatch):
    without(monkeypatch, "safetensors")
    finding = findings()["safetensors"]
    assert finding.status is Status.BROKEN
    assert finding.remedy.startswith("pip install")
    out = io.StringIO()
    assert not doctor.report(out)
    assert "the core does NOT work" in out.getvalue()


def test_missing_torch_leaves_the_rest_of_the_report(monkeypatch):
    without(monkeypatch, "torch")
    found = findings()
    assert found["torch"].status is Status.BROKEN
    assert "device" not in found
    assert "memory" in found


def test_missing_ros_stops_run_alone(monkeypatch):
    without(monkeypatch, "rclpy")
    finding = findings()["ROS 2"]
    assert (finding.status, finding.stops) == (Status.MISSING, "run")
    assert doctor.report(io.StringIO())


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_no_wheels_are_promised_where_there_are_none(monkeypatch, machine):
    without(monkeypatch, "rclpy")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert f"no ROS wheels for Linux {machine}" in findings()["ROS 2"].remedy
    assert "pip install" not in findings()["ROS 2"].remedy


def test_broken_binary_is_told_in_one_line(monkeypatch):
    real = importlib.import_module

    def load(name, package=None):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file\nand more")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", load)
    finding = findings()["opencv-python"]
    assert finding.detail == "ImportError: libGL.so.1: cannot open shared object file"


def test_gpu_that_torch_cannot_use_is_told(monkeypatch):
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(doctor, "_GPU_DRIVER", ROOT / "setup.py")
    finding = findings()["device"]
    assert finding.status is Status.MISSING
    assert "driver" in finding.remedy


def test_little_memory_is_a_note_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "_memory_gib", lambda: 1.5)
    finding = findings()["memory"]
    assert finding.status is Status.NOTE
    assert finding.detail.startswith("1.5 GiB")


def test_runs_on_the_standard_library_alone():
    """The option -S hides every installed package."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from bayes_vio import doctor\n"
        "sys.exit(0 if doctor.report() else 1)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(ROOT)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert "the core does NOT work" in done.stdout
    assert done.stderr == ""
