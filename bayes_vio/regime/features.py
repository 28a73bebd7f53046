"""What the regime classifier reads: statistics of two gray grids, the backbone's pooled tokens.

The image is judged by its appearance alone, never by flow: it must be judged where flow is not
measured, behind an image that is of no use. Ego-motion is judged by the motion model's image
backbone, whose tokens hold the flow.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.backbone import ImageEncoder, Stabiliser, mean_angular_rate

Array = NDArray[np.float32]
Levels = NDArray[np.uint8]

# Statistics are taken over blocks of cells, 4 rows of 8; a row's blocks are told apart by their
# order alone, so that it does not matter on which side something is.
_BLOCK_ROWS, _BLOCK_COLUMNS = 4, 8
# Added before logarithms, in gray levels of 255: half of what rounding alone makes of nothing.
_LEVEL_FLOOR = 0.15
# Differences below are no more than rounding; their logarithm starts there.
_DIFFERENCE_FLOOR = 0.02
_RATE_SCALE_RAD_S, _FORCE_SCALE_M_S2 = 0.05, 0.3
_TOKEN_ROWS, _TOKEN_COLUMNS = 5, 16
_TOKEN_GROUPS = 4
_IMU_STATISTICS = 3
_KINDS = 7  # brightness, contrast, detail, its sparseness, coarse detail, difference, persistence
_PER_KIND = 3 * _BLOCK_ROWS
APPEARANCE_FEATURES = _KINDS * _PER_KIND + _BLOCK_ROWS + 4
IMAGE_FEATURES = APPEARANCE_FEATURES + _IMU_STATISTICS
# What of an image's features belongs together: each kind, how detail goes on to the finest scale,
# the levels' range, and all of them. The IMU's are no property of the image.
FEATURE_GROUPS = (
    *(slice(i * _PER_KIND, (i + 1) * _PER_KIND) for i in range(_KINDS)),
    slice(_KINDS * _PER_KIND, _KINDS * _PER_KIND + _BLOCK_ROWS),
    slice(_KINDS * _PER_KIND + _BLOCK_ROWS, APPEARANCE_FEATURES),
    slice(0, APPEARANCE_FEATURES),
)


def image_features(earlier: Levels, later: Levels, imu: Array, imu_valid: Array) -> Array:
    """Return features [n, IMAGE_FEATURES] of the later images of n pairs.

    earlier, later [n, 40, 128] gray levels on the grid; imu [n, 20, 6] (m/s^2, rad/s, base axes)
    and imu_valid [n, 20] of the interval between them: a repeated image is only told from one of
    a standing car by the IMU.
    """
    n = len(later)
    level = later.astype(np.float32)
    difference = np.abs(level - earlier)
    laplacian = _laplacian(level)
    detail, coarse = np.abs(laplacian), np.abs(_laplacian(_halved(level)))
    block_mean, block_std = _blocks(level), _block_std(level)
    fine_log, coarse_log = _log(_blocks(detail)), _log(_blocks(coarse))
    by_block = [
        block_mean / 64.0,
        _log(block_std),
        fine_log,
        _log(_blocks(laplacian**2)) - 2 * fine_log,
        coarse_log,
        _log(_blocks(difference), _DIFFERENCE_FLOOR),
        _persistence(_laplacian(earlier.astype(np.float32)), laplacian),
    ]
    rows = [np.concatenate([k.min(2), k.mean(2), k.max(2)], axis=1) for k in by_block]
    columns = [row.reshape(n, -1) for row in rows]
    columns.append((fine_log - coarse_log).mean(2))
    columns.append(_whole(level, difference))
    columns.append(imu_statistics(imu, imu_valid))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _whole(level: Array, difference: Array) -> Array:
    """Return range and mean of the levels, and how much of the image is as it was, [n, 4]."""
    flat = level.reshape(len(level), -1)
    unchanged = (difference == 0).mean((1, 2))
    statistics = [
        flat.max(1) / 64.0,
        flat.min(1) / 64.0,
        _log(flat.mean(1)),
        unchanged.astype(np.float32),
    ]
    return np.stack(statistics, axis=1)


def imu_statistics(imu: Array, imu_valid: Array) -> Array:
    """Return [n, 3]: logarithms of turning and shaking, and the share of bins that is there."""
    weight = imu_valid[..., None]
    count = np.maximum(weight.sum(1), 1.0)
    mean = (imu * weight).sum(1) / count
    variance = ((imu - mean[:, None]) ** 2 * weight).sum(1) / count
    rate = np.linalg.norm(mean[:, ANGULAR_RATE], axis=1)
    shaking = np.sqrt(variance[:, SPECIFIC_FORCE].sum(1))
    there = imu_valid.mean(1)
    logs = np.log1p(rate / _RATE_SCALE_RAD_S), np.log1p(shaking / _FORCE_SCALE_M_S2)
    return np.stack([*logs, there], axis=1).astype(np.float32)


def _laplacian(level: Array) -> Array:
    """Return the Laplacian of images [n, h, w], zero at the border."""
    result = np.zeros_like(level)
    inner = level[:, 1:-1, 1:-1]
    around = level[:, :-2, 1:-1] + level[:, 2:, 1:-1] + level[:, 1:-1, :-2] + level[:, 1:-1, 2:]
    np.subtract(around, 4 * inner, out=result[:, 1:-1, 1:-1])
    return result


def _persistence(earlier: Array, later: Array) -> Array:
    """Return by block [n, 4, 8] how far the detail stayed in place: a correlation, up to one.

    What sits on the lens does, the road does not.
    """
    power = np.sqrt(_blocks(earlier**2) * _blocks(later**2))
    return _blocks(earlier * later) / (power + np.float32(_LEVEL_FLOOR))


def _halved(level: Array) -> Array:
    n, height, width = level.shape
    return level.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4))


def _blocks(values: Array) -> Array:
    """Return the means [n, 4, 8] of values [n, h, w] over blocks."""
    n, height, width = values.shape
    shape = (n, _BLOCK_ROWS, height // _BLOCK_ROWS, _BLOCK_COLUMNS, width // _BLOCK_COLUMNS)
    return values.reshape(shape).mean((2, 4))


def _block_std(level: Array) -> Array:
    variance = _blocks(level**2) - _blocks(level) ** 2
    return np.sqrt(np.maximum(variance, 0.0))


def _log(values: Array, floor: float = _LEVEL_FLOOR) -> Array:
    return np.log(values + np.float32(floor))


@torch.no_grad()
def ego_motion_features(encoder: ImageEncoder, x: MotionInput) -> Tensor:
    """Return features [batch, n_ego_motion_features(width)]: pooled tokens, and the IMU's means.

    The image's tokens are averaged over four groups of columns, since turning shows at the sides;
    the IMU gives its mean rate [3], statistics and the interval's length.
    """
    tokens = F.gelu(encoder(x, _stabiliser()(x))).mT.unflatten(2, (_TOKEN_ROWS, _TOKEN_COLUMNS))
    pooled = tokens.unflatten(3, (_TOKEN_GROUPS, -1)).mean((2, 4)).flatten(1)
    statistics = imu_statistics(x.imu.numpy(), x.imu_valid.numpy())
    rate = mean_angular_rate(x) / _RATE_SCALE_RAD_S
    return torch.cat([pooled, rate, torch.from_numpy(statistics), x.dt[:, None].log()], 1)


@cache
def _stabiliser() -> Stabiliser:
    """Return the one that all share: it learns nothing, and x is on the CPU."""
    return Stabiliser()


def n_ego_motion_features(width: int) -> int:
    """Return how many features the backbone of a token width gives."""
    return width * _TOKEN_GROUPS + 3 + _IMU_STATISTICS + 1
