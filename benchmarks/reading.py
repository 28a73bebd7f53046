"""How fast is a recording read: bag to measured frames, the cache, batches; and in what memory?

Usage: python benchmarks/reading.py [BAG] [--workers N] [--frames N]

Without a bag a drive of 512 x 155 JPEG images is made up (random texture that pans). CPU time per
frame is given beside the rate, since other work on the machine lowers the rate and not the time.
The figures go to benchmarks/results/reading.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.data.frame_table import measure_frames
from bayes_vio.data.samples import CameraModel

WIDTH, HEIGHT, FOCAL_PX = 512, 155, 297.0
PASSES = 7


def write_panning_drive(path: Path, frames: int) -> None:
    """Write a bag of JPEG images at 10 Hz with a 100 Hz IMU and a reference."""
    noise = np.random.default_rng(0).normal(size=(HEIGHT, 4 * WIDTH)).astype(np.float32)
    mixed = np.sum([s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.0, 3.0, 9.0)], axis=0)
    world = np.clip(127 + 50 * mixed / mixed.std(), 0, 255).astype(np.uint8)
    centre = [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
    K = np.array([[FOCAL_PX, 0, centre[0]], [0, FOCAL_PX, centre[1]], [0, 0, 1]])
    mount = np.eye(4)
    mount[:3, :3] = R_BASE_OPTICAL
    with BagWriter(path) as bag:
        bag.tf_static(NS_PER_S, {"imu_link": np.eye(4), "camera_optical": mount})
        bag.camera_info(NS_PER_S, CameraModel(WIDTH, HEIGHT, K))
        for k in range(frames):
            start_ns = NS_PER_S + k * NS_PER_S // 10
            pan = round(WIDTH * (1.5 + np.sin(k / 15)))
            image = np.ascontiguousarray(world[:, pan : pan + WIDTH])
            bag.image(start_ns, image, jpeg_quality=90)
            yaw = -WIDTH * np.sin(k / 15) / FOCAL_PX
            T_world_base = np.eye(4)
            T_world_base[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
            bag.odometry(start_ns, T_world_base)
            for j in range(10):
                rate = -WIDTH / FOCAL_PX * np.cos((k + j / 10) / 15) / 1.5
                sample = np.array([0, 0, 9.8, 0, 0, rate])
                bag.imu(start_ns + j * NS_PER_S // 100, sample)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a call's result, its wall time and its CPU time over all threads (s)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def measure(bag: Path, workers: int | None) -> dict[str, float | int | str]:
    """Return rates, CPU times and the peak of resident memory for one bag."""
    streams, open_s, _ = timed(lambda: open_streams(bag))
    with tempfile.TemporaryDirectory() as folder:
        # Median and fastest of several: other guests of the processor slow single passes down.
        passes = [
            timed(lambda n=n: measure_frames(streams, Path(folder) / f"{n}", workers=workers))
            for n in range(PASSES)
        ]
        cache = Path(folder) / "0"
        first_s, cpu_s = (median(p[i] for p in passes) for i in (1, 2))
        fastest_s = min(p[1] for p in passes)
        _, cached_s, _ = timed(lambda: measure_frames(streams, cache))
        recording, samples_s, _ = timed(lambda: prepare(open_streams(bag), cache))
        dataset = MotionDataset([recording], (1, 2, 3, 4, 5))
        _, batches_s, _ = timed(lambda: [None for _ in dataset.loader(64, shuffle_seed=0)])
        cache_bytes = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    n = len(recording.frame_stamp_ns)
    return {
        "bag": bag.name,
        "frames": n,
        "workers": workers or os.cpu_count() or 1,
        "cores": os.cpu_count() or 1,
        "processor": platform.processor() or platform.machine(),
        "load_average_1_min": os.getloadavg()[0],
        "opencv": cv2.__version__,
        "open_s": open_s,
        "first_pass_frames_per_s": n / first_s,
        "first_pass_fastest_frames_per_s": n / fastest_s,
        "first_pass_cpu_ms_per_frame": 1e3 * cpu_s / n,
        "cached_frames_per_s": n / cached_s,
        "open_align_and_cut_s": samples_s,
        "batches_samples_per_s": len(dataset) / batches_s,
        "cache_kib_per_frame": cache_bytes / n / 1024,
        "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast recordings are read.")
    parser.add_argument("bag", type=Path, nargs="?")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--frames", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bag = arguments.bag
        if bag is None:
            bag = Path(folder) / "panning"
            write_panning_drive(bag, arguments.frames)
        report = measure(bag, arguments.workers)
    report["date"] = time.strftime("%Y-%m-%d")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "reading.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
