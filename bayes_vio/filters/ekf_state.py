"""The state of the small filter: where each part stands in its error, and how it is corrected.

The error [27] is, in this order, that of

    pose         T_world_base = T exp(d)                      d [6]      m, rad
    twist        of base_link                                 [6]        m/s, rad/s
    noise error  the lasting part of the twists' noise        [6]        m/s, rad/s
    model error  the epistemic error of the twists            [6]        m/s, rad/s
    fix error    the slowly varying part of the fixes' error  z_f [3]    whitened, N(0, 1) a priori
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, LINEAR
from bayes_vio.filters.covariance import bounded
from bayes_vio.filters.lasting import LastingPart
from bayes_vio.geometry import se3

Array = NDArray[np.float64]

POSE = slice(0, 6)
TWIST = slice(6, 12)
NOISE_ERROR = slice(12, 18)
MODEL_ERROR = slice(18, 24)
FIX_ERROR = slice(24, 27)
SIZE = 27

POSITION = LINEAR  # within the pose's error
ATTITUDE = ANGULAR


@dataclass(frozen=True)
class EkfState:
    """The mean of every part at one stamp, and the joint covariance [27, 27] of their errors.

    T_world_base [4, 4]; twist [6] of base_link, noise_error [6], model_error [6] (m/s, rad/s) and
    fix_error [3], whitened. The pose's error is a right perturbation, all others are differences.
    noise_part and model_part say how large the two errors are a priori; None before any twist.
    """

    stamp_ns: int
    T_world_base: Array
    twist: Array
    noise_error: Array
    model_error: Array
    fix_error: Array
    cov: Array
    noise_part: LastingPart | None = None
    model_part: LastingPart | None = None

    @staticmethod
    def started(stamp_ns: int, T_world_base: Array, pose_cov: Array, twist_std: Array) -> EkfState:
        """Return a state at a pose with its right covariance [6, 6], the twist 0 +- twist_std.

        The errors of the twists are not known yet: the first twist says how large they may be.
        """
        cov = np.zeros((SIZE, SIZE))
        cov[FIX_ERROR, FIX_ERROR] = np.eye(3)
        cov[POSE, POSE] = pose_cov
        cov[TWIST, TWIST] = np.diag(twist_std**2)
        return EkfState(
            stamp_ns, T_world_base, np.zeros(6), np.zeros(6), np.zeros(6), np.zeros(3), cov
        )

    @property
    def pose_cov(self) -> Array:
        """Return the covariance [6, 6] of the pose's right perturbation (m, rad)."""
        return self.cov[POSE, POSE].copy()

    @property
    def twist_cov(self) -> Array:
        """Return the covariance [6, 6] of the twist (m/s, rad/s)."""
        return self.cov[TWIST, TWIST].copy()

    def corrected(self, error: Array, cov: Array) -> EkfState:
        """Return the state with an estimated error [27] taken into its mean, and a new cov.

        The pose goes along exp(d), and its covariance moves into the new tangent space by the
        right Jacobian of d (Sola et al. 2018, section 5.4).
        """
        d = torch.from_numpy(np.ascontiguousarray(error[POSE]))
        G = np.eye(SIZE)
        G[POSE, POSE] = se3.right_jacobian(d).numpy()
        return replace(
            self,
            T_world_base=orthonormal(self.T_world_base @ se3.exp(d).numpy()),
            twist=self.twist + error[TWIST],
            noise_error=self.noise_error + error[NOISE_ERROR],
            model_error=self.model_error + error[MODEL_ERROR],
            fix_error=self.fix_error + error[FIX_ERROR],
            cov=symmetric(G @ cov @ G.T),
        )

    def forgotten(self, part: slice, part_cov: Array) -> EkfState:
        """Return the state with one part's error independent of all others, of part_cov."""
        cov = self.cov.copy()
        cov[part, :], cov[:, part] = 0.0, 0.0
        cov[part, part] = part_cov
        return replace(self, cov=cov)

    def with_lasting(self, noise_cov: Array, model_cov: Array) -> EkfState:
        """Return the state told how large the lasting errors of the newest twist are [6, 6]."""
        if self.noise_part is None or self.model_part is None:
            known = self.forgotten(NOISE_ERROR, noise_cov).forgotten(MODEL_ERROR, model_cov)
            parts = LastingPart.of(noise_cov), LastingPart.of(model_cov)
            return replace(known, noise_part=parts[0], model_part=parts[1])
        return replace(
            self,
            noise_part=self.noise_part.driven_by(noise_cov),
            model_part=self.model_part.driven_by(model_cov),
        )

    def bounded(self, pose_std_bound: Array) -> EkfState:
        """Return the state with the pose's standard deviations [6] brought back to a bound."""
        std_bound = np.full(SIZE, np.inf)
        std_bound[POSE] = pose_std_bound
        return replace(self, cov=bounded(self.cov, std_bound))


def symmetric(cov: Array) -> Array:
    """Return (cov + cov^T) / 2."""
    return 0.5 * (cov + cov.T)


def orthonormal(T: Array) -> Array:
    """Pull a pose's rotation back onto SO(3) by one Newton step: rounding adds up over hours."""
    R, pulled = T[:3, :3], T.copy()
    pulled[:3, :3] = 0.5 * R @ (3 * np.eye(3) - R.T @ R)
    return pulled
