"""The command line: exit codes, one line per error, help that is complete."""

import inspect
import subprocess
import sys
from dataclasses import fields
from io import StringIO
from pathlib import Path
from types import ModuleType
from unittest.mock import create_autospec

import numpy as np
import pytest
import typer
from rich.console import Console

from bayes_vio import __version__, cli
from bayes_vio.choices import Structure
from bayes_vio.cli import main
from bayes_vio.inspection import inspect_artifact
from tests.motion_cases import tiny_artifact

ROOT = Path(__file__).resolve().parent.parent
GROUP = typer.main.get_command(cli.app)
COMMANDS = GROUP.commands  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def no_bag(tmp_path) -> Path:
    """Return a file that is no recording."""
    path = tmp_path / "notes.txt"
    path.write_text("not a bag")
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


def refused(capsys) -> str:
    """Return the one line on stderr that an error may leave."""
    captured = capsys.readouterr()
    assert captured.err.startswith("bayes-vio: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("simulate", "fit", "evaluate", "run", "inspect", "doctor", "demo"):
        assert f" {name} " in shown
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bayes_vio {__version__}\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_explained(name, capsys):
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{name} {parameter.name}"
    assert main([name, "--help"]) == 0
    assert "Usage: bayes-vio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nothing"], "nothing"),
        (["fit"], "BAG"),
        (["fit", "absent.mcap", "--validation", "setup.py", "--out", "o"], "absent.mcap"),
        (["fit", "setup.py", "--validation", "setup.py"], "--out"),
        (
            ["fit", "setup.py", "--validation", "setup.py", "--out", "o", "--epochs", "0"],
            "--epochs",
        ),
        (["fit", "setup.py", "--validation", "setup.py", "--out", "o", "--rank", "x"], "--rank"),
        (["evaluate", "absent", "--out", "o"], "absent"),
        (["inspect", "--unknown"], "--unknown"),
        (["doctor", "surplus"], "surplus"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(arguments, word, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 2
    assert word in refused(capsys)


def test_missing_artifact_is_one_line_and_code_2(tmp_path, capsys):
    assert main(["inspect", "--artifact", str(tmp_path / "none")]) == 2
    assert "none" in refused(capsys)


def test_file_that_is_no_bag_is_one_line_and_code_2(no_bag, tmp_path, artifact, capsys):
    other = tmp_path / "other.txt"
    other.write_text("neither")
    out = str(tmp_path / "out")
    assert main(["fit", str(no_bag), "--validation", str(other), "--out", out]) == 2
    assert "notes.txt" in refused(capsys)
    assert main(["evaluate", str(no_bag), "--artifact", str(artifact), "--out", out]) == 2
    assert "notes.txt" in refused(capsys)
    assert not Path(out).exists()


def test_fit_lists_structures_and_refuses_those_of_other_networks(no_bag, tmp_path, capsys):
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    command = ["fit", str(no_bag), "--validation", str(ROOT / "setup.py"), "--out", "o"]
    for structure in Structure:
        assert structure.value in shown
        assert main([*command, "--structure", structure.value]) == 2
        line = refused(capsys)
        carried = structure.value in ("inf", "diagonal", "kfac", "efb")
        assert ("notes.txt" in line) if carried else ("is not for the motion network" in line)
    assert main([*command, "--structure", "magic"]) == 2
    assert "magic" in refused(capsys)


def test_one_bag_for_training_and_validation_is_refused(no_bag, capsys):
    assert main(["fit", str(no_bag), "--validation", str(no_bag), "--out", "o"]) == 2
    assert "notes.txt" in refused(capsys)


def test_absent_gpu_is_refused_by_name(no_bag, artifact, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    command = ["evaluate", str(no_bag), "--artifact", str(artifact), "--out", "o"]
    assert main([*command, "--device", "cuda"]) == 2
    assert "cuda" in refused(capsys)


def test_bad_extrinsics_file_is_refused(no_bag, artifact, tmp_path, capsys):
    extrinsics = tmp_path / "mounting.yaml"
    extrinsics.write_text("T_base_imu: [1, 2]\n")
    command = ["evaluate", str(no_bag), "--artifact", str(artifact), "--out", "o"]
    assert main([*command, "--extrinsics", str(extrinsics)]) == 2
    assert "mounting.yaml" in refused(capsys)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("speed is -1: it must be positive"), 2, "speed is -1: it must be positive"),
        (FileExistsError("out exists"), 2, "out exists"),
        (RuntimeError("first\n  second"), 1, "RuntimeError: first second"),
        (MemoryError(), 1, "MemoryError"),
        (ModuleNotFoundError("No module named 'rclpy'"), 1, "bayes-vio doctor"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_errors_have_a_code_and_one_line(error, code, words):
    found, line = cli.explain(error)
    assert found == code
    assert words in line
    assert "\n" not in line


def test_errors_of_every_stage_are_bad_input():
    from bayes_vio.artifact import ArtifactError
    from bayes_vio.data.bags import BagError
    from bayes_vio.posterior import PosteriorError

    for kind in (ArtifactError, BagError, PosteriorError):
        assert cli.explain(kind("why")) == (2, "why")


def test_traceback_on_request(monkeypatch, tmp_path):
    monkeypatch.setenv("BAYES_VIO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="none"):
        main(["inspect", "--artifact", str(tmp_path / "none")])


def test_interruption_is_no_error(monkeypatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bayes_vio.doctor.report", interrupt)
    assert main(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_simulate_passes_on_what_it_was_given(tmp_path, monkeypatch):
    import bayes_vio.simulation as module

    called = create_autospec(module.simulate)
    monkeypatch.setattr(module, "simulate", called)
    out = tmp_path / "drive"
    rest = ["--duration", "5", "--imu-rate", "200", "--jpeg-quality", "90", "--storage", "sqlite3"]
    assert (
        main(["simulate", "--out", str(out), "--seed", "3", "--time-offset", "-0.02", *rest]) == 0
    )
    given = inspect.signature(module.simulate).bind(*called.call_args.args)
    settings = given.arguments["settings"]
    assert given.arguments["out"] == out
    assert (settings.seed, settings.storage) == (3, "sqlite3")
    assert (settings.drive.duration_s, settings.camera.jpeg_quality) == (5.0, 90)
    assert (settings.imu.rate_hz, settings.imu.time_offset_s) == (200.0, -0.02)


def test_fit_passes_on_what_it_was_given(no_bag, tmp_path, monkeypatch):
    import bayes_vio.fit as module

    called = create_autospec(module.fit)
    monkeypatch.setattr(module, "fit", called)
    rest = ["--epochs", "3", "--time-offset", "-0.02", "--imu-topic", "/imu0", "--seed", "5"]
    command = ["fit", str(no_bag), "--validation", str(ROOT / "setup.py"), "--out", "o", *rest]
    assert main(command) == 0
    given = inspect.signature(module.fit).bind(*called.call_args.args, **called.call_args.kwargs)
    settings, topics = given.arguments["settings"], given.arguments["topics"]
    assert given.arguments["train"] == [no_bag]
    assert given.arguments["validation"] == [ROOT / "setup.py"]
    assert (settings.map.epochs, settings.time_offset_s, settings.seed) == (3, -0.02, 5)
    assert (topics.imu, topics.image, topics.base_frame) == ("/imu0", None, "base_link")


def test_evaluate_passes_on_what_it_was_given(no_bag, tmp_path, artifact, monkeypatch):
    import bayes_vio.evaluation as module

    called = create_autospec(module.evaluate)
    monkeypatch.setattr(module, "evaluate", called)
    mounting = tmp_path / "mounting.yaml"
    pose = "{translation: [1, 2, 3], quaternion_xyzw: [0, 0, 0, 1]}"
    mounting.write_text(f"T_base_imu: {pose}\nT_base_camera: {pose}\n")
    command = ["evaluate", str(no_bag), "--artifact", str(artifact), "--out", str(tmp_path)]
    rest = ["--extrinsics", str(mounting), "--reference-topic", "/truth", "--device", "cpu"]
    assert main([*command, *rest]) == 0
    given = inspect.signature(module.evaluate).bind(
        *called.call_args.args, **called.call_args.kwargs
    )
    assert given.arguments["topics"].reference == "/truth"
    assert np.allclose(given.arguments["extrinsics"].T_base_imu[:3, 3], [1, 2, 3])


def test_defaults_of_simulate_are_those_of_the_settings(tmp_path, monkeypatch):
    import bayes_vio.simulation as module

    called = create_autospec(module.simulate)
    monkeypatch.setattr(module, "simulate", called)
    assert main(["simulate", "--out", str(tmp_path / "drive")]) == 0
    given, expected = called.call_args.args[1], module.SimulationSettings()
    for part in ("seed", "drive", "camera", "storage"):
        assert getattr(given, part) == getattr(expected, part), part
    assert given.imu.rate_hz == expected.imu.rate_hz
    assert given.imu.time_offset_s == expected.imu.time_offset_s


def test_defaults_of_fit_are_those_of_the_settings():
    from bayes_vio.data.bags import Topics
    from bayes_vio.fit import FitSettings
    from bayes_vio.training.map_fit import MapFitSettings

    defaults = {p.name: p.default for p in COMMANDS["fit"].params}
    for settings in (MapFitSettings(), FitSettings()):
        for field in fields(settings):
            if field.name in defaults:
                assert defaults[field.name] == getattr(settings, field.name), field.name
    assert defaults["base_frame"] == Topics().base_frame


def test_inspect_shows_an_artifact(artifact, capsys):
    assert main(["inspect", "--artifact", str(artifact)]) == 0
    assert "inf" in capsys.readouterr().out


def test_inspect_cuts_nothing_off_in_a_narrow_terminal(artifact):
    shown = StringIO()
    inspect_artifact(artifact, Console(width=80, file=shown))
    lines = shown.getvalue().splitlines()
    assert "…" not in shown.getvalue()
    assert {line[-1:] for line in lines if line.startswith("│")} == {"│"}  # no column is lost


def node_module(monkeypatch) -> list[list[str]]:
    """Put a node in place that notes its arguments; return the notes."""
    calls: list[list[str]] = []
    module = ModuleType("bayes_vio.ros.estimator_node")
    module.main = lambda argv: calls.append(argv) or 0  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "bayes_vio.ros.estimator_node", module)
    return calls


def test_run_hands_the_rest_to_ros(monkeypatch, artifact):
    calls = node_module(monkeypatch)
    remap = ["-r", "image:=/camera/image_raw", "--params-file", "car.yaml"]
    assert main(["run", "--artifact", str(artifact), *remap]) == 0
    assert calls == [["bayes-vio", "--ros-args", "-p", f"artifact:={artifact}", *remap]]


def test_run_takes_predictive_and_budget(monkeypatch, capsys):
    calls = node_module(monkeypatch)
    assert main(["run", "--predictive", "whole", "--latency-budget", "12.5"]) == 0
    given = ["-p", "predictive:=whole", "-p", "latency_budget_ms:=12.5"]
    assert calls == [["bayes-vio", "--ros-args", *given]]
    for option, value in (("--predictive", "noise"), ("--latency-budget", "-1")):
        assert main(["run", option, value]) == 2
        assert option in refused(capsys)


def test_run_changes_no_parameter_unasked(monkeypatch):
    calls = node_module(monkeypatch)
    assert main(["run", "--ros-args", "-p", "device:=cpu"]) == 0
    assert calls == [["bayes-vio", "--ros-args", "-p", "device:=cpu"]]


def test_run_without_ros_says_what_to_do(monkeypatch, capsys):
    # Parts of it that another test has imported would be found without it.
    for name in [n for n in sys.modules if n.startswith(("bayes_vio.ros.", "rclpy."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    assert main(["run"]) == 1
    assert "bayes-vio doctor" in refused(capsys)


def test_module_is_the_command():
    command = [sys.executable, "-m", "bayes_vio", "inspect", "--artifact", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bayes-vio: no artifact at nowhere")
