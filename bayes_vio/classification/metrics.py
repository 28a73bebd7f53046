"""Scores of class probabilities: how often right, how likely, how calibrated.

``probs`` [n, classes] and ``target`` [n] (class indices) may be tensors or arrays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

N_BINS = 15
# How far a row of probabilities may sum from one, in float32.
_SUM_TOLERANCE = 1e-4


class Binning(Enum):
    """How confidences are divided: bins of equal width, or of equally many data."""

    EQUAL_WIDTH = "equal_width"
    EQUAL_MASS = "equal_mass"


@dataclass(frozen=True)
class ClassificationMetrics:
    """Accuracy, NLL (nats), Brier score and expected calibration errors of n data."""

    n_data: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    ece_equal_mass: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: per bin the confidence's ``edges`` [bins + 1], its mean, the accuracy
    and the count [bins]; means of empty bins are NaN."""

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """Return the mean gap of accuracy and confidence, weighed by count."""
        return float(np.nansum(self._gaps * self.count) / self.count.sum())

    @property
    def maximum_error(self) -> float:
        """Return the largest gap of accuracy and confidence of any bin."""
        return float(np.nanmax(self._gaps))

    @property
    def _gaps(self) -> NDArray[np.float64]:
        return np.abs(self.accuracy - self.confidence)


def classification_metrics(probs: Any, target: Any) -> ClassificationMetrics:
    """Return all scores of some predictions."""
    p, y = _checked(probs, target)
    return ClassificationMetrics(
        n_data=len(y),
        accuracy=accuracy(p, y),
        nll=negative_log_likelihood(p, y),
        brier=brier_score(p, y),
        ece=expected_calibration_error(p, y),
        ece_equal_mass=expected_calibration_error(p, y, binning=Binning.EQUAL_MASS),
    )


def accuracy(probs: Any, target: Any) -> float:
    """Return the share of data whose most probable class is the true one."""
    p, y = _checked(probs, target)
    return float((p.argmax(1) == y).mean())


def negative_log_likelihood(probs: Any, target: Any) -> float:
    """Return the mean -log probability of the true class (nats); infinite where one is zero."""
    p, y = _checked(probs, target)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(y)), y]).mean())


def brier_score(probs: Any, target: Any) -> float:
    """Return the mean squared distance of probabilities and one-hot labels, 0 to 2.

    Source: Brier (1950), summed over classes.
    """
    p, y = _checked(probs, target)
    error = p.copy()
    error[np.arange(len(y)), y] -= 1.0
    return float(np.square(error).sum(1).mean())


def expected_calibration_error(
    probs: Any, target: Any, n_bins: int = N_BINS, binning: Binning = Binning.EQUAL_WIDTH
) -> float:
    """Return the mean gap of accuracy and confidence over bins of the top class's confidence.

    Source: Guo et al. (2017), equation 3; equal mass: Nixon et al. (2019), section 3.
    """
    return reliability(probs, target, n_bins, binning).expected_error


def reliability(
    probs: Any, target: Any, n_bins: int = N_BINS, binning: Binning = Binning.EQUAL_WIDTH
) -> Reliability:
    """Return the reliability diagram of the top class; a bin's right edge belongs to it."""
    p, y = _checked(probs, target)
    if n_bins < 1:
        raise ValueError(f"a reliability diagram needs at least one bin, not {n_bins}")
    confidence = p.max(1)
    right = p.argmax(1) == y
    if binning is Binning.EQUAL_WIDTH:
        edges = np.linspace(0.0, 1.0, n_bins + 1)
        bins = np.clip(np.ceil(confidence * n_bins).astype(int), 1, n_bins) - 1
    else:
        order = np.argsort(confidence, kind="stable")
        edges = np.quantile(confidence, np.linspace(0.0, 1.0, n_bins + 1))
        bins = np.empty(len(y), dtype=int)
        bins[order] = np.arange(len(y)) * n_bins // len(y)
    count = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, v, n_bins) / count for v in (confidence, right)]
    return Reliability(edges, means[0], means[1], count)


def array(values: Tensor | ArrayLike) -> NDArray:
    """Return a tensor's or sequence's values as an array on the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _checked(probs: Any, target: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return both as arrays; raise ValueError where they are no probabilities and labels."""
    p, y = array(probs).astype(np.float64), array(target)
    if p.ndim != 2 or y.shape != p.shape[:1] or not p.size:
        raise ValueError(
            f"probs must be [n, classes] and target [n], n > 0: {list(p.shape)}, {list(y.shape)}"
        )
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(1) - 1).max() > _SUM_TOLERANCE:
        raise ValueError("probs are no probabilities: finite, not negative, rows that sum to one")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"target must hold class indices below {p.shape[1]}")
    return p, y.astype(np.int64)
