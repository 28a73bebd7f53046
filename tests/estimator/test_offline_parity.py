"""The model must see online what it saw offline, from the same recording."""

from pathlib import Path

import numpy as np
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.estimator import Estimator, TrackingState
from bayes_vio.geometry import se3
from tests.estimator_cases import (
    CAMERA,
    SPEED_M_S,
    START_NS,
    YAW_RATE_RAD_S,
    Drive,
    KnownArtifact,
    extrinsics,
    scene,
)

OFFSET_S = 0.03
DRIVE = Drive(
    without_imu=range(120, 126),
    samples=lambda index, s: s + 0.2 * np.sin(0.3 * index + np.arange(6)),
)


def pose_at(time_s: float) -> np.ndarray:
    twist = torch.tensor([SPEED_M_S, 0, 0, 0, 0, YAW_RATE_RAD_S]).double()
    return se3.exp(twist * time_s).numpy()


def write_bag(path: Path, T_base_imu: np.ndarray) -> None:
    mounting = extrinsics(T_base_imu)
    with BagWriter(path) as bag:
        frames = {"imu_link": mounting.T_base_imu, "camera_optical": mounting.T_base_camera}
        bag.tf_static(START_NS, frames)
        bag.camera_info(START_NS, CAMERA)
        for time_ns, kind, index in DRIVE.events(3.0):
            stamp_ns = START_NS + time_ns
            if kind:
                bag.image(stamp_ns, scene(index))
                bag.odometry(stamp_ns, pose_at(time_ns / NS_PER_S))
            elif index not in DRIVE.without_imu:
                bag.imu(stamp_ns, DRIVE.samples(index, DRIVE.sample(index)))


def test_inputs_online_are_those_of_the_offline_dataset(tmp_path):
    T_base_imu = se3.exp(torch.tensor([0.1, 0.2, 0.3, 0.5, -1.0, 2.0]).double()).numpy()
    write_bag(tmp_path / "drive", T_base_imu)
    streams = open_streams(tmp_path / "drive")
    recording = prepare(streams, tmp_path / "cache", time_offset_s=OFFSET_S, workers=1)
    dataset = MotionDataset([recording])
    offline, _ = dataset.batch(range(len(dataset)))

    artifact = KnownArtifact()
    estimator = Estimator(artifact, None, streams.camera, streams.extrinsics, OFFSET_S)
    estimates = DRIVE.run(estimator, 3.0)
    degraded = [e for e in estimates if e.state is not TrackingState.TRACKING]
    assert [e.cause for e in degraded] == ["imu_gap", "imu_gap"]

    assert len(artifact.asked) >= 29
    asked = artifact.asked[0].stack(artifact.asked[: len(dataset)])
    n = len(asked)
    for name in ("gray", "view_valid", "imu_valid", "dt", "camera_valid"):
        torch.testing.assert_close(getattr(asked, name), getattr(offline, name)[:n])
    torch.testing.assert_close(asked.imu, offline.imu[:n], rtol=0, atol=1e-5)
    # Flow is stored in half precision.
    torch.testing.assert_close(asked.flow, offline.flow[:n], rtol=1e-3, atol=1e-5)
