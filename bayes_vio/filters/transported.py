"""The sum over frames of an error's features, moved along with the frame that they are about.

One unknown w ~ N(0, 1) [size], the weights' error in whitened coordinates, stands behind all
frames: increment k has the epistemic error Phi_k w, with features Phi_k [6, size] (E23 of the
posterior). The error of their compound is S_k w,

    S_k = A_k S_(k-1) + Phi_k,    A_k = Ad(T_k^-1),                                          (E-A3)

with covariance S_k S_k^T: positive semi-definite, of a fixed size, and with every correlation over
the frames that the Jacobians have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.filters.covariance import CovarianceError

Array = NDArray[np.float64]

# What features miss of a covariance is taken as independent of them; so much, at least.
_LEAST_MISSED = 1e-9


@dataclass(frozen=True)
class TransportedSum:
    """S [d, size] of E-A3, in m and rad about the newest frame; [d, 0] when nothing was added."""

    value: Array

    @staticmethod
    def empty(d: int = 6) -> TransportedSum:
        """Return the sum over no frame."""
        return TransportedSum(np.zeros((d, 0)))

    @property
    def cov(self) -> Array:
        """Return S S^T [d, d]."""
        return self.value @ self.value.T

    def moved(self, A: Array) -> TransportedSum:
        """Return the sum about another frame, A [d, d]."""
        return TransportedSum(A @ self.value)

    def plus(self, features: Array) -> TransportedSum:
        """Return the sum with one frame's features [d, size]; all must be of one size."""
        if not self.value.size:
            return TransportedSum(features.copy())
        return TransportedSum(self.value + features)

    def cross_cov(self, features: Array) -> Array:
        """Return Cov(S w, features w) [d, d]."""
        if not self.value.size:
            return np.zeros((len(self.value), len(features)))
        return self.value @ features.T


def matched(features: Array, cov: Array) -> Array:
    """Return features [d, size] turned and scaled until their square is ``cov`` [d, d].

    By L M^-1 with L L^T = cov and M M^T = features features^T: close to 1 where features are a
    sketch of this very covariance, whose own error is so taken out, and the scale where it was
    inflated. Their square never exceeds cov; it falls short of it only where they do not span it.
    Raises CovarianceError where cov is not positive definite or features are not finite.
    """
    std = np.sqrt(np.maximum(np.diagonal(cov), 0.0))
    if not ((std > 0).all() and np.isfinite(features).all()):
        raise CovarianceError(
            "the features of the increment are not finite, or have no covariance"
        )
    Z, correlation = features / std[:, None], cov / np.outer(std, std)
    try:
        L = np.linalg.cholesky(correlation)
        M = np.linalg.cholesky(Z @ Z.T + _LEAST_MISSED * correlation)
    except np.linalg.LinAlgError as error:
        raise CovarianceError("the features' covariance is not positive definite") from error
    return std[:, None] * (L @ np.linalg.solve(M, Z))
