"""While a plan stands, its errors do not grow: the brakes hold the car, whatever is estimated.

A car that is faster than believed by e stands later than planned, by e / b under the braking b,
and comes e^2 / (2 b) farther. Errors that add up for a time tau beyond the plan's standstill hold
it, e tau >= e^2 / (2 b), for all e up to 2 b tau:

    tau = 3 sigma / (2 b),   so that e may be 3 sigma, sigma the speed's deviation.           (P5)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning.belief import Belief

_SIGMAS = 3.0


def late_s(belief: Belief, braking_m_s2: float) -> float:
    """Return for how long (s) after a plan stands the car may go on: tau of P5."""
    speed_var = belief.epistemic_twist_cov[0, 0] + belief.noise_twist_cov[0, 0]
    return 0.5 * _SIGMAS * math.sqrt(speed_var) / braking_m_s2


def moving_steps(
    speeds: Tensor, dt_s: float, belief: Belief, braking_m_s2: float
) -> Tensor | None:
    """Return in which steps [c, t - 1] of plans with speeds [c, t] (m/s) the car may move.

    None, for all of them, where the estimator is lost: how fast the car is nobody knows then.
    """
    if belief.state is TrackingState.LOST:
        return None
    late = math.ceil(late_s(belief, braking_m_s2) / dt_s)
    moves = speeds > 0
    # Up to the last time at which the plan moves, and the step that ends it.
    until = moves.shape[1] - moves.byte().flip(1).argmax(1)
    until = torch.where(moves.any(1), until, 0) + late
    return torch.arange(speeds.shape[1] - 1, device=speeds.device) < until[:, None]
