# ruff: noqa: E402, the imports need what is skipped for
"""A node left running: nothing lost unseen, covariances and states whole, memory flat.

Latency depends on what else the machine does: benchmarks/soak.py judges it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator.tracking import TrackingState
from tests.motion_cases import tiny_artifact
from tests.ros.live import ROOT, Client, EstimatorProcess, environment, wait_until
from tests.ros.sensors import CAMERA_HZ

# For the sensors to start and be listened to; they give up by themselves before.
STARTS_S = 90.0
# What becomes of an image that no odometry stands for.
UNUSED = (
    "image_overtaken",
    "frames_skipped",
    "frames_too_soon",
    "image_late",
    "waiting_for_calibration",
)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start_sensors(seconds: float, namespace: str = "/") -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.ros.sensors", "--seconds", str(seconds)]
    command += ["--ros-args", "-r", f"__ns:={namespace}"]
    return subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE)


def soak(folder: Path, seconds: float) -> tuple[dict, dict, np.ndarray, str]:
    """Feed a node for so long; return what was sent, recorded, its memory by time, and its log."""
    tiny_artifact().save(folder / "artifact")
    parameters = {"artifact": folder / "artifact", "device": "cpu"}
    client = Client()
    try:
        with EstimatorProcess(folder / "log.txt", parameters) as node:
            wait_until(lambda: client.node.count_publishers("odometry") > 0, 30.0)
            sensors = start_sensors(seconds)
            deadline_s = time.monotonic() + seconds + STARTS_S
            memory = []
            while sensors.poll() is None:
                assert node.process.poll() is None, node.log
                assert time.monotonic() < deadline_s, "the sensors do not come to their end"
                memory.append((time.monotonic(), resident_mib(node.process.pid)))
                time.sleep(0.25)
            assert sensors.returncode == 0
            sent = json.loads(sensors.communicate()[0])
            time.sleep(1.2)  # one more line of diagnostics
            arrays = client.recorder.arrays()
            assert node.interrupt() == 0
            return sent, arrays, np.array(memory), node.log
    finally:
        client.close()


def last_values(arrays: dict) -> dict[str, str]:
    return json.loads(str(arrays["diagnostics_json"][-1]))["values"]


def check(sent: dict, arrays: dict, memory: np.ndarray, log: str) -> None:
    values = last_values(arrays)
    # A machine that cannot even send in time, so that some is lost or late on the way.
    is_busy = sent["latest_ns"] > NS_PER_S // 20
    check_counts(sent, values, is_busy)
    images_ns = sent["start_ns"] + np.arange(sent["images"]) * NS_PER_S // CAMERA_HZ
    at_image = np.isin(arrays["odometry_stamp_ns"], images_ns)
    unused = sum(int(values.get(f"dropped, {cause}", 0)) for cause in UNUSED)
    first = 1  # to which no interval leads
    assert at_image.sum() + unused + first == int(values["image count"]), values
    for stream in ("odometry", "relative_pose", "twist", "epistemic_twist"):
        covs = arrays[f"{stream}_cov"]
        std = np.sqrt(np.diagonal(covs, axis1=1, axis2=2))
        assert np.isfinite(covs).all()
        np.linalg.cholesky(covs / std[:, :, None] / std[:, None, :])
    for text in ("Traceback", "internal_error", "bad_covariance"):
        assert text not in log
    check_states(arrays, is_busy)
    check_flat(memory)


def check_counts(sent: dict, values: dict[str, str], is_busy: bool) -> None:
    """Everything arrives, or what is lost is told."""
    lost = sent["imu"] - int(values["imu count"])
    told = int(values.get("dropped, imu_samples_missing", 0))
    assert abs(told - lost) <= 0.02 * lost, values
    if not is_busy:
        assert lost == 0, values
        assert int(values["image count"]) == sent["images"], values


def check_states(arrays: dict, is_busy: bool) -> None:
    """The node tracks while it is fed, and each increment goes on where the last one ended."""
    states = [json.loads(str(line))["values"]["state"] for line in arrays["diagnostics_json"][2:]]
    assert set(states) <= {state.value for state in TrackingState}
    assert states.count("tracking") > (0 if is_busy else len(states) / 2), states
    earlier_ns = arrays["relative_pose_earlier_stamp_ns"][1:]
    np.testing.assert_array_equal(earlier_ns, arrays["relative_pose_stamp_ns"][:-1])


def check_flat(memory: np.ndarray) -> None:
    """Memory does not grow, seen from when the stream has run for a while."""
    half = memory[len(memory) // 2 :]
    slope_mib_s = np.polyfit(half[:, 0], half[:, 1], 1)[0]
    # A leak of one image in ten would be 0.9 MiB/s; an hour shows what a minute cannot.
    elapsed_s = memory[-1, 0] - memory[0, 0]
    assert slope_mib_s < 0.1 if elapsed_s < 600 else slope_mib_s < 0.005


def test_a_minute(tmp_path):
    check(*soak(tmp_path, 60.0))


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_an_hour(tmp_path):
    check(*soak(tmp_path, 3600.0))
