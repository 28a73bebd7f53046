"""Two half-planes at once: a bound for obstacles that are narrow as the belief sees them.

An overlap needs every direction to be reached (P1), so any two bound it together,

    P(touch) <= sum_ij P(corner i reaches the first and corner j the second half-plane).      (P4)

Where the error is long and thin, an obstacle's vertex is an acute wedge in the coordinates in
which it is round: one half-plane through it holds many times more than the wedge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayes_vio.planning.bivariate import upper_quadrant, upper_tail
from bayes_vio.planning.half_planes import Directions, HalfPlanes

# Partners are sought in turn, starting from the best single half-plane.
_ROUNDS = 3
# A pair of corners that is less probable than this is added by its smaller probability.
_NEGLIGIBLE = 1e-7


def wedge_bound(directions: Directions, covs: Tensor) -> Tensor:
    """Return P4 [n] for the best pair of half-planes that is found; covs [n, 3, 3]."""
    every = directions.all_half_planes()
    choice = directions.farthest()
    bound = torch.ones(len(choice), dtype=covs.dtype, device=covs.device)
    for _ in range(_ROUNDS):
        together = _together(directions.half_planes(choice), every, covs)
        choice = together.argmin(-1)
        bound = torch.minimum(bound, together.amin(-1))
    return bound


def _together(first: HalfPlanes, every: HalfPlanes, covs: Tensor) -> Tensor:
    """Return P4 [n, k] of one half-plane per row with each of k."""
    cov = torch.einsum("nia,nab,nkjb->nkij", first.lever, covs, every.lever)
    correlation = cov / (first.std[:, None, :, None] * every.std[:, :, None, :])
    z, other = (
        value.expand_as(correlation)
        for value in (first.distance[:, None, :, None], every.distance[:, :, None, :])
    )
    joint = torch.minimum(upper_tail(z), upper_tail(other))
    counts = joint > _NEGLIGIBLE
    joint[counts] = upper_quadrant(z[counts], other[counts], correlation[counts])
    return joint.sum((-1, -2))
