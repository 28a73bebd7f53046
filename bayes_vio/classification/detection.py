"""Telling what is out of distribution, or wrong, by an uncertainty score.

Scores [n] may be tensors or arrays; the greater, the less the network knows. Ranking comes from
scikit-learn (extra ``classification``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from bayes_vio.classification.metrics import array
from bayes_vio.posterior import ClassPrediction


class Score(Enum):
    """Which number of a prediction says how uncertain it is."""

    ENTROPY = "entropy"
    MUTUAL_INFORMATION = "mutual_information"

    def of(self, prediction: ClassPrediction) -> NDArray[np.float64]:
        """Return the score [n] of a prediction."""
        return array(getattr(prediction, self.value))


@dataclass(frozen=True)
class Detection:
    """How well a score tells out-of-distribution data, the positives, from the others.

    ``auroc``: area under the receiver operating characteristic; ``aupr_out`` and ``aupr_in``:
    average precision with either side positive; ``fpr95``: the share of data in distribution that
    is flagged where 95 % of those out of it are.
    """

    auroc: float
    aupr_out: float
    aupr_in: float
    fpr95: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return asdict(self)


def detection(score_in: Any, score_out: Any) -> Detection:
    """Return how well scores in [n] and out [m] of distribution are told apart.

    Source of the names: Hendrycks, Gimpel (2017), "A baseline for detecting misclassified and
    out-of-distribution examples". Raises ValueError for empty or non-finite scores, and without
    scikit-learn.
    """
    inside, outside = _finite(score_in), _finite(score_out)
    metrics = sklearn_metrics()
    score = np.concatenate([inside, outside])
    is_out = np.repeat([0, 1], [len(inside), len(outside)])
    false_positive, true_positive, _ = metrics.roc_curve(is_out, score, drop_intermediate=False)
    return Detection(
        auroc=float(metrics.roc_auc_score(is_out, score)),
        aupr_out=float(metrics.average_precision_score(is_out, score)),
        aupr_in=float(metrics.average_precision_score(1 - is_out, -score)),
        fpr95=float(false_positive[np.argmax(true_positive >= 0.95)]),
    )


@dataclass(frozen=True)
class EntropyCurves:
    """Histogram of a score: ``density`` [bins] over ``edges`` [bins + 1]; and the inverse
    cumulative distribution: ``share_above`` [points] of the data lie above ``threshold``."""

    edges: NDArray[np.float64]
    density: NDArray[np.float64]
    threshold: NDArray[np.float64]
    share_above: NDArray[np.float64]


def entropy_curves(
    score: Any, largest: float, n_bins: int = 40, n_points: int = 101
) -> EntropyCurves:
    """Return histogram and inverse cumulative distribution of a score between 0 and ``largest``,
    log(classes) for entropies.

    Raises ValueError where the score leaves that range: nothing may fall out of the picture.
    """
    values = _finite(score)
    if values.min() < 0 or values.max() > largest * (1 + 1e-6):
        raise ValueError(f"scores run from {values.min()} to {values.max()}, not 0 to {largest}")
    density, edges = np.histogram(np.minimum(values, largest), n_bins, (0, largest), density=True)
    threshold = np.linspace(0.0, largest, n_points)
    share = 1 - np.searchsorted(np.sort(values), threshold, side="right") / len(values)
    return EntropyCurves(edges, density, threshold, share)


@dataclass(frozen=True)
class Sparsification:
    """Mean error of what is kept when the most uncertain share of the data is removed.

    ``kept_error`` by the score, ``oracle_error`` by the error itself, at ``removed`` [points];
    ``area`` is the mean gap between both over what random removal would leave (AUSE): 0 is
    perfect, 1 no better than chance.
    """

    removed: NDArray[np.float64]
    kept_error: NDArray[np.float64]
    oracle_error: NDArray[np.float64]
    area: float


def sparsification(score: Any, error: Any, n_points: int = 50) -> Sparsification:
    """Return the sparsification curve of a score [n] against an error [n] >= 0.

    Source: Ilg et al. (2018), "Uncertainty estimates and multi-hypotheses networks for optical
    flow", section 5. Raises ValueError for lengths that differ, or where nothing is wrong.
    """
    s, e = _finite(score), _finite(error)
    if s.shape != e.shape or e.min() < 0:
        raise ValueError("score and error must be [n] both, errors not negative")
    if e.max() == e.min():
        raise ValueError("all errors are equal: no order can be better than another")
    removed = np.linspace(0.0, 1.0, n_points, endpoint=False)
    counts = np.ceil((1 - removed) * len(e)).astype(int)
    kept, oracle = _kept_means(s, e, counts), _kept_means(e, e, counts)
    possible = float(trapezoid(e.mean() - oracle, removed))
    area = float(trapezoid(kept - oracle, removed)) / possible
    return Sparsification(removed, kept, oracle, area)


def _kept_means(
    score: NDArray[np.float64], error: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return mean errors of the ``counts`` data of lowest score."""
    ordered = error[np.argsort(score, kind="stable")]
    return np.cumsum(ordered)[counts - 1] / counts


def sklearn_metrics() -> ModuleType:
    """Return scikit-learn's metrics; raise ValueError with what to install without them."""
    try:
        from sklearn import metrics  # pyright: ignore
    except ImportError as error:
        raise ValueError(
            "detection scores need scikit-learn: pip install 'bayes_vio[classification]'"
        ) from error
    return metrics


def _finite(values: Any) -> NDArray[np.float64]:
    found = array(values).astype(np.float64)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"scores must be finite and [n], n > 0, not {list(found.shape)}")
    return found
