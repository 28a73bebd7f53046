"""Relative poses of one stream of increments, with the covariance of all of them together.

Increments of one stream are not independent: part of their noise lasts, and one set of weights
made all of them. A consumer that takes several relative poses, successive or overlapping, needs

    Cov(e_k, e_l) = [k = l] white_k + sum_j C_jk R_jkl C_jl + Phi_k Phi_l^T,                (E-A5)

e_k the right perturbation of increment k, C_j the symmetric roots of the lasting parts, R_jkl what
their processes keep between the two (E-A1), and Phi_k the features of the epistemic error where
they are known. To second order the perturbation of a relative pose is the sum of those of its
increments, each moved to the end by the adjoint of what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.filters.covariance import symmetric_sqrt
from bayes_vio.filters.transported import matched
from bayes_vio.geometry import se3
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class IncrementStream:
    """Consecutive increments: T [n, 4, 4], both covariances [n, 6, 6], end_s [n].

    Covariances are of right perturbations (m, rad); end_s is the time at which each ends. features
    [n, 6, size] of the epistemic errors, or None: then they are a process of correlation_s.
    Raises ValueError where the shapes disagree or the times do not increase.
    """

    T: Array
    noise_cov: Array
    epistemic_cov: Array
    end_s: Array
    features: Array | None = None
    correlation_s: float = 0.0
    noise_correlation: NoiseCorrelation = WHITE_NOISE

    def __post_init__(self) -> None:
        """Refuse what is no stream."""
        n = len(self.end_s)
        shapes = (self.T.shape, self.noise_cov.shape, self.epistemic_cov.shape)
        if shapes != ((n, 4, 4), (n, 6, 6), (n, 6, 6)):
            raise ValueError(f"a stream of {n} increments has arrays of shapes {shapes}")
        if self.features is not None and self.features.shape[:2] != (n, 6):
            raise ValueError(f"{n} increments have features of shape {self.features.shape}")
        if not (np.diff(self.end_s) > 0).all():
            raise ValueError("the increments of a stream must end one after the other")

    def joint_cov(self) -> Array:
        """Return the covariance [6 n, 6 n] of all increments' perturbations (E-A5)."""
        split = [self.noise_correlation.split(cov) for cov in self.noise_cov]
        n = len(split)
        joint = np.zeros((n, 6, n, 6))
        own = np.arange(n)
        joint[own, :, own, :] = np.stack([white for white, _ in split])
        joint += self._lasting([cov for _, cov in split], self.noise_correlation.time_s)
        if self.features is None:
            joint += self._lasting(list(self.epistemic_cov), (self.correlation_s,) * 6)
        else:
            parts = zip(self.features, self.epistemic_cov, strict=True)
            Phi = np.stack([matched(features, cov) for features, cov in parts])
            joint += np.einsum("kis,ljs->kilj", Phi, Phi)
            rest = self.epistemic_cov - np.einsum("kis,kjs->kij", Phi, Phi)
            joint[own, :, own, :] += rest
        return joint.reshape(6 * n, 6 * n)

    def _lasting(self, covs: list[Array], time_s: Sequence[float]) -> Array:
        """Return what one process gives between all increments [n, 6, n, 6]."""
        C = np.stack([symmetric_sqrt(cov) for cov in covs])
        apart_s = np.abs(self.end_s[:, None] - self.end_s)
        tau_s = np.array(time_s)
        kept = np.where(
            tau_s > 0,
            np.exp(-apart_s[..., None] / np.where(tau_s > 0, tau_s, 1.0)),
            (apart_s == 0)[..., None],
        )
        return np.einsum("kia,kla,lja->kilj", C, kept, C)


@dataclass(frozen=True)
class RelativePoses:
    """T [m, 4, 4] of m relative poses, and the covariance [6 m, 6 m] of their perturbations."""

    T: Array
    cov: Array

    def block(self, i: int, j: int) -> Array:
        """Return Cov [6, 6] between the perturbations of relative poses i and j."""
        return self.cov[6 * i : 6 * i + 6, 6 * j : 6 * j + 6]


def relative_poses(stream: IncrementStream, spans: Sequence[range]) -> RelativePoses:
    """Return the compounds of the increments of each span, with their joint covariance.

    spans: ranges of rows of step 1, not empty; they may follow one another or overlap. Raises
    ValueError for another span.
    """
    n = len(stream.end_s)
    poses, maps = [], np.zeros((len(spans), 6, n, 6))
    for row, span in enumerate(spans):
        if span.step != 1 or not (0 <= span.start < span.stop <= n):
            raise ValueError(f"{span} is no span of {n} increments")
        after = np.eye(4)
        for k in reversed(span):
            maps[row, :, k] = se3.adjoint(se3.inverse(torch.from_numpy(after))).numpy()
            after = stream.T[k] @ after
        poses.append(after)
    L = maps.reshape(6 * len(spans), 6 * n)
    cov = L @ stream.joint_cov() @ L.T
    return RelativePoses(np.stack(poses), 0.5 * (cov + cov.T))
