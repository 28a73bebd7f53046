"""The training objective; every scaling of the loss is written here and nowhere else."""

import math

import torch
from torch import Tensor


def whiten(residual: Tensor, noise_cholesky: Tensor) -> Tensor:
    """Return L^-1 r [batch, d] for residuals r [batch, d] and Cholesky factors L [batch, d, d]."""
    solved = torch.linalg.solve_triangular(noise_cholesky, residual[..., None], upper=False)
    return solved.squeeze(-1)


def gaussian_nll(mean: Tensor, noise_cholesky: Tensor, target: Tensor) -> Tensor:
    """Return -log N(target; mean, L L^T) per datum [batch], in nats."""
    white = whiten(target - mean, noise_cholesky)
    log_det = noise_cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = 0.5 * mean.shape[-1] * math.log(2 * math.pi)
    return 0.5 * white.square().sum(-1) + log_det + constant


def log_weight(noise_cholesky: Tensor, beta: float) -> Tensor:
    """Return (beta / d) log det(noise), detached, per datum [batch]."""
    log_det = 2 * noise_cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (beta / noise_cholesky.shape[-1]) * log_det.detach()


def tempered_nll(
    mean: Tensor,
    noise_cholesky: Tensor,
    target: Tensor,
    beta: float,
    log_level: Tensor | None = None,
) -> Tensor:
    """Return the NLL weighted by det(noise)^(beta / d), detached, per datum [batch].

    Weights are relative to exp(log_level), by default their geometric mean over the batch.

    The plain NLL (beta 0) gives samples of large predicted noise so little weight that the mean is
    never learned there. Source: Seitzer et al. (2022), "On the pitfalls of heteroscedastic
    uncertainty estimation", eq. 6, with the determinant in place of the scalar variance.
    """
    nll = gaussian_nll(mean, noise_cholesky, target)
    own = log_weight(noise_cholesky, beta)
    return nll * torch.exp(own - (own.mean() if log_level is None else log_level))
