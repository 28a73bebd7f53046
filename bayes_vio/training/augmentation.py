"""Random changes of a training batch that leave its target known; validation sees none of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayes_vio.conventions import ANGULAR_RATE, ROT_X, ROT_Z, SPECIFIC_FORCE, Y
from bayes_vio.data.samples import MotionInput

# A mirror in the x-z plane turns the sign of y as a vector, and of rotX and rotZ as pseudovectors.
_MIRRORED = (Y, ROT_X, ROT_Z)


@dataclass(frozen=True)
class AugmentationSettings:
    """Probabilities (per sample) and standard deviations (constant over a sample's window)."""

    mirror: float = 0.5
    drop_camera: float = 0.1
    drop_imu: float = 0.1
    force_bias_std_m_s2: float = 0.05
    rate_bias_std_rad_s: float = 0.0005
    gray_gain_std: float = 0.2


def augment(
    x: MotionInput, target: Tensor, settings: AugmentationSettings, generator: torch.Generator
) -> tuple[MotionInput, Tensor]:
    """Return a changed batch and its targets [batch, 6]; the arguments stay as they are."""
    x, target = _mirror(x, target, _chance(len(x), settings.mirror, generator))
    x = _disturb(x, settings, generator)
    return _drop_sensors(x, settings, generator), target


def _chance(n: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) < probability


def _mirror(x: MotionInput, target: Tensor, chosen: Tensor) -> tuple[MotionInput, Tensor]:
    sign = torch.ones(6)
    sign[list(_MIRRORED)] = -1
    imu_sign = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    flow = x.flow.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    mirrored = replace(
        x,
        gray=torch.where(chosen[:, None, None], x.gray.flip(-1), x.gray),
        flow=torch.where(chosen[:, None, None, None], flow, x.flow),
        view_valid=torch.where(chosen[:, None, None], x.view_valid.flip(-1), x.view_valid),
        imu=torch.where(chosen[:, None, None], x.imu * imu_sign, x.imu),
    )
    return mirrored, torch.where(chosen[:, None], target * sign, target)


def _disturb(
    x: MotionInput, settings: AugmentationSettings, generator: torch.Generator
) -> MotionInput:
    noise = torch.randn(len(x), 7, generator=generator)
    std = torch.empty(6)
    std[SPECIFIC_FORCE] = settings.force_bias_std_m_s2
    std[ANGULAR_RATE] = settings.rate_bias_std_rad_s
    imu = x.imu + (noise[:, :6] * std)[:, None] * x.imu_valid[..., None]
    gain = torch.exp(settings.gray_gain_std * noise[:, 6])[:, None, None]
    return replace(x, imu=imu, gray=(x.gray * gain).clamp(max=1.0))


def _drop_sensors(
    x: MotionInput, settings: AugmentationSettings, generator: torch.Generator
) -> MotionInput:
    """Take the camera or the IMU away, never both, and neither where the other is absent."""
    draw = torch.rand(len(x), generator=generator)
    has_both = (x.camera_valid > 0) & (x.imu_valid.amax(1) > 0)
    no_camera = has_both & (draw < settings.drop_camera)
    no_imu = has_both & (draw > 1 - settings.drop_imu)
    return without_imu(without_camera(x, no_camera), no_imu)


def without_camera(x: MotionInput, chosen: Tensor) -> MotionInput:
    """Return the batch with the camera absent where chosen [batch] is true."""
    keep = (~chosen).to(x.gray.dtype)
    return replace(
        x,
        gray=x.gray * keep[:, None, None],
        flow=x.flow * keep[:, None, None, None],
        view_valid=x.view_valid * keep[:, None, None],
        camera_valid=x.camera_valid * keep,
    )


def without_imu(x: MotionInput, chosen: Tensor) -> MotionInput:
    """Return the batch with the IMU absent where chosen [batch] is true."""
    keep = (~chosen).to(x.imu.dtype)
    return replace(x, imu=x.imu * keep[:, None, None], imu_valid=x.imu_valid * keep[:, None])
