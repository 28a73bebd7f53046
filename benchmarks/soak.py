"""How does a node that is left running do? Start, latency, losses, memory, a gap in the frames.

    python benchmarks/soak.py [--seconds 60] [--artifact FOLDER] [--cores 0 1]

A publisher of 30 Hz 640x480 images and 400 Hz IMU runs before the node is started: the start is
measured from the node's process to its first odometry. Then it runs for the given time, and after
that two seconds of images are left out. Needs rclpy. An untrained network of the default size
stands in where there is no artifact.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import tempfile
import time
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread
from typing import Any

import numpy as np
import rclpy
from node import (
    CAMERA_HZ,
    IMU_HZ,
    ROOT,
    Sensors,
    camera_info_message,
    circumstances,
    cpu_s,
    memory_mib,
    spin,
    stand_in_artifact,
    start_node,
    stop_node,
    wait_until,
)
from rclpy.node import Node

from bayes_vio.artifact import default_artifact_path
from bayes_vio.conventions import NS_PER_S
from bayes_vio.ros.recorder import Recorder

RESULT = ROOT / "benchmarks" / "results" / "soak.json"
TARGET_START_S, TARGET_GAP_FRAMES, TARGET_P99_S = 3.0, 2, 0.033
_GAP_S, _AFTER_GAP_S, _STARTS = 2.0, 3.0, 3
_LONGEST_START_NS = 30 * NS_PER_S
_LONGEST_S = 300.0  # all but the time that is asked for
_PERIOD_NS = NS_PER_S // CAMERA_HZ


class Drivers(Sensors):
    """As camera drivers do, send the calibration with every image."""

    def _publish_image(self, stamp_ns: int) -> None:
        super()._publish_image(stamp_ns)
        self._info.publish(camera_info_message())


class Rig:
    """A publisher, a recorder and the threads that serve them, on one ROS node."""

    def __init__(self) -> None:
        os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        rclpy.init()
        self.node = Node("benchmark")
        self.sensors, self.recorder = Drivers(self.node, compressed=False), Recorder(self.node)
        self._closing = Event()
        self._thread = Thread(target=spin, args=(self.node, self._closing), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5.0)
        rclpy.shutdown()

    def odometry_ns(self) -> np.ndarray:
        return self.recorder.arrays().get("odometry_stamp_ns", np.zeros(0, np.int64))

    def image_stamps_ns(self, first: int, last: int | None = None) -> np.ndarray:
        """Return the stamps of the images sent, from one number to another."""
        return np.array(self.sensors.image_stamps_ns[first:last])


def time_start(rig: Rig, artifact: Path, cores: list[int]) -> float:
    """Return the seconds from a node's process to its first odometry, data flowing all along."""
    seen = len(rig.odometry_ns())
    began_ns = time.time_ns()
    process = start_node(artifact, cores, "raw")
    try:
        while len(rig.odometry_ns()) == seen and time.time_ns() < began_ns + _LONGEST_START_NS:
            rig.sensors.play(0.5)
    finally:
        stop_node(process)
    if len(rig.odometry_ns()) == seen:
        raise SystemExit("no odometry within 30 s of the node's start; its log is above")
    return float(rig.recorder.arrays()["odometry_arrival_ns"][seen] - began_ns) / NS_PER_S


def start_playing(rig: Rig, seconds: float) -> Thread:
    """Publish in another thread, which does not keep a failed process alive."""
    thread = Thread(target=rig.sensors.play, args=(seconds,), daemon=True)
    thread.start()
    return thread


def run(rig: Rig, artifact: Path, cores: list[int], seconds: float) -> dict[str, Any]:
    """Feed a fresh node for so long and then with a gap; return the figures."""
    process = start_node(artifact, cores, "raw")
    try:
        wait_until(rig.sensors.connected, 60.0)
        time.sleep(0.5)
        rig.sensors.play(2.0)
        first, samples = len(rig.sensors.image_stamps_ns), rig.sensors.imu_sent
        before = diagnostics(rig, 0)
        start = (memory_mib(process.pid), cpu_s(process.pid), time.monotonic())
        memory = rig_memory(rig, process, seconds)
        elapsed_s = time.monotonic() - start[2]
        cpu = (cpu_s(process.pid) - start[1]) / elapsed_s
        last, samples = len(rig.sensors.image_stamps_ns), rig.sensors.imu_sent - samples
        after = diagnostics(rig, 1)
        gap = recovery(rig)
    finally:
        stop_node(process)
    return {
        **latency(rig, rig.image_stamps_ns(first, last)),
        "imu_sent": samples,
        "imu_lost": samples - (after["imu count"] - before["imu count"]),
        "memory_start_mib": round(start[0], 1),
        "memory_end_mib": round(memory[-1, 1], 1),
        "memory_slope_mib_per_h": round(slope(memory) * 3600, 1),
        "cpu_cores_used": round(cpu, 3),
        "left_out": {
            k.removeprefix("dropped, "): n - before.get(k, 0)
            for k, n in after.items()
            if k.startswith("dropped, ") and n > before.get(k, 0)
        },
        **gap,
    }


