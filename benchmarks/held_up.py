"""What does a node lose whose process stands still, by how long and by DDS' room for messages?

    python benchmarks/held_up.py [--seconds 0.1 0.2 0.5 0.9 1.5] [--cores 0 1]

A real node is fed 30 Hz 640x480 images and 400 Hz IMU and is stopped (SIGSTOP) three times for
each duration. Counted are the images that no odometry came of and the IMU samples that did not
arrive, with config/fastdds.xml and with Fast DDS as it is. Figures go to results/held_up.json.
Needs rclpy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from node import DDS_VARIABLES, ROOT, circumstances, start_node, stop_node, wait_until
from soak import Rig, diagnostics, latency, start_playing

from bayes_vio.artifact import default_artifact_path

RESULT = ROOT / "benchmarks" / "results" / "held_up.json"
STOPS, _BETWEEN_S, _SETTLED_S = 3, 2.5, 1.5


def stopped(rig: Rig, pid: int, seconds: float) -> dict[str, Any]:
    """Stop a node that is fed, and return what it lost."""
    first, samples = len(rig.sensors.image_stamps_ns), rig.sensors.imu_sent
    before = diagnostics(rig, 0)
    playing = start_playing(rig, STOPS * (_BETWEEN_S + seconds) + _BETWEEN_S)
    for _ in range(STOPS):
        time.sleep(_BETWEEN_S)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
    playing.join()
    time.sleep(_SETTLED_S)
    after = diagnostics(rig, 1)
    told = latency(rig, rig.image_stamps_ns(first))
    arrived = after["imu count"] - before["imu count"]
    return {
        "stopped_s": seconds,
        "frames_sent": told["frames_sent"],
        "frames_lost": told["frames_lost"],
        "imu_sent": rig.sensors.imu_sent - samples,
        "imu_lost": rig.sensors.imu_sent - samples - arrived,
    }


def measured(durations_s: list[float], cores: list[int]) -> list[dict[str, Any]]:
    """Return a row for each duration, by one node."""
    rig = Rig()
    process = start_node(default_artifact_path(), cores, "raw")
    try:
        wait_until(rig.sensors.connected, 60.0)
        rig.sensors.play(2.0)
        return [stopped(rig, process.pid, seconds) for seconds in durations_s]
    finally:
        stop_node(process)
        rig.close()


def in_own_process(arguments: argparse.Namespace, without_profile: bool) -> list[dict[str, Any]]:
    """Return the rows of another process: DDS reads its profile once."""
    command = [sys.executable, __file__, "--rows", "--cores", *map(str, arguments.cores)]
    command += ["--seconds", *map(str, arguments.seconds)]
    environment = {k: v for k, v in os.environ.items() if k not in DDS_VARIABLES}
    if without_profile:
        command += ["--without-profile"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.1, 0.2, 0.5, 0.9, 1.5])
    cores = sorted(os.sched_getaffinity(0))[:2]
    parser.add_argument("--cores", type=int, nargs="+", default=cores)
    parser.add_argument("--rows", action="store_true", help="print the rows of one run alone")
    parser.add_argument("--without-profile", action="store_true", help="Fast DDS as it is")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.rows:
        if arguments.without_profile:
            for name in DDS_VARIABLES:
                del os.environ[name]
        print(json.dumps(measured(arguments.seconds, arguments.cores)), flush=True)
        return
    report = {
        **circumstances(True, len(arguments.cores), sum(arguments.seconds) * STOPS),
        "stops_of_each": STOPS,
        "with_profile": in_own_process(arguments, without_profile=False),
        "without_profile": in_own_process(arguments, without_profile=True),
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
