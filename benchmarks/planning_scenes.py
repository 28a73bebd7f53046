"""Random streets, obstacles and beliefs to plan on, and what really happens on a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.planning import Belief, Growth, Plan, Route, Vehicle, World
from bayes_vio.planning.belief import levers, roll_out, step_gains
from bayes_vio.planning.monte_carlo import touches

Array = NDArray[np.float64]
# The map is of some time ago: since then the odometry has drifted against it.
MAP_AGE_S = 3.0
_SINCE_MAP = 20  # steps
_KNOWN = np.diag([0.03, 0.03, 0.003]) ** 2


@dataclass(frozen=True)
class Drive:
    """Twist errors [n, 3] that really happened every dt_s, and the covariances [n, 3, 3] said."""

    dt_s: float
    error: Array
    epistemic_cov: Array
    noise_cov: Array


@dataclass(frozen=True)
class Moment:
    """One instant: what the estimator says of its twist, and the errors before and after it."""

    epistemic_cov: Array
    noise_cov: Array
    error: Array
    dt_s: float


def load_drives(path: Path) -> list[Drive]:
    """Return the drives that benchmarks/planning_drives.py wrote."""
    with np.load(path) as arrays:
        return [
            Drive(
                float(np.median(arrays[f"{k}_dt_s"])),
                *(arrays[f"{k}_{name}"] for name in ("error", "epistemic_cov", "noise_cov")),
            )
            for k in range(int(arrays["drives"]))
        ]


def modelled_drives(generator: np.random.Generator, n: int = 6, frames: int = 600) -> list[Drive]:
    """Return drives whose covariances vary by regime and whose errors have them.

    The noise is white from frame to frame with 0.1 s between frames, the epistemic error lasts.
    """
    drives = []
    noise_std, epistemic_std = np.array([0.3, 0.06, 0.01]), np.array([0.08, 0.03, 0.004])
    for _ in range(n):
        scale = np.exp(generator.normal(0, 0.6)) * np.repeat(
            np.exp(generator.normal(0, 0.6, size=frames // 100)), 100
        )
        lasting = generator.normal(size=3) * epistemic_std
        error = scale[:, None] * (lasting + generator.normal(size=(frames, 3)) * noise_std)
        covs = (scale[:, None, None] ** 2 * np.diag(std**2) for std in (epistemic_std, noise_std))
        drives.append(Drive(0.1, error, *covs))
    return drives


def moment_of(drives: list[Drive], horizon_s: float, generator: np.random.Generator) -> Moment:
    """Return a random instant, with the errors since the map and over the horizon."""
    drive = drives[generator.integers(len(drives))]
    before, after = (int(np.ceil(s / drive.dt_s)) for s in (MAP_AGE_S, horizon_s))
    k = generator.integers(before, len(drive.error) - after)
    return Moment(
        drive.epistemic_cov[k], drive.noise_cov[k], drive.error[k - before : k + after], drive.dt_s
    )


def constant(drives: list[Drive], moment: Moment) -> Moment:
    """Return the moment with the mean squared error of all drives as its covariance."""
    error = np.concatenate([d.error for d in drives])
    return Moment(1e-8 * np.eye(3), error.T @ error / len(error), moment.error, moment.dt_s)


def blind(moment: Moment) -> Moment:
    """Return the moment with hardly any covariance."""
    return Moment(1e-8 * np.eye(3), 1e-8 * np.eye(3), moment.error, moment.dt_s)


def belief_at(moment: Moment, speed_m_s: float, growth: Growth) -> Belief:
    """Return the belief at the origin, of a car that has driven straight since the map."""
    at_map = Belief(
        np.array([-speed_m_s * MAP_AGE_S, 0.0, 0.0]),
        _KNOWN,
        np.array([speed_m_s, 0.0, 0.0]),
        moment.epistemic_cov,
        moment.noise_cov,
    )
    dt_s = MAP_AGE_S / _SINCE_MAP
    way = torch.from_numpy(_straight(speed_m_s, _SINCE_MAP, dt_s))
    cov = roll_out(at_map, way[None], dt_s, growth).cov[0, -1].numpy()
    return replace(at_map, pose=np.zeros(3), cov=0.5 * (cov + cov.T))


def truth_of(
    moment: Moment, plan: Plan, speed_m_s: float, growth: Growth, generator: np.random.Generator
) -> torch.Tensor:
    """Return where the car really goes [t, 3] when it follows a plan by its odometry.

    Where the plan stands the brakes are on: a car that is too fast stops later, and then stays.
    """
    before = int(np.ceil(MAP_AGE_S / moment.dt_s))
    since = _straight(speed_m_s, before, moment.dt_s)
    start = _KNOWN + growth.tracking_cov
    error = generator.multivariate_normal(np.zeros(3), start)
    error = _carried(since, moment.dt_s, moment.error[:before], error)[-1]
    times = plan.dt_s * np.arange(len(plan.poses) - 1)
    frame = np.minimum(times / moment.dt_s, len(moment.error) - before - 1).astype(int)
    twist_error = moment.error[before + frame]
    stood_s = np.cumsum(plan.speeds[:-1] + plan.speeds[1:] == 0) * plan.dt_s
    stays = (stood_s > 0) & (stood_s > twist_error[:, 0] / Vehicle().braking_m_s2)
    twist_error = np.where(stays[:, None], 0.0, twist_error)
    error = _carried(plan.poses, plan.dt_s, twist_error, error)
    return torch.from_numpy(plan.poses + error)


def _straight(speed_m_s: float, steps: int, dt_s: float) -> NDArray[Any]:
    x = speed_m_s * dt_s * np.arange(-steps, 1)
    return np.stack([x, 0 * x, 0 * x], 1)


def _carried(poses: Array, dt_s: float, twist_error: Array, error: Array) -> NDArray[Any]:
    """Return the errors [t, 3] along poses [t, 3] of an error at their start and of the twist."""
    path = torch.from_numpy(poses)[None]
    steps = (step_gains(path, dt_s)[0].numpy() @ twist_error[..., None])[..., 0]
    added = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return (levers(path)[0].numpy() @ (error + added)[..., None])[..., 0]


def street(generator: np.random.Generator) -> tuple[World, Route, float]:
    """Return a street with parked cars and posts, the route along it and a speed (m/s)."""
    half_width = generator.uniform(3.0, 7.0)
    polygons = [box(60, s * (half_width + 0.5), 200, 1) for s in (-1, 1)]
    for _ in range(generator.integers(1, 5)):
        x, side = generator.uniform(10, 50), generator.choice([-1, 1])
        length, width = (0.3, 0.3) if generator.random() < 0.3 else (4.5, 1.9)
        into = generator.uniform(0.0, half_width - 2.0)
        polygons.append(box(x, side * (half_width - into / 2), length, min(width, into + 0.2)))
    bend = generator.uniform(-0.5, 0.5)
    way = np.linspace(-5, 120, 100)
    return (
        World.of_polygons(polygons),
        Route.along(np.stack([way, bend * np.sin(way / 20)], 1)),
        generator.uniform(2, 9),
    )


def box(x: float, y: float, length: float, width: float, yaw: float = 0.0) -> Array:
    """Return a rectangle [4, 2] about (x, y), counter-clockwise."""
    c, s = np.cos(yaw), np.sin(yaw)
    corners = 0.5 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length, width]
    return corners @ np.array([[c, s], [-s, c]]) + [x, y]


def random_cov(generator: np.random.Generator) -> Array:
    """Return a covariance [3, 3] of (x, y, yaw) as odometry has it: drift with a lever arm."""
    std = np.exp(generator.uniform(np.log([0.03, 0.03, 0.002]), np.log([0.8, 0.8, 0.1])))
    angle = generator.uniform(-np.pi, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    lever = generator.normal(size=2) * generator.choice([0.0, 3.0, 15.0])
    A = np.array([[c, -s, lever[0]], [s, c, lever[1]], [0, 0, 1]])
    return A @ np.diag(std**2) @ A.T


def random_obstacle(generator: np.random.Generator) -> Array:
    """Return a wall, a box or a post within 8 m of the car, half of them parallel to it."""
    kind = generator.integers(3)
    low, high = ((5.0, 0.2), (30.0, 1.0)) if kind == 0 else ((0.3, 0.3), (5.0, 5.0))
    size = np.array([0.3, 0.3]) if kind == 2 else generator.uniform(low, high)
    yaw = generator.choice([0.0, generator.uniform(-np.pi, np.pi)])
    bearing, way = generator.uniform(-np.pi, np.pi), generator.uniform(1, 8)
    x, y = 1.35 + way * np.cos(bearing), way * np.sin(bearing)
    return box(x, y, size[0], size[1], yaw)


def collides(motion: torch.Tensor, vehicle: Vehicle, world: World) -> bool:
    """Return whether a motion [t, 3] touches anything."""
    return bool(touches(motion, vehicle, world.obstacles).any())
