"""Measure how well the fitter tells the camera-IMU time offset and the camera's rotation.

Usage: python benchmarks/alignment.py [--kitti FOLDER] [--drives N]

Simulated drives: offsets of both signs under three noises of the reference, and extrinsics that
are wrong by known angles on rendered drives. ``--kitti``: a folder of bags as written by
benchmarks/kitti_bags.py; left out, saying so, where it is absent. The figures go to
benchmarks/results/alignment.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bags import open_streams
from bayes_vio.data.camera_rotation import CameraRotationError, estimate_camera_rotation
from bayes_vio.data.recording import offset_from_flow, prepare
from bayes_vio.data.samples import ImuStream, ReferenceStream, Streams, TimeOffset
from bayes_vio.data.sync import TimeOffsetError, offset_from_reference
from bayes_vio.geometry import so3
from bayes_vio.simulation import DriveSettings, ImuSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import random_drive
from bayes_vio.simulation.imu import simulate_imu

OFFSETS_S = (-0.08, -0.02, 0.0, 0.03, 0.065)
REFERENCE_NOISE_RAD = (0.0, 3e-4, 3e-3)
WRONG_DEG = ((0, 0, 0), (2, 0, 0), (0, -3, 0), (0, 0, 2), (1, 1.5, -2))
DRIVE_S = 60.0
START_NS = 1_600_000_000 * NS_PER_S


def stamps(time_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return stamps [n] (ns) of times [n] (s)."""
    return START_NS + np.rint(time_s * NS_PER_S).astype(np.int64)


def offset_errors(noise_rad: float, drives: int) -> dict[str, float]:
    """Return errors of offsets (ms) between simulated gyros and noisy references."""
    found = []
    for seed in range(drives):
        rng = np.random.default_rng([seed, 1])
        offset_s = OFFSETS_S[seed % len(OFFSETS_S)]
        trajectory = random_drive(DriveSettings(duration_s=DRIVE_S), rng)
        t = np.arange(0.05, DRIVE_S - 0.1, 0.1)
        poses = trajectory.pose(t)
        wobble = torch.from_numpy(noise_rad * rng.standard_normal((len(t), 3)))
        poses[:, :3, :3] = poses[:, :3, :3] @ so3.exp(wobble).numpy()
        record = simulate_imu(trajectory, ImuSettings(time_offset_s=offset_s), rng)
        imu = ImuStream(stamps(record.stamp_s), record.samples)
        estimate = offset_from_reference(ReferenceStream(stamps(t), poses), imu, stamps(t))
        found.append((1e3 * (estimate.offset_s - offset_s), 1e3 * estimate.std_s))
    error, std = np.array(found).T
    return {
        "drives": drives,
        "rms_error_ms": float(np.sqrt(np.mean(error**2))),
        "largest_error_ms": float(np.abs(error).max()),
        "median_std_ms": float(np.median(std)),
        "rms_of_error_over_std": float(np.sqrt(np.mean((error / std) ** 2))),
    }


def turned(streams: Streams, wrong_deg: tuple[float, ...]) -> Streams:
    """Return streams whose extrinsics are wrong, so that this rotation would mend them."""
    T_wrong = streams.extrinsics.T_base_camera.copy()
    R = so3.exp(torch.from_numpy(np.radians(np.asarray(wrong_deg, np.float64)))).numpy()
    T_wrong[:3, :3] = R.T @ T_wrong[:3, :3]
    return replace(streams, extrinsics=replace(streams.extrinsics, T_base_camera=T_wrong))


def described(offset: TimeOffset | None) -> dict[str, float] | None:
    """Return an offset and its standard error in ms."""
    if offset is None:
        return None
    return {
        "ms": 1e3 * offset.offset_s,
        "std_ms": 1e3 * offset.std_s,
        "correlation": offset.correlation,
    }


def alignment(streams: Streams, cache: Path) -> dict[str, object]:
    """Return what one recording tells: offset by reference and by flow (ms), rotation (deg)."""
    recording = prepare(streams, cache, workers=2)
    told: dict[str, object] = {"images": len(recording.frame_stamp_ns)}
    if streams.imu is not None:
        told["offset_by_reference"] = described(recording.time_offset)
        try:
            flow = described(offset_from_flow(recording.frames, streams.imu))
        except TimeOffsetError as error:
            flow = str(error)
        told["offset_by_flow"] = flow
    try:
        rotation = estimate_camera_rotation(recording)
    except CameraRotationError as error:
        return told | {"rotation": str(error)}
    return told | {
        "rotation_deg": np.degrees(rotation.vector).tolist(),
        "rotation_std_deg": np.degrees(rotation.std).tolist(),
        "observable": rotation.observable.tolist(),
    }


def rendered(drives: int, work: Path) -> list[dict[str, object]]:
    """Return what rendered drives with wrong extrinsics tell, and the truth."""
    rows = []
    for seed in range(drives):
        offset_s = OFFSETS_S[seed % len(OFFSETS_S)]
        drive = DriveSettings(duration_s=DRIVE_S)
        settings = SimulationSettings(
            seed=700 + seed, drive=drive, imu=ImuSettings(time_offset_s=offset_s)
        )
        simulate(work / f"drive_{seed}", settings)
        wrong_deg = WRONG_DEG[seed % len(WRONG_DEG)]
        streams = turned(open_streams(work / f"drive_{seed}"), wrong_deg)
        truth = {"true_offset_ms": 1e3 * offset_s, "true_rotation_deg": list(wrong_deg)}
        rows.append(truth | alignment(streams, work / "frames"))
        print(json.dumps(rows[-1]))
    return rows


def rotation_summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """Return RMS errors (deg) per axis and of error over sigma, of the axes that are shown."""
    found = np.array([row["rotation_deg"] for row in rows], np.float64)
    std = np.array([row["rotation_std_deg"] for row in rows], np.float64)
    error = found - np.array([row["true_rotation_deg"] for row in rows], np.float64)
    shown = np.array([row["observable"] for row in rows], bool)
    return {
        "rms_error_deg": np.sqrt([np.mean(error[shown[:, a], a] ** 2) for a in range(3)]).tolist(),
        "largest_error_deg": [float(np.abs(error[shown[:, a], a]).max()) for a in range(3)],
        "rms_of_error_over_std": float(np.sqrt(np.mean((error / std) ** 2))),
        "largest_error_over_std": float(np.abs(error / std).max()),
        "share_shown": shown.mean(0).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--kitti", type=Path)
    parser.add_argument("--drives", type=int, default=10)
    arguments = parser.parse_args()
    offsets = {
        f"reference noise {noise:g} rad": offset_errors(noise, 4 * arguments.drives)
        for noise in REFERENCE_NOISE_RAD
    }
    print(json.dumps(offsets, indent=1))
    with tempfile.TemporaryDirectory() as work:
        rows = rendered(arguments.drives, Path(work))
        kitti = "left out: no folder given"
        if arguments.kitti is not None:
            kitti = {
                bag.name: alignment(open_streams(bag), Path(work) / "frames")
                for bag in sorted(arguments.kitti.iterdir())
            }
    report = {
        "date": date.today().isoformat(),
        "simulated_offsets": offsets,
        "rendered": {"summary": rotation_summary(rows), "drives": rows},
        "kitti": kitti,
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "alignment.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
