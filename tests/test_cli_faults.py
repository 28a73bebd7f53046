"""Commands on a bad day: disks that are full, folders that are closed, keys that are pressed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayes_vio import cli
from bayes_vio.artifact import MotionArtifact
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from tests.cli_process import Machine, bayes_vio, finish, start
from tests.motion_cases import tiny_artifact

FULL = Machine(largest_file=20_000)  # every larger file fails as on a disk that is full
SHORT_FIT = ("--epochs", 1, "--rank", 4, "--time-offset", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def ready() -> Iterator[Path]:
    """Return a folder with two bags and an artifact, which anybody may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    for seed, name in enumerate(("train", "validation")):
        bag = SimulationSettings(seed=500 + seed, drive=DriveSettings(duration_s=3.0))
        simulate(folder / name, bag)
    tiny_artifact().save(folder / "artifact")
    yield folder
    shutil.rmtree(folder)


def fit_of(ready: Path, out: Path, *rest: object) -> tuple[object, ...]:
    bags = (ready / "train", "--validation", ready / "validation")
    return ("fit", *bags, "--out", out, *SHORT_FIT, *rest)


def evaluation_of(ready: Path, out: Path) -> tuple[object, ...]:
    bag = ready / "validation"
    return ("evaluate", bag, "--artifact", ready / "artifact", "--out", out, "--device", "cpu")


def command(name: str, ready: Path, out: Path) -> tuple[object, ...]:
    if name == "simulate":
        return ("simulate", "--out", out, "--duration", 2)
    if name == "fit":
        return fit_of(ready, out)
    if name == "evaluate":
        return evaluation_of(ready, out)
    return ("demo", "--out", out)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["simulate", "fit", "evaluate"])
