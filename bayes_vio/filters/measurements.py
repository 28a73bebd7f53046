"""What the small filter measures: twists with two kinds of error, and fixes of a position."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.filters.covariance import CovarianceError, check_spd
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.ekf_state import (
    ATTITUDE,
    FIX_ERROR,
    MODEL_ERROR,
    NOISE_ERROR,
    POSITION,
    SIZE,
    TWIST,
    EkfState,
)
from bayes_vio.filters.published import mean_twist, mean_twist_cov
from bayes_vio.geometry import so3

Array = NDArray[np.float64]

# Of a noise that lasts altogether, so much is white: an innovation's covariance is inverted.
_LEAST_WHITE = 1e-6


class Source(Enum):
    """Where a measurement comes from."""

    TWIST = "twist"
    FIX = "fix"


@dataclass(frozen=True)
class Innovation:
    """A measurement less its prediction [d], its Jacobian H [d, 27] and its white noise [d, d]."""

    value: Array
    H: Array
    noise_cov: Array

    def cov(self, state: EkfState) -> Array:
        """Return the innovation's covariance S [d, d] = H P H^T + noise_cov."""
        S = self.H @ state.cov @ self.H.T + self.noise_cov
        return 0.5 * (S + S.T)


@dataclass(frozen=True)
class TwistMeasurement:
    """A twist [6] of base_link at a stamp (m/s, rad/s), with the two parts of its covariance.

    noise_cov, epistemic_cov [6, 6]: published are their sum (``twist``) and the second alone
    (``twist/epistemic``). Raises ValueError for numbers that are not finite, CovarianceError for a
    noise_cov that is not positive definite or an epistemic_cov that is not semi-definite.
    """

    stamp_ns: int
    twist: Array
    noise_cov: Array
    epistemic_cov: Array
    source = Source.TWIST

    def __post_init__(self) -> None:
        """Refuse what is no measurement."""
        if self.twist.shape != (6,) or not np.isfinite(self.twist).all():
            raise ValueError("a twist must be six finite numbers")
        if self.noise_cov.shape != (6, 6) or self.epistemic_cov.shape != (6, 6):
            raise CovarianceError("a twist's covariances must be 6x6")
        check_spd(self.noise_cov, "the twist's noise covariance")
        check_spd(self.noise_cov + self.epistemic_cov, "the twist's covariance")
        std = np.sqrt(np.diagonal(self.noise_cov + self.epistemic_cov))
        if np.linalg.eigvalsh(self.epistemic_cov / np.outer(std, std)).min() < -1e-6:
            raise CovarianceError("the twist's epistemic covariance is not positive semi-definite")

    @staticmethod
    def of_published(
        stamp_ns: int, twist: Array, cov: Array, epistemic_cov: Array
    ) -> TwistMeasurement:
        """Return the measurement of a whole covariance [6, 6] and the epistemic part of it."""
        return TwistMeasurement(stamp_ns, twist, cov - epistemic_cov, epistemic_cov)

    @staticmethod
    def of_increment(
        T_earlier_later: Array,
        noise_cov: Array,
        epistemic_cov: Array,
        earlier_stamp_ns: int,
        stamp_ns: int,
    ) -> TwistMeasurement:
        """Return an increment's mean twist, in the middle of its interval.

        T_earlier_later [4, 4]; covariances [6, 6] of its right perturbation (m, rad).
        """
        dt_s = (stamp_ns - earlier_stamp_ns) / 1e9
        if not dt_s > 0:
            raise ValueError("an increment's later stamp must lie behind its earlier one")
        both = np.stack([noise_cov, epistemic_cov])
        covs = mean_twist_cov(T_earlier_later, both, dt_s)
        middle_ns = (earlier_stamp_ns + stamp_ns) // 2
        return TwistMeasurement(middle_ns, mean_twist(T_earlier_later, dt_s), covs[0], covs[1])

    def told(self, state: EkfState, settings: EkfSettings) -> EkfState:
        """Return the state at this stamp, told how large this twist's lasting errors are."""
        _, noise_cov, model_cov = self._parts(settings)
        return state.with_lasting(noise_cov, model_cov)

    def innovation(self, state: EkfState, settings: EkfSettings) -> Innovation:
        """Return y - (nu + m_noise + m_model) of a state that was told (F5).

        White are the noise's white part, and what the lasting parts have beyond their states.
        """
        white_cov, noise_cov, model_cov = self._parts(settings)
        assert state.noise_part is not None
        assert state.model_part is not None
        white_cov = white_cov + state.noise_part.white_rest(noise_cov)
        white_cov = white_cov + state.model_part.white_rest(model_cov)
        H = np.zeros((6, SIZE))
        H[:, TWIST] = H[:, NOISE_ERROR] = H[:, MODEL_ERROR] = np.eye(6)
        predicted = state.twist + state.noise_error + state.model_error
        return Innovation(self.twist - predicted, H, white_cov)

    def _parts(self, settings: EkfSettings) -> tuple[Array, Array, Array]:
        """Return the covariances [6, 6] of the white, the lasting and the model's error."""
        white_cov, noise_cov = settings.split_noise(self.noise_cov)
        white_cov = white_cov + _LEAST_WHITE * self.noise_cov
        if settings.epistemic_correlation_s:
            return white_cov, noise_cov, self.epistemic_cov
        return white_cov + self.epistemic_cov, noise_cov, np.zeros((6, 6))


@dataclass(frozen=True)
class PositionFix:
    """A position [3] of the antenna in the world frame (m) with its white covariance [3, 3].

    Raises ValueError for numbers that are not finite, CovarianceError for no covariance.
    """

    stamp_ns: int
    position: Array
    cov: Array
    source = Source.FIX

    def __post_init__(self) -> None:
        """Refuse what is no measurement."""
        if self.position.shape != (3,) or not np.isfinite(self.position).all():
            raise ValueError("a fix must be three finite numbers")
        if self.cov.shape != (3, 3):
            raise CovarianceError("a fix's covariance must be 3x3")
        check_spd(self.cov, "the fix's covariance")

    def told(self, state: EkfState, settings: EkfSettings) -> EkfState:  # noqa: ARG002
        """Return the state as it is: a fix says nothing about its prior."""
        return state

    def innovation(self, state: EkfState, settings: EkfSettings) -> Innovation:
        """Return y - (p + R a + s z_f), a the antenna in base_link, s its lasting error (F6)."""
        antenna, lasting_std = np.array(settings.antenna_position_m), settings.fix_lasting_std_m
        R, p = state.T_world_base[:3, :3], state.T_world_base[:3, 3]
        H = np.zeros((3, SIZE))
        H[:, POSITION] = R
        H[:, ATTITUDE] = -R @ so3.hat(torch.from_numpy(antenna)).numpy()
        H[:, FIX_ERROR] = lasting_std * np.eye(3)
        predicted = p + R @ antenna + lasting_std * state.fix_error
        return Innovation(self.position - predicted, H, self.cov)


Measurement = TwistMeasurement | PositionFix
