"""The covariance of a compound of two uncertain motions, to second and to fourth order.

For right perturbations a (of the pose, moved through the increment: Ad(T_inc^-1) d) and b (of the
increment), jointly Gaussian with mean zero, the compound's perturbation is, by the series of
Baker, Campbell and Hausdorff,

    xi = a + b + [a, b] / 2 + ([a, [a, b]] + [b, [b, a]]) / 12 + ...

Second order keeps a + b. Fourth order (Barfoot and Furgale 2014, section III-B, there for
independent a and b, and as a polynomial) is taken here as statistical linearisation: by Stein's
lemma the cubic terms have, with whatever is Gaussian, the covariance of M_a a + M_b b, and the
quadratic term none, so that

    xi ~ (1 + M_a) a + (1 + M_b) b + [a, b] / 2,
    M_a = (Q(bb) - ad(m) - Q(ab)) / 12,    M_b = (Q(aa) + ad(m) - Q(ba)) / 12,               (E-A4)
    m = E[a, b],    Q(xy) = E[ad(x) ad(y)].

It differs from the polynomial in the sixth order, and is a sum of squares: positive semi-definite
whatever a and b are. Correlations with third parties follow by the same two maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR
from bayes_vio.geometry import se3

Array = NDArray[np.float64]

# ad(x) = sum_i x_i _GENERATORS[i]; [6, 6, 6]
_GENERATORS = se3.curly_hat(torch.eye(6, dtype=torch.float64)).numpy()
_PAIRS = np.einsum("iab,jbc->ijac", _GENERATORS, _GENERATORS)
# Second order suffices below this deviation of an angle (rad).
SECOND_ORDER_ANGLE_RAD = 0.1


class Order(Enum):
    """To which order of the perturbations covariances are compounded."""

    SECOND = "second"
    FOURTH = "fourth"
    AS_NEEDED = "as needed"  # fourth beyond SECOND_ORDER_ANGLE_RAD of accumulated deviation


@dataclass(frozen=True)
class Compound:
    """The linear maps [6, 6] of a and b onto the compound's perturbation, and what is left [6, 6].

    left_cov is of a part that is uncorrelated with a, b and whatever they are correlated with.
    """

    of_pose: Array
    of_increment: Array
    left_cov: Array


SECOND_ORDER = Compound(np.eye(6), np.eye(6), np.zeros((6, 6)))


def compound_of(pose_cov: Array, increment_cov: Array, cross_cov: Array, order: Order) -> Compound:
    """Return how a and b compound; their covariances [6, 6] and Cov(a, b) [6, 6], m and rad."""
    if order is Order.SECOND or (order is Order.AS_NEEDED and _is_small(pose_cov)):
        return SECOND_ORDER
    bracket = _mean_bracket(cross_cov)
    ad_bracket = np.einsum("i,iab->ab", bracket, _GENERATORS)
    one = np.eye(6)
    return Compound(
        one + (_mean_square(increment_cov) - ad_bracket - _mean_square(cross_cov)) / 12,
        one + (_mean_square(pose_cov) + ad_bracket - _mean_square(cross_cov.T)) / 12,
        0.25 * _bracket_second_moment(pose_cov, increment_cov, cross_cov),
    )


def _is_small(pose_cov: Array) -> bool:
    return bool(np.diagonal(pose_cov)[ANGULAR].max() < SECOND_ORDER_ANGLE_RAD**2)


def _mean_square(cov: Array) -> Array:
    """Return E[ad(x) ad(y)] [6, 6] for Cov(x, y) [6, 6]."""
    return np.einsum("ij,ijab->ab", cov, _PAIRS)


def _mean_bracket(cross_cov: Array) -> Array:
    """Return E[a, b] [6] for Cov(a, b) [6, 6]."""
    return np.einsum("ij,iaj->a", cross_cov, _GENERATORS)


def _bracket_second_moment(pose_cov: Array, increment_cov: Array, cross_cov: Array) -> Array:
    """Return E[[a, b] [a, b]^T] [6, 6] of Gaussian a and b (Isserlis)."""
    G = _GENERATORS
    independent = np.einsum("ij,iak,kl,jbl->ab", pose_cov, G, increment_cov, G, optimize=True)
    if not cross_cov.any():
        return independent
    crossed = np.einsum("il,jk,iak,jbl->ab", cross_cov, cross_cov, G, G, optimize=True)
    mean = _mean_bracket(cross_cov)
    return independent + 0.5 * (crossed + crossed.T) + np.outer(mean, mean)
