"""Cars, beliefs and worlds for tests of planning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

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


def box(x: float, y: float, length: float, width: float, yaw: float = 0.0) -> Array:
    """Return a rectangle [4, 2] about (x, y), counter-clockwise."""
    c, s = np.cos(yaw), np.sin(yaw)
    corners = 0.5 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length, width]
    return corners @ np.array([[c, s], [-s, c]]) + [x, y]


def street(*obstacles: Array, half_width: float = 4.0) -> World:
    """Return a straight street along x between two walls, with obstacles."""
    walls = [box(50, side * (half_width + 0.5), 200, 1) for side in (-1, 1)]
    return World.of_polygons([*walls, *obstacles])


def random_cov(generator: np.random.Generator) -> Array:
    """Return a covariance [3, 3] of (x, y, yaw) as odometry has it: drift with a lever arm."""
    low, high = np.log([0.03, 0.03, 0.002]), np.log([0.8, 0.8, 0.1])
    std = np.exp(generator.uniform(low, high))
    angle = generator.uniform(-np.pi, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    lever = generator.normal(size=2) * generator.choice([0.0, 3.0, 15.0])
    A = np.array([[c, -s, lever[0]], [s, c, lever[1]], [0, 0, 1]])
    return A @ np.diag(std**2) @ A.T


def random_polygon(generator: np.random.Generator) -> Array:
    """Return a wall, a box, a post or a rotated one of them, within 8 m of the car."""
    kind = generator.integers(3)
    low, high = ((5.0, 0.2), (30.0, 1.0)) if kind == 0 else ((0.3, 0.3), (5.0, 5.0))
    size = np.array([0.3, 0.3]) if kind == 2 else generator.uniform(low, high)
    yaw = generator.choice([0.0, generator.uniform(-np.pi, np.pi)])
    bearing, way = generator.uniform(-np.pi, np.pi), generator.uniform(1, 8)
    x, y = 1.35 + way * np.cos(bearing), way * np.sin(bearing)
    return box(x, y, size[0], size[1], yaw)


def sampled(cov: Array, n: int, seed: int = 0) -> torch.Tensor:
    """Return errors [n, 3] of a covariance [3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(torch.from_numpy(cov))
    return torch.randn(n, 3, generator=generator, dtype=torch.float64) @ root.T
