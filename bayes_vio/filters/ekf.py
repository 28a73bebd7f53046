"""Predict and update the small filter's state: an error-state EKF on SE(3), right perturbation.

The twist nu is that of a car pushed by white accelerations, with a decay so slow that it only
bounds the twist's variance where nothing is measured; errors that last are Gauss-Markov processes
(F4 in ``lasting``, and z_f, whose variance stays 1):

    T' = T exp(a nu),    nu' = r nu + w,    z_f' = R z_f + (1 - R^2)^(1/2) w                   (F1)
    tau = 2 bound^2 / density^2,  r = exp(-dt / tau),  a = tau (1 - r)                         (F2)
    d' = Ad(exp(-a nu)) d + a J_r(a nu) e + w,    Cov(w) ~ density^2 [dt^3/3, dt^2/2; ., dt]   (F3)

with d the pose's right perturbation and e the twist's error. Measurements are F5 and F6 in
``measurements``. A lasting error is one state over all measurements, so that its covariance is
not taken for new information each time. Source of the error-state form: Sola et al. (2018),
"A micro Lie theory for state estimation in robotics", section V.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.ekf_state import (
    FIX_ERROR,
    MODEL_ERROR,
    NOISE_ERROR,
    POSE,
    SIZE,
    TWIST,
    EkfState,
    orthonormal,
    symmetric,
)
from bayes_vio.filters.measurements import Innovation
from bayes_vio.geometry import se3

Array = NDArray[np.float64]
# F3 linearises over one step; longer times are predicted in steps of at most this.
_LONGEST_STEP_S = 0.25


def predict(state: EkfState, stamp_ns: int, settings: EkfSettings) -> EkfState:
    """Return the state at a later stamp; ValueError where the stamp is an earlier one."""
    if stamp_ns < state.stamp_ns:
        raise ValueError(f"the filter is at {state.stamp_ns} ns and cannot go back to {stamp_ns}")
    dt_s = (stamp_ns - state.stamp_ns) / NS_PER_S
    steps = int(np.ceil(dt_s / _LONGEST_STEP_S))
    for _ in range(steps):
        state = _step(state, dt_s / steps, settings)
    return replace(state.bounded(settings.pose_std_bound), stamp_ns=stamp_ns)


def _step(state: EkfState, dt_s: float, settings: EkfSettings) -> EkfState:
    tau_s = settings.twist_decay_s
    r = np.exp(-dt_s / tau_s)
    moved = torch.from_numpy(tau_s * (1 - r) * state.twist)
    memory = lasting_memory(dt_s, settings)
    F = np.diag(np.concatenate([np.zeros(6), r, memory]))
    F[POSE, POSE] = se3.adjoint(se3.exp(-moved)).numpy()
    F[POSE, TWIST] = se3.right_jacobian(moved).numpy() * (tau_s * (1 - r))
    cov = F @ state.cov @ F.T + _process_cov(state, dt_s, settings, r, memory)
    noise, model = state.noise_part, state.model_part
    return EkfState(
        stamp_ns=state.stamp_ns,
        T_world_base=orthonormal(state.T_world_base @ se3.exp(moved).numpy()),
        twist=r * state.twist,
        noise_error=F[NOISE_ERROR, NOISE_ERROR] @ state.noise_error,
        model_error=F[MODEL_ERROR, MODEL_ERROR] @ state.model_error,
        fix_error=F[FIX_ERROR, FIX_ERROR] @ state.fix_error,
        cov=symmetric(cov),
        noise_part=None if noise is None else noise.aged(memory[:6]),
        model_part=None if model is None else model.aged(memory[6:12]),
    )


def lasting_memory(dt_s: float, settings: EkfSettings) -> Array:
    """Return the diagonal [15] of R over noise, model and fix error."""
    tau_s = np.concatenate(
        [
            settings.noise_correlation.time_s,
            np.full(6, settings.epistemic_correlation_s),
            np.full(3, settings.fix_correlation_s),
        ]
    )
    return np.where(tau_s > 0, np.exp(-dt_s / np.where(tau_s > 0, tau_s, 1.0)), 0.0)


def _process_cov(
    state: EkfState, dt_s: float, settings: EkfSettings, r: Array, memory: Array
) -> Array:
    density_squared, tau_s = np.array(settings.acceleration_density) ** 2, settings.twist_decay_s
    Q = np.zeros((SIZE, SIZE))
    Q[POSE, POSE] = np.diag(density_squared * _moved_var(dt_s, tau_s))
    Q[POSE, TWIST] = Q[TWIST, POSE] = np.diag(density_squared * (tau_s * (1 - r)) ** 2 / 2)
    Q[TWIST, TWIST] = np.diag(density_squared * tau_s * (1 - r**2) / 2)
    if state.noise_part is not None and state.model_part is not None:
        Q[NOISE_ERROR, NOISE_ERROR] = state.noise_part.driven(memory[:6])
        Q[MODEL_ERROR, MODEL_ERROR] = state.model_part.driven(memory[6:12])
    Q[FIX_ERROR, FIX_ERROR] = np.diag(1 - memory[12:] ** 2)
    return Q


def _moved_var(dt_s: float, tau_s: Array) -> Array:
    """Return the variance of the integral of nu over dt, per density^2: dt^3 / 3 for small dt."""
    u = dt_s / tau_s
    r = np.exp(-u)
    closed = tau_s**3 * (u - 2 * (1 - r) + (1 - r**2) / 2)
    series = dt_s**3 * (1 / 3 - u / 4 + 7 * u**2 / 60)  # the closed form cancels there
    return np.where(u < 1e-2, series, closed)


def update(state: EkfState, innovation: Innovation) -> EkfState:
    """Return the state after a measurement; Joseph's form keeps the covariance definite."""
    factor = cho_factor(innovation.cov(state), lower=True)
    K = cho_solve(factor, innovation.H @ state.cov).T
    kept = np.eye(SIZE) - K @ innovation.H
    cov = kept @ state.cov @ kept.T + K @ innovation.noise_cov @ K.T
    return state.corrected(K @ innovation.value, cov)


def mahalanobis_squared(innovation: Innovation, state: EkfState) -> float:
    """Return v^T S^-1 v of an innovation v: the normalised innovation squared (NIS)."""
    factor = cho_factor(innovation.cov(state), lower=True)
    return float(innovation.value @ cho_solve(factor, innovation.value))


def after_gap(state: EkfState, stamp_ns: int, settings: EkfSettings) -> EkfState:
    """Return the state after a time in which the car may have done anything within its bounds.

    The twist is unknown, errors of old measurements tell nothing any more, and the pose may be off
    by the largest twist times the gap, added to its covariance.
    """
    gap_s = max(stamp_ns - state.stamp_ns, 0) / NS_PER_S
    pose_cov = state.pose_cov + np.diag((gap_s * settings.twist_std_bound) ** 2)
    fresh = EkfState.started(stamp_ns, state.T_world_base, pose_cov, settings.twist_std_bound)
    return fresh.bounded(settings.pose_std_bound)
