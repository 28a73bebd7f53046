"""Judge the covariance online, where a reference odometry is published."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator.tracking import MotionEstimate
from bayes_vio.filters.consistency import NeesWindow
from bayes_vio.geometry import se3

Array = NDArray[np.float64]
_KEPT_POSES = 3000
_PENDING_ESTIMATES = 300


class ReferenceMonitor:
    """Compare increments with a reference interpolated at the images' stamps.

    window: increments over which the NEES is averaged; max_gap_s: largest gap between reference
    poses that is interpolated. The error is of the right perturbation, as the covariance is.
    """

    def __init__(self, window: int, max_gap_s: float) -> None:
        self._max_gap_ns = int(max_gap_s * NS_PER_S)
        self._stamps_ns: list[int] = []
        self._poses: list[Array] = []
        self._pending: deque[MotionEstimate] = deque(maxlen=_PENDING_ESTIMATES)
        self.window = NeesWindow(degrees=6, length=window)

    def add_reference(self, stamp_ns: int, T_world_base: Array) -> None:
        """Take a pose [4, 4]; a stamp that goes back starts anew (a recording played again)."""
        if self._stamps_ns and stamp_ns <= self._stamps_ns[-1]:
            self._stamps_ns, self._poses = [], []
            self._pending.clear()
        self._stamps_ns.append(stamp_ns)
        self._poses.append(T_world_base)
        if len(self._stamps_ns) > _KEPT_POSES:
            del self._stamps_ns[: _KEPT_POSES // 2], self._poses[: _KEPT_POSES // 2]
        self._judge_pending()

    def add_estimate(self, estimate: MotionEstimate) -> None:
        """Take an increment; it is judged once the reference has passed it."""
        self._pending.append(estimate)
        self._judge_pending()

    def _judge_pending(self) -> None:
        while self._pending and self._stamps_ns and self._judge(self._pending[0]):
            self._pending.popleft()

    def _judge(self, estimate: MotionEstimate) -> bool:
        """Judge one increment; False where the reference has not come so far yet."""
        if estimate.stamp_ns > self._stamps_ns[-1]:
            return False
        T_earlier = self.pose_at(estimate.earlier_stamp_ns)
        T_later = self.pose_at(estimate.stamp_ns)
        if T_earlier is not None and T_later is not None:
            T_true = np.linalg.solve(T_earlier, T_later)
            error = se3.log(torch.from_numpy(np.linalg.solve(estimate.T_earlier_later, T_true)))
            self.window.add(error.numpy(), estimate.cov)
        return True

    def pose_at(self, stamp_ns: int) -> Array | None:
        """Return the pose [4, 4] at a stamp, on the geodesic; None outside or in a gap."""
        i = bisect_left(self._stamps_ns, stamp_ns)
        if i == len(self._stamps_ns):
            return None
        if self._stamps_ns[i] == stamp_ns:
            return self._poses[i]
        if i == 0 or self._stamps_ns[i] - self._stamps_ns[i - 1] > self._max_gap_ns:
            return None
        start_ns, end_ns = self._stamps_ns[i - 1 : i + 1]
        T_a, T_b = (torch.from_numpy(T) for T in self._poses[i - 1 : i + 1])
        share = (stamp_ns - start_ns) / (end_ns - start_ns)
        return (T_a @ se3.exp(share * se3.log(se3.inverse(T_a) @ T_b))).numpy()
