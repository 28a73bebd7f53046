"""Augmentations leave the target known: a mirrored drive is a drive."""

import torch

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.samples import MotionInput
from bayes_vio.geometry import se3, so3
from bayes_vio.models.flow_geometry import ray_grid, rotation_flow_basis
from bayes_vio.training.augmentation import AugmentationSettings, augment, tilted
from tests.motion_cases import random_motion

NO_TILT = (0.0, 0.0, 0.0)
OFF = AugmentationSettings(0, 0, 0, 0, 0, 0, NO_TILT)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_all_off_changes_nothing() -> None:
    x, target = random_motion(8)
    y, same = augment(x, target, OFF, generator())
    assert torch.equal(target, same)
    assert all(torch.equal(getattr(x, n), getattr(y, n)) for n in x.__dataclass_fields__)


def test_a_mirrored_rotation_is_the_rotation_of_the_mirrored_rate() -> None:
    x, target = random_motion(8)
    rate = target[:, 3:]
    flow = torch.einsum("chwk,bk->bchw", rotation_flow_basis(), rate)
    x = x.__class__(**{**vars(x), "flow": flow})
    settings = AugmentationSettings(1.0, 0, 0, 0, 0, 0, NO_TILT)
    y, mirrored = augment(x, target, settings, generator())
    expected = torch.einsum("chwk,bk->bchw", rotation_flow_basis(), mirrored[:, 3:])
    torch.testing.assert_close(y.flow, expected)
    torch.testing.assert_close(y.imu[..., 5], -x.imu[..., 5])
    torch.testing.assert_close(mirrored[:, 0], target[:, 0])


def test_never_both_sensors_are_dropped() -> None:
    x, target = random_motion(512)
    settings = AugmentationSettings(0.5, 0.3, 0.3)
    y, _ = augment(x, target, settings, generator())
    imu, camera = y.imu_valid.amax(1) > 0, y.camera_valid > 0
    assert bool((imu | camera).all())
    assert 0.2 < float((~camera).float().mean()) < 0.4
    assert 0.2 < float((~imu).float().mean()) < 0.4


def test_same_generator_same_batch() -> None:
    x, target = random_motion(8)
    a, _ = augment(x, target, AugmentationSettings(), generator())
    b, _ = augment(x, target, AugmentationSettings(), generator())
    assert torch.equal(a.imu, b.imu)
    assert torch.equal(a.gray, b.gray)


def drive_of(base_twist: torch.Tensor, tilt: torch.Tensor) -> tuple[MotionInput, torch.Tensor]:
    """One increment over a flat road, seen from a base_link that is tilted against it."""
    R, dt_s, height = so3.exp(tilt.double()), 0.1, 1.65
    R_road_optical = R @ torch.as_tensor(R_BASE_OPTICAL.copy())
    u, v = ray_grid()
    rays = torch.stack([u, v, torch.ones_like(u)], -1).double() @ R_road_optical.T
    depth = torch.where(rays[..., 2] < -0.01, -height / rays[..., 2].clamp(max=-0.01), 1e6)
    T = se3.exp(base_twist.double() * dt_s)
    earlier = (rays * depth[..., None]) @ T[:3, :3].T + T[:3, 3]
    seen = earlier @ R_road_optical
    flow = torch.stack([seen[..., 0] / seen[..., 2] - u, seen[..., 1] / seen[..., 2] - v])
    x, _ = random_motion(1)
    sample = torch.cat([torch.tensor([0.3, 0.2, 9.81]).double() @ R, base_twist[3:].double() @ R])
    gray = (0.5 + 0.1 * rays[..., 2] / rays.norm(dim=-1)).float()[None]
    target = torch.cat([base_twist[:3].double() @ R, base_twist[3:].double() @ R]) * dt_s
    imu = sample.expand(1, 20, 6).float()
    fields = {**vars(x), "flow": flow.float()[None], "imu": imu, "gray": gray}
    return MotionInput(**fields), target.float()[None]


def test_a_tilted_base_sees_what_a_tilted_camera_sees() -> None:
    twist = torch.tensor([9.0, 0.1, -0.05, 0.01, 0.02, 0.25])
    tilt = torch.tensor([0.008, 0.012, -0.01])
    level, target = drive_of(twist, torch.zeros(3))
    expected, expected_target = drive_of(twist, tilt)
    got, got_target = tilted(level, target, tilt[None])
    torch.testing.assert_close(got_target, expected_target, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.imu, expected.imu, rtol=1e-5, atol=1e-6)
    # Without the horizon, where the road ends, and the rim.
    inner = (slice(None), slice(None), slice(22, -3), slice(3, -3))
    torch.testing.assert_close(got.flow[inner], expected.flow[inner], rtol=0, atol=5e-5)
    torch.testing.assert_close(got.gray[inner[1:]], expected.gray[inner[1:]], rtol=0, atol=1e-3)
    # Far more than what is tolerated has changed.
    assert float((level.flow - expected.flow)[inner].abs().max()) > 4e-3


def test_a_frozen_image_stays_one_under_tilt() -> None:
    x, target = random_motion(2)
    x = MotionInput(**{**vars(x), "flow": torch.zeros_like(x.flow)})
    got, _ = tilted(x, target, torch.full((2, 3), 0.01))
    assert not got.flow.any()
    torch.testing.assert_close(got.view_valid, x.view_valid)
