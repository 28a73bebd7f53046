"""Choose prior precision and noise scale together, by the validation likelihood of the model.

The residual on held-out data is noise plus what the weights do not know, so the two are fitted
against it jointly (E-C1):
    r_i ~ N(0, S N_i S + E_i(prior_precision)),    S = diag(s),
with N_i the model's noise covariance and E_i the linearised epistemic covariance. Fitting the
noise alone first would leave nothing for the epistemic part to explain.

Nearly all intervals have both sensors, and so S is theirs. Where no camera sees, errors are of
another size and have longer tails; a scale of their own is fitted in the same way, the camera left
out of the same intervals (E-C4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.data.samples import MotionInput
from bayes_vio.posterior import GaussianPrediction, Posterior
from bayes_vio.training.augmentation import without_camera

# How far one axis' noise may be off after training: beyond a factor e^3 something else is wrong.
_LARGEST_LOG_SCALE = 3.0
# The scale mends a noise model that is already fitted: a priori log s ~ N(0, 0.5^2).
# Errors last for some seconds, so that about one frame in twenty tells something new.
_LOG_SCALE_STD = 0.5
_FRAMES_PER_INDEPENDENT_ERROR = 20


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


def score(posterior: Posterior, batches: Iterable[tuple[MotionInput, Tensor]]) -> ValidationScore:
    """Return the score of a posterior on re-iterable batches."""
    residual, (epistemic_cov,), noise_cov = _residuals([posterior], batches)
    cov = epistemic_cov + noise_cov
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
    posterior: Posterior,
    batches: Iterable[tuple[MotionInput, Tensor]],
    prior_precisions: Sequence[float],
) -> Calibration:
    """Return the best (prior precision, noise scale) on re-iterable validation batches.

    Raises ValueError when the best noise scale stands at its upper bound of e^3: then the noise
    does not carry over to validation, and no scale mends that. (At the lower one the covariance is
    too wide, not false.)
    """
    posteriors = [posterior.with_prior_precision(value) for value in prior_precisions]
    if not posteriors:
        raise ValueError("no prior precision to choose from")
    residual, epistemic_covs, noise_cov = _residuals(posteriors, batches)
    fits = [fit_noise_scale(residual, cov, noise_cov) for cov in epistemic_covs]
    search = tuple((p, nll) for p, (_, nll) in zip(prior_precisions, fits, strict=True))
    index = min(range(len(fits)), key=lambda i: fits[i][1])
    best = Calibration(prior_precisions[index], *fits[index], search)
    _check_scale(best.noise_scale)
    return best


def calibrate_noise(
    posterior: Posterior, batches: Iterable[tuple[MotionInput, Tensor]]
) -> tuple[Tensor, float]:
    """Return the best noise scale [6] under the posterior's own prior, and its NLL (nats).

    Raises ValueError as ``calibrate`` does.
    """
    residual, (epistemic_cov,), noise_cov = _residuals([posterior], batches)
    noise_scale, nll = fit_noise_scale(residual, epistemic_cov, noise_cov)
    _check_scale(noise_scale)
    return noise_scale, nll


def calibrate_imu_alone(
    posterior: Posterior, batches: Iterable[tuple[MotionInput, Tensor]]
) -> tuple[float, ...]:
    """Return the factors [6] of the noise's deviations where no camera sees (E-C4).

    Ones where no batch has an interval with a whole IMU window.
    """
    blind = [_blind(x, target) for x, target in batches]
    if not any(len(x) for x, _ in blind):
        return (1.0,) * 6
    residual, (epistemic_cov,), noise_cov = _residuals([posterior], blind)
    return tuple(fit_noise_scale(residual, epistemic_cov, noise_cov)[0].tolist())


def _blind(x: MotionInput, target: Tensor) -> tuple[MotionInput, Tensor]:
    """Return the intervals of a batch that have a whole IMU window, without their camera."""
    whole = x.imu_valid.amin(1) > 0
    chosen = x.map(lambda t: t[whole])
    return without_camera(chosen, torch.ones_like(chosen.dt, dtype=torch.bool)), target[whole]


def _check_scale(noise_scale: Tensor) -> None:
    if bool((noise_scale.log() > 0.99 * _LARGEST_LOG_SCALE).any()):
        raise ValueError(
            f"the best noise scale {[round(s, 2) for s in noise_scale.tolist()]} is beyond a "
            f"factor e^3: the noise does not carry over to validation; use more, or more similar, "
            f"training recordings"
        )


def fit_noise_scale(
    residual: Tensor, epistemic_cov: Tensor, noise_cov: Tensor
) -> tuple[Tensor, float]:
    """Return the most probable noise scale s [d] of E-C1, and its mean penalised NLL (nats).

    residual [n, d], epistemic_cov and noise_cov [n, d, d]. The scale has a log-normal prior around
    one and lies within [e^-3, e^3]: on a few correlated errors the likelihood alone would drive
    single axes to nothing.
    """
    independent = max(1.0, len(residual) / _FRAMES_PER_INDEPENDENT_ERROR)
    # The bound is part of the parametrisation, s = exp(3 tanh u), so that the search is smooth.
    u = torch.zeros(residual.shape[1], dtype=residual.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [u], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def log_scale() -> Tensor:
        return _LARGEST_LOG_SCALE * torch.tanh(u)

    def loss() -> Tensor:
        s = log_scale().exp()
        nll = gaussian_cov_nll(residual, epistemic_cov + s[:, None] * noise_cov * s).mean()
        return nll + 0.5 * (log_scale() / _LOG_SCALE_STD).square().sum() / independent

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return log_scale().exp().detach(), float(loss().detach())


def gaussian_cov_nll(residual: Tensor, cov: Tensor) -> Tensor:
    """Return -log N(residual; 0, cov) [n] in nats; residual [n, d], cov [n, d, d]."""
    L = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(L, residual[..., None], upper=False).squeeze(-1)
    log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (white.square().sum(-1) + log_det + residual.shape[1] * math.log(2 * math.pi))


def _residuals(
    posteriors: Sequence[Posterior], batches: Iterable[tuple[MotionInput, Tensor]]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return residuals [n, d], each posterior's epistemic_cov [n, d, d], and noise_cov [n, d, d].

    The posteriors differ in their prior alone: the network is linearised once for all of them.
    """
    residuals, noise_covs = [], []
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
            residuals.append(target[rows].double() - p.mean.double().cpu())
            noise_covs.append(p.noise_cov.double().cpu())
    stacked = [torch.cat(column) for column in epistemic_covs]
    return torch.cat(residuals), stacked, torch.cat(noise_covs)
