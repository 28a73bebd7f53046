"""Where processes begin: an interrupt in the middle of an import, imports not collected."""

import gc
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from bayes_vio.entry import INTERRUPTED, uncollected

ROOT = Path(__file__).resolve().parent.parent
# Interrupts itself when a module is looked for, then goes on as the console script does.
DRIVER = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from bayes_vio.entry import {entry}
raise SystemExit({entry}({arguments!r}))
"""
MODULES = [
    "bayes_vio.cli",
    "typer",
    "rich",
    "numpy",
    "numpy.linalg",
    "torch",
    "torch._C",
    "torch.nn",
    "bayes_vio.models.motion",
    "cv2",
]


def check_interrupted(process: subprocess.Popen) -> None:
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (INTERRUPTED, "interrupted\n")
    assert out == ""


def started(*command: object) -> subprocess.Popen:
    """Start a Python that does not ignore SIGINT, as this one may have to."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_an_interrupt_at_an_import_is_one_line(module: str) -> None:
    evaluate = ["evaluate", str(ROOT), "--out", "nowhere"]
    driver = DRIVER.format(module=module, entry="command_line", arguments=evaluate)
    check_interrupted(started("-c", driver))


@pytest.mark.ros
@pytest.mark.skipif(find_spec("rclpy") is None, reason="rclpy is not installed: the extra `ros`")
@pytest.mark.parametrize("module", ["rclpy", "sensor_msgs.msg", "torch.nn"])
def test_an_interrupt_at_an_import_of_the_node_is_one_line(module: str) -> None:
    driver = DRIVER.format(module=module, entry="estimator_node", arguments=["node"])
    check_interrupted(started("-c", driver))


@pytest.mark.parametrize("library", ["_multiarray_umath", "libtorch_cpu", "libtorch_python"])
def test_an_interrupt_while_libraries_load_is_one_line(library: str) -> None:
    process = started("-m", "bayes_vio", "evaluate", ROOT, "--out", "nowhere")
    maps = Path(f"/proc/{process.pid}/maps")
    deadline_s = time.monotonic() + 60
    while library not in maps.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    check_interrupted(process)


def test_an_ignored_interrupt_stays_ignored() -> None:
    driver = DRIVER.format(module="bayes_vio.cli", entry="command_line", arguments=["--version"])
    done = subprocess.run(
        [sys.executable, "-c", driver], capture_output=True, text=True, timeout=60, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "bayes_vio" in done.stdout


def test_nothing_is_collected_while_importing() -> None:
    collections = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        with uncollected():
            kept = [[] for _ in range(100_000)]
            assert not collections
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(kept)
    finally:
        gc.callbacks.pop()
        gc.unfreeze()


def test_a_failed_import_leaves_the_collector_as_it_was() -> None:
    gc.disable()
    try:
        with pytest.raises(ImportError), uncollected():
            raise ImportError("absent")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_artifact_loads_without_torchs_compiler() -> None:
    code = """
import sys
from bayes_vio.artifact import MotionArtifact, default_artifact_path
MotionArtifact.load(default_artifact_path())
sys.exit("torch._dynamo" in sys.modules or "scipy.stats" in sys.modules)
"""
    # It would add a second to the start of every node.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT, env=environment)
    assert done.returncode == 0
