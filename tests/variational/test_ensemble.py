"""Ensembles: of one, the net itself; side by side, the same as one by one."""

import pytest
import torch
from torch import nn

from bayes_vio.posterior.predictive import entropy
from bayes_vio.variational import ensemble_of, fit_ensemble
from bayes_vio.variational.ensemble import join
from tests.cases import CASES, classifier, mlp, two_heads


def test_an_ensemble_of_one_is_the_net():
    case = two_heads()
    p = ensemble_of([case.model], case.loader()).predict(case.x)
    mean, cholesky = case.model(case.x)
    torch.testing.assert_close(p.mean, mean.detach())
    torch.testing.assert_close(p.noise_cov, (cholesky @ cholesky.mT).detach())
    assert not p.epistemic_cov.any()


def test_an_ensemble_of_one_classifier_is_the_net():
    case = classifier()
    p = ensemble_of([case.model], case.loader(), "categorical").predict(case.x)
    torch.testing.assert_close(p.probs, case.model(case.x).softmax(1).detach())
    assert not p.logits_cov.any()
    torch.testing.assert_close(p.entropy, entropy(p.probs))
    assert float(p.mutual_information.max()) < 1e-12


def test_predictions_are_the_mixture_of_separate_members():
    case = two_heads()
    trained = fit_ensemble(case.model, case.loader(), epochs=2, members=3)
    outputs = []
    for draw in trained.sample(3):
        alone = two_heads().model
        alone.load_state_dict(draw)
        outputs.append([t.detach() for t in alone(case.x)])
    means = torch.stack([m for m, _ in outputs])
    noise = torch.stack([c @ c.mT for _, c in outputs])
    p = trained.predict(case.x)
    torch.testing.assert_close(p.mean, means.mean(0))
    torch.testing.assert_close(p.noise_cov, noise.mean(0))
    second_moments = torch.einsum("nbi,nbj->nbij", means, means).mean(0)
    cov = second_moments - torch.einsum("bi,bj->bij", means.mean(0), means.mean(0))
    torch.testing.assert_close(p.epistemic_cov, cov, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(trained.predictive_samples(case.x, 3), means)


@pytest.mark.parametrize("name", ["mlp", "classifier", "two_heads", "attention", "grouped"])
def test_members_trained_side_by_side_are_those_trained_alone(name):
    case = CASES[name]()
    arguments = (case.model, case.loader(), case.likelihood, 3)
    settings = {"members": 3, "noise_cov": case.noise_cov, "prior_precision": 0.1}
    together = fit_ensemble(*arguments, side_by_side=True, **settings)
    alone = fit_ensemble(*arguments, **settings)
    torch.testing.assert_close(
        together.predictive_samples(case.x, 3), alone.predictive_samples(case.x, 3)
    )
    sums = [sum(h[-1].nll for h in e.report.histories) for e in (together, alone)]
    assert sums[0] == pytest.approx(sums[1])


def test_members_begin_apart_unless_told_otherwise():
    case = classifier()
    fresh = fit_ensemble(case.model, case.loader(), "categorical", 0, members=3)
    samples = fresh.predictive_samples(case.x, 3)
    assert float((samples[0] - samples[1]).abs().max()) > 0.01
    same = fit_ensemble(case.model, case.loader(), "categorical", 0, members=2, fresh=False)
    torch.testing.assert_close(
        same.predictive_samples(case.x, 2), case.model(case.x).detach().expand(2, -1, -1)
    )


def test_what_would_couple_members_is_refused():
    case = CASES["norms"]()
    with pytest.raises(ValueError, match="running statistics"):
        fit_ensemble(case.model, case.loader(), noise_cov=1.0, side_by_side=True)
    case = mlp()
    with pytest.raises(ValueError, match="gradient_clip"):
        fit_ensemble(case.model, case.loader(), side_by_side=True, gradient_clip=1.0)
    with pytest.raises(ValueError, match="at least one member"):
        fit_ensemble(case.model, case.loader(), members=0)
    other = nn.Sequential(nn.Linear(3, 2)).double()
    ensembles = [ensemble_of([m], case.loader(), noise_cov=1.0) for m in (case.model, other)]
    with pytest.raises(ValueError, match="one architecture"):
        join(ensembles)
    with pytest.raises(ValueError, match="no network of mean weights"):
        ensemble_of([case.model], case.loader(), noise_cov=1.0).at_mean()
