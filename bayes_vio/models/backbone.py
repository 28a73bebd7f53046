"""Encoders that turn an image pair and an IMU window into tokens [batch, tokens, width]."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.conventions import ANGULAR_RATE, GRAVITY_M_S2, SPECIFIC_FORCE
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.flow_geometry import road_speed_weight, rotation_flow_basis

# Typical magnitudes on a car, to bring every channel near one.
_FLOW_RATE_SCALE_1_S = 0.5
_FLOW_SCALE = 0.05
_ROAD_SPEED_SCALE_1_S = 6.0
_FORCE_SCALE_M_S2 = 2.0
_ANGULAR_RATE_SCALE_RAD_S = 0.2
# Flow of a mismatch can be arbitrarily large; beyond this many scales it carries no more meaning.
_SATURATION = 4.0
IMAGE_CHANNELS = 8
IMU_CHANNELS = 7


def mean_angular_rate(x: MotionInput) -> Tensor:
    """Return the gyro's mean rate [batch, 3] (rad/s, base axes) over the valid bins, else 0."""
    weight = x.imu_valid[..., None]
    return (x.imu[..., ANGULAR_RATE] * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class ImageEncoder(nn.Module):
    """Encode the later frame and its flow: [batch, 40, 128] maps to tokens [batch, 80, width].

    The flow enters raw, and as a rate with the gyro's rotation taken out (E-F1) and scaled to the
    speed that a flat road would imply (E-F2), so that strides and intrinsics may change.
    """

    rotation_basis: Tensor
    road_weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("rotation_basis", rotation_flow_basis(), persistent=False)
        self.register_buffer("road_weight", road_speed_weight(), persistent=False)
        # Large overlapping patches at once: a stem at half resolution would spend as much time on
        # its Jacobian as all other layers together.
        self.stem = nn.Conv2d(IMAGE_CHANNELS, 32, 6, stride=4, padding=1)
        self.top = nn.Conv2d(32, width, 3, stride=2, padding=1)

    def channels(self, x: MotionInput) -> Tensor:
        """Return the image channels [batch, 8, 40, 128], each of order one."""
        rate = x.flow / x.dt[:, None, None, None]
        rotation = torch.einsum("chwk,bk->bchw", self.rotation_basis, mean_angular_rate(x))
        valid = x.view_valid[:, None]
        derotated = (rate - rotation) * valid
        road_speed = self.road_weight * derotated[:, 1:]
        flow_channels = [
            derotated / _FLOW_RATE_SCALE_1_S,
            road_speed / _ROAD_SPEED_SCALE_1_S,
            x.flow / _FLOW_SCALE,
        ]
        flow = _saturate(torch.cat(flow_channels, 1))
        gray = (4 * x.gray[:, None] - 2) * valid
        moved = (x.flow.abs().sum(1, keepdim=True) > 0).to(gray.dtype)
        return torch.cat([flow, gray, valid, moved], 1)

    def forward(self, x: MotionInput) -> Tensor:
        """Return tokens [batch, 80, width], row by row."""
        h = F.gelu(self.stem(self.channels(x)))
        return self.top(h).flatten(2).transpose(1, 2)


class ImuEncoder(nn.Module):
    """Encode an IMU window [batch, 20, 6] into tokens [batch, 10, width]."""

    gravity: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # A buffer: a CUDA graph cannot bring numbers from the host.
        self.register_buffer("gravity", torch.tensor([0.0, 0.0, GRAVITY_M_S2]), persistent=False)
        self.stem = nn.Conv1d(IMU_CHANNELS, 48, 3, padding=1)
        self.top = nn.Conv1d(48, width, 3, stride=2, padding=1)

    def channels(self, x: MotionInput) -> Tensor:
        """Return the IMU channels [batch, 7, 20], each of order one, 0 where invalid."""
        force = (x.imu[..., SPECIFIC_FORCE] - self.gravity) / _FORCE_SCALE_M_S2
        rate = x.imu[..., ANGULAR_RATE] / _ANGULAR_RATE_SCALE_RAD_S
        valid = x.imu_valid[..., None]
        return torch.cat([force * valid, rate * valid, valid], -1).transpose(1, 2)

    def forward(self, x: MotionInput) -> Tensor:
        """Return tokens [batch, 10, width], in order of time."""
        h = F.gelu(self.stem(self.channels(x)))
        return self.top(h).transpose(1, 2)


def _saturate(x: Tensor) -> Tensor:
    return _SATURATION * torch.tanh(x / _SATURATION)
