"""Choose prior precision and noise scale together, by the validation likelihood of the model.

The residual on held-out data is noise plus what the weights do not know, so the two are fitted
against it jointly (E-C1):
    r_i ~ N(0, S N_i S + E_i(prior_precision)),    S = diag(s),
with N_i the model's noise covariance and E_i the linearised epistemic covariance. Fitting the
noise alone first would leave nothing for the epistemic part to explain.

Errors differ from drive to drive more than from frame to frame, and validation is few drives: a
straight road would narrow the noise for all. Residuals of the training drives are no larger than
those of a new one like them. So where both together ask for more noise than validation alone, they
have it; the epistemic part is told by drives unseen alone.

Where a sensor is missing that the curvature always had, the weights that only then matter are held
by the prior alone, though training told of them, and E_i is too wide. There it has factors, too:
    r_i ~ N(0, S N_i S + D E_i D),    D = diag(d), d <= 1.                                   (E-C5)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayes_vio.data.samples import MotionInput
from bayes_vio.posterior import GaussianPrediction, Posterior

# How far one axis' noise may be off after training: beyond a factor e^3 something else is wrong.
_LARGEST_LOG_SCALE = 3.0
# The scale mends a noise model that is already fitted: a priori log s ~ N(0, 0.5^2).
# Errors last for some seconds, so that about one frame in twenty tells something new.
_LOG_SCALE_STD = 0.5
_FRAMES_PER_INDEPENDENT_ERROR = 20
# The epistemic part is trusted less than the noise where no data told of it: log d is the negative
# half of N(0, 1).
_LOG_EPISTEMIC_STD, _LEAST_LOG_EPISTEMIC = 1.0, -4.5


Batches = Iterable[tuple[MotionInput, Tensor]]


@dataclass(frozen=True)
class Residuals:
    """Errors [n, d] beside what was said of them: epistemic_cov and noise_cov [n, d, d]."""

    error: Tensor
    epistemic_cov: Tensor
    noise_cov: Tensor

    def joined(self, other: Residuals) -> Residuals:
        """Return both."""
        return Residuals(
            torch.cat([self.error, other.error]),
            torch.cat([self.epistemic_cov, other.epistemic_cov]),
            torch.cat([self.noise_cov, other.noise_cov]),
        )

    def with_epistemic_scale(self, scale: Tensor) -> Residuals:
        """Return them under epistemic deviations times scale [d]."""
        return replace(self, epistemic_cov=scale[:, None] * self.epistemic_cov * scale)


@dataclass(frozen=True)
class Calibration:
    """The chosen prior precision, the noise scale [6] and the search: (precision, nats) pairs."""

    prior_precision: float
    noise_scale: Tensor
    nll: float
    search: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ValidationScore:
    """How a posterior does on held-out increments; lists are per axis, in m and rad.

    ``nees`` is the mean of the joint normalised error squared over its 6 degrees of freedom, one
    where the covariance is true; ``coverage_95`` the share of errors within 1.96 sigma.
    """

    count: int
    nll: float
    nees: float
    rmse: list[float]
    median_std: list[float]
    epistemic_share: list[float]
    coverage_95: list[float]


def score(posterior: Posterior, batches: Batches) -> ValidationScore:
    """Return the score of a posterior on re-iterable batches."""
    (found,) = _residuals([posterior], batches)
    residual, epistemic_cov = found.error, found.epistemic_cov
    cov = epistemic_cov + found.noise_cov
    var = cov.diagonal(dim1=-2, dim2=-1)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(cov), residual[..., None], upper=False
    )
    share = epistemic_cov.diagonal(dim1=-2, dim2=-1) / var
    return ValidationScore(
        count=len(residual),
        nll=float(gaussian_cov_nll(residual, cov).mean()),
        nees=float(white.square().sum((1, 2)).mean()) / residual.shape[1],
        rmse=residual.square().mean(0).sqrt().tolist(),
        median_std=var.sqrt().median(0).values.tolist(),
        epistemic_share=share.mean(0).tolist(),
        coverage_95=(residual.abs() < 1.959964 * var.sqrt()).double().mean(0).tolist(),
    )


def calibrate(
    posterior: Posterior, unseen: Batches, seen: Batches, prior_precisions: Sequence[float]
) -> Calibration:
    """Return the best (prior precision, noise scale) by batches of validation and of training.

    The search is told without what the noise scale's own prior costs: that is no reason for
    another prior precision.

    Raises ValueError when the best noise scale stands at its upper bound of e^3: then the noise
    does not carry over to validation, and no scale mends that. (At the lower one the covariance is
    too wide, not false.)
    """
    posteriors = [posterior.with_prior_precision(value) for value in prior_precisions]
    if not posteriors:
        raise ValueError("no prior precision to choose from")
    residuals = _residuals(posteriors, unseen)
    losses = [_nll(each, fit_noise_scale(each)[0]) for each in residuals]
    search = tuple(zip(prior_precisions, losses, strict=True))
    index = min(range(len(losses)), key=losses.__getitem__)
    (of_seen,) = _residuals([posteriors[index]], seen)
    scale, nll = noise_scale_for_new_drives(residuals[index], of_seen)
    return Calibration(prior_precisions[index], scale, nll, search)


def calibrate_noise(posterior: Posterior, unseen: Batches, seen: Batches) -> tuple[Tensor, float]:
    """Return the best noise scale [6] under the posterior's own prior, and its NLL (nats).

    Raises ValueError as ``calibrate`` does.
    """
    (of_unseen,), (of_seen,) = (_residuals([posterior], part) for part in (unseen, seen))
    return noise_scale_for_new_drives(of_unseen, of_seen)


def noise_scale_for_new_drives(unseen: Residuals, seen: Residuals) -> tuple[Tensor, float]:
    """Return the noise scale [d] that validation asks for, or both where that is more.

    And its NLL on validation (nats). Raises ValueError as ``calibrate`` does.
    """
    scale = widest_noise_scale(unseen, seen)
    _check_scale(scale)
    return scale, _nll(unseen, scale)


def _nll(residuals: Residuals, scale: Tensor) -> float:
    cov = residuals.epistemic_cov + scale[:, None] * residuals.noise_cov * scale
    return float(gaussian_cov_nll(residuals.error, cov).mean())


def widest_noise_scale(unseen: Residuals, seen: Residuals) -> Tensor:
    """Return the noise scale [d] as ``noise_scale_for_new_drives`` does, however large it is."""
    alone, _ = fit_noise_scale(unseen)
    together, _ = fit_noise_scale(unseen.joined(seen))
    return torch.maximum(alone, together)


def widest_epistemic_scale(unseen: Residuals, seen: Residuals) -> Tensor:
    """Return the factors [d] of E-C5 that drives unseen ask for, or both where they are larger."""
    return torch.maximum(fit_epistemic_scale(unseen), fit_epistemic_scale(unseen.joined(seen)))


def _check_scale(noise_scale: Tensor) -> None:
    if bool((noise_scale.log() > 0.99 * _LARGEST_LOG_SCALE).any()):
        raise ValueError(
            f"the best noise scale {[round(s, 2) for s in noise_scale.tolist()]} is beyond a "
            f"factor e^3: the noise does not carry over to validation; use more, or more similar, "
            f"training recordings"
        )


def fit_noise_scale(residuals: Residuals) -> tuple[Tensor, float]:
    """Return the most probable noise scale s [d] of E-C1, and its mean penalised NLL (nats).

    The scale has a log-normal prior around one and lies within [e^-3, e^3]: on a few correlated
    errors the likelihood alone would drive single axes to nothing.
    """

    def loss(u: Tensor) -> Tensor:
        return _penalised_nll(residuals, _log_noise_scale(u))

    u = _minimised(loss, torch.zeros_like(residuals.error[0]))
    return _log_noise_scale(u).exp(), float(loss(u))


def fit_epistemic_scale(residuals: Residuals) -> Tensor:
    """Return the most probable factors d [d] <= 1 of E-C5 beside a noise scale, from e^-4.5 on."""
    axes, independent = residuals.error.shape[1], _independent(residuals)

    def log_scale(u: Tensor) -> Tensor:
        return _LEAST_LOG_EPISTEMIC * torch.sigmoid(u)

    def loss(u: Tensor) -> Tensor:
        log_d = log_scale(u[axes:])
        narrowed = residuals.with_epistemic_scale(log_d.exp())
        penalty = 0.5 * (log_d / _LOG_EPISTEMIC_STD).square().sum() / independent
        return _penalised_nll(narrowed, _log_noise_scale(u[:axes])) + penalty

    zero = torch.zeros_like(residuals.error[0])
    u = _minimised(loss, torch.cat([zero, zero - 2.0]))
    return log_scale(u[axes:]).exp()


def _log_noise_scale(u: Tensor) -> Tensor:
    # The bound is part of the parametrisation, so that the search is smooth.
    return _LARGEST_LOG_SCALE * torch.tanh(u)


def _penalised_nll(residuals: Residuals, log_scale: Tensor) -> Tensor:
    s = log_scale.exp()
    cov = residuals.epistemic_cov + s[:, None] * residuals.noise_cov * s
    penalty = 0.5 * (log_scale / _LOG_SCALE_STD).square().sum() / _independent(residuals)
    return gaussian_cov_nll(residuals.error, cov).mean() + penalty


def _independent(residuals: Residuals) -> float:
    return max(1.0, len(residuals.error) / _FRAMES_PER_INDEPENDENT_ERROR)


def _minimised(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where a smooth loss is smallest, from a start [n]."""
    u = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [u], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(u)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return u.detach()


