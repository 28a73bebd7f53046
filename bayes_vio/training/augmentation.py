"""Random changes of a training batch that leave its target known; validation sees none of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_vio.conventions import (
    ANGULAR_RATE,
    R_BASE_OPTICAL,
    ROT_X,
    ROT_Z,
    SPECIFIC_FORCE,
    Y,
)
from bayes_vio.data.samples import (
    VIEW_FOCAL_PX,
    VIEW_HEIGHT,
    VIEW_WIDTH,
    MotionInput,
)
from bayes_vio.geometry import so3
from bayes_vio.models.flow_geometry import ray_grid

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
    tilt_std_rad: tuple[float, float, float] = (0.003, 0.005, 0.003)  # roll, pitch, yaw


def augment(
    x: MotionInput, target: Tensor, settings: AugmentationSettings, generator: torch.Generator
) -> tuple[MotionInput, Tensor]:
    """Return a changed batch and its targets [batch, 6]; the arguments stay as they are."""
    x, target = mirrored(x, target, _chance(len(x), settings.mirror, generator))
    if any(settings.tilt_std_rad):
        std = torch.tensor(settings.tilt_std_rad)
        x, target = tilted(x, target, std * torch.randn(len(x), 3, generator=generator))
    x = _disturb(x, settings, generator)
    return _drop_sensors(x, settings, generator), target


def _chance(n: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) < probability


def mirrored(x: MotionInput, target: Tensor, chosen: Tensor) -> tuple[MotionInput, Tensor]:
    """Return the batch with the drives chosen [batch] seen in a mirror: left turns are right ones.

    Images and flow are flipped; y of a vector and x and z of a rotation change their sign.
    """
    sign = torch.ones(6)
    sign[list(_MIRRORED)] = -1
    imu_sign = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    flow = x.flow.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    changed = replace(
        x,
        gray=torch.where(chosen[:, None, None], x.gray.flip(-1), x.gray),
        flow=torch.where(chosen[:, None, None, None], flow, x.flow),
        view_valid=torch.where(chosen[:, None, None], x.view_valid.flip(-1), x.view_valid),
        imu=torch.where(chosen[:, None, None], x.imu * imu_sign, x.imu),
    )
    return changed, torch.where(chosen[:, None], target * sign, target)


def tilted(x: MotionInput, target: Tensor, tilt: Tensor) -> tuple[MotionInput, Tensor]:
    """Return the batch as it is for a base_link turned by tilt [batch, 3] (rad, base axes).

    A car leans on its springs by how it is loaded, and its sensors are mounted to about a degree.
    Rays, flow, IMU and target turn alike; a rim of the view, which the camera did not see, repeats
    its border.
    """
    R = so3.exp(tilt.to(x.flow))  # R_base_tilted
    R_optical = torch.as_tensor(R_BASE_OPTICAL.copy(), dtype=R.dtype)
    R_optical = R_optical.T @ R @ R_optical
    u, v = ray_grid()
    rays = torch.stack([u, v, torch.ones_like(u)]).to(x.flow)
    seen = _direction(torch.einsum("bij,jhw->bihw", R_optical, rays))
    maps = torch.cat([x.gray[:, None], x.view_valid[:, None], x.flow], 1)
    maps = F.grid_sample(
        maps, _to_grid(seen), mode="bilinear", padding_mode="border", align_corners=False
    )
    gray, view_valid, flow = maps[:, 0], maps[:, 1], maps[:, 2:]
    earlier = torch.cat([seen + flow, torch.ones_like(flow[:, :1])], 1)
    moved = _direction(torch.einsum("bji,bjhw->bihw", R_optical, earlier)) - rays[:2]
    still = (flow == 0).all(1, keepdim=True)  # a frozen image stays one
    imu = torch.einsum("bji,btkj->btki", R, x.imu.unflatten(-1, (2, 3))).flatten(-2)
    turned = torch.einsum("bji,bkj->bki", R, target.unflatten(-1, (2, 3))).flatten(-2)
    flow = torch.where(still, 0.0, moved)
    return replace(x, gray=gray, view_valid=view_valid, flow=flow, imu=imu), turned


def _direction(points: Tensor) -> Tensor:
    """Return the rays' coordinates [batch, 2, h, w] (focal lengths) of points [batch, 3, h, w]."""
    return points[:, :2] / points[:, 2:]


def _to_grid(rays: Tensor) -> Tensor:
    """Return where rays [batch, 2, h, w] lie on the grid [batch, h, w, 2], its edges at -1, 1."""
    edge = torch.tensor([VIEW_WIDTH, VIEW_HEIGHT]) / (2 * VIEW_FOCAL_PX)
    return rays.movedim(1, -1) / edge.to(rays)


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
