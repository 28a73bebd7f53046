"""The project's own description agrees with itself, and with what is installed."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

import bayes_vio

ROOT = Path(__file__).resolve().parent.parent
# Names of packages that pip and rosdep know under other names than Python does.
DISTRIBUTION = {"cv2": "opencv-python", "ruamel": "ruamel.yaml", "yaml": "PyYAML"}
ROS_PACKAGES = {
    "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "nav_msgs",
    "rcl_interfaces", "rclpy", "sensor_msgs", "std_msgs", "std_srvs",
}  # fmt: skip
# Imported only where they are there, and told by doctor: a full ROS 2 brings them.
OPTIONAL = {
    "ackermann_msgs", "tf2_ros", "tf2_msgs", "backpack", "optuna", "sklearn", "torchvision",
    "typing_extensions", "gtsam", "rerun",
}  # fmt: skip
# Extras that make does not install: their ranges stand in setup.py alone.
BY_HAND = {"peers", "oracle", "search"}


@pytest.fixture(scope="module")
def described() -> dict:
    """Return what setup.py tells setuptools."""
    keywords: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **given: keywords.update(given))
        runpy.run_path(str(ROOT / "setup.py"))
    return keywords


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def project_files() -> list[Path]:
    """Return the files that belong to the project, whether or not they are committed."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]
    tops = ("bayes_vio", "tests", "launch", "config", "docs", "benchmarks", "scripts", "tools")
    found = [path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()]
    return [p for p in [*found, *ROOT.glob("*.*")] if p.is_file() and "__pycache__" not in p.parts]


def requirements(described: dict) -> list[Requirement]:
    extras = [line for extra in described["extras_require"].values() for line in extra]
    return [Requirement(line) for line in [*described["install_requires"], *extras]]


def pins(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_version_is_said_once(described, manifest):
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    said = {described["version"], manifest.findtext("version"), citation[1], bayes_vio.__version__}
    assert said == {bayes_vio.__version__}
    assert f"## {bayes_vio.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_package_xml_is_what_colcon_reads(manifest):
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == "bayes_vio"
    assert manifest.findtext("export/build_type") == "ament_python"
    maintainer = manifest.find("maintainer")
    assert maintainer is not None
    # The pattern of catkin_pkg: a name that it refuses makes colcon drop the package's type.
    assert re.fullmatch(r"[-\w%+]+(\.[-\w%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}",
                        maintainer.get("email", ""))  # fmt: skip
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest.findtext("version", ""))
    order = ["name", "version", "description", "maintainer", "license"]
    assert [child.tag for child in manifest][:5] == order


def test_package_xml_is_valid_for_the_parser_of_ros(manifest):
    catkin = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg is not installed")
    warnings: list[str] = []
    catkin.parse_package(str(ROOT), warnings=warnings)
    assert warnings == []