def gaussian_cov_nll(residual: Tensor, cov: Tensor) -> Tensor:
    """Return -log N(residual; 0, cov) [n] in nats; residual [n, d], cov [n, d, d]."""
    L = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(L, residual[..., None], upper=False).squeeze(-1)
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (white.square().sum(-1) + log_det + residual.shape[1] * math.log(2 * math.pi))


def residuals_of(posterior: Posterior, batches: Batches) -> Residuals:
    """Return what a posterior leaves and says of batches."""
    (found,) = _residuals([posterior], batches)
    return found


def _residuals(posteriors: Sequence[Posterior], batches: Batches) -> list[Residuals]:
    """Return what each posterior leaves and says of batches.

    The posteriors differ in their prior alone: the network is linearised once for all of them.
    """
    errors, noise_covs = [], []
    epistemic_covs: list[list[Tensor]] = [[] for _ in posteriors]
    for x, target in batches:
        x = x.map(lambda t: t.to(posteriors[0].device))
        for at, rows in posteriors[0].linearisations(x):
            predictions = [posterior.prediction(at) for posterior in posteriors]
            for column, p in zip(epistemic_covs, predictions, strict=True):
                assert isinstance(p, GaussianPrediction)
                column.append(p.epistemic_cov.double().cpu())
            p = predictions[0]
            assert isinstance(p, GaussianPrediction)
            errors.append(target[rows].double() - p.mean.double().cpu())
            noise_covs.append(p.noise_cov.double().cpu())
    error, noise_cov = torch.cat(errors), torch.cat(noise_covs)
    return [Residuals(error, torch.cat(column), noise_cov) for column in epistemic_covs]
