"""Scores of class probabilities against hand-made truth, brute force and other libraries."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.classification.metrics import (
    Binning,
    accuracy,
    brier_score,
    classification_metrics,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from bayes_vio.posterior import bayesian_search


def predictions(n: int, n_classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    return logits.softmax(1), torch.randint(n_classes, (n,), generator=generator)


def test_by_hand():
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]])
    target = np.array([0, 2, 2])
    assert accuracy(probs, target) == pytest.approx(2 / 3)
    nll = -(math.log(0.7) + 2 * math.log(0.4)) / 3
    assert negative_log_likelihood(probs, target) == pytest.approx(nll)
    rows = (0.09 + 0.04 + 0.01, 0.01 + 0.25 + 0.36, 0.09 + 0.09 + 0.36)
    assert brier_score(probs, target) == pytest.approx(sum(rows) / 3)
    # Confidences 0.7 right, 0.5 wrong, 0.4 right: alone in their bins of width 0.1.
    ece = (0.3 + 0.5 + 0.6) / 3
    assert expected_calibration_error(probs, target, 10) == pytest.approx(ece)
    halves = reliability(probs, target, 2, Binning.EQUAL_MASS)
    assert halves.count.tolist() == [2, 1]
    assert halves.confidence == pytest.approx([0.45, 0.7])
    assert halves.accuracy == pytest.approx([0.5, 1.0])
    assert halves.maximum_error == pytest.approx(0.3)
    assert halves.expected_error == pytest.approx((2 * 0.05 + 0.3) / 3)


def test_certain_and_wrong_costs_infinitely_much():
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert negative_log_likelihood(probs, torch.tensor([0, 1])) == math.inf
    assert negative_log_likelihood(probs, torch.tensor([0, 0])) == 0.0
    assert brier_score(probs, torch.tensor([1, 1])) == 2.0


@given(n=st.integers(1, 60), n_bins=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_calibration_error_is_the_sum_over_bins(n, n_bins, seed):
    probs, target = predictions(n, seed=seed)
    p, y = probs.numpy(), target.numpy()
    confidence, right = p.max(1), p.argmax(1) == y
    width = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            width += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(p, y, n_bins) == pytest.approx(width)
    theirs = bayesian_search.expected_calibration_error(probs, target, n_bins)
    assert expected_calibration_error(p, y, n_bins) == pytest.approx(theirs)
    mass = reliability(p, y, n_bins, Binning.EQUAL_MASS)
    assert mass.count.sum() == n
    assert mass.count.max() - mass.count.min() <= 1
    filled = mass.confidence[mass.count > 0]
    assert (np.diff(filled) >= 0).all()


def test_a_calibrated_classifier_s_error_falls_with_the_data():
    """Labels drawn from the probabilities: what is left is noise, about 1 / sqrt(n)."""
    probs, _ = predictions(40_000)
    labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    found = classification_metrics(probs, labels)
    assert found.ece < 0.01
    assert found.ece_equal_mass < 0.01
    entropy = float(torch.special.entr(probs).sum(1).mean())
    assert found.nll == pytest.approx(entropy, abs=0.02)
    assert found.brier == pytest.approx(float(1 - probs.square().sum(1).mean()), abs=0.01)
    assert found.accuracy == pytest.approx(float(probs.max(1).values.mean()), abs=0.01)
    assert found.to_dict()["n_data"] == 40_000


def test_equal_to_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    probs, target = predictions(300)
    ours = classification_metrics(probs, target)
    p, y = probs.numpy(), target.numpy()
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(y, p.argmax(1)))
    assert ours.nll == pytest.approx(metrics.log_loss(y, p, labels=[0, 1, 2, 3]))
    binary = np.stack([1 - p[:, 0], p[:, 0]], 1)
    theirs = metrics.brier_score_loss(y == 0, p[:, 0])
    assert brier_score(binary, (y == 0).astype(int)) == pytest.approx(2 * theirs)


@pytest.mark.parametrize(
    ("probs", "target", "message"),
    [
        (np.full((2, 2), 0.6), [0, 1], "no probabilities"),
        (np.array([[1.5, -0.5]]), [0], "no probabilities"),
        (np.array([[np.nan, 1.0]]), [0], "no probabilities"),
        (np.full((2, 2), 0.5), [0, 2], "below 2"),
        (np.full((2, 2), 0.5), [0.0, 1.0], "class indices"),
        (np.full((2, 2), 0.5), [0], "must be"),
        (np.zeros((0, 2)), np.zeros(0, int), "n > 0"),
    ],
)
def test_refusals(probs, target, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(probs, target)
    with pytest.raises(ValueError, match="at least one bin"):
        reliability(np.full((2, 2), 0.5), [0, 1], 0)
