"""Bags that cannot be used end a command in one clear line and exit code 2."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bayes_vio.cli import main
from bayes_vio.data.bag_writer import BagWriter
from tests.data.bag_cases import camera_bag
from tests.data.drives import START_NS, Drive, write_drive
from tests.motion_cases import tiny_artifact

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    """A folder of bags, most of them with a fault that their names tell."""
    folder = tmp_path_factory.mktemp("bags")
    write_drive(folder / "drive", Drive(duration_s=1.0))
    write_drive(folder / "unreferenced", Drive(duration_s=6.0), reference=False)
    (folder / "no_bag").mkdir()
    for storage in ("mcap", "sqlite3"):
        with BagWriter(folder / f"empty_{storage}", storage):
            pass
        write_drive(folder / f"truncated_{storage}", Drive(duration_s=1.0), storage)
        truncate(folder / f"truncated_{storage}")
    with BagWriter(folder / "blind") as bag:
        bag.imu(START_NS, np.zeros(6), topic="sensors/imu")
        bag.odometry(START_NS, np.eye(4), topic="truth")
    with BagWriter(folder / "uncalibrated") as bag:
        camera_bag(bag)
    return folder


def truncate(bag: Path) -> None:
    (file,) = [f for f in bag.iterdir() if f.suffix != ".yaml"]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def refused(arguments: list[str], capsys) -> str:
    """Run a command that must fail as bad input; return its one line."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("bayes-vio: ")
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    return captured.err


CASES = {
    "absent": "does not exist",
    "no_bag": "no metadata.yaml and no .mcap / .db3 file",
    "empty_mcap": "no topic for image (type sensor_msgs/msg/CompressedImage or "
    "sensor_msgs/msg/Image); it holds nothing",
    "empty_sqlite3": "it holds nothing",
    "truncated_mcap": "`mcap recover` may mend it",
    "truncated_sqlite3": "`ros2 bag reindex`",
    "blind": "it holds /sensors/imu (sensor_msgs/msg/Imu); /truth (nav_msgs/msg/Odometry)",
}


@pytest.mark.parametrize("name", CASES)
def test_evaluate_refuses(bags, artifact, tmp_path, capsys, name):
    command = ["evaluate", str(bags / name), "--artifact", str(artifact)]
    line = refused([*command, "--out", str(tmp_path / "out")], capsys)
    assert name in line
    assert CASES[name] in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("use", ["train", "validation"])
def test_fit_refuses(bags, tmp_path, capsys, name, use):
    whole, faulty = str(bags / "drive"), str(bags / name)
    train, validation = (faulty, whole) if use == "train" else (whole, faulty)
    command = ["fit", train, "--validation", validation, "--out", str(tmp_path / "out")]
    line = refused([*command, "--time-offset", "0"], capsys)
    assert name in line
    assert CASES[name] in line
    assert not (tmp_path / "out").exists()


def test_fit_on_several_bags_names_the_one_at_fault(bags, tmp_path, capsys):
    train = [str(bags / name) for name in ("drive", "truncated_mcap")]
    command = ["fit", *train, "--validation", str(bags / "uncalibrated")]
    assert "truncated_mcap" in refused([*command, "--out", str(tmp_path / "out")], capsys)


def test_fit_without_a_reference(bags, tmp_path, capsys):
    command = ["fit", str(bags / "unreferenced"), "--validation", str(bags / "drive")]
    line = refused([*command, "--out", str(tmp_path / "out")], capsys)
    assert "unreferenced has no reference pose" in line
    assert not list(tmp_path.glob("out*"))  # said before an image was decoded


def test_a_topic_that_is_missing_lists_those_that_are_there(bags, artifact, tmp_path, capsys):
    command = ["evaluate", str(bags / "drive"), "--artifact", str(artifact)]
    command += ["--out", str(tmp_path / "out")]
    for option in ("--imu-topic", "--image-topic", "--camera-info-topic", "--reference-topic"):
        line = refused([*command, option, "/nowhere"], capsys)
        assert "no topic /nowhere of type" in line
        for topic in ("/imu (", "/image (", "/camera_info (", "/ground_truth/odometry ("):
            assert topic in line


def test_the_installed_command_fails_alike(bags, tmp_path):
    command = ["fit", str(bags / "truncated_mcap"), "--validation", str(bags / "drive")]
    done = subprocess.run(
        [sys.executable, "-m", "bayes_vio", *command, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=60,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
