"""The objective against torch.distributions."""

import torch
from torch.distributions import MultivariateNormal

from bayes_vio.training.objective import gaussian_nll, tempered_nll


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    mean, target = (torch.randn(8, 6, generator=g, dtype=torch.float64) for _ in range(2))
    L = torch.randn(8, 6, 6, generator=g, dtype=torch.float64).tril()
    L.diagonal(dim1=-2, dim2=-1).abs_().add_(0.1)
    return mean, L, target


def test_nll_is_that_of_the_multivariate_normal() -> None:
    mean, L, target = problem()
    expected = -MultivariateNormal(mean, scale_tril=L).log_prob(target)
    torch.testing.assert_close(gaussian_nll(mean, L, target), expected)


def test_beta_zero_is_the_plain_nll() -> None:
    mean, L, target = problem()
    torch.testing.assert_close(tempered_nll(mean, L, target, 0.0), gaussian_nll(mean, L, target))


def test_beta_one_gives_every_residual_the_weight_of_a_squared_loss() -> None:
    mean, _, target = problem()
    scale = torch.tensor([0.1, 10.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
    L = scale[:, None, None] * torch.eye(6, dtype=torch.float64)
    mean.requires_grad_()
    tempered_nll(mean, L, target, 1.0).sum().backward()
    assert mean.grad is not None
    ratio = mean.grad / (mean - target).detach()
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
