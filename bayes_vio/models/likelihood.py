"""Log-likelihoods of a network's output and their Hessians, side by side.

``mean`` [batch, outputs] is the network's output (logits for classes) and ``noise_cholesky``
[batch, outputs, outputs] the lower Cholesky factor of the noise covariance, in float64. Every
quantity is a sum over outputs of ONE datum; means over data are taken elsewhere, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bayes_vio.choices import Fisher

# Draws that are made only to be left out, so many together.
_SKIPPED_AT_ONCE = 4096


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian around the mean; ``noise_cov`` [outputs, outputs], or None: the model's own."""

    noise_cov: Tensor | None = None
    name = "gaussian"

    @cached_property
    def _cholesky(self) -> Tensor | None:
        return None if self.noise_cov is None else torch.linalg.cholesky(self.noise_cov)

    def noise_cholesky(self, mean: Tensor, from_model: Tensor | None) -> Tensor:
        """Return the noise's Cholesky factor [batch, outputs, outputs], in float64.

        Raises ValueError where neither the caller nor the model states a noise covariance.
        """
        if self._cholesky is not None:
            return self._cholesky.expand(len(mean), -1, -1)
        if from_model is None:
            raise ValueError(
                "the model returns no noise_cholesky: give noise_cov (variance of the targets)"
            )
        return from_model.detach().double()

    def log_likelihood(self, mean: Tensor, noise_cholesky: Tensor, target: Tensor) -> Tensor:
        """Return log N(target; mean, noise_cov) [batch]."""
        return gaussian_log_density(target.double() - mean.double(), noise_cholesky)

    def hessian_root(self, mean: Tensor, noise_cholesky: Tensor) -> Tensor:
        """Return R [batch, outputs, outputs] with R R^T = noise_cov^-1."""
        eye = torch.eye(mean.shape[1], dtype=noise_cholesky.dtype, device=mean.device)
        return torch.linalg.solve_triangular(
            noise_cholesky, eye.expand_as(noise_cholesky), upper=False
        ).mT

    def hessian_root_times(self, mean: Tensor, noise_cholesky: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        """Return R z [batch, outputs]."""
        return torch.linalg.solve_triangular(noise_cholesky.mT, z[..., None], upper=True)[..., 0]

    def score(self, mean: Tensor, noise_cholesky: Tensor, target: Tensor) -> Tensor:
        """Return the gradient of -log_likelihood in the mean [batch, outputs]."""
        error = (mean.double() - target.double())[..., None]
        return torch.cholesky_solve(error, noise_cholesky)[..., 0]

    def to(self, device: torch.device | str) -> Gaussian:
        """Return the likelihood on another device."""
        return Gaussian(None if self.noise_cov is None else self.noise_cov.to(device))

    def draw(self, mean: Tensor, noise_cholesky: Tensor, generator: torch.Generator) -> Tensor:
        """Draw targets [batch, outputs] from the model, datum by datum."""
        noise = [torch.randn(mean.shape[1], generator=generator).double() for _ in mean]
        shift = noise_cholesky @ torch.stack(noise).to(mean.device)[..., None]
        return mean.double() + shift[..., 0]


@dataclass(frozen=True)
class Categorical:
    """Classes with probabilities softmax(mean); it has no noise covariance."""

    name = "categorical"

    def noise_cholesky(self, mean: Tensor, from_model: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return an empty factor: classes have no noise covariance."""
        return mean.new_zeros(len(mean), 0, 0, dtype=torch.float64)

    def log_likelihood(self, mean: Tensor, noise_cholesky: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        """Return log softmax(mean)[target] [batch]; target [batch] holds class indices."""
        return mean.double().log_softmax(-1).gather(-1, target[:, None])[:, 0]

    def hessian_root(self, mean: Tensor, noise_cholesky: Tensor) -> Tensor:  # noqa: ARG002
        """Return R [batch, classes, classes] with R R^T = diag(p) - p p^T."""
        probs = mean.double().softmax(-1)
        root = probs.sqrt()
        return torch.diag_embed(root) - probs[:, :, None] * root[:, None, :]

    def hessian_root_times(self, mean: Tensor, noise_cholesky: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        """Return R z [batch, classes], without R."""
        probs = mean.double().softmax(-1)
        weighed = probs.sqrt() * z
        return weighed - probs * weighed.sum(1, keepdim=True)

    def score(self, mean: Tensor, noise_cholesky: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        """Return softmax(mean) - onehot(target) [batch, classes]."""
        probs = mean.double().softmax(-1)
        return probs - torch.nn.functional.one_hot(target, mean.shape[1])

    def to(self, device: torch.device | str) -> Categorical:  # noqa: ARG002
        """Return itself: it holds no tensors."""
        return self

    def draw(self, mean: Tensor, noise_cholesky: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Draw class indices [batch] from the model, datum by datum."""
        probs = mean.detach().double().softmax(-1).cpu()
        draws = [torch.multinomial(p, 1, generator=generator) for p in probs]
        return torch.cat(draws).to(mean.device)


Likelihood = Gaussian | Categorical


def gaussian_log_density(error: Tensor, cholesky: Tensor) -> Tensor:
    """Return log N(error; 0, cholesky cholesky^T) [batch]; error [batch, outputs]."""
    white = torch.linalg.solve_triangular(cholesky, error[..., None], upper=False)[..., 0]
    log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_det - 0.5 * error.shape[-1] * math.log(2 * math.pi)


def make_likelihood(
    name: str, noise_cov: float | Tensor | None, n_outputs: int, device: torch.device
) -> Likelihood:
    """Build a likelihood by name; noise_cov is a variance, [outputs] or [outputs, outputs].

    Raises ValueError for an unknown name, a wrong shape or a covariance that is not positive.
    """
    if name == "categorical":
        if noise_cov is not None:
            raise ValueError("noise_cov belongs to the gaussian likelihood: leave it None")
        return Categorical()
    if name != "gaussian":
        raise ValueError(f"unknown likelihood {name!r}: use 'gaussian' or 'categorical'")
    return Gaussian(None if noise_cov is None else _full_cov(noise_cov, n_outputs, device))


def _full_cov(noise_cov: float | Tensor, n_outputs: int, device: torch.device) -> Tensor:
    cov = torch.as_tensor(noise_cov, dtype=torch.float64, device=device)
    if cov.dim() == 0:
        cov = cov.expand(n_outputs)
    if cov.dim() == 1:
        cov = torch.diag(cov)
    if cov.shape != (n_outputs, n_outputs):
        raise ValueError(f"noise_cov has shape {tuple(cov.shape)}, the model {n_outputs} outputs")
    if not torch.equal(cov, cov.mT) or torch.linalg.cholesky_ex(cov).info.item():
        raise ValueError("noise_cov is not symmetric positive definite")
    return cov


def skip_draws(
    fisher: Fisher,
    likelihood: Likelihood,
    count: int,
    n_outputs: int,
    generator: torch.Generator,
) -> None:
    """Bring a generator to where it is after the draws for ``count`` data were made."""
    for start in range(0, count, _SKIPPED_AT_ONCE):
        mean = torch.zeros(min(_SKIPPED_AT_ONCE, count - start), n_outputs)
        if fisher is Fisher.PROBED:
            random_signs(mean, generator)
        elif fisher is Fisher.MC:
            noise = torch.eye(n_outputs, dtype=torch.float64).expand(len(mean), -1, -1)
            likelihood.draw(mean, noise, generator)


def random_signs(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw z [batch, outputs] of 1 and -1, datum by datum: E[z z^T] = 1 and z_r^2 = 1 (E24)."""
    bits = torch.randint(0, 2, mean.shape, generator=generator)
    return (2 * bits - 1).to(mean.device, torch.float64)


def cotangents(
    fisher: Fisher,
    likelihood: Likelihood,
    mean: Tensor,
    noise_cholesky: Tensor,
    target: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return what is pulled back through the network: [columns, batch, outputs], mean's dtype.

    The sum over columns of their outer products is the output Hessian: exactly (TYPE2) or in
    expectation over random signs (PROBED) or over the model's own labels (MC).
    """
    if fisher is Fisher.TYPE2:
        root = likelihood.hessian_root(mean, noise_cholesky)
        return root.permute(2, 0, 1).to(mean.dtype)
    if fisher is Fisher.PROBED:
        z = random_signs(mean, generator)
        return likelihood.hessian_root_times(mean, noise_cholesky, z)[None].to(mean.dtype)
    if fisher is Fisher.MC:
        target = likelihood.draw(mean, noise_cholesky, generator)
    return likelihood.score(mean, noise_cholesky, target)[None].to(mean.dtype)
