"""The flow formulas against the exact projection of moved points."""

import numpy as np
import pytest
import torch

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.samples import MotionInput
from bayes_vio.geometry import se3, so3
from bayes_vio.models.backbone import RoadReader, Stabiliser
from bayes_vio.models.flow_geometry import (
    ray_grid,
    road_bands,
    road_way,
    rotation_flow_basis,
    without_rotation,
)
from tests.motion_cases import random_motion

DT_S = 1e-4
RAYS = torch.stack(ray_grid()).double()


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


def optical(rotation_base: torch.Tensor) -> torch.Tensor:
    """Return a rotation vector [1, 3] in optical axes."""
    return rotation_base[None] @ torch.as_tensor(R_BASE_OPTICAL.copy())


def read(x: MotionInput) -> torch.Tensor:
    """Return the road's readings [batch, 7] (1/s)."""
    return RoadReader()(Stabiliser()(x).way, x.dt)


def whole_flow(xi_base: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Exact flow [2, 40, 128] over an increment, camera at the base's origin."""
    return DT_S * projected_flow(xi_base / DT_S, depth)


def road_depth(height: float) -> torch.Tensor:
    y = ray_grid()[1].double()
    return torch.where(y > 0.01, height / y.clamp(min=0.01), 1e9)


def test_a_rotation_of_any_size_is_taken_out_exactly() -> None:
    rotation = torch.tensor([0.03, -0.05, 0.3], dtype=torch.float64)
    xi = torch.cat([torch.zeros(3, dtype=torch.float64), rotation])
    flow = whole_flow(xi, torch.full((40, 128), 7.0, dtype=torch.float64))
    still = without_rotation(flow[None], optical(rotation), RAYS)
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=1e-9)


def test_what_is_left_is_the_flow_of_the_translation() -> None:
    rotation = torch.tensor([0.01, -0.02, 0.1], dtype=torch.float64)
    translation = torch.tensor([1.2, 0.0, 0.0], dtype=torch.float64)
    R = so3.exp(rotation)
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3], T[:3, 3] = R, R @ translation  # along the later camera's axis
    turning = whole_flow(se3.log(T), road_depth(1.65))
    straight = whole_flow(torch.cat([translation, torch.zeros(3)]), road_depth(1.65))
    still = without_rotation(turning[None], optical(rotation), RAYS)[0]
    torch.testing.assert_close(still, straight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way_m", [0.3, 1.8, 9.0])
def test_road_way_is_the_way_over_the_height(way_m: float) -> None:
    height = 1.65
    xi = torch.tensor([way_m, 0, 0, 0, 0, 0], dtype=torch.float64)
    way = road_way(whole_flow(xi, road_depth(height))[None], RAYS[1])[0]
    on_road = RAYS[1] > 0.06
    assert not way[~on_road].any()
    expected = torch.full_like(way[on_road], way_m / height)
    torch.testing.assert_close(way[on_road], expected, rtol=1e-6, atol=0.0)
    assert int(on_road.sum()) > 1000


def test_flow_into_the_sky_stays_finite() -> None:
    flow = torch.full((1, 2, 40, 128), -1.0)
    assert bool(road_way(flow, RAYS[1].float()).isfinite().all())


def test_the_reader_tells_speed_and_spread_whatever_turns_and_hides() -> None:
    height, speed, dt_s = 1.65, 12.0, 0.1
    rate = torch.tensor([0.0, 0.0, 0.3])
    xi = torch.cat([torch.tensor([speed * dt_s, 0, 0]), rate * dt_s]).double()
    flow = whole_flow(xi, road_depth(height)).float()
    x = random_motion(2)[0]
    imu = x.imu.clone()
    imu[..., 3:] = rate
    flows = flow.repeat(2, 1, 1, 1)
    hidden = torch.cat(road_bands())[::3]  # a third of the road is covered by something at rest
    flows[1].flatten(1)[:, hidden] = 0.0
    x = MotionInput(**{**vars(x), "flow": flows, "imu": imu, "dt": torch.full((2,), dt_s)})
    road = read(x)
    torch.testing.assert_close(road[:, 0], torch.full((2,), speed / height), rtol=0.02, atol=0)
    torch.testing.assert_close(road[:, 2:], torch.full((2, 5), speed / height), rtol=0.03, atol=0)
    assert float(road[0, 1]) < 0.1 * speed / height < float(road[1, 1])


def test_bands_tell_the_pitch_against_the_road() -> None:
    x = random_motion(1)[0]
    _, y = ray_grid()
    way, pitch = 0.7, 0.01  # the horizon stands 0.01 above the view's axis
    depth = 1 / (y + pitch).clamp(min=0.01)
    flow = torch.stack([torch.zeros_like(y), (y * depth - pitch * way) / (depth + way) - y])
    imu = torch.zeros_like(x.imu)
    x = MotionInput(**{**vars(x), "flow": flow[None], "imu": imu})
    bands = read(x)[0, 2:] * x.dt / way
    assert bool((bands.diff() < 0).all())  # the farther, the more too fast
    assert float(bands[0]) > 1.15 > 1.05 < float(bands[-1])
    features = RoadReader().features(read(x))
    assert float(features.abs().max()) < 2
