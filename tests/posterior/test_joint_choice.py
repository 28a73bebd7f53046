"""Prior precision and number of data chosen together: against closed forms and by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bayes_vio.classification import BayesianClassifier
from bayes_vio.posterior import Link, LinkSettings, fit_posterior
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.hyperparameters import mean_nll, minimize_nll, minimize_nll_jointly
from bayes_vio.posterior.trials import Trial
from tests.cases import CASES, Case, classifier, normal
from tests.classification.blobs import blobs, trained

SETTINGS = {"rank": 6, "subset_size": 20, "n_points": 10, "n_eigen": 3}
RATIOS, NOISE = np.linspace(-4.0, 6.0, 11), 0.2


def linear_model() -> tuple[Case, Case]:
    """Return training and held-out data of a linear truth, and its least-squares fit."""
    truth = normal(6, 1, seed=9)
    x, x_held = normal(12, 6), normal(60, 6, seed=11)
    y = x @ truth + NOISE**0.5 * normal(12, 1, seed=10)
    y_held = x_held @ truth + NOISE**0.5 * normal(60, 1, seed=12)
    net = nn.Linear(6, 1, bias=False).double()
    net.weight.data = torch.linalg.lstsq(x, y).solution.mT.contiguous()
    return Case(net, x, y, NOISE), Case(net, x_held, y_held, NOISE)


def losses_by_closed_form(train: Case, held: Case, ratio: float, scale: float) -> torch.Tensor:
    """Return -log N(y; x w, x P^-1 x^T + noise) for P = scale * (x^T x / noise + ratio)."""
    P = scale * (train.x.mT @ train.x / NOISE + ratio * torch.eye(6).double())
    variance = ((held.x @ torch.linalg.inv(P)) * held.x).sum(1) + NOISE
    with torch.no_grad():
        error = (held.y - held.model(held.x))[:, 0]
    return 0.5 * (error.square() / variance + (2 * math.pi * variance).log())


def test_the_choice_is_the_weakest_prior_within_one_standard_error():
    train, held = linear_model()
    posterior = fit_posterior(train.model, train.loader(), structure="full", noise_cov=NOISE)
    chosen = minimize_nll_jointly(posterior, held.loader(16))
    scales = np.linspace(-2.0, 5.0, 701)
    best = []
    for ratio in RATIOS:
        losses = [losses_by_closed_form(train, held, 10.0**ratio, 10.0**s) for s in scales]
        best.append(min(losses, key=lambda found: float(found.mean())))
    lowest = min(best, key=lambda found: float(found.mean()))
    gaps = [found - lowest for found in best]
    within = [float(g.mean()) <= float(g.std(correction=0)) / len(g) ** 0.5 for g in gaps]
    first = within.index(True)
    (prior,) = chosen.prior_precision.values()
    scale = chosen.n_data / posterior.n_data
    assert math.log10(prior / scale) == pytest.approx(RATIOS[first])
    reached = losses_by_closed_form(train, held, prior / scale, scale).mean()
    assert float(reached) == pytest.approx(float(best[first].mean()), abs=1e-4)
    assert mean_nll([chosen], held.loader())[0] == pytest.approx(float(reached), abs=1e-6)


@pytest.mark.parametrize("structure", ["inf", "diagonal", "kfac", "efb", "subnetwork", "ella"])
def test_a_factor_of_data_and_prior_divides_the_covariance(structure):
    case = classifier()
    posterior = fit_posterior(case.model, case.loader(), "categorical", structure, **SETTINGS)
    scaled = posterior.with_n_data(30 * posterior.n_data).with_prior_precision(30 * 0.7)
    expected = posterior.with_prior_precision(0.7).predict(case.x)
    found = scaled.predict(case.x)
    torch.testing.assert_close(found.logits_cov, expected.logits_cov / 30, rtol=1e-6, atol=1e-9)
    for link in Link:
        settings = LinkSettings(link, 300)
        rescaled = expected.rescaled_log_density(case.y, settings)(1 / 30)
        truth = scaled.predict(case.x, settings).log_density(case.y)
        torch.testing.assert_close(rescaled, truth, rtol=1e-4, atol=1e-6)


def test_a_rescaled_gaussian_keeps_its_noise():
    case = CASES["mlp"]()
    posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
    p = posterior.predict(case.x)
    found = p.rescaled_log_density(case.y)(0.25)
    cov = 0.25 * p.epistemic_cov + p.noise_cov
    truth = torch.distributions.MultivariateNormal(p.mean, cov)
    torch.testing.assert_close(found, truth.log_prob(case.y))


@pytest.mark.parametrize("name", ["mlp", "classifier"])
def test_trials_are_told_and_no_likelier_prior_is_left_out(name):
    case = CASES[name]()
    posterior = fit_posterior(
        case.model, case.loader(), case.likelihood, "inf", noise_cov=case.noise_cov, rank=6
    )
    trials: list[Trial] = []
    chosen = minimize_nll_jointly(posterior, case.loader(), on_trial=trials.append)
    assert len(trials) == 11
    ratios = [next(iter(t.prior_precision.values())) / t.n_data for t in trials]
    assert ratios == sorted(ratios)
    nll = mean_nll([chosen], case.loader())[0]
    own = next(t for t in trials if t.n_data == chosen.n_data)
    assert own.cost == pytest.approx(nll, abs=1e-6)
    one = minimize_nll(posterior, case.loader())
    lowest = min(t.cost for t in trials)
    assert lowest <= mean_nll([one], case.loader())[0] + 1e-3


def test_a_prior_too_weak_for_an_indefinite_curvature_is_passed_over():
    posterior = fit_posterior(trained(), [blobs(90, 0)], "categorical", "full", layers="last")
    eigenvalues, vectors = torch.linalg.eigh(posterior.curvature.matrix)
    rounded = vectors * eigenvalues.clamp(min=0).index_fill(0, torch.tensor([0]), -1e-4)
    curvature = FullCurvature(rounded @ vectors.mT, posterior.curvature.shapes)
    object.__setattr__(posterior, "curvature", curvature)
    trials: list[Trial] = []
    chosen = minimize_nll_jointly(posterior, [blobs(45, 1)], on_trial=trials.append)
    assert trials[0].cost == math.inf
    assert math.isfinite(mean_nll([chosen], [blobs(45, 1)])[0])
    with pytest.raises(ValueError, match="log10_bounds"):
        minimize_nll_jointly(posterior, [blobs(45, 1)], log10_bounds=(-6.0, -4.0), n_grid=2)


def test_no_data_are_refused():
    case = classifier()
    posterior = fit_posterior(case.model, case.loader(), "categorical", "diagonal")
    with pytest.raises(ValueError, match="empty"):
        minimize_nll_jointly(posterior, [])


def test_classifiers_choose_jointly_where_asked():
    data, validation = blobs(90, 0), blobs(45, 1)
    asked = BayesianClassifier(trained(), "kfac", prior_precision="validation_nll_joint")
    found = asked.fit(data, validation).posterior
    posterior = fit_posterior(trained(), [data], "categorical", "kfac")
    expected = minimize_nll_jointly(posterior, [validation])
    assert found.n_data == pytest.approx(expected.n_data, rel=1e-3)
    assert found.prior_precision == pytest.approx(expected.prior_precision, rel=1e-3)
    with pytest.raises(ValueError, match="validation_nll_joint"):
        asked.fit(data)
