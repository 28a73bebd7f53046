# ruff: noqa: E402, the imports need what is skipped for
"""A node left running: nothing lost unseen, covariances whole, memory and latency flat."""

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
from tests.motion_cases import tiny_artifact
from tests.ros.live import ROOT, Client, EstimatorProcess, environment, wait_until
from tests.ros.sensors import CAMERA_HZ

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
            memory = []
            while sensors.poll() is None:
                memory.append((time.monotonic(), resident_mib(node.process.pid)))
                time.sleep(0.25)
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
    assert int(values["imu count"]) == sent["imu"]
    assert int(values["image count"]) == sent["images"]
    assert int(values.get("dropped, imu_samples_missing", 0)) == 0
    images_ns = sent["start_ns"] + np.arange(sent["images"]) * NS_PER_S // CAMERA_HZ
    at_image = np.isin(arrays["odometry_stamp_ns"], images_ns)
    unused = sum(int(values.get(f"dropped, {cause}", 0)) for cause in UNUSED)
    first = 1  # to which no interval leads
    assert at_image.sum() + unused + first == sent["images"], values
    for stream in ("odometry", "relative_pose", "twist", "epistemic_twist"):
        covs = arrays[f"{stream}_cov"]
        std = np.sqrt(np.diagonal(covs, axis1=1, axis2=2))
        assert np.isfinite(covs).all()
        np.linalg.cholesky(covs / std[:, :, None] / std[:, None, :])
    for text in ("Traceback", "internal_error", "bad_covariance"):
        assert text not in log
    check_flat(arrays, at_image, memory)


def check_flat(arrays: dict, at_image: np.ndarray, memory: np.ndarray) -> None:
    """Latency and memory do not grow, seen from when the stream has run for a while."""
    latency_s = (arrays["odometry_arrival_ns"] - arrays["odometry_stamp_ns"])[at_image] / NS_PER_S
    quarter = len(latency_s) // 4
    medians = [
        np.median(part) for part in (latency_s[quarter : 2 * quarter], latency_s[-quarter:])
    ]
    assert medians[1] < 1.5 * medians[0] + 0.01
    half = memory[len(memory) // 2 :]
    slope_mib_s = np.polyfit(half[:, 0], half[:, 1], 1)[0]
    # A leak of one image in ten would be 0.9 MiB/s; an hour shows what 20 s cannot.
    elapsed_s = memory[-1, 0] - memory[0, 0]
    assert slope_mib_s < max(0.3, 0.3 * 20 / elapsed_s) if elapsed_s < 60 else slope_mib_s < 0.005


def test_twenty_seconds(tmp_path):
    check(*soak(tmp_path, 20.0))


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_an_hour(tmp_path):
    check(*soak(tmp_path, 3600.0))
