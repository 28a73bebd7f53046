"""Measure whether predicted covariances are true: coverage, NEES, sharpness, sparsification.

All on errors of right perturbations (m, rad) beside the covariances predicted for them. Bands and
intervals use effective sample sizes: errors of consecutive frames are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

from bayes_vio.conventions import ANGULAR, AXES, AXIS_UNITS, LINEAR
from bayes_vio.filters import consistency

Array = NDArray[np.float64]

SIGMAS = (1.0, 2.0, 3.0)
RELIABILITY_LEVELS = np.array([0.05, *np.arange(0.1, 0.95, 0.1), 0.95, 0.99])
SPARSIFICATION_DROPPED = np.arange(20) / 20
_TAIL = 0.999


@dataclass(frozen=True)
class Errors:
    """Errors [n, 6] of increments, the covariances predicted for them, and where they come from.

    epistemic_cov, noise_cov [n, 6, 6]; sequence [n] numbers the recordings, so that correlation in
    time is looked for within one recording only. Rows are in order of time.
    """

    error: Array
    epistemic_cov: Array
    noise_cov: Array
    sequence: NDArray[np.int64]

    @property
    def cov(self) -> Array:
        """The whole predicted covariance [n, 6, 6]."""
        return self.epistemic_cov + self.noise_cov

    def __len__(self) -> int:
        return len(self.error)

    def take(self, chosen: NDArray) -> Errors:
        """Return the chosen rows (a mask or indices)."""
        return Errors(
            self.error[chosen],
            self.epistemic_cov[chosen],
            self.noise_cov[chosen],
            self.sequence[chosen],
        )


def concatenate(parts: Sequence[Errors]) -> Errors:
    """Return the errors of several recordings as one, numbering them anew."""
    number = [np.full(len(part), i) for i, part in enumerate(parts)]
    return Errors(
        np.concatenate([part.error for part in parts]),
        np.concatenate([part.epistemic_cov for part in parts]),
        np.concatenate([part.noise_cov for part in parts]),
        np.concatenate(number),
    )


def measure(errors: Errors) -> dict:
    """Return every measure of calibration of n errors; keys as in `report`'s docstring.

    Raises ValueError for no errors, or a covariance that is not positive definite.
    """
    if len(errors) == 0:
        raise ValueError("There are no errors to measure calibration on.")
    squared = consistency.nees(errors.error, errors.cov)
    return {
        "count": len(errors),
        "joint": _joint(squared, errors),
        "axes": [_axis(errors, axis) for axis in range(6)],
        "nll": float(np.mean(negative_log_likelihood(squared, errors.cov))),
        "nll_constant_cov": constant_cov_nll(errors.error),
        "epistemic_share": float(np.median(_epistemic_share(errors))),
        "reliability": reliability(squared, errors),
        "sparsification": {
            "translation": sparsification(errors, LINEAR),
            "rotation": sparsification(errors, ANGULAR),
        },
    }


def effective_count(values: Array, sequence: NDArray) -> float:
    """Return the effective sample size of values [n], each recording's added."""
    parts = [values[sequence == number] for number in np.unique(sequence)]
    return sum(consistency.effective_count(part) for part in parts)


def scale(squared: Array, degrees: int, count: float) -> dict:
    """Return mean NEES, its band, and the factor by which sigmas would have to grow to be true.

    squared [n] has `degrees` degrees of freedom; count is the effective sample size. The factor's
    interval is the band turned around.
    """
    mean = float(squared.mean())
    low, high = consistency.chi_square_band(degrees, count)
    return {
        "nees_mean": mean,
        "nees_expected": float(degrees),
        "nees_band": [low, high],
        "effective_count": float(count),
        "sigma_factor": float(np.sqrt(mean / degrees)),
        "sigma_factor_interval": [float(np.sqrt(mean / high)), float(np.sqrt(mean / low))],
    }


def _joint(squared: Array, errors: Errors) -> dict:
    count = effective_count(squared, errors.sequence)
    low, high = consistency.chi_square_band(6)
    tail = float(stats.chi2.ppf(_TAIL, 6))
    median, expected_median = float(np.median(squared)), float(stats.chi2.median(6))
    return {
        **scale(squared, 6, count),
        "nees_median": median,
        "nees_median_expected": expected_median,
        "sample_band": [low, high],
        "share_in_sample_band": float(np.mean((squared >= low) & (squared <= high))),
        "region_95": share_within(in_region_95(squared), count, 0.95),
        "beyond_999": float(np.mean(squared > tail)),
        "beyond_999_rescaled": float(np.mean(squared * expected_median > tail * median)),
    }


