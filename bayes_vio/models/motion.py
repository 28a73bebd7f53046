"""The motion model: increment of base_link between two images, with its noise covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.conventions import ANGULAR, X
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.attention import FusionBlock
from bayes_vio.models.backbone import (
    ROAD_READINGS,
    ImageEncoder,
    ImuEncoder,
    RoadReader,
    Stabiliser,
    StillView,
    mean_angular_rate,
)

IMAGE_TOKENS = 80
IMU_TOKENS = 10
_CHOLESKY_ENTRIES = 21
# Smallest noise std in units of the twist scale: far below what any car sensor resolves.
_LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class MotionModelSettings:
    """Sizes of the network: token width, attention heads, fusion blocks, latents, hidden units."""

    width: int = 96
    heads: int = 4
    blocks: int = 1
    latents: int = 4
    hidden: int = 128


class MotionModel(nn.Module):
    """Predict Log(T_earlier_later) of base_link [batch, 6] (m, rad) and its noise [batch, 6, 6].

    The network predicts a mean twist, as a residual to the gyro's rate and the speed that the road
    ahead tells, times the interval (E-M1):
        mean = dt (gyro + height road + offset + scale f(x)),
        noise_cholesky = dt diag(scale * s) L(x),
    so that one net serves every frame rate. ``road_height`` is the camera's height above the road
    (m) as training tells it, ``usual_road_speed`` (1/s) stands in where there is no camera. Either
    sensor may be absent: its tokens are then learned ones. ``noise_scale`` s [6] is the post-hoc
    calibration of the noise, one by default.
    """

    twist_offset: Tensor
    twist_scale: Tensor
    noise_scale: Tensor
    road_height: Tensor
    usual_road_speed: Tensor

    def __init__(self, settings: MotionModelSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or MotionModelSettings()
        self.stabiliser = Stabiliser()
        self.image_encoder = ImageEncoder(s.width)
        self.imu_encoder = ImuEncoder(s.width)
        self.image_position = nn.Parameter(0.1 * torch.randn(IMAGE_TOKENS, s.width))
        self.imu_position = nn.Parameter(0.1 * torch.randn(IMU_TOKENS, s.width))
        self.no_image_token = nn.Parameter(torch.zeros(s.width))
        self.no_imu_token = nn.Parameter(torch.zeros(s.width))
        self.norm_tokens = nn.LayerNorm(s.width)
        self.latents = nn.Parameter(0.5 * torch.randn(s.latents, s.width))
        self.blocks = nn.ModuleList(FusionBlock(s.width, s.heads) for _ in range(s.blocks))
        self.norm_latents = nn.LayerNorm(s.width)
        self.road = RoadReader()
        features = s.latents * s.width + ROAD_READINGS
        self.hidden = nn.Linear(features, s.hidden)
        self.mean_head = nn.Linear(s.hidden, 6)
        self.noise_hidden = nn.Linear(features, s.hidden // 2)
        self.noise_head = nn.Linear(s.hidden // 2, _CHOLESKY_ENTRIES)
        self.register_buffer("twist_offset", torch.zeros(6))
        self.register_buffer("twist_scale", torch.ones(6))
        self.register_buffer("noise_scale", torch.ones(6))
        self.register_buffer("road_height", torch.zeros(()))
        self.register_buffer("usual_road_speed", torch.zeros(()))
        nn.init.zeros_(self.noise_head.weight)
        nn.init.zeros_(self.noise_head.bias)

    def forward(self, x: MotionInput) -> tuple[Tensor, Tensor]:
        """Return mean [batch, 6] in Log coordinates and noise_cholesky [batch, 6, 6]."""
        still = self.stabiliser(x)
        road = self._road(x, still)
        features = torch.cat([self._features(x, still), self.road.features(road)], 1)
        residual = self.mean_head(F.gelu(self.hidden(features)))
        twist = self._prior_twist(x, road) + self.twist_scale * residual
        raw = self.noise_head(F.gelu(self.noise_hidden(features)))
        scale = x.dt[:, None] * self.twist_scale * self.noise_scale
        return x.dt[:, None] * twist, scale[..., None] * _lower_triangular(raw)

    def prior_twist(self, x: MotionInput) -> Tensor:
        """Return what is known without the network [batch, 6]: gyro, road and training's mean."""
        return self._prior_twist(x, self._road(x, self.stabiliser(x)))

    def _prior_twist(self, x: MotionInput, road: Tensor) -> Tensor:
        twist = self.twist_offset.expand(len(x), 6).clone()
        twist[:, X] += self.road_height * road[:, 0]
        twist[:, ANGULAR] += mean_angular_rate(x)
        return twist

    def _road(self, x: MotionInput, still: StillView) -> Tensor:
        """Return the road's readings [batch, 7] (1/s); without a camera the usual speed."""
        usual = self.usual_road_speed.repeat(ROAD_READINGS)
        spread = torch.arange(ROAD_READINGS, device=usual.device) == 1
        usual = torch.where(spread, 0.0, usual)
        return torch.where(x.camera_valid[:, None] > 0, self.road(still.way, x.dt), usual)

    @torch.no_grad()
    def set_twist_statistics(self, offset: Tensor, scale: Tensor) -> None:
        """Set mean and standard deviation [6] of training's twist residuals (m/s, rad/s)."""
        if not bool((scale > 0).all()):
            raise ValueError(f"twist scales must be positive, got {scale.tolist()}")
        self.twist_offset.copy_(offset)
        self.twist_scale.copy_(scale)

    @torch.no_grad()
    def set_road(self, height: float, usual_speed: float) -> None:
        """Set the camera's height above the road (m) and the usual speed over it (1/s)."""
        self.road_height.fill_(height)
        self.usual_road_speed.fill_(usual_speed)

    def _features(self, x: MotionInput, still: StillView) -> Tensor:
        camera = x.camera_valid[:, None, None] > 0
        image = torch.where(camera, self.image_encoder(x, still), self.no_image_token)
        imu_present = x.imu_valid.amax(1)[:, None, None] > 0
        imu = torch.where(imu_present, self.imu_encoder(x), self.no_imu_token)
        tokens = torch.cat([image + self.image_position, imu + self.imu_position], 1)
        tokens = self.norm_tokens(F.gelu(tokens))
        latents = self.latents.expand(len(x), -1, -1)
        for block in self.blocks:
            latents = block(latents, tokens)
        return self.norm_latents(latents).flatten(1)


def _lower_triangular(raw: Tensor) -> Tensor:
    """Return Cholesky factors [batch, 6, 6] of raw [batch, 21], diagonal above _LEAST_NOISE."""
    rows, columns = torch.tril_indices(6, 6, device=raw.device)
    L = raw.new_zeros(raw.shape[0], 6, 6)
    L[:, rows, columns] = raw
    diagonal = F.softplus(L.diagonal(dim1=-2, dim2=-1)) + _LEAST_NOISE
    return L.tril(-1) + torch.diag_embed(diagonal)
