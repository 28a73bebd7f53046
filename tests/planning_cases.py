"""Cars, beliefs and worlds for tests of planning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from planning_scenes import box

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning import Belief, Plan, World

Array = NDArray[np.float64]
STDS = (0.1, 0.1, 0.01), (0.1, 0.02, 0.003), (0.2, 0.05, 0.01)


def diagonal(*stds: float) -> Array:
    return np.diag(np.square(stds))


def belief(
    scale: float = 1.0,
    speed: float = 6.0,
    state: TrackingState = TrackingState.TRACKING,
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0),
    lost_s: float = 0.0,
) -> Belief:
    """Return a car that drives ahead, its standard deviations scaled."""
    covs = (scale**2 * diagonal(*stds) for stds in STDS)
    cov, epistemic, noise = covs
    twist = np.array([speed, 0.0, 0.0])
    return Belief(np.array(pose), cov, twist, epistemic, noise, state, lost_s)


def one_step_on(plan: Plan, scale: float) -> Belief:
    """Return the belief of a car that has carried out the first step of a plan."""
    moved = belief(scale, plan.speeds[1], pose=tuple(plan.poses[1]))
    return replace(moved, steering_rad=float(plan.steering[0]))


def street(*obstacles: Array, half_width: float = 4.0) -> World:
    """Return a straight street along x between two walls, with obstacles."""
    walls = [box(50, side * (half_width + 0.5), 200, 1) for side in (-1, 1)]
    return World.of_polygons([*walls, *obstacles])


def sampled(cov: Array, n: int, seed: int = 0) -> torch.Tensor:
    """Return errors [n, 3] of a covariance [3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(torch.from_numpy(cov))
    return torch.randn(n, 3, generator=generator, dtype=torch.float64) @ root.T
