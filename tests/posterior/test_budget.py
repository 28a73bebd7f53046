"""Under a latency budget layers are left out, the ones that matter least first."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bayes_vio.posterior import Posterior, budget, fit_posterior
from bayes_vio.posterior.budget import variance_shares, with_layers, within_budget
from tests import reference
from tests.cases import CASES, Case, attention, mlp

MS = 1e-3


def fit(case: Case, structure: str = "inf") -> Posterior:
    return fit_posterior(
        case.model, case.loader(), case.likelihood, structure, noise_cov=case.noise_cov, rank=6
    )


class Clock:
    """A clock that goes on by so much for every layer of a predictive."""

    def __init__(self, per_layer_s: float):
        self.now, self.per_layer_s = 0.0, per_layer_s

    def perf_counter(self) -> float:
        return self.now

    def ready(self, posterior: Posterior) -> Callable[[Any], None]:
        return lambda _: self.predict(posterior)

    def predict(self, posterior: Posterior) -> None:
        self.now += self.per_layer_s * len(posterior.layers)


@pytest.mark.parametrize("structure", ["inf", "diagonal", "kfac"])
def test_some_layers_have_the_contributions_that_they_had(structure):
    case = attention()
    posterior = fit(case, structure)
    kept = ["qkv", "head"]
    part = with_layers(posterior, kept)
    parts = posterior.layer_contributions(case.x)
    found = part.functional_covariance(case.x).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, parts["qkv"] + parts["head"])
    assert list(part.layers) == kept
    assert list(posterior.layers) != kept
    parameters = {p for c in part.report.covered for p in c.parameters}
    parameters |= {p for u in part.report.uncovered for p in u.parameters}
    assert parameters == set(dict(case.model.named_parameters()))
    assert part.log_marginal_likelihood() != posterior.log_marginal_likelihood()


@pytest.mark.parametrize("structure", ["full", "subnetwork"])
def test_dependent_layers_are_given_the_others(structure):
    case = mlp()
    posterior = fit(case, structure)
    part = with_layers(posterior, ["0", "3"])
    J = torch.cat([reference.jacobian(case.model, case.x, n).flatten(2) for n in ("0", "3")], 2)
    P = len(case.y) * reference.ggn(case, ["0", "3"]) + torch.eye(J.shape[2]).double()
    truth = J @ torch.linalg.inv(P) @ J.mT
    torch.testing.assert_close(part.functional_covariance(case.x), truth)


def test_a_generous_budget_keeps_everything(caplog):
    posterior = fit(attention())
    with caplog.at_level(logging.INFO):
        choice = within_budget(posterior, attention().x, 10.0)
    assert choice.posterior is posterior
    assert choice.holds
    assert len(choice.measured) == 1
    assert choice.chosen.kept_variance_share == pytest.approx(1.0)
    assert choice.describe() in caplog.text


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_of_what_holds_the_most_variance_is_kept(n_layers, monkeypatch):
    case = attention()
    posterior = fit(case)
    shares = variance_shares(posterior, case.x)
    assert sum(shares.values()) == pytest.approx(1.0)
    clock = Clock(2 * MS)
    monkeypatch.setattr(budget, "time", clock)
    budget_s = 2 * MS * (n_layers + 0.5)
    choice = within_budget(posterior, case.x, budget_s, ready=clock.ready)
    assert choice.chosen.duration_s == pytest.approx(2 * MS * n_layers)
    assert choice.holds
    best = sorted(shares, key=lambda name: -shares[name])[:n_layers]
    assert set(choice.chosen.layers) == set(best)
    assert choice.chosen.kept_variance_share == pytest.approx(sum(shares[n] for n in best))


def test_a_budget_that_nothing_holds_ends_with_the_last_layer(caplog):
    case = attention()
    with caplog.at_level(logging.WARNING):
        choice = within_budget(fit(case), case.x, 1e-9, n_repeats=2)
    assert not choice.holds
    assert list(choice.posterior.layers) == ["head"]
    assert "still over the budget" in caplog.text


@pytest.mark.parametrize("name", ["heads", "recurrent", "norms", "two_heads"])
def test_predictions_of_the_choice_work(name):
    case = CASES[name]()
    posterior = fit(case)
    choice = within_budget(posterior, case.x, 1e-9, n_repeats=2)
    prediction = choice.posterior.predict(case.x)
    whole = posterior.predict(case.x)
    torch.testing.assert_close(prediction.mean, whole.mean)
    gap = torch.linalg.eigvalsh(whole.epistemic_cov - prediction.epistemic_cov)
    assert gap.min() > -1e-9


def test_what_has_no_layers_to_leave_out_is_refused():
    case = mlp()
    with pytest.raises(ValueError, match="mix all layers"):
        within_budget(fit(case, "ella"), case.x, 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        within_budget(fit(case), case.x, 0.0)
    with pytest.raises(ValueError, match="not all covered"):
        with_layers(fit(case), ["nothing"])