def imported(folder: Path) -> set[str]:
    """Return the top names of all modules that a folder's code imports, lazily ones included."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"bayes_vio"} - OPTIONAL


def test_whatever_is_imported_is_required(described, manifest):
    names = imported(ROOT / "bayes_vio")
    required = {Requirement(line).name for line in described["install_requires"]}
    assert {DISTRIBUTION.get(name, name) for name in names - ROS_PACKAGES} <= required
    depends = {element.text for element in manifest.findall("exec_depend")}
    assert names & ROS_PACKAGES <= depends


def test_whatever_is_required_is_imported(described):
    names = {DISTRIBUTION.get(name, name) for name in imported(ROOT / "bayes_vio")}
    assert {Requirement(line).name for line in described["install_requires"]} <= names


@pytest.mark.parametrize("file", ["constraints.txt", "requirements-ros.txt"])
def test_pins_satisfy_the_ranges(described, file):
    ranges = {r.name.lower(): r.specifier for r in requirements(described)}
    for pin in pins(file):
        versions = [s.version for s in pin.specifier if s.operator == "=="]
        allowed = ranges.get(pin.name.lower())
        if versions and allowed is not None:
            assert allowed.contains(versions[0]), f"{pin} is outside {allowed}"


def test_everything_required_is_pinned_for_every_python(described):
    for python in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        environment = {"python_version": python, "platform_machine": "x86_64",
                       "sys_platform": "linux", "implementation_name": "cpython"}  # fmt: skip
        pinned = [p.name for p in pins("constraints.txt") if _applies(p, environment)]
        assert len(pinned) == len(set(pinned)), f"two pins apply to Python {python}"
        ours = {k: v for k, v in described["extras_require"].items() if k not in BY_HAND}
        asked = requirements(described | {"extras_require": ours})
        needed = [r.name for r in asked if _applies(r, environment)]
        assert set(needed) <= set(pinned)


def _applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def test_constraints_pin_exactly():
    for pin in pins("constraints.txt"):
        assert [s.operator for s in pin.specifier] == ["=="], str(pin)


def test_ros_wheels_are_asked_for_where_they_exist(described):
    here = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.12",
            "implementation_name": "cpython"}  # fmt: skip
    wheels = [Requirement(line) for line in described["extras_require"]["ros"]]
    assert all(_applies(r, here) for r in wheels)
    for change in ({"platform_machine": "aarch64"}, {"sys_platform": "darwin"},
                   {"implementation_name": "pypy"}, {"python_version": "3.15"}):  # fmt: skip
        assert not any(_applies(r, here | change) for r in wheels)


def test_data_files_hold_everything_that_ros_looks_for(described):
    placed = {file: target for target, files in described["data_files"] for file in files}
    for folder in ("launch", "config"):
        names = [str(p.relative_to(ROOT)) for p in (ROOT / folder).iterdir() if p.is_file()]
        assert names
        assert {placed.get(name) for name in names} == {f"share/bayes_vio/{folder}"}
    assert placed["package.xml"] == "share/bayes_vio"
    assert placed["resource/bayes_vio"] == "share/ament_index/resource_index/packages"
    executables = list((ROOT / "scripts").iterdir())
    assert executables
    for path in executables:
        assert placed[f"scripts/{path.name}"] == "lib/bayes_vio"
        assert path.stat().st_mode & 0o111, f"{path.name} is not executable"
        assert len(path.read_text().splitlines()) == 3


def test_launch_files_start_executables_that_are_installed():
    for file in (ROOT / "launch").glob("*.launch.py"):
        named = re.findall(r'executable="([^"]+)"', file.read_text())
        assert named
        assert set(named) <= {path.name for path in (ROOT / "scripts").iterdir()}


def test_every_module_is_packaged(described):
    packages = {name.replace(".", "/") for name in described["packages"]}
    for file in project_files():
        if file.suffix == ".py" and file.is_relative_to(ROOT / "bayes_vio"):
            assert str(file.parent.relative_to(ROOT)) in packages


def test_tree_names_no_machine_and_no_registry():
    # Written in halves, so that this file does not find itself.
    paths = "|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/op" + "t/wheels"])
    hosts = "|".join(["py" + r"pi\.org", "download" + r"\.pytorch", "python" + "hosted"])
    forbidden = re.compile(rf"(?<![\w.$}}]){'(?:' + paths + ')'}\w|{hosts}")
    for file in project_files():
        if file.suffix in (".safetensors", ".png", ".jpg"):
            continue
        text = file.read_text(encoding="utf-8")
        found = forbidden.search(text)
        assert found is None, f"{file.relative_to(ROOT)}: {found and found[0]}"


def test_no_file_is_larger_than_a_mebibyte_outside_the_assets():
    for file in project_files():
        if not file.is_relative_to(ROOT / "bayes_vio" / "assets"):
            assert file.stat().st_size <= 1024 * 1024, file


def test_data_files_are_installed_executable(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "tests")
    )
    command = [
        sys.executable,
        "setup.py",
        "--quiet",
        "install_data",
        "--install-dir",
        tmp_path / "at",
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    assert (tmp_path / "at" / "share" / "bayes_vio" / "package.xml").is_file()
    node = tmp_path / "at" / "lib" / "bayes_vio" / "estimator_node"
    assert node.stat().st_mode & 0o111