def rig_memory(rig: Rig, process: Popen, seconds: float) -> np.ndarray:
    """Play for so long; return the node's memory [n, 2] (s, MiB) meanwhile."""
    playing = start_playing(rig, seconds)
    rows = []
    while playing.is_alive():
        if process.poll() is not None:
            raise SystemExit("the node ended; its log is above")
        rows.append((time.monotonic(), memory_mib(process.pid)))
        time.sleep(0.5)
    return np.array(rows)


def slope(memory: np.ndarray) -> float:
    """Return the growth of the second half (MiB/s)."""
    half = memory[len(memory) // 2 :]
    return float(np.polyfit(half[:, 0], half[:, 1], 1)[0])


def diagnostics(rig: Rig, wait: int) -> dict[str, int]:
    """Return the counts of the newest line of diagnostics, of one still to come if asked."""
    seen = len(rig.recorder.arrays().get("diagnostics_json", []))
    time.sleep(0.3)
    wait_until(lambda: len(rig.recorder.arrays().get("diagnostics_json", [])) > seen + wait, 5.0)
    values = json.loads(str(rig.recorder.arrays()["diagnostics_json"][-1]))["values"]
    return {k: int(v) for k, v in values.items() if "dropped, " in k or k.endswith(" count")}


def latency(rig: Rig, sent: np.ndarray) -> dict[str, Any]:
    arrays = rig.recorder.arrays()
    stamps, arrivals = arrays["odometry_stamp_ns"], arrays["odometry_arrival_ns"]
    used = np.isin(stamps, sent)
    age_s = (arrivals[used] - stamps[used]) / NS_PER_S
    half = len(age_s) // 2
    figures = {
        "frames_sent": len(sent),
        "frames_lost": int(len(sent) - used.sum()),
        "latency_p50_s": float(np.quantile(age_s, 0.5)),
        "latency_p99_s": float(np.quantile(age_s, 0.99)),
        "latency_max_s": float(age_s.max()),
        "latency_p50_growth_s": float(np.median(age_s[half:]) - np.median(age_s[:half])),
    }
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}


def recovery(rig: Rig) -> dict[str, Any]:
    """Leave two seconds of images and IMU out; count the frames until one is tracked again."""
    rig.sensors.play(1.0)
    last_ns = rig.sensors.image_stamps_ns[-1]
    time.sleep(_GAP_S)
    index = len(rig.sensors.image_stamps_ns)
    rig.sensors.play(_AFTER_GAP_S)
    time.sleep(0.5)
    after = np.array(rig.sensors.image_stamps_ns[index:])
    arrays = rig.recorder.arrays()
    # A pair of images of after the gap: the first increment that the camera has seen again.
    seen = np.isin(arrays["relative_pose_earlier_stamp_ns"], after)
    first_ns = int(arrays["relative_pose_stamp_ns"][seen][0])
    return {
        "gap_s": round(float(after[0] - last_ns) / NS_PER_S, 2),
        "frames_until_tracking": round((first_ns - int(after[0])) / _PERIOD_NS) + 1,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--artifact", type=Path, help="default: the packaged one")
    cores = sorted(os.sched_getaffinity(0))[:2]
    parser.add_argument("--cores", type=int, nargs="+", default=cores)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    artifact = arguments.artifact or default_artifact_path()
    trained = artifact.is_dir()
    # Whatever waits for ever is shown, thread by thread, and ended.
    faulthandler.dump_traceback_later(arguments.seconds + _LONGEST_S, exit=True)
    rig = Rig()
    with tempfile.TemporaryDirectory() as folder:
        artifact = artifact if trained else stand_in_artifact(Path(folder))
        starts_s = [time_start(rig, artifact, arguments.cores) for _ in range(_STARTS)]
        figures = run(rig, artifact, arguments.cores, arguments.seconds)
    rig.close()
    report = {
        **circumstances(trained, len(arguments.cores), arguments.seconds),
        "input": f"640x480 mono8, raw, {CAMERA_HZ} Hz; IMU {IMU_HZ} Hz",
        "start_to_first_odometry_s": [round(s, 2) for s in starts_s],
        "target_start_s": TARGET_START_S,
        "target_frames_until_tracking": TARGET_GAP_FRAMES,
        "target_p99_s": TARGET_P99_S,
        **figures,
        "met": bool(
            np.median(starts_s) < TARGET_START_S
            and figures["frames_until_tracking"] <= TARGET_GAP_FRAMES
            and figures["latency_p99_s"] <= TARGET_P99_S
            and not figures["frames_lost"]
            and not figures["imu_lost"]
        ),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0 if report["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
