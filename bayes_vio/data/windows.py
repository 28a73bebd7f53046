"""Cut IMU windows and assemble the motion model's input, the same way offline and online."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.frames import to_grid_levels, to_unit
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH, IMU_BINS, MotionInput

# A hole in the samples longer than both of these leaves the bins that touch it invalid.
MAX_GAP_PERIODS = 5.0
MAX_GAP_S = 0.030


def imu_bins(
    stamp_ns: NDArray[np.int64],
    samples: NDArray[np.float64],
    start_ns: int,
    end_ns: int,
    n_bins: int = IMU_BINS,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bins [n_bins, 6] and valid [n_bins] of one interval; see ``imu_bins_many``."""
    start, end = np.array([start_ns], dtype=np.int64), np.array([end_ns], dtype=np.int64)
    bins, valid = imu_bins_many(stamp_ns, samples, start, end, n_bins)
    return bins[0], valid[0]


def imu_bins_many(
    stamp_ns: NDArray[np.int64],
    samples: NDArray[np.float64],
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    n_bins: int = IMU_BINS,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Average the linearly interpolated signal exactly over equal bins of [start_ns, end_ns].

    stamp_ns [n] strictly increasing, samples [n, 6]; start_ns, end_ns [m] in the IMU's clock.
    Returns bins [m, n_bins, 6] float32 and valid [m, n_bins] float32. A bin is valid, else zero,
    where samples bracket it and none of the gaps it touches is longer than
    max(5 median periods, 30 ms). Raises ValueError for an interval that does not move forward.
    """
    if np.any(end_ns <= start_ns):
        raise ValueError("an IMU window must end after it starts: check the stamps given")
    m = len(start_ns)
    if len(stamp_ns) < 2:
        return np.zeros((m, n_bins, 6), np.float32), np.zeros((m, n_bins), np.float32)
    return SampledSignal(stamp_ns, samples).bins(start_ns, end_ns, n_bins)


class SampledSignal:
    """The piecewise linear signal through samples [n, k], with its integral at hand.

    stamp_ns [n] strictly increasing, n >= 2. Many windows of one recording share the integral.
    """

    def __init__(self, stamp_ns: NDArray[np.int64], samples: NDArray[np.float64]) -> None:
        self._origin_ns = int(stamp_ns[0])
        self._t = self.seconds(stamp_ns)
        gaps = np.diff(self._t)
        # The mean is integrated apart, so that a long recording costs no digits.
        self._mean = samples.mean(0)
        self._signal = samples - self._mean
        self._slope = np.diff(self._signal, axis=0) / gaps[:, None]
        self._cumulative = np.zeros_like(self._signal)
        steps = 0.5 * gaps[:, None] * (self._signal[1:] + self._signal[:-1])
        np.cumsum(steps, axis=0, out=self._cumulative[1:])
        too_long = gaps > max(MAX_GAP_PERIODS * float(np.median(gaps)), MAX_GAP_S)
        self._holes_before = np.concatenate([[0], np.cumsum(too_long)])

    def seconds(self, stamp_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return stamps as seconds since the first sample."""
        return (stamp_ns - self._origin_ns) / NS_PER_S

    def bins(
        self, start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], n_bins: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return means [m, n_bins, k] over equal bins of the windows, and valid [m, n_bins]."""
        share = np.linspace(0, 1, n_bins + 1)
        start, end = self.seconds(start_ns)[:, None], self.seconds(end_ns)[:, None]
        edges = start * (1 - share) + end * share
        valid = self.covers(edges[:, :-1], edges[:, 1:])
        means = np.diff(self.integral(edges), axis=1) / np.diff(edges, axis=1)[..., None]
        return (means * valid[..., None]).astype(np.float32), valid.astype(np.float32)

    def value(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the signal [..., k] at times t [...] (s since the first sample)."""
        left, elapsed = self._locate(t)
        return self._mean + self._signal[left] + self._slope[left] * elapsed

    def integral(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the exact integral [..., k] from the first sample to times t [...] (s)."""
        left, elapsed = self._locate(t)
        rest = self._signal[left] + 0.5 * self._slope[left] * elapsed
        since_start = np.clip(t, 0, self._t[-1])[..., None]
        return self._mean * since_start + self._cumulative[left] + elapsed * rest

    def _locate(self, t: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        left = np.clip(np.searchsorted(self._t, t, side="right") - 1, 0, len(self._t) - 2)
        return left, (np.clip(t, 0, self._t[-1]) - self._t[left])[..., None]

    def covers(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell [...] whether samples bracket [start, end] (s) and leave no long hole in it."""
        last = len(self._t) - 1
        first_gap = np.clip(np.searchsorted(self._t, start, side="right") - 1, 0, last)
        end_gap = np.clip(np.searchsorted(self._t, end, side="left"), first_gap, last)
        holes = self._holes_before[end_gap] - self._holes_before[first_gap]
        tolerance = 1e-9  # edges are rounded in seconds: a nanosecond
        return (holes == 0) & (start >= -tolerance) & (end <= self._t[-1] + tolerance)


def motion_input(
    later_view: NDArray[np.uint8] | None,
    flow: NDArray[np.floating] | None,
    view_valid: NDArray[np.float32],
    imu: NDArray[np.float32],
    imu_valid: NDArray[np.float32],
    dt_s: float,
) -> MotionInput:
    """Assemble the input of one interval, batch size 1.

    later_view [80, 256], flow [2, 40, 128] (both None where there is no image: IMU alone),
    view_valid [40, 128] of the projector, imu [20, 6] and imu_valid [20] of ``imu_bins``.
    """
    if later_view is None or flow is None:
        gray = np.zeros((1, GRID_HEIGHT, GRID_WIDTH), np.uint8)
        flow = np.zeros((2, GRID_HEIGHT, GRID_WIDTH), np.float32)
        camera_valid = np.zeros(1, np.float32)
    else:
        gray, camera_valid = to_grid_levels(later_view)[None], np.ones(1, np.float32)
    return motion_batch(
        gray, flow[None], view_valid, imu[None], imu_valid[None], np.array([dt_s]), camera_valid
    )


def motion_batch(
    gray: NDArray[np.uint8],
    flow: NDArray[np.floating],
    view_valid: NDArray[np.float32],
    imu: NDArray[np.float32],
    imu_valid: NDArray[np.float32],
    dt_s: NDArray[np.float64],
    camera_valid: NDArray[np.float32],
) -> MotionInput:
    """Assemble a batch; cells that the camera does not see are zero.

    gray [n, 40, 128] uint8, flow [n, 2, 40, 128], view_valid [40, 128] or [n, 40, 128],
    imu [n, 20, 6], imu_valid [n, 20], dt_s [n], camera_valid [n].
    """
    n = len(dt_s)
    present = camera_valid[:, None, None]
    valid = np.broadcast_to(view_valid, (n, GRID_HEIGHT, GRID_WIDTH)) * present
    seen = (valid > 0).astype(np.float32)
    return MotionInput(
        gray=_float(to_unit(gray) * seen),
        flow=_float(np.asarray(flow, np.float32) * seen[:, None]),
        view_valid=_float(valid),
        imu=_float(imu),
        imu_valid=_float(imu_valid),
        dt=_float(dt_s),
        camera_valid=_float(camera_valid),
    )


def _float(values: NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
