"""Run the network once before it is needed: first calls allocate, compile and load kernels."""

from __future__ import annotations

import torch

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH, IMU_BINS, MotionInput

_RUNS = 3
_DT_S = 0.1


def warm_up(artifact: MotionArtifact, device: torch.device) -> None:
    """Predict from a still scene a few times, and throw the result away."""
    grid = torch.full((1, GRID_HEIGHT, GRID_WIDTH), 0.5)
    still = MotionInput(
        gray=grid,
        flow=torch.zeros(1, 2, GRID_HEIGHT, GRID_WIDTH),
        view_valid=torch.ones_like(grid),
        imu=torch.zeros(1, IMU_BINS, 6),
        imu_valid=torch.ones(1, IMU_BINS),
        dt=torch.full((1,), _DT_S),
        camera_valid=torch.ones(1),
    )
    for _ in range(_RUNS):
        artifact.predict(still.map(lambda tensor: tensor.to(device)))
