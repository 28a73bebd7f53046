"""doctor tells what is there, what is missing, and runs where nothing else does."""

import importlib
import importlib.machinery
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_vio import doctor, doctor_machine, doctor_ros
from bayes_vio.findings import Finding, Status
from tests.motion_cases import tiny_artifact

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def small_artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "artifact"
    tiny_artifact().save(folder)
    return folder


@pytest.fixture(autouse=True)
def installed(small_artifact, tmp_path, monkeypatch) -> Path:
    """Put a small artifact in the installed one's place, so that nothing depends on that."""
    folder = Path(shutil.copytree(small_artifact, tmp_path / "artifact"))
    monkeypatch.setattr("bayes_vio.artifact.default_artifact_path", lambda: folder)
    return folder


def findings() -> dict[str, Finding]:
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


@pytest.mark.parametrize("there", [True, False])
def test_missing_rerun_stops_view_alone(monkeypatch, there):
    real = importlib.util.find_spec
    found = importlib.machinery.ModuleSpec("rerun", None) if there else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found if name == "rerun" else real(name)
    )
    finding = findings()["rerun-sdk"]
    assert (finding.status is Status.GOOD) == there
    assert finding.stops == ("" if there else "view")
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
    monkeypatch.setattr(doctor_machine, "memory_gib", lambda: 1.5)
    finding = findings()["memory"]
    assert finding.status is Status.NOTE
    assert finding.detail.startswith("1.5 GiB")


def test_a_python_that_is_too_old_breaks_everything(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    finding = findings()["Python"]
    assert (finding.status, finding.stops) == (Status.BROKEN, "every command")
    assert "3.10" in finding.remedy


def test_a_python_that_is_newer_than_tried_is_a_note(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert findings()["Python"].status is Status.NOTE


def test_an_old_dependency_is_a_note_with_its_line(monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(
        doctor, "version_of", lambda d, m: "3.6.3" if d == "matplotlib" else real(d, m)
    )
    finding = findings()["matplotlib"]
    assert finding.status is Status.NOTE
    assert "3.6.3, older than 3.8" in finding.detail
    assert "pip install 'matplotlib>=3.8'" in finding.remedy


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13, 0)), ("4.8", (4, 8)), ("10", (10,)), ("of unknown", (sys.maxsize,))],
)
def test_versions_are_compared_by_their_numbers(version, numbers):
    assert doctor._numbers(version) == numbers


def test_what_doctor_asks_for_is_what_setup_asks_for():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = setup.partition("install_requires=[")[2].partition("]")[0]
    asked = set(re.findall(r'"([\w.-]+)>=([\d.]+)', required))
    assert asked == {(distribution, least) for distribution, _, least in doctor.CORE}
    assert f'python_requires=">={".".join(map(str, doctor.LEAST_PYTHON))}"' in setup
    newest = re.search(r"python_version < '3\.(\d+)'", setup)
    assert newest is not None
    assert (3, int(newest[1]) - 1) == doctor.NEWEST_PYTHON


def test_supported_distributions_are_those_of_the_guide():
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for distro in doctor_ros.SUPPORTED_DISTROS:
        assert distro.capitalize() in guide


def test_the_installed_artifact_is_loaded_and_predicts():
    finding = findings()["artifact"]
    assert finding.status is Status.GOOD
    assert "loads and predicts" in finding.detail


@pytest.mark.parametrize("damage", ["flipped", "absent"])
def test_an_installed_artifact_that_does_not_load_is_told(installed, damage):
    file = installed / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data) if damage == "flipped" else file.unlink()
    finding = findings()["artifact"]
    assert finding.status is Status.MISSING
    assert "ArtifactError: artifact" in finding.detail
    assert "without --artifact" in finding.stops
    assert finding.remedy


def test_limits_that_make_dds_lose_images_are_told(monkeypatch, tmp_path):
    (tmp_path / "rmem_max").write_text("212992\n")  # Linux' default
    monkeypatch.setattr(doctor_machine, "_RECEIVE_BUFFER", tmp_path / "rmem_max")
    monkeypatch.setattr(doctor_machine, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(doctor_machine, "_LEAST_SHARED_MEMORY_MIB", 1e12)
    memory, buffers = doctor_machine.examine_transport()
    assert (memory.status, buffers.status) == (Status.NOTE, Status.NOTE)
    assert "/dev/shm" in memory.remedy
    assert buffers.detail.startswith("0.2 MiB")
    assert "net.core.rmem_max" in buffers.remedy


def test_a_system_without_these_limits_has_no_lines_on_them(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_machine, "_RECEIVE_BUFFER", tmp_path / "none")
    monkeypatch.setattr(doctor_machine, "_SHARED_MEMORY", tmp_path / "none")
    assert list(doctor_machine.examine_transport()) == []


def test_a_folder_that_is_not_writable_is_told(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert findings()["folder"].status is Status.NOTE


@pytest.mark.parametrize(
    ("version", "named", "status"),
    [
        ("9.1.2", None, Status.GOOD),
        ("7.1.4", None, Status.GOOD),
        ("3.3.15", "humble", Status.GOOD),
        ("10.0.0", None, Status.NOTE),
        ("1.0.0", "foxy", Status.NOTE),
    ],
)
def test_ros_distributions_are_told_by_the_version(monkeypatch, version, named, status):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    if named:
        monkeypatch.setenv("ROS_DISTRO", named)
    finding = doctor_ros._distribution(version)
    assert finding.status is status
    assert (named or "rclpy") in finding.detail


def test_discovery_and_security_settings_are_told(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", "/nowhere")
    found = {f.subject: f for f in doctor_ros._discovery()}
    assert found["discovery"].status is Status.NOTE
    assert found["security"].status is Status.MISSING
    assert "docs/security.md" in found["security"].remedy
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_SECURITY_ENABLE", "ROS_LOCALHOST_ONLY"):
        monkeypatch.delenv(name, raising=False)
    assert list(doctor_ros._discovery()) == []


def test_nodes_without_an_enclave_in_the_keystore_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(tmp_path))

    def told() -> tuple[Status, str]:
        (finding,) = (f for f in doctor_ros._discovery() if f.subject == "security")
        return finding.status, finding.detail

    for folder in ("estimator", "car/planner"):  # an enclave follows its node's namespace
        (tmp_path / "enclaves" / folder).mkdir(parents=True)
        (tmp_path / "enclaves" / folder / "cert.pem").touch()
    assert told() == (Status.NOTE, "is on, without enclaves named ekf")
    (tmp_path / "enclaves" / "ekf").mkdir()
    assert told()[0] is Status.NOTE  # a folder without a certificate is none
    (tmp_path / "enclaves" / "ekf" / "cert.pem").touch()
    assert told() == (Status.GOOD, "is on, with enclaves for estimator, ekf, planner")


def test_nodes_that_doctor_looks_for_are_those_of_the_policy():
    policy = (ROOT / "config" / "sros2" / "policy.xml").read_text(encoding="utf-8")
    assert tuple(re.findall(r'<profile .*node="(\w+)"', policy)) == doctor_ros._NODES


def test_every_finding_that_stops_something_says_what_mends_it(monkeypatch):
    without(monkeypatch, "rclpy", "torch", "cv2")
    for finding in doctor.examine():
        if finding.status in (Status.MISSING, Status.BROKEN):
            assert finding.stops, finding
            assert finding.remedy, finding


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
