"""Augmentations leave the target known: a mirrored drive is a drive."""

import torch

from bayes_vio.models.flow_geometry import rotation_flow_basis
from bayes_vio.training.augmentation import AugmentationSettings, augment
from tests.motion_cases import random_motion

OFF = AugmentationSettings(0, 0, 0, 0, 0, 0)


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
    settings = AugmentationSettings(1.0, 0, 0, 0, 0, 0)
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
