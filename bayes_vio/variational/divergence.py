"""Kullback-Leibler divergences between factorised Gaussians and their priors, in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# The fit of Molchanov et al. (2017), eq. 14, to the divergence from the log-uniform prior.
K1, K2, K3 = 0.63576, 1.87320, 1.48695
# Below, a weight is as good as certain and no longer pays for more; above, it is as good as gone.
LOG_ALPHA_RANGE = (-8.0, 8.0)
_SMALLEST_SQUARE = 1e-8


def gaussian_divergence(mean: Tensor, log_variance: Tensor, prior_precision: float) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1 / prior_precision)), summed over entries.

    Source: Kingma and Welling (2014), appendix B, for any prior variance.
    """
    scaled = prior_precision * (mean.square() + log_variance.exp())
    log_ratio = log_variance + torch.as_tensor(prior_precision, dtype=mean.dtype).log()
    return 0.5 * (scaled - 1 - log_ratio).sum()


def log_uniform_divergence(log_alpha: Tensor) -> Tensor:
    """Return KL(N(mean, alpha mean^2) || 1 / |w|), summed over entries, up to a constant.

    The constant is such that the divergence goes to zero as alpha grows; log_alpha counts as its
    nearest value within LOG_ALPHA_RANGE. Source: Molchanov et al. (2017), eq. 14.
    """
    bounded = log_alpha.clamp(*LOG_ALPHA_RANGE)
    gain = K1 * torch.sigmoid(K2 + K3 * bounded) - 0.5 * F.softplus(-bounded) - K1
    return -gain.sum()


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log(variance / mean^2) entry by entry; a mean below 1e-4 counts as that.

    Source: Molchanov et al. (2017), eq. 11 (additive noise: the variance is the parameter).
    """
    return log_variance - (mean.square() + _SMALLEST_SQUARE).log()
