"""The README's tables of the running node."""

from __future__ import annotations

from typing import Any


def node(r: dict[str, Any]) -> list[str]:
    """Return what the node does under load."""
    return [
        f"**The node under load** (`python benchmarks/node.py`): {r['image']} and "
        f"{r['imu_hz']} Hz IMU for {r['seconds']:.0f} s, the node on {r['cores_of_the_node']} "
        f"cores of {r['machine']['processor']}.",
        "",
        "| | |",
        "|---|---|",
        f"| images sent / lost | {r['frames_sent']} / {r['frames_lost']} |",
        f"| IMU messages sent / lost | {r['imu_sent']} / {r['imu_lost']} |",
        f"| image stamp to odometry, p50 / p99 | {1e3 * r['latency_p50_s']:.1f} ms / "
        f"{1e3 * r['latency_p99_s']:.1f} ms |",
        f"| memory at start / end | {r['memory_start_mib']:.0f} / {r['memory_end_mib']:.0f} MiB |",
        f"| cores used | {r['cpu_cores_used']:.2f} |",
    ]


def soak(r: dict[str, Any]) -> list[str]:
    """Return how a node does that is left running."""
    starts = ", ".join(f"{s:.1f}" for s in r["start_to_first_odometry_s"])
    return [
        f"**Left running** (`python benchmarks/soak.py --seconds {r['seconds']:.0f}`): "
        f"{r['input']}, {r['seconds'] / 60:.0f} minutes on {r['cores_of_the_node']} cores.",
        "",
        "| | |",
        "|---|---|",
        f"| images sent / lost | {r['frames_sent']} / {r['frames_lost']} |",
        f"| IMU messages sent / lost | {r['imu_sent']} / {r['imu_lost']} |",
        f"| image stamp to odometry, p50 / p99 / longest | {1e3 * r['latency_p50_s']:.1f} ms / "
        f"{1e3 * r['latency_p99_s']:.1f} ms / {1e3 * r['latency_max_s']:.0f} ms |",
        f"| memory at start / end | {r['memory_start_mib']:.0f} / {r['memory_end_mib']:.0f} MiB |",
        f"| process start to first odometry, three times | {starts} s |",
        f"| frames until odometry after {r['gap_s']:.0f} s without data "
        f"| {r['frames_until_tracking']} |",
    ]


def held_up(r: dict[str, Any]) -> list[str]:
    """Return what a node loses that stands still, with room for messages and without."""
    lines = [
        "**Held up** (`python benchmarks/held_up.py`): the node's process stopped "
        f"{r['stops_of_each']} times for so long, 640x480 at 30 Hz and IMU at 400 Hz; images and "
        "samples lost of those sent.",
        "",
        "| stopped for | with config/fastdds.xml | Fast DDS as it is |",
        "|---|---|---|",
    ]
    for row, bare in zip(r["with_profile"], r["without_profile"], strict=True):
        lost = [
            f"{f['frames_lost']} of {f['frames_sent']}, {f['imu_lost']} of {f['imu_sent']}"
            for f in (row, bare)
        ]
        lines.append(f"| {row['stopped_s']:g} s | {lost[0]} | {lost[1]} |")
    return lines
