"""How fast worlds are rendered, and how well measured flow on the road agrees with the geometry.

Usage: python benchmarks/rendering.py [--duration 60]

One process, one OpenCV thread. Every drive is rendered three times; "fps" is from the mean time
of a frame, "fps_undisturbed" from the fastest of the three for each block of 20 frames, which
other programs on the machine disturb less.

Flow is measured by DIS down to full resolution between images 0.1 s apart at 5 to 15 m/s, on road
nearer than 25 m, and compared with the motion of the ground's points; a ratio is the measured
flow along the true one over its length.

The figures go to benchmarks/results/rendering.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.simulation import (
    CameraSettings,
    DriveSettings,
    RoadStyle,
    Simulation,
    SimulationSettings,
    WorldSettings,
    plan,
)
from bayes_vio.simulation.render import Renderer

CAMERAS = {
    "256x80": CameraSettings(),
    "512x160": CameraSettings(512, 160, 296.0),
    "640x480": CameraSettings.with_field_of_view(640, 480, 80.0),
}
BLOCK = 20
PASSES = 3
INTERVAL_S = 0.1


def pose_and_distance(simulation: Simulation, time_s: float) -> tuple[NDArray[np.float64], float]:
    pose = simulation.trajectory.pose(time_s)[0] @ simulation.T_base_camera
    return pose, simulation.world.path.distance_at(time_s)


def render_times(simulation: Simulation) -> NDArray[np.float64]:
    """Return seconds per frame [blocks] of one pass over the drive, with cold ground patches."""
    renderer = Renderer(simulation.world, simulation.camera)
    views = [
        pose_and_distance(simulation, t)
        for t in np.arange(0, simulation.trajectory.end_s, INTERVAL_S)
    ]
    blocks = []
    for start in range(0, len(views) - BLOCK + 1, BLOCK):
        begin = time.perf_counter()
        for view in views[start : start + BLOCK]:
            renderer.render(*view)
        blocks.append((time.perf_counter() - begin) / BLOCK)
    return np.array(blocks)


def speed_figures(simulation: Simulation) -> dict[str, float]:
    passes = np.array([render_times(simulation) for _ in range(PASSES)])
    return {
        "fps": round(1 / passes.mean(), 1),
        "fps_undisturbed": round(1 / passes.min(0).mean(), 1),
    }


def true_flow(
    simulation: Simulation, depth: NDArray[np.float32], later: float, earlier: float
) -> NDArray[np.float64]:
    """Return the ground's displacement [h, w, 2] (px) from the later to the earlier image."""
    K = simulation.camera.K
    u, v = np.meshgrid(np.arange(depth.shape[1]), np.arange(depth.shape[0]))
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    now, before = (pose_and_distance(simulation, t)[0] for t in (later, earlier))
    points = (pixels @ np.linalg.inv(K).T * depth[..., None]) @ now[:3, :3].T + now[:3, 3]
    seen = (points - before[:3, 3]) @ before[:3, :3] @ K.T
    return seen[..., :2] / seen[..., 2:] - pixels[..., :2]


def flow_figures(simulation: Simulation) -> dict[str, float]:
    renderer = Renderer(simulation.world, simulation.camera)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    dis.setFinestScale(0)
    dis.setVariationalRefinementIterations(1)
    errors, ratios = [], []
    for t in np.arange(1.0, simulation.trajectory.end_s, 0.7):
        if not 5 < np.linalg.norm(simulation.trajectory.velocity_world(t)) < 15:
            continue
        before = renderer.render(*pose_and_distance(simulation, t - INTERVAL_S))
        view = pose_and_distance(simulation, t)
        now, depth = renderer.render(*view), renderer.ground_depth(*view)
        road = depth < 25
        flow = true_flow(simulation, np.where(road, depth, np.float32(1)), t, t - INTERVAL_S)
        rows = np.arange(depth.shape[0])[:, None] + flow[..., 1]
        road &= rows < depth.shape[0] - 4
        measured = np.asarray(dis.calc(now, before, None))[road]  # pyright: ignore
        length = np.linalg.norm(flow[road], axis=1)
        errors.append(np.median(np.linalg.norm(measured - flow[road], axis=1) / length))
        ratios.append(np.median((measured * flow[road]).sum(1) / length**2))
    return {
        "pairs": len(errors),
        "median_relative_error": round(float(np.median(errors)), 4),
        "median_ratio": round(float(np.median(ratios)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=60.0, help="seconds per drive")
    duration_s = parser.parse_args().duration
    cv2.setNumThreads(1)
    rows = []
    for name, camera in CAMERAS.items():
        for seed, style in enumerate(RoadStyle):
            settings = SimulationSettings(
                seed=seed,
                drive=DriveSettings(duration_s=duration_s),
                world=WorldSettings(style=style),
                camera=camera,
            )
            begin = time.perf_counter()
            simulation = plan(settings)
            row = {"camera": name, "style": style.value, "seed": seed}
            row["world_s"] = round(time.perf_counter() - begin, 2)
            row |= speed_figures(simulation) | {"flow": flow_figures(simulation)}
            rows.append(row)
            print(json.dumps(row))
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "opencv": cv2.__version__,
        "duration_s": duration_s,
        "rows": rows,
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "rendering.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
