"""Out-of-distribution detection, entropy curves and sparsification against brute force."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bayes_vio.classification.detection import Score, detection, entropy_curves, sparsification
from bayes_vio.posterior import ClassPrediction

COARSE = st.integers(0, 6).map(float)


@given(
    inside=arrays(float, st.integers(1, 30), elements=COARSE),
    outside=arrays(float, st.integers(1, 30), elements=COARSE),
)
@settings(max_examples=30, deadline=None)
def test_areas_by_counting_pairs(inside, outside):
    pytest.importorskip("sklearn")
    found = detection(inside, torch.from_numpy(outside))
    pairs = np.sign(outside[:, None] - inside).ravel()
    assert found.auroc == pytest.approx(((pairs + 1) / 2).mean())
    flagged = [
        (np.mean(inside >= t), np.mean(outside >= t)) for t in np.unique([*inside, *outside])
    ]
    fpr95 = min(fpr for fpr, tpr in flagged if tpr >= 0.95)
    assert found.fpr95 == pytest.approx(fpr95)
    thresholds = np.unique([*inside, *outside])[::-1]
    recall, average = 0.0, 0.0
    for t in thresholds:
        hits, alarms = (outside >= t).sum(), (inside >= t).sum()
        average += (hits / len(outside) - recall) * hits / (hits + alarms)
        recall = hits / len(outside)
    assert found.aupr_out == pytest.approx(average)
    swapped = detection(-outside, -inside)
    assert swapped.auroc == pytest.approx(found.auroc)
    assert swapped.aupr_out == pytest.approx(found.aupr_in)


def test_perfect_and_reversed():
    pytest.importorskip("sklearn")
    perfect = detection([0.0, 0.1], [0.2, 0.3, 0.4]).to_dict()
    assert perfect == {"auroc": 1.0, "aupr_out": 1.0, "aupr_in": 1.0, "fpr95": 0.0}
    assert detection([0.2, 0.3], [0.0, 0.1]).auroc == 0.0


def test_scores_are_named():
    zero = torch.zeros(2, 3)
    p = ClassPrediction(zero, torch.ones(2), torch.full((2,), 2.0), zero, zero)
    assert Score("entropy").of(p).tolist() == [1, 1]
    assert Score("mutual_information").of(p).tolist() == [2, 2]


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"bayes_vio\[classification\]"):
        detection([0.0], [1.0])


def test_entropy_curves():
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 2, 500)
    curves = entropy_curves(score, 2.0, n_bins=10, n_points=21)
    assert (curves.density * np.diff(curves.edges)).sum() == pytest.approx(1.0)
    for t, share in zip(curves.threshold, curves.share_above, strict=True):
        assert share == pytest.approx((score > t).mean())
    assert curves.share_above[-1] == 0.0
    assert entropy_curves([2.0 + 1e-12], 2.0).density.sum() > 0
    with pytest.raises(ValueError, match="not 0 to 2"):
        entropy_curves([2.5], 2.0)
    with pytest.raises(ValueError, match="finite"):
        entropy_curves([np.nan], 2.0)


def test_sparsification_of_perfect_and_useless_scores():
    rng = np.random.default_rng(0)
    error = rng.exponential(size=4000)
    perfect = sparsification(2 * error + 1, error)
    assert perfect.area == pytest.approx(0.0)
    assert perfect.kept_error == pytest.approx(perfect.oracle_error)
    assert sparsification(rng.uniform(size=4000), error).area == pytest.approx(1.0, abs=0.1)
    assert sparsification(-error, error).area > 1.5
    half = sparsification(error, error, n_points=2)
    assert half.removed.tolist() == [0.0, 0.5]
    assert half.kept_error == pytest.approx([error.mean(), np.sort(error)[:2000].mean()])
    with pytest.raises(ValueError, match="not negative"):
        sparsification(error, -error)
    with pytest.raises(ValueError, match="errors are equal"):
        sparsification([0.0, 1.0], [1.0, 1.0])
