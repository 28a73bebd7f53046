"""Covariances at the package's boundary: positive definite, bounded, and their square root."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A correlation matrix whose Cholesky factor has a smaller pivot is singular in float64.
_LEAST_PIVOT = 1e-8
# Products in float32, the network's precision, are symmetric to a few 1e-7.
_SYMMETRY_TOLERANCE = 1e-5


class CovarianceError(ValueError):
    """A matrix that should be a covariance is not symmetric positive definite."""


def check_spd(cov: Array, name: str) -> Array:
    """Return ``cov`` [d, d] symmetrised exactly, having proved it positive definite by Cholesky.

    The factor is that of the correlation matrix, so that metres beside microradians do not
    matter. Raises CovarianceError, naming the matrix, if it is anything else.
    """
    if not np.isfinite(cov).all():
        raise CovarianceError(f"{name} is not finite")
    std = np.sqrt(np.maximum(np.diagonal(cov), 0.0))
    if not (std > 0).all():
        raise CovarianceError(f"{name} has a variance that is not positive")
    correlation = cov / std / std[:, None]
    if np.abs(correlation - correlation.T).max() > _SYMMETRY_TOLERANCE:
        raise CovarianceError(f"{name} is not symmetric")
    try:
        L = np.linalg.cholesky(0.5 * (correlation + correlation.T))
    except np.linalg.LinAlgError as error:
        raise CovarianceError(f"{name} is not positive definite") from error
    if L.diagonal().min() < _LEAST_PIVOT:
        raise CovarianceError(f"{name} is singular")
    return 0.5 * (cov + cov.T)


def bound_scale(cov: Array, std_bound: Array) -> Array:
    """Return factors [d] in (0, 1] by which standard deviations exceed their bounds [d]."""
    return np.minimum(1.0, std_bound / np.sqrt(np.diagonal(cov)))


def bounded(cov: Array, std_bound: Array) -> Array:
    """Return ``cov`` [d, d] with standard deviations beyond ``std_bound`` [d] brought back to it.

    A congruence D cov D with D diagonal: correlations stay, and so does positive definiteness.
    """
    scale = bound_scale(cov, std_bound)
    return cov * np.outer(scale, scale)


def symmetric_sqrt(cov: Array) -> Array:
    """Return the symmetric square root [d, d] of a positive semi-definite ``cov`` [d, d]."""
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
