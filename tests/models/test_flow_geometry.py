"""The flow formulas against the exact projection of moved points."""

import numpy as np
import torch

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.geometry import se3
from bayes_vio.models.flow_geometry import ray_grid, road_speed_weight, rotation_flow_basis

DT_S = 1e-4


def projected_flow(twist_base: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Exact flow per second [2, 40, 128] of points at a depth, camera at the base's origin."""
    x, y = (g.double() for g in ray_grid())
    points = torch.stack([x, y, torch.ones_like(x)], -1) * depth[..., None]
    T_optical_base = torch.eye(4, dtype=torch.float64)
    T_optical_base[:3, :3] = torch.as_tensor(np.ascontiguousarray(R_BASE_OPTICAL.T))
    T = T_optical_base @ se3.exp(twist_base * DT_S) @ se3.inverse(T_optical_base)
    moved = points @ T[:3, :3].T + T[:3, 3]
    return (
        torch.stack([moved[..., 0] / moved[..., 2] - x, moved[..., 1] / moved[..., 2] - y]) / DT_S
    )


def test_rotation_flow_is_the_projection_of_rotated_rays() -> None:
    rate = torch.tensor([0.03, -0.05, 0.2], dtype=torch.float64)
    twist = torch.cat([torch.zeros(3, dtype=torch.float64), rate])
    exact = projected_flow(twist, torch.full((40, 128), 7.0, dtype=torch.float64))
    linear = rotation_flow_basis().double() @ rate
    torch.testing.assert_close(linear, exact, rtol=1e-3, atol=1e-5)


def test_road_weight_recovers_speed_over_height() -> None:
    speed, height = 9.0, 1.65
    _, y = (g.double() for g in ray_grid())
    depth = torch.where(y > 0.01, height / y.clamp(min=0.01), 1e6)
    twist = torch.tensor([speed, 0, 0, 0, 0, 0], dtype=torch.float64)
    flow = projected_flow(twist, depth)
    weight = road_speed_weight().double()
    estimate = (weight * flow[1])[weight != 0]
    torch.testing.assert_close(
        estimate, torch.full_like(estimate, speed / height), rtol=2e-3, atol=0.0
    )
    assert (weight != 0).sum() > 1000
