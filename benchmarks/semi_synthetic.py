"""Render frames along KITTI's trajectories and write them with the real IMU as bags.

    python benchmarks/semi_synthetic.py OUT [--workers N] [--only NAME ...]

What comes out is semi-synthetic: trajectory and IMU are a real car's, the frames are rendered.
Train 00 01 02 08 (two worlds each), validate 04 06, test 05 07; every sequence has worlds of its
own, since 05 and 07 run partly along streets of 00. The settings below define the test: they
stay as they are. Needs the recordings: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from kitti_bags import CAM0_IN_BASE_M, T_base_cam0, data_folder
from numpy.typing import NDArray

from bayes_vio.data.samples import ImuStream
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import RecordedDrive

CAMERA_HEIGHT_M = 1.65
FRAME_INTERVAL_S = 0.1036
CAMERA = CameraSettings(
    rate_hz=1 / FRAME_INTERVAL_S,
    height_m=CAMERA_HEIGHT_M,
    forward_m=CAM0_IN_BASE_M[0],
    left_m=CAM0_IN_BASE_M[1],
)
# Seeds of the rendered worlds, by bag. Those of validation and test are used nowhere else.
TRAIN = {
    f"train_{n}_{i}": 20_100 + 10 * int(n) + i for n in ("00", "01", "02", "08") for i in (0, 1)
}
VALIDATION = {"validation_04": 20_240, "validation_06": 20_260}
TEST = {"test_05": 20_350, "test_07": 20_370}


def recorded(data: Path, sequence: str) -> RecordedDrive:
    """Return a sequence's base_link (the IMU's frame) and IMU; sample 10 k belongs to frame k."""
    poses = np.load(data / "kitti" / "imu_poses.npz")
    stamp_ns = np.load(data / "kitti" / "oxts.npz")[f"stamp_{sequence}"].astype(np.int64)
    T_world_cam0 = np.tile(np.eye(4), (len(stamp_ns), 1, 1))
    T_world_cam0[:, :3] = poses[f"pose_{sequence}"]
    mount = T_base_cam0(f"real_{sequence}")
    T_world_base = mount @ T_world_cam0 @ np.linalg.inv(mount)
    samples = poses[f"imu_{sequence}"].astype(np.float64)
    since_ns = np.interp(
        np.arange(len(samples)) / 10, np.arange(len(stamp_ns)), stamp_ns - stamp_ns[0]
    )
    return RecordedDrive(
        stamp_ns=stamp_ns,
        T_world_base=levelled(T_world_base, samples),
        base_height_m=CAMERA_HEIGHT_M - CAM0_IN_BASE_M[2],
        imu=ImuStream(stamp_ns[0] + since_ns.astype(np.int64), samples),
    )


def levelled(T_world_base: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray:
    """Return the poses in a world whose z axis is up, by the mean specific force.

    KITTI's world is the first camera's frame, which a slope may have tilted.
    """
    R_world_base = T_world_base[:, :3, :3]
    force = samples[: 10 * len(R_world_base) : 10, :3]
    up = np.einsum("nij,nj->i", R_world_base[: len(force)], force)
    up /= np.linalg.norm(up)
    x = np.array([1.0, 0.0, 0.0]) - up[0] * up
    x /= np.linalg.norm(x)
    T_level_world = np.eye(4)
    T_level_world[:3, :3] = np.stack([x, np.cross(up, x), up])
    return T_level_world @ T_world_base


def write(name: str, seed: int, data: Path, out: Path) -> None:
    """Write one bag, unless it is there."""
    if (out / name).exists():
        return
    drive = recorded(data, name.split("_")[1])
    simulate(out / name, SimulationSettings(seed=seed, drive=drive, camera=CAMERA))


def write_all(data: Path, out: Path, workers: int, only: list[str] | None = None) -> None:
    """Write the bags that are not there yet."""
    seeds = TRAIN | VALIDATION | TEST
    names = only or list(seeds)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(write, n, seeds[n], data, out) for n in names]:
            job.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    write_all(arguments.data, arguments.out, arguments.workers, arguments.only)


if __name__ == "__main__":
    main()
