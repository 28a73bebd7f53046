"""One part of the twists' error that lasts: how large it is now, and of which size it goes on.

The error m is a Gauss-Markov process that is driven as strongly as the newest twist says,

    m' = R m + (1 - R^2)^(1/2) C w,    C C^T = driving_cov,
    V' = R V R + (1 - R^2)^(1/2) driving_cov (1 - R^2)^(1/2),                               (F4)

with V = prior_cov, its covariance had nothing been measured. What a twist's covariance has beyond
V is white. The error itself lasts, and not its ratio to the published deviation: that ratio would
let changes of the deviation, which grows with speed, be taken for evidence about the error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bayes_vio.filters.covariance import bounded

Array = NDArray[np.float64]

# A twist that is inflated, a frame lost or dark, says little about errors that last for minutes:
# no twist drives them by more than this factor beyond their own deviation.
_LARGEST_GROWTH = 2.0


@dataclass(frozen=True)
class LastingPart:
    """prior_cov and driving_cov [6, 6] of one lasting part ((m/s)^2, (rad/s)^2)."""

    prior_cov: Array
    driving_cov: Array

    @staticmethod
    def of(cov: Array) -> LastingPart:
        """Return the part in its steady state."""
        return LastingPart(cov, cov)

    def aged(self, memory: Array) -> LastingPart:
        """Return the part after a time in which it kept ``memory`` [6], the diagonal of R."""
        prior_cov = self.prior_cov * np.outer(memory, memory) + self.driven(memory)
        return replace(self, prior_cov=prior_cov)

    def driven(self, memory: Array) -> Array:
        """Return what such a time adds to the covariance [6, 6] of the error."""
        fresh = np.sqrt(1 - memory**2)
        return self.driving_cov * np.outer(fresh, fresh)

    def driven_by(self, cov: Array) -> LastingPart:
        """Return the part driven by what a twist says of it, within the largest growth."""
        bound = _LARGEST_GROWTH * np.sqrt(np.diagonal(self.prior_cov))
        known = np.diagonal(cov) > 0
        return replace(self, driving_cov=bounded(cov, bound) if known.all() else cov)

    def white_rest(self, cov: Array) -> Array:
        """Return the positive part [6, 6] of cov - V: what the lasting error does not explain."""
        std = np.sqrt(np.maximum(np.diagonal(cov), np.diagonal(self.prior_cov)))
        std = np.where(std > 0, std, 1.0)
        values, vectors = np.linalg.eigh((cov - self.prior_cov) / np.outer(std, std))
        root = std[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
        return root @ root.T
