"""Fuse relative poses with position fixes over a sliding window: a fixed-lag smoother on GTSAM.

Errors of successive increments are not independent (``accumulate``): part of the noise lasts, and
all increments share one set of weights. A chain of white factors would understate what they add
up to, and let no fix teach anything about the error of the next increment. So the window holds,
beside every pose, the errors z that last (``lasting_errors``): stationary Gauss-Markov processes
(E-A1) of the noise's lasting parts, of the epistemic error, and of the fixes,

    T_a^-1 T_b = T_earlier_later exp(n + C z),    position = t + R antenna + C_fix z + n_fix.
                                                                                         (E-S1)

The window ends lag_s behind the newest pose; what lies before it is marginalised. Fixes have a
robust loss, increments a Gaussian one: their covariance speaks for itself.
Source: Kaess et al., "iSAM2" (2012); Dellaert and Kaess, "Factor Graphs for Robot Perception".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.accumulate import check_pose
from bayes_vio.filters.covariance import check_spd
from bayes_vio.filters.lasting_errors import WHITE_ERRORS, ErrorModel, LastingErrors
from bayes_vio.filters.smoother_factors import Factors, reordered

Array = NDArray[np.float64]

# Gauss-Newton steps after a fix: Huber's weights follow the poses.
_STEPS_AFTER_FIX = 2
# Of an error that never changes: what drives it must not be zero.
_LEAST_DRIVING_VAR = 1e-9
# Factors are linearised anew where a pose has moved by more (rad, m, GTSAM's order): between poses
# only rotations are not linear, and for the weights of fixes a fraction of a metre is enough.
_RELINEARISED_BEYOND = np.repeat([0.005, 0.3], 3)


class StampError(ValueError):
    """A relative pose that does not begin where the last one ended."""


@dataclass(frozen=True)
class SmootherSettings:
    """What a smoother works by, in SI units.

    errors: what lasts of them; fix_robust_sigma: from where on a fix's loss is linear (2.8 leaves
    95 of 100 healthy ones, of three axes, as they are).
    """

    lag_s: float = 10.0
    errors: ErrorModel = WHITE_ERRORS
    fix_robust_sigma: float = 2.8
    antenna_in_base_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("lag_s", "fix_robust_sigma"):
            if not (np.isfinite(value := getattr(self, name)) and value > 0):
                raise ValueError(f"smoother setting {name} is {value}: give a number above 0")


@dataclass(frozen=True)
class SmoothedState:
    """T_world_base [4, 4] at stamp_ns, and the covariance [6, 6] of its right error (m, rad)."""

    stamp_ns: int
    T_world_base: Array
    cov: Array


@dataclass(frozen=True)
class _Fix:
    stamp_ns: int
    position_m: Array
    cov: Array


@dataclass(frozen=True)
class _Node:
    stamp_ns: int
    pose: int  # its key
    errors: int | None  # the key of the lasting errors, if there are any


class Smoother:
    """Poses of base_link in the world over the last lag_s, from increments and position fixes.

    Starts at stamp_ns with T_world_base [4, 4] and the covariance [6, 6] of its right error (m,
    rad): a position of metres and a heading of some degrees will do. ``fixes_left_out`` counts the
    fixes older than the window. Raises ImportError without GTSAM, ValueError for what is no pose,
    CovarianceError for what is no covariance.
    """

    def __init__(
        self, settings: SmootherSettings, stamp_ns: int, T_world_base: Array, cov: Array
    ) -> None:
        self._settings = settings
        self._lasting = LastingErrors(settings.errors)
        self._factors = Factors()
        self._isam = self._incremental(settings.lag_s)
        self._start_ns = stamp_ns
        self._nodes: deque[_Node] = deque()
        self._pending: list[_Fix] = []
        self._count = 0
        self.fixes_left_out = 0
        T_world_base = check_pose(T_world_base)
        self._begin_update()
        node = self._append(stamp_ns, T_world_base)
        cov = check_spd(np.asarray(cov, np.float64), "the covariance of the first pose")
        self._graph.add(self._factors.pose_prior(node.pose, T_world_base, cov))
        if node.errors is not None:
            self._graph.add(self._factors.error_prior(node.errors, self._lasting.size))
        self._update(1)

    def _incremental(self, lag_s: float):
        gtsam = self._factors.gtsam
        parameters = gtsam.ISAM2Params()
        parameters.setFactorization("QR")
        parameters.relinearizeSkip = 1
        thresholds = gtsam.ISAM2ThresholdMap()
        thresholds.insert(("x", _RELINEARISED_BEYOND))
        thresholds.insert(("e", np.full(self._lasting.size, np.inf)))
        parameters.setRelinearizeThreshold(thresholds)
        return gtsam.IncrementalFixedLagSmoother(lag_s, parameters)

    @property
    def stamps_ns(self) -> list[int]:
        """Return the stamps of the window's poses, oldest first."""
        return [node.stamp_ns for node in self._nodes]

    def add_motion(
        self,
        earlier_stamp_ns: int,
        stamp_ns: int,
        T_earlier_later: Array,
        noise_cov: Array,
        epistemic_cov: Array,
    ) -> None:
        """Append a relative pose [4, 4] with both parts of its right covariance [6, 6] (m, rad).

        Raises StampError, leaving the smoother as it was, where it does not begin at the newest
        pose (one was lost) or does not lead ahead; ValueError for what is no pose, CovarianceError
        for what is no covariance.
        """
        newest = self._nodes[-1]
        if earlier_stamp_ns != newest.stamp_ns or stamp_ns <= newest.stamp_ns:
            raise StampError(
                f"a relative pose from {earlier_stamp_ns} to {stamp_ns} ns does not follow on the "
                f"newest pose, {newest.stamp_ns} ns: start a new smoother there"
            )
        T_earlier_later = check_pose(T_earlier_later)
        noise_cov = check_spd(np.asarray(noise_cov, np.float64), "the noise covariance")
        epistemic_cov = np.asarray(epistemic_cov, np.float64)
        if epistemic_cov.any():  # all zero: nothing is left to learn
            epistemic_cov = check_spd(epistemic_cov, "the epistemic covariance")
        white_cov, C = self._lasting.split(noise_cov, epistemic_cov)
        self._begin_update()
        node = self._append(stamp_ns, self._T_world_base(newest) @ T_earlier_later)
        keys = (newest.pose, node.pose)
        errors = node.errors if C.any() else None
        self._graph.add(self._factors.relative_motion(keys, errors, T_earlier_later, white_cov, C))
        self._join_errors(newest, node)
        self._drop_old_nodes()
        fixes = self._add_fixes()
        self._update(1 + (_STEPS_AFTER_FIX if fixes else 0))

    def add_fix(self, stamp_ns: int, position_m: ArrayLike, cov: ArrayLike) -> None:
        """Take a position [3] (m, world) of the antenna with its white covariance [3, 3].

        It counts from the next ``add_motion`` at or after stamp_ns on; between two poses it is
        held against their weighted mean. Raises ValueError for what is no position,
        CovarianceError for what is no covariance.
        """
        position, cov = np.asarray(position_m, np.float64), np.asarray(cov, np.float64)
        if position.shape != (3,) or not np.isfinite(position).all() or cov.shape != (3, 3):
            raise ValueError(
                "a fix needs a finite position [3] and a covariance [3, 3], got "
                f"{position} and shape {cov.shape}"
            )
        self._pending.append(_Fix(stamp_ns, position, check_spd(cov, "the fix's covariance")))

    def newest(self) -> SmoothedState:
        """Return the newest pose: what a controller may use."""
        return self._state(self._nodes[-1])

    def oldest(self) -> SmoothedState:
        """Return the oldest pose of the window: what no later fix will change."""
        return self._state(self._nodes[0])

    def states(self) -> Iterator[SmoothedState]:
        """Yield every pose of the window, oldest first."""
        for node in self._nodes:
            yield self._state(node)

    def _state(self, node: _Node) -> SmoothedState:
        cov = reordered(self._isam.marginalCovariance(node.pose))
        T = self._T_world_base(node)
        return SmoothedState(node.stamp_ns, T, check_spd(cov, "the smoothed pose's covariance"))

    def _T_world_base(self, node: _Node) -> Array:
        return self._isam.calculateEstimatePose3(node.pose).matrix()

    def _append(self, stamp_ns: int, T_world_base: Array) -> _Node:
        """Add a pose, and the lasting errors at its time, to the update that is begun."""
        symbol, size = self._factors.gtsam.symbol, self._lasting.size
        errors = symbol("e", self._count) if size else None
        node = _Node(stamp_ns, symbol("x", self._count), errors)
        self._count += 1
        since_s = (stamp_ns - self._start_ns) / NS_PER_S
        self._values.insert(node.pose, self._factors.gtsam.Pose3(T_world_base))
        self._times_s[node.pose] = since_s
        if errors is not None:
            self._values.insert(errors, np.zeros(size))
            self._times_s[errors] = since_s
        self._nodes.append(node)
        return node

    def _join_errors(self, a: _Node, b: _Node) -> None:
        if a.errors is None or b.errors is None:
            return
        R = self._lasting.correlation((b.stamp_ns - a.stamp_ns) / NS_PER_S)
        driving_var = np.maximum(1 - R**2, _LEAST_DRIVING_VAR)
        keys = (a.errors, b.errors)
        self._graph.add(self._factors.error_transition(keys, R, driving_var))

    def _drop_old_nodes(self) -> None:
        end_ns = self._nodes[-1].stamp_ns - round(self._settings.lag_s * NS_PER_S)
        while len(self._nodes) > 2 and self._nodes[0].stamp_ns <= end_ns:
            self._nodes.popleft()

    def _add_fixes(self) -> bool:
        """Add the factors of the fixes that the poses have reached; tell whether there are any."""
        newest_ns = self._nodes[-1].stamp_ns
        reached = [fix for fix in self._pending if fix.stamp_ns <= newest_ns]
        self._pending = [fix for fix in self._pending if fix.stamp_ns > newest_ns]
        factors = [factor for fix in reached if (factor := self._fix_factor(fix)) is not None]
        self.fixes_left_out += len(reached) - len(factors)
        for factor in factors:
            self._graph.add(factor)
        return bool(factors)

    def _fix_factor(self, fix: _Fix):
        around = next(
            ((a, b) for a, b in pairwise(self._nodes) if a.stamp_ns <= fix.stamp_ns <= b.stamp_ns),
            None,
        )
        if around is None:
            return None
        a, b = around
        share = (fix.stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
        weighted = [(n.pose, w) for n, w in ((a, 1 - share), (b, share)) if w > 0]
        poses, weights = zip(*weighted, strict=True)
        C = self._lasting.of_fixes()
        return self._factors.position_fix(
            poses,
            weights,
            b.errors if C.any() else None,
            fix.position_m,
            np.array(self._settings.antenna_in_base_m),
            C,
            self._factors.robust(fix.cov, self._settings.fix_robust_sigma),
        )

    def _begin_update(self) -> None:
        gtsam = self._factors.gtsam
        self._graph, self._values = gtsam.NonlinearFactorGraph(), gtsam.Values()
        self._times_s: dict[int, float] = {}

    def _update(self, steps: int) -> None:
        self._isam.update(self._graph, self._values, self._times_s)
        for _ in range(steps - 1):
            self._isam.update()
