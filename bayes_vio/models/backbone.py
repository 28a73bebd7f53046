"""Encoders that turn an image pair and an IMU window into tokens [batch, tokens, width]."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.conventions import (
    ANGULAR_RATE,
    GRAVITY_M_S2,
    R_BASE_OPTICAL,
    SPECIFIC_FORCE,
)
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.flow_geometry import (
    ROAD_BANDS,
    ray_grid,
    road_bands,
    road_way,
    without_rotation,
)

# Typical magnitudes on a car, to bring every channel near one.
_FLOW_RATE_SCALE_1_S = 0.5
_FLOW_SCALE = 0.05
_ROAD_SPEED_SCALE_1_S = 6.0
# Bands differ by a fifth or so; of a road that hardly moves their ratios say nothing.
_BAND_SCALE, _LEAST_LEVEL_1_S = 0.2, 0.5
_FORCE_SCALE_M_S2 = 2.0
_ANGULAR_RATE_SCALE_RAD_S = 0.2
# Flow of a mismatch can be arbitrarily large; beyond this many scales it carries no more meaning.
_SATURATION = 4.0
IMAGE_CHANNELS = 8
IMU_CHANNELS = 7
ROAD_READINGS = 2 + ROAD_BANDS


def mean_angular_rate(x: MotionInput) -> Tensor:
    """Return the gyro's mean rate [batch, 3] (rad/s, base axes) over the valid bins, else 0."""
    weight = x.imu_valid[..., None]
    return (x.imu[..., ANGULAR_RATE] * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class StillView(NamedTuple):
    """What an interval's flow says once the gyro's rotation is taken out.

    flow [batch, 2, 40, 128] (E-F1), 0 where unseen; way [batch, 40, 128] in heights (E-F2).
    """

    flow: Tensor
    way: Tensor


class Stabiliser(nn.Module):
    """Take the gyro's rotation out of the flow, and read it as a flat road's."""

    rays: Tensor
    R_optical_base: Tensor

    def __init__(self) -> None:
        super().__init__()
        R_optical_base = torch.as_tensor(R_BASE_OPTICAL.T.copy(), dtype=torch.float32)
        self.register_buffer("R_optical_base", R_optical_base, persistent=False)
        self.register_buffer("rays", torch.stack(ray_grid()), persistent=False)

    def forward(self, x: MotionInput) -> StillView:
        """Return the flow without rotation, and the way that each cell of road tells."""
        rotation = (mean_angular_rate(x) * x.dt[:, None]) @ self.R_optical_base.T
        flow = without_rotation(x.flow, rotation, self.rays) * x.view_valid[:, None]
        return StillView(flow, road_way(flow, self.rays[1]))


class RoadReader(nn.Module):
    """Read speed over camera height off the road ahead (E-F2): overall, its spread, by bands.

    Bands that disagree tell how the car is pitched against the road: d (y - y0)^2 / y^2.
    """

    cells: Tensor

    def __init__(self) -> None:
        super().__init__()
        bands = road_bands()
        self._sizes = [len(band) for band in bands]
        self.register_buffer("cells", torch.cat(bands), persistent=False)

    def forward(self, way: Tensor, dt: Tensor) -> Tensor:
        """Return median and interquartile range, then the bands' medians [batch, 7] (1/s).

        way [batch, 40, 128] in heights over intervals of dt [batch] (s).
        """
        read = way.flatten(1)[:, self.cells] / dt[:, None]
        near = read[:, self._sizes[0] :]
        n, ordered = near.shape[1], near.sort(1).values
        low, middle, high = (ordered[:, (k * n) // 4] for k in (1, 2, 3))
        bands = [band.median(1).values for band in read.split(self._sizes, 1)]
        return torch.stack([middle, high - low, *bands], 1)

    def features(self, reading: Tensor) -> Tensor:
        """Return readings [batch, 7] as the network takes them, each of order one."""
        speed, bands = reading[:, :2], reading[:, 2:]
        level = reading[:, :1]
        apart = (bands - level) / (level.abs() + _LEAST_LEVEL_1_S) / _BAND_SCALE
        return _saturate(torch.cat([speed / _ROAD_SPEED_SCALE_1_S, apart], 1))


class ImageEncoder(nn.Module):
    """Encode the later frame and its flow: [batch, 40, 128] maps to tokens [batch, 80, width].

    The flow enters raw, and as a rate with the gyro's rotation taken out (E-F1) and turned into
    the speed that a flat road would imply (E-F2), so that strides and intrinsics may change.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Large overlapping patches at once: a stem at half resolution would spend as much time on
        # its Jacobian as all other layers together.
        self.stem = nn.Conv2d(IMAGE_CHANNELS, 32, 6, stride=4, padding=1)
        self.top = nn.Conv2d(32, width, 3, stride=2, padding=1)

    def channels(self, x: MotionInput, still: StillView) -> Tensor:
        """Return the image channels [batch, 8, 40, 128], each of order one."""
        dt = x.dt[:, None, None, None]
        flow_channels = [
            still.flow / (dt * _FLOW_RATE_SCALE_1_S),
            still.way[:, None] / (dt * _ROAD_SPEED_SCALE_1_S),
            x.flow / _FLOW_SCALE,
        ]
        flow = _saturate(torch.cat(flow_channels, 1))
        valid = x.view_valid[:, None]
        gray = (4 * x.gray[:, None] - 2) * valid
        moved = (x.flow.abs().sum(1, keepdim=True) > 0).to(gray.dtype)
        return torch.cat([flow, gray, valid, moved], 1)

    def forward(self, x: MotionInput, still: StillView) -> Tensor:
        """Return tokens [batch, 80, width], row by row."""
        h = F.gelu(self.stem(self.channels(x, still)))
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
