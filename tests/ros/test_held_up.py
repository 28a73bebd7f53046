# ruff: noqa: E402, the imports need what is skipped for
"""A node whose process stands still for half a second: nothing is lost or taken for a gap."""

import json
import os
import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.conventions import NS_PER_S
from tests.motion_cases import tiny_artifact
from tests.ros.live import ROOT, Client, EstimatorProcess, wait_until
from tests.ros.sensors import CAMERA_HZ
from tests.ros.test_soak import last_values, start_sensors

PROFILE = ROOT / "config" / "fastdds.xml"
# Of ten seconds or so, over all threads: a node that hardly runs cannot catch up.
LONGEST_WAIT_S = 1.5
# The name up to Jazzy, and the one since.
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def stand_still(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def waited_s(pid: int) -> float:
    """Return how long a process' threads were ready to run and found no processor."""
    lines = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(line.split()[1]) for line in lines) / NS_PER_S


def held_up_thrice(folder: Path) -> tuple[dict, dict]:
    """Stop the node three times while it is fed; return what was sent and what came out.

    With what was sent: how long the machine was too busy to let the node run.
    """
    tiny_artifact().save(folder / "artifact")
    client = Client()
    try:
        parameters = {"artifact": folder / "artifact", "device": "cpu"}
        with EstimatorProcess(folder / "log.txt", parameters) as node:
            wait_until(lambda: client.node.count_publishers("odometry") > 0, 30.0)
            waited_before_s = waited_s(node.process.pid)
            sensors = start_sensors(8.0)
            wait_until(lambda: "odometry_stamp_ns" in client.recorder.arrays(), 30.0)
            for _ in range(3):
                time.sleep(1.0)
                stand_still(node.process.pid, 0.5)
            sent = json.loads(sensors.communicate(timeout=60.0)[0])
            sent["waited_s"] = waited_s(node.process.pid) - waited_before_s
            time.sleep(1.2)  # one more line of diagnostics
            return sent, client.recorder.arrays()
    finally:
        client.close()


def test_half_a_second_of_standing_still_loses_nothing(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, str(PROFILE))
    sent, arrays = held_up_thrice(tmp_path)
    images_ns = sent["start_ns"] + np.arange(sent["images"]) * NS_PER_S // CAMERA_HZ
    arrived = np.isin(images_ns, arrays["odometry_stamp_ns"])
    values = last_values(arrays)
    if sent["latest_ns"] > NS_PER_S // 10 or not arrived[1 : CAMERA_HZ // 2].all():
        pytest.skip("this machine is too busy for the sensors or the node, before any stop")
    if sent["waited_s"] > LONGEST_WAIT_S:
        pytest.skip(f"the node found no processor for {sent['waited_s']:.1f} s beside its stops")
    assert arrived[1:].all(), (
        np.flatnonzero(~arrived),
        sent,
        values,
    )  # no interval leads to the first
    assert int(values["imu count"]) == sent["imu"], values
    earlier_ns = arrays["relative_pose_earlier_stamp_ns"][1:]
    np.testing.assert_array_equal(earlier_ns, arrays["relative_pose_stamp_ns"][:-1])


def test_no_comment_stands_within_a_transport():
    """Fast DDS stops reading a transport there, without a word."""
    text = PROFILE.read_text()
    within = text[text.index("<dds") :]
    assert "<!--" not in within
    names = [e.tag.split("}")[-1] for e in ElementTree.fromstring(text).iter()]
    assert {"segment_size", "healthy_check_timeout_ms", "useBuiltinTransports"} <= set(names)
