"""Searches over hyper-parameters: what they find, what they tell, their pictures."""

import sys

import pytest
import torch

from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.bayesian_search import (
    Objective,
    error_plus_ece,
    expected_calibration_error,
    optimize_bayesian,
)
from bayes_vio.posterior.hyperparameters import (
    maximize_marginal_likelihood,
    mean_nll,
    minimize_nll,
)
from bayes_vio.posterior.trials import Trial, plot_trials
from tests.cases import CASES, Case, classifier, mlp


def fit(case: Case, structure: str = "inf"):
    return fit_posterior(
        case.model, case.loader(), case.likelihood, structure, noise_cov=case.noise_cov, rank=6
    )


def test_calibration_error_by_hand():
    confident = torch.tensor([0.95, 0.85, 0.75, 0.55]).double()
    probs = torch.stack([confident, 1 - confident], 1)
    target = torch.tensor([0, 1, 0, 0])
    # With two bins all are in one: mean accuracy 3/4, mean confidence 0.775.
    assert expected_calibration_error(probs, target, 2) == pytest.approx(0.775 - 0.75)
    # With ten each is alone.
    gaps = (1 - 0.95, 0.85, 1 - 0.75, 1 - 0.55)
    assert expected_calibration_error(probs, target, 10) == pytest.approx(sum(gaps) / 4)


def test_the_paper_s_cost_is_error_and_calibration_error():
    case = classifier()
    posterior = fit(case)
    prediction = posterior.predict(case.x)
    wrong = float((prediction.probs.argmax(1) != case.y).double().mean())
    ece = expected_calibration_error(prediction.probs, case.y)
    assert error_plus_ece(posterior, case.loader(3), None) == pytest.approx(100 * (wrong + ece))


def test_trials_are_told_and_drawn():
    posterior = fit(mlp())
    evidences: list[Trial] = []
    best = maximize_marginal_likelihood(posterior, per_layer=True, on_trial=evidences.append)
    lowest = min(evidences, key=lambda t: t.cost)
    assert lowest.cost == pytest.approx(-best.log_marginal_likelihood())
    assert lowest.prior_precision == pytest.approx(best.prior_precision)
    scores: list[Trial] = []
    chosen = minimize_nll(posterior, mlp().loader(), n_rounds=2, on_trial=scores.append)
    assert len(scores) == 16
    nll = mean_nll([chosen], mlp().loader())[0]
    assert min(t.cost for t in scores) == pytest.approx(nll)
    for trials in (evidences, scores):
        figure = plot_trials(trials, "a search")
        left, right = figure.axes[:2]
        assert "log10 prior precision" in left.get_xlabel()
        line = right.get_lines()[0].get_ydata()
        assert len(line) == len(trials)
        assert line[-1] == min(t.cost for t in trials)
        figure.canvas.draw()
    with pytest.raises(ValueError, match="no trials"):
        plot_trials([])


def test_data_may_count_more_or_less():
    case = mlp()
    posterior = fit(case)
    twice = fit_posterior(case.model, case.loader() * 2, noise_cov=case.noise_cov, rank=6)
    found = posterior.with_n_data(22)
    x = case.x
    torch.testing.assert_close(found.functional_covariance(x), twice.functional_covariance(x))
    assert found.log_marginal_likelihood() == pytest.approx(twice.log_marginal_likelihood())
    with pytest.raises(ValueError, match="positive"):
        posterior.with_n_data(0)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"bayes_vio\[search\]"):
        optimize_bayesian(fit(mlp()), mlp().loader())


@pytest.mark.parametrize("name", ["mlp", "classifier"])
@pytest.mark.parametrize("options", [{}, {"per_layer": True, "scale_data": True}])
def test_bayesian_optimisation_starts_at_the_evidence_and_improves(name, options):
    pytest.importorskip("optuna")
    case, trials = CASES[name](), []
    posterior = fit(case)
    best = optimize_bayesian(
        posterior, case.loader(), n_trials=14, on_trial=trials.append, **options
    )
    warm = maximize_marginal_likelihood(posterior, options.get("per_layer", False))
    assert len(trials) == 14
    assert trials[0].prior_precision == pytest.approx(warm.prior_precision)
    cost = mean_nll([best], case.loader())[0]
    assert cost == pytest.approx(min(t.cost for t in trials))
    assert cost <= trials[0].cost
    if not options:
        grid = minimize_nll(posterior, case.loader())
        assert cost <= mean_nll([grid], case.loader())[0] + 0.1
    again = optimize_bayesian(posterior, case.loader(), n_trials=14, **options)
    assert again.prior_precision == best.prior_precision
    plot_trials(trials).canvas.draw()


def test_bayesian_optimisation_of_the_paper_s_cost():
    pytest.importorskip("optuna")
    case, trials = classifier(), []
    best = optimize_bayesian(
        fit(case),
        case.loader(),
        Objective.ERROR_PLUS_ECE,
        n_trials=12,
        on_trial=trials.append,
    )
    cost = error_plus_ece(best, case.loader(), None)
    assert cost == pytest.approx(min(t.cost for t in trials))
    with pytest.raises(ValueError, match="belong to classes"):
        optimize_bayesian(fit(mlp()), mlp().loader(), Objective.ERROR_PLUS_ECE)
    with pytest.raises(ValueError, match="empty"):
        optimize_bayesian(fit(case), [])
