"""What the other tables say, in one line each: the first figures that a reader sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def glance(odometry: dict[str, Any]) -> list[str]:
    """Return the table; the others' results are read from their files."""
    rows = [*_motion(odometry["test"]["methods"]), _node(), *_posterior(), _planner(), _pruning()]
    return ["| | | beside it |", "|---|---|---|", *rows]


def _motion(methods: dict[str, Any]) -> list[str]:
    ours, classical = methods["INF (as published)"], methods["classical + gyro"]
    one = ours["horizons"]["1"]
    within = [100 * axis["coverage"][1] for axis in one["axes"].values()]
    nees = ", ".join(f"{h['nees_over_6']:.2f}" for h in ours["horizons"].values())
    return [
        f"| drift on streets never seen (a real car's motion, frames rendered) "
        f"| {ours['drift']['t_rel_percent']:.1f} %, "
        f"{ours['drift']['r_rel_deg_per_100m']:.2f}° per 100 m "
        f"| essential matrix, road and gyro: {classical['drift']['t_rel_percent']:.1f} % |",
        f"| is the covariance true? NEES / 6 over 1, 10, 100 frames | {nees} | 1 is true |",
        f"| errors within 2 sigma, axis by axis | {min(within):.0f} to {max(within):.0f} % "
        "| 95 % is true |",
    ]


def _node() -> str:
    r = _read("soak_hour")
    return (
        f"| the node for {r['seconds'] / 60:.0f} minutes at 30 images and 400 IMU samples a "
        f"second, {r['cores_of_the_node']} cores | image to odometry "
        f"{1e3 * r['latency_p50_s']:.0f} ms, p99 {1e3 * r['latency_p99_s']:.0f} ms; memory "
        f"{r['memory_start_mib']:.0f} to {r['memory_end_mib']:.0f} MiB "
        f"| lost: {r['frames_lost']} of {r['frames_sent']} images, "
        f"{r['imu_lost']} of {r['imu_sent']} samples |"
    )


def _posterior() -> list[str]:
    latency, peers = _read("posterior_latency")["motion_model"]["inf"], _read("peers")["cases"]
    turns, nets = peers["reference_cnn"]["in_turns"], peers["densenet161"]["peers"]
    inf, kfac = nets["bayes_vio inf"], nets["bayes_vio kfac"]
    return [
        f"| a prediction with its 6x6 covariance, all weights, one thread "
        f"| {latency['captured_ms']:.1f} ms | 30 weight samples: "
        f"{latency['thirty_samples_ms']:.0f} ms |",
        f"| INF's covariance, a CNN of {peers['reference_cnn']['parameters'] // 1000} k weights "
        f"| {turns['inf_over_forward']:.0f} forward passes | laplace-torch kron: "
        f"{turns['slower_than_inf']['laplace-torch kron']:.1f} times as long |",
        f"| posterior of DenseNet-161 | fitted in {inf['fit_s']:.0f} s, "
        f"{inf['stored_bytes'] / 2**20:.0f} MiB | KFAC: {kfac['fit_s']:.0f} s, "
        f"{kfac['stored_bytes'] / 2**20:.0f} MiB |",
    ]


def _planner() -> str:
    runs = _read("closed_loop")["sampled"]
    ours, none = runs["ours, 1%"], runs["none"]
    return (
        f"| whole drives with a planner that heeds it, collisions allowed: 1 % "
        f"| {ours['collided']['count']} of {ours['runs']} collide | without covariance: "
        f"{none['collided']['count']} of {none['runs']} |"
    )


def _pruning() -> str:
    r = _read("sparse_dropout")["lenet_5_caffe"]
    return (
        f"| LeNet-5 with sparse variational dropout | {r['test_error_percent']:.2f} % error "
        f"| {r['compression']:.0f} times fewer weights |"
    )
