"""Searches for a prior precision where a joint curvature is indefinite by rounding."""

import math

import torch

from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.hyperparameters import (
    maximize_marginal_likelihood,
    mean_nll,
    minimize_nll,
)
from tests.classification.blobs import blobs, trained


def test_a_prior_too_weak_for_an_indefinite_curvature_is_passed_over():
    data, validation = [blobs(90, 0)], [blobs(45, 1)]
    posterior = fit_posterior(trained(), data, "categorical", "full", layers="last")
    eigenvalues, vectors = torch.linalg.eigh(posterior.curvature.matrix)
    # What float32 does to the directions that logits cannot tell apart.
    rounded = vectors * eigenvalues.clamp(min=0).index_fill(0, torch.tensor([0]), -1e-6)
    curvature = FullCurvature(rounded @ vectors.mT, posterior.curvature.shapes)
    object.__setattr__(posterior, "curvature", curvature)
    weak = posterior.with_prior_precision(1e-5)
    assert mean_nll([weak], validation) == [math.inf]
    trials: list = []
    found = maximize_marginal_likelihood(posterior, on_trial=trials.append)
    assert math.isfinite(found.log_marginal_likelihood())
    assert found.log_marginal_likelihood() >= -min(t.cost for t in trials) - 1e-6
    by_nll = minimize_nll(posterior, validation)
    assert math.isfinite(mean_nll([by_nll], validation)[0])
