"""Hold what an estimator said on one recording, row by row, beside the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.evaluation import trajectory
from bayes_vio.evaluation.calibration import Errors

Array = NDArray[np.float64]

# A counter: neighbouring poses of the reference between which it tells no motion.
REFERENCE_JUMPS = "recording: reference: jumps"


@dataclass(frozen=True)
class Run:
    """One recording's estimates and the truth.

    Per estimate (axis 0, n of them): earlier_stamp_ns, stamp_ns [n]; T_earlier_later [n, 4, 4]
    with epistemic_cov and noise_cov [n, 6, 6]; T_odom_base [n, 4, 4] with odom_cov [n, 6, 6];
    state [n] (names); compute_s [n], wall time spent on the estimate; wait_s [n], time of the
    stream between the image's stamp and the sample that completed the estimate; T_world_earlier
    and T_world_base [n, 4, 4], the reference at both stamps. ``unreferenced`` counts estimates
    left out because the reference did not cover them; ``counters`` are the estimator's and the
    recording's. ``features`` [n], each [6, size] or None: of the epistemic errors, where kept.
    """

    name: str
    earlier_stamp_ns: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    T_earlier_later: Array
    epistemic_cov: Array
    noise_cov: Array
    T_odom_base: Array
    odom_cov: Array
    state: NDArray[np.str_]
    compute_s: Array
    wait_s: Array
    T_world_earlier: Array
    T_world_base: Array
    unreferenced: int
    counters: dict[str, int]
    features: tuple[Array | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.stamp_ns)

    @property
    def time_s(self) -> Array:
        """Seconds since the first estimate's earlier image [n]."""
        return (self.stamp_ns - self.earlier_stamp_ns[0]) / NS_PER_S

    @property
    def dt_s(self) -> Array:
        """Lengths of the intervals [n] (s)."""
        return (self.stamp_ns - self.earlier_stamp_ns) / NS_PER_S

    def true_increments(self) -> Array:
        """Return the reference's T_earlier_later [n, 4, 4]."""
        return trajectory.relative(self.T_world_earlier, self.T_world_base)

    def increment_errors(self) -> Errors:
        """Return the errors of the increments, frame by frame."""
        error = trajectory.right_error(self.T_earlier_later, self.true_increments())
        return Errors(error, self.epistemic_cov, self.noise_cov, np.zeros(len(self), np.int64))

    def path(self) -> tuple[Array, Array]:
        """Return the estimated (odom) and the true poses [n + 1, 4, 4], the start included."""
        back = trajectory.relative(self.T_earlier_later[:1], np.eye(4)[None])
        estimated = np.concatenate([self.T_odom_base[:1] @ back, self.T_odom_base])
        return estimated, np.concatenate([self.T_world_earlier[:1], self.T_world_base])

    def odometry_errors(self) -> Array:
        """Return the right perturbations [n, 6] (m, rad) of the odometry, its start aligned."""
        estimated, true = self.path()
        return trajectory.right_error(trajectory.align_first(estimated, true), true)[1:]
