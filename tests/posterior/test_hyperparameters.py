"""The prior precision that is chosen is the one that is best."""

import pytest
import torch
from torch import nn

from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.hyperparameters import (
    maximize_marginal_likelihood,
    mean_nll,
    minimize_nll,
)
from tests.cases import CASES, Case, classifier, normal


def fit(case: Case, structure: str, **options):
    return fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        rank=6,
        **options,
    )


@pytest.mark.parametrize("structure", ["inf", "efb", "kfac", "diagonal", "full"])
@pytest.mark.parametrize("name", ["mlp", "classifier"])
def test_the_evidence_is_highest_at_the_chosen_precision(structure, name):
    posterior = fit(CASES[name](), structure)
    best = maximize_marginal_likelihood(posterior)
    (value,) = set(best.prior_precision.values())
    top = best.log_marginal_likelihood()
    for factor in (0.5, 0.97, 1.03, 2.0):
        assert posterior.with_prior_precision(factor * value).log_marginal_likelihood() <= top
    per_layer = maximize_marginal_likelihood(posterior, per_layer=True)
    assert per_layer.log_marginal_likelihood() >= top
    for layer, own in per_layer.prior_precision.items():
        for factor in (0.9, 1.1):
            other = per_layer.with_prior_precision({layer: factor * own})
            assert other.log_marginal_likelihood() <= per_layer.log_marginal_likelihood() + 1e-9


def test_mackay_s_fixed_point_holds():
    """prior_precision |w|^2 = number of well determined parameters; MacKay (1992), 4.8."""
    best = maximize_marginal_likelihood(fit(CASES["mlp"](), "full"))
    (prior,) = set(best.prior_precision.values())
    w = torch.cat([layer.matrix().flatten() for layer in best.layers.values()])
    well_determined = len(w) - prior * torch.linalg.inv(best.precision.matrix).trace()
    assert prior * float(w.square().sum()) == pytest.approx(float(well_determined), rel=1e-3)


@pytest.mark.parametrize("structure", ["inf", "full"])
def test_held_out_nll_is_lowest_at_the_chosen_precision(structure):
    torch.manual_seed(0)
    x, noise = normal(12, 6), 0.2
    y = x @ normal(6, 2, seed=9) + noise**0.5 * normal(12, 2, seed=10)
    net = nn.Linear(6, 2).double()
    Phi = torch.cat([x, torch.ones(12, 1).double()], 1)
    W = torch.linalg.lstsq(Phi, y).solution.mT
    net.weight.data, net.bias.data = W[:, :6].contiguous(), W[:, 6].contiguous()
    posterior = fit(Case(net, x, y, noise), structure)
    x_held = normal(200, 6, seed=11)
    y_held = x_held @ normal(6, 2, seed=9) + noise**0.5 * normal(200, 2, seed=12)
    held_out = Case(net, x_held, y_held).loader(64)
    best = minimize_nll(posterior, held_out)
    (value,) = set(best.prior_precision.values())
    factors = (1.0, 1e-3, 0.3, 3.0, 1e3)
    candidates = [posterior.with_prior_precision(f * value) for f in factors]
    nlls = mean_nll(candidates, held_out)
    assert nlls[0] <= min(nlls) + 1e-4
    prediction = best.predict(x_held)
    truth = torch.distributions.MultivariateNormal(prediction.mean, prediction.cov)
    assert mean_nll([best], held_out)[0] == pytest.approx(-float(truth.log_prob(y_held).mean()))


def test_held_out_nll_of_classes_is_that_of_the_predictions():
    case = classifier()
    posterior = fit(case, "inf")
    prediction = posterior.predict(case.x)
    truth = -float(prediction.probs[torch.arange(len(case.y)), case.y].log().mean())
    assert mean_nll([posterior], case.loader(3))[0] == pytest.approx(truth)
    chosen = minimize_nll(posterior, case.loader(), n_rounds=2)
    assert mean_nll([chosen], case.loader())[0] <= truth + 1e-9


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="empty"):
        minimize_nll(fit(CASES["mlp"](), "diagonal"), [])