def _axis(errors: Errors, axis: int) -> dict:
    error = errors.error[:, axis]
    sigma = np.sqrt(errors.cov[:, axis, axis])
    z = error / sigma
    count = effective_count(z**2, errors.sequence)
    rmse = float(np.sqrt(np.mean(error**2)))
    expected = 2 * stats.norm.cdf(SIGMAS) - 1
    return {
        "axis": AXES[axis],
        "unit": AXIS_UNITS[axis],
        "rmse": rmse,
        "bias": float(error.mean()),
        "sigma_median": float(np.median(sigma)),
        "sharpness": float(np.median(sigma) / rmse) if rmse > 0 else None,
        **scale(z**2, 1, count),
        "coverage": [
            {"sigmas": k, **share_within(np.abs(z) <= k, count, float(p))}
            for k, p in zip(SIGMAS, expected, strict=True)
        ],
        "nll": float(np.mean(0.5 * z**2 + np.log(sigma) + 0.5 * np.log(2 * np.pi))),
        "epistemic_share": float(np.median(errors.epistemic_cov[:, axis, axis] / sigma**2)),
        "rank_correlation": rank_correlation(np.abs(error), sigma),
    }


def in_region_95(squared: Array) -> NDArray[np.bool_]:
    """Return which joint NEES [n] lie in the 95 % region of six axes."""
    return squared <= stats.chi2.ppf(0.95, 6)


def share_within(inside: NDArray[np.bool_], count: float, expected: float) -> dict:
    """Return the observed share, its Wilson interval for `count` trials, and the expected one."""
    share = float(np.mean(inside))
    low, high = consistency.wilson_interval(share, count)
    return {"expected": expected, "observed": share, "low": low, "high": high}


def negative_log_likelihood(squared: Array, cov: Array) -> Array:
    """Return negative log-likelihoods [n] (nats) of errors, from NEES [n] and cov [n, 6, 6]."""
    _, logdet = np.linalg.slogdet(cov)
    return 0.5 * (squared + logdet + cov.shape[-1] * np.log(2 * np.pi))


def constant_cov_nll(error: Array) -> float | None:
    """Return the NLL of the best constant covariance, chosen in hindsight on these very errors.

    The mark to beat: a covariance that adapts and is true comes out below it. None where so few
    errors [n, 6] leave it singular.
    """
    second_moment = error.T @ error / len(error)
    sign, logdet = np.linalg.slogdet(second_moment)
    if len(error) <= error.shape[1] or sign <= 0:
        return None
    d = error.shape[1]
    return float(0.5 * (d + logdet + d * np.log(2 * np.pi)))


def _epistemic_share(errors: Errors) -> Array:
    """Return tr(cov^-1 epistemic_cov) / 6 [n]: the unit-free share of the whole covariance."""
    ratio = np.linalg.solve(errors.cov, errors.epistemic_cov)
    return np.trace(ratio, axis1=1, axis2=2) / 6


def rank_correlation(error: Array, sigma: Array) -> float | None:
    """Return Spearman's correlation of |error| and sigma [n]; None where one is constant."""
    if np.ptp(error) == 0 or np.ptp(sigma) == 0:
        return None
    ranks = np.stack([stats.rankdata(error), stats.rankdata(sigma)])
    return float(np.corrcoef(ranks)[0, 1])


def reliability(squared: Array, errors: Errors) -> dict:
    """Return the observed coverage of central intervals at expected levels, joint and per axis."""
    z = np.abs(consistency.standardised(errors.error, errors.cov))
    interval = stats.norm.ppf(0.5 + RELIABILITY_LEVELS / 2)
    region = stats.chi2.ppf(RELIABILITY_LEVELS, 6)
    observed = np.mean(z[:, :, None] <= interval, axis=0)
    return {
        "expected": RELIABILITY_LEVELS.tolist(),
        "joint": np.mean(squared[:, None] <= region, axis=0).tolist(),
        "axes": {name: observed[i].tolist() for i, name in enumerate(AXES)},
    }


def sparsification(errors: Errors, axes: slice) -> dict:
    """Return the RMS error left after dropping the most uncertain, beside an oracle's.

    axes picks translation (m) or rotation (rad); the uncertainty is the root of its block's
    trace. The oracle drops the largest errors. ``ause_relative`` is the area between the two over
    the area between no sorting and the oracle: 0 is perfect, 1 says nothing, above 1 misleads.
    Source: Ilg et al., "Uncertainty estimates and multi-hypotheses networks" (2018), section 4.
    """
    squared = np.sum(errors.error[:, axes] ** 2, axis=1)
    uncertainty = np.trace(errors.cov[:, axes, axes], axis1=1, axis2=2)
    predicted = _left_after_dropping(squared, uncertainty)
    oracle = _left_after_dropping(squared, squared)
    flat = np.sqrt(squared.mean())
    total = integrate.trapezoid(flat - oracle, SPARSIFICATION_DROPPED)
    lost = integrate.trapezoid(predicted - oracle, SPARSIFICATION_DROPPED)
    return {
        "dropped": SPARSIFICATION_DROPPED.tolist(),
        "rmse": predicted.tolist(),
        "rmse_oracle": oracle.tolist(),
        "ause_relative": float(lost / total) if total > 0 else None,
    }


def _left_after_dropping(squared: Array, order_by: Array) -> Array:
    ascending = squared[np.argsort(order_by, kind="stable")]
    running_mean = np.cumsum(ascending) / np.arange(1, len(ascending) + 1)
    kept = np.ceil((1 - SPARSIFICATION_DROPPED) * len(ascending)).astype(int)
    return np.sqrt(running_mean[np.maximum(kept, 1) - 1])
