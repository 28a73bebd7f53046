"""GTSAM factors of the smoother, each made of a few arrays in the package's order of axes.

GTSAM takes the tangent of a pose rotation first, of a right perturbation; ours is translation
first. Only this module and ``smoother`` know of that. GTSAM is an extra: it is imported when
factors are asked for, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_Residual = Callable[[Any, Any, Any], Array]

# Row i of GTSAM's tangent is row ROTATION_FIRST[i] of ours; the map is its own inverse.
ROTATION_FIRST = np.array([3, 4, 5, 0, 1, 2])


def reordered(cov: Array) -> Array:
    """Return a covariance [6, 6] in the other order of axes, from ours to GTSAM's or back."""
    return cov[np.ix_(ROTATION_FIRST, ROTATION_FIRST)]


class Factors:
    """Make factors; ``gtsam`` is the library. Raises ImportError where it is missing."""

    def __init__(self) -> None:
        try:
            import gtsam  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "the smoother needs GTSAM: pip install 'bayes_vio[smoother]' (CPython 3.11 or "
                "newer)"
            ) from error
        self.gtsam: Any = gtsam

    def pose_prior(self, key: int, T_world_base: Array, cov: Array) -> Any:
        """Return the factor of a pose [4, 4] with the covariance [6, 6] of its right error."""
        noise = self.gtsam.noiseModel.Gaussian.Covariance(reordered(cov))
        return self.gtsam.PriorFactorPose3(key, self.gtsam.Pose3(T_world_base), noise)

    def error_prior(self, key: int, size: int) -> Any:
        """Return the factor of lasting errors [size] of unit covariance."""
        unit = self.gtsam.noiseModel.Unit.Create(size)
        return self.gtsam.PriorFactorVector(key, np.zeros(size), unit)

    def error_transition(self, keys: Sequence[int], correlation: Array, driving_var: Array) -> Any:
        """Return the factor of E-A1, z_b = diag(correlation) z_a + w, w ~ N(0, driving_var).

        It is linear: a container keeps it where GTSAM need not ask Python for it.
        """
        a, b = keys
        zero, values = np.zeros(len(correlation)), self.gtsam.Values()
        values.insert(a, zero)
        values.insert(b, zero)
        noise = self.gtsam.noiseModel.Diagonal.Variances(driving_var)
        H_a, H_b = -np.diag(correlation), np.eye(len(correlation))
        linear = self.gtsam.JacobianFactor(a, H_a, b, H_b, zero, noise)
        return self.gtsam.LinearContainerFactor(linear, values)

    def relative_motion(
        self,
        poses: Sequence[int],
        errors: int | None,
        T_earlier_later: Array,
        white_cov: Array,
        lasting: Array,
    ) -> Any:
        """Return the factor of an increment, T_a^-1 T_b = T_earlier_later exp(n + C z).

        poses: the keys of a and b; white_cov [6, 6] of n; lasting: C [6, size] (m, rad), errors:
        the key of z, None where nothing lasts.
        """
        noise = self.gtsam.noiseModel.Gaussian.Covariance(reordered(white_cov))
        measured = self.gtsam.Pose3(T_earlier_later)
        if errors is None:
            return self.gtsam.BetweenFactorPose3(*poses, measured, noise)
        residual = self._motion_residual(poses, errors, measured, lasting[ROTATION_FIRST])
        return self.gtsam.CustomFactor(noise, [*poses, errors], residual)

    def _motion_residual(
        self, poses: Sequence[int], errors: int, measured: Any, C: Array
    ) -> _Residual:
        Pose3, from_measured = self.gtsam.Pose3, measured.inverse()
        a, b = poses

        def residual(_: Any, values: Any, H: Any) -> Array:
            T_a_b = values.atPose3(a).between(values.atPose3(b))
            xi = Pose3.Logmap(from_measured.compose(T_a_b))
            if H is not None:
                J_inverse = Pose3.LogmapDerivative(xi)
                H[0] = -J_inverse @ T_a_b.inverse().AdjointMap()
                H[1], H[2] = J_inverse, -C
            return xi - C @ values.atVector(errors)

        return residual

    def position_fix(
        self,
        poses: Sequence[int],
        weights: Sequence[float],
        errors: int | None,
        position: Array,
        antenna: Array,
        lasting: Array,
        noise: Any,
    ) -> Any:
        """Return the factor of a fix, sum_i weights_i (t_i + R_i antenna) + C z + n = position.

        poses, weights: the keys around the fix and their shares; lasting: C [3, size], errors: as
        above; position and antenna [3] in the world and in base_link (m).
        """
        at_antenna = _fix_residual(poses, weights, position, antenna)
        if errors is None:
            return self.gtsam.CustomFactor(noise, list(poses), at_antenna)

        def residual(this: Any, values: Any, H: Any) -> Array:
            if H is not None:
                H[len(poses)] = lasting
            return at_antenna(this, values, H) + lasting @ values.atVector(errors)

        return self.gtsam.CustomFactor(noise, [*poses, errors], residual)

    def robust(self, cov: Array, from_sigma: float) -> Any:
        """Return noise of covariance [n, n] whose loss is linear beyond so many sigma (Huber)."""
        models = self.gtsam.noiseModel
        loss = models.mEstimator.Huber.Create(from_sigma)
        return models.Robust.Create(loss, models.Gaussian.Covariance(cov))


def _fix_residual(
    poses: Sequence[int], weights: Sequence[float], position: Array, antenna: Array
) -> _Residual:
    x, y, z = antenna
    antenna_cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])

    def residual(_: Any, values: Any, H: Any) -> Array:
        error = -position
        for i, (key, weight) in enumerate(zip(poses, weights, strict=True)):
            T = values.atPose3(key)
            R = T.rotation().matrix()
            error = error + weight * (T.translation() + R @ antenna)
            if H is not None:
                H[i] = weight * np.hstack([-R @ antenna_cross, R])
        return error

    return residual