def test_a_full_disk_is_one_line_and_code_1(ready: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "disk" / "out"
    done = bayes_vio(tmp_path / "log", *command(name, ready, out), machine=FULL)
    done.check(1, "File too large", "free some space")
    assert [file for file in files_of(tmp_path / "disk") if not file.startswith(".")] == []


@pytest.mark.slow
def test_a_full_disk_ends_the_demonstration(tmp_path: Path) -> None:
    done = bayes_vio(tmp_path / "log", "demo", "--out", tmp_path / "out", machine=FULL)
    done.check(1, "File too large")
    assert files_of(tmp_path / "out") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of a megabyte, where this process may mount one."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_fit_goes_on_when_a_full_disk_has_room_again(
    ready: Path, tmp_path: Path, small_disk: Path
) -> None:
    """The disk has room for the frames, not for the checkpoint of 3 MB."""
    out, log = small_disk / "artifact", tmp_path / "log"
    bayes_vio(log, *fit_of(ready, out)).check(1, "No space left on device", "free some space")
    assert not out.exists()
    assert not list(small_disk.rglob("checkpoint*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert bayes_vio(log, *fit_of(ready, out, "--structure", "diagonal")).code == 0
    MotionArtifact.load(out)


@pytest.mark.parametrize("name", ["doctor", "inspect", "--version"])
def test_an_output_that_takes_nothing_is_one_line_and_code_1(
    ready: Path, tmp_path: Path, name: str
) -> None:
    rest = ("--artifact", ready / "artifact") if name == "inspect" else ()
    machine = Machine(stdout="/dev/full")
    bayes_vio(tmp_path / "log", name, *rest, machine=machine).check(1, "No space left")


@pytest.mark.parametrize("name", ["simulate", "fit", "evaluate", "demo"])
def test_a_closed_folder_is_told_before_work_begins(
    ready: Path, tmp_path: Path, name: str
) -> None:
    closed = ready / "closed"
    closed.mkdir(exist_ok=True)
    closed.chmod(0o555)
    machine = Machine(as_nobody=True)
    log = Path(tempfile.gettempdir()) / f"{ready.name}-{name}.log"
    for out in (closed / "out", closed / "deep" / "out"):
        done = bayes_vio(log, *command(name, ready, out), machine=machine)
        done.check(2, f"{closed} is not writable", str(out))
    log.unlink()


@pytest.mark.parametrize("name", ["simulate", "fit", "evaluate", "demo"])
def test_an_output_that_is_a_file_is_told_before_work_begins(
    ready: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for out in (notes, notes / "out"):
        assert cli.main([str(a) for a in command(name, ready, out)]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("bayes-vio: ")
        assert errors.count("\n") == 1
        assert str(notes) in errors
    assert notes.read_text() == "mine"


def test_a_fit_does_not_write_over_what_is_no_artifact(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    assert cli.main([str(a) for a in fit_of(ready, tmp_path)]) == 2
    assert "is no artifact" in capsys.readouterr().err
    assert files_of(tmp_path) == ["thesis.tex"]


NO_ARTIFACT = {
    "fit": ("--start-from",),
    "evaluate": ("--artifact",),
    "inspect": ("--artifact",),
    "run": ("--artifact",),
}


@pytest.mark.parametrize("name", list(NO_ARTIFACT))
@pytest.mark.parametrize("damage", ["absent", "empty", "truncated", "older"])
def test_an_artifact_that_cannot_be_used_is_one_line_and_code_2(
    ready: Path, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "run":
        pytest.importorskip("rclpy")
    folder = tmp_path / "artifact"
    if damage != "absent":
        folder.mkdir()
    if damage in ("truncated", "older"):
        shutil.copytree(ready / "artifact", folder, dirs_exist_ok=True)
        text = (folder / "artifact.json").read_text()
        older = text.replace('"format_version": 3', '"format_version": 1')
        (folder / "artifact.json").write_text(older if damage == "older" else text[:-100])
    arguments = {"fit": fit_of(ready, tmp_path / "o"), "evaluate": ("evaluate", ready / "train")}
    rest = arguments.get(name, (name,))
    rest += ("--out", tmp_path / "o") if name == "evaluate" else ()
    assert cli.main([str(a) for a in (*rest, *NO_ARTIFACT[name], folder)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert str(folder) in errors or "start-from" in errors
    assert not list(tmp_path.glob("o*"))  # said before the bags were read


def test_a_file_for_an_artifact_is_told(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ready / "artifact" / "artifact.json"
    assert cli.main(["inspect", "--artifact", str(file)]) == 2
    assert f"{file} is a file: an artifact is a folder" in capsys.readouterr().err


def test_nothing_is_written_into_an_artifact_or_a_bag(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, what in (("artifact", "an artifact"), ("train", "a bag")):
        before = sorted((ready / name).iterdir())
        assert cli.main([str(a) for a in evaluation_of(ready, ready / name)]) == 2
        assert f"{ready / name} is {what}; choose another folder" in capsys.readouterr().err
        assert sorted((ready / name).iterdir()) == before


def test_a_file_for_a_work_folder_is_told(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    arguments = fit_of(ready, tmp_path / "o", "--work-dir", tmp_path / "file")
    assert cli.main([str(a) for a in arguments]) == 2
    errors = capsys.readouterr().err
    assert f"{tmp_path / 'file'} is no folder: choose another for the fit" in errors
    assert (tmp_path / "file").read_text() == "mine"


def test_recordings_that_are_one_are_refused(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted double, or judged on what it has learned, an artifact would be too sure."""
    shutil.copytree(ready / "train", tmp_path / "copy")
    short = [str(a) for a in (*SHORT_FIT, "--out", tmp_path / "o")]
    bags = {
        "train": ready / "train",
        "validation": ready / "validation",
        "copy": tmp_path / "copy",
    }
    for train, validation, told in (
        (["train", "train"], ["validation"], "train: given twice"),
        (["train"], ["validation", "validation"], "validation: given twice"),
        (["train"], ["copy"], "train and copy hold the same recording; give it once"),
    ):
        given = [str(bags[name]) for name in train]
        for name in validation:
            given += ["--validation", str(bags[name])]
        assert cli.main(["fit", *given, *short]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "--duration", "nan"),
        ("simulate", "--duration", "inf"),
        ("simulate", "--duration", "-1"),
        ("simulate", "--max-speed", "nan"),
        ("simulate", "--image-rate", "0"),
        ("simulate", "--image-rate", "1e9"),
        ("simulate", "--imu-rate", "nan"),
        ("simulate", "--width", "100000000"),
        ("simulate", "--height", "-1"),
        ("simulate", "--focal", "nan"),
        ("simulate", "--exposure", "-0.1"),
        ("simulate", "--time-offset", "nan"),
        ("simulate", "--jpeg-quality", "101"),
        ("simulate", "--storage", "floppy"),
        ("simulate", "--seed", "-1"),
        ("simulate", "--seed", str(10**30)),
        ("fit", "--epochs", "0"),
        ("fit", "--batch-size", "0"),
        ("fit", "--structure", "cube"),
        ("fit", "--rank", "0"),
        ("fit", "--learning-rate", "nan"),
        ("fit", "--learning-rate", "0"),
        ("fit", "--learning-rate", "inf"),
        ("fit", "--time-offset", "nan"),
        ("fit", "--seed", "-1"),
        ("fit", "--device", "abacus"),
        ("fit", "--device", "cuda:99"),
        ("evaluate", "--device", "abacus"),
        ("evaluate", "--device", ""),
        ("evaluate", "--extrinsics", "nowhere.yaml"),
    ],
)
def test_a_bad_option_is_one_line_and_code_2(
    ready: Path, tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    name, option, value = arguments
    out = tmp_path / "out"
    given = [str(a) for a in command(name, ready, out)]
    if option in given:
        at = given.index(option)
        del given[at : at + 2]
    assert cli.main([*given, option, value]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("bayes-vio: ")
    assert errors.count("\n") == 1
    assert option.strip("-") in errors or value in errors
    assert not list(tmp_path.iterdir())


def interrupted(
    log: Path, arguments: tuple[object, ...], folder: Path, sign: str
) -> tuple[int | None, str]:
    """Start a command, press Ctrl-C once a path has appeared in a folder, and return its end."""
    process = start(log, arguments, Machine())
    deadline = time.monotonic() + 60
    while process.is_alive() and not list(folder.glob(sign)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    done = finish(process, log)
    return done.code, done.errors


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("simulate", ".out.partial-*/out/*"),
        ("fit", "out.work/frames"),
        ("fit", "out.work/checkpoint.safetensors"),
    ],
)
def test_an_interruption_is_code_130_and_leaves_nothing(
    ready: Path, tmp_path: Path, name: str, sign: str
) -> None:
    log, folder = tmp_path / "log", tmp_path / "work"
    folder.mkdir()
    long = {"simulate": ("--duration", 600), "fit": ("--epochs", 500)}[name]
    arguments = (*command(name, ready, folder / "out"), *long)
    assert interrupted(log, arguments, folder, sign) == (130, "interrupted\n")
    assert not (folder / "out").exists()
    assert not [path.name for path in folder.rglob(".*")]


def test_the_command_itself_ends_with_130(ready: Path, tmp_path: Path) -> None:
    """A shell shows 130 for either code: CPython ends itself by the signal that it was given
    where that struck code under exec(), as when a dataclass was being made."""
    arguments = [str(a) for a in fit_of(ready, tmp_path / "out", "--epochs", 500)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bayes_vio", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        cwd=Path(__file__).resolve().parent.parent,
    )
    while not (tmp_path / "out.work").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode in (130, -signal.SIGINT)
    assert errors == "interrupted\n"
