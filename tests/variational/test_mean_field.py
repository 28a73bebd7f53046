"""Mean field where theory makes it exact: Bayesian linear regression."""

import pytest
import torch
from torch import nn

from bayes_vio.variational import fit_mean_field
from tests.cases import normal

NOISE_VAR, PRIOR_PRECISION = 0.3, 2.0


@pytest.mark.parametrize("reparametrisation", ["local", "weights"])
def test_a_linear_model_gets_the_optimum_of_the_bound(reparametrisation):
    """The bound's optimum has the exact posterior's mean and the inverse of P's diagonal."""
    x = torch.cat([normal(40, 2) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]).double()], 1)
    y = x @ normal(2, 1, seed=3) + 0.5 * normal(40, 1, seed=4)
    model = nn.Linear(2, 1).double()
    posterior = fit_mean_field(
        nn.Sequential(model),
        [(x, y)],
        epochs=600,
        noise_cov=NOISE_VAR,
        prior_precision=PRIOR_PRECISION,
        log_variance=-5.0,
        learning_rate=0.03,
        variance_rate=1.0,
        reparametrisation=reparametrisation,
        kl_warmup=0.0,
    )
    features = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    P = features.mT @ features / NOISE_VAR + PRIOR_PRECISION * torch.eye(3).double()
    mean = torch.linalg.solve(P, features.mT @ y / NOISE_VAR)[:, 0]
    std = posterior.weights.tensors()
    ours = torch.cat([posterior.model[0].weight[0], posterior.model[0].bias])
    our_std = torch.cat([std["0.weight"][0], std["0.bias"]])
    truth = P.diagonal().rsqrt()
    assert float(((ours - mean) / truth).abs().max()) < 0.25
    torch.testing.assert_close(our_std, truth, rtol=0.1, atol=0.0)
    prediction = posterior.predict(x[:4], n_samples=4000)
    variance = (features[:4].square() * our_std.square()).sum(1)
    torch.testing.assert_close(prediction.epistemic_cov[:, 0, 0], variance, rtol=0.12, atol=0.0)
    torch.testing.assert_close(
        prediction.noise_cov, torch.full((4, 1, 1), NOISE_VAR, dtype=torch.float64)
    )


def test_without_data_to_speak_of_weights_go_to_their_prior():
    x, y = torch.zeros(4, 3), torch.zeros(4, 2)
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    posterior = fit_mean_field(
        model,
        [(x, y)],
        epochs=200,
        noise_cov=1.0,
        prior_precision=4.0,
        log_variance=-3.0,
        learning_rate=0.05,
        kl_warmup=0.0,
    )
    torch.testing.assert_close(
        posterior.weights.tensors()["0.weight"], torch.full((2, 3), 0.5), rtol=0.02, atol=0.0
    )
    assert float(posterior.model[0].weight.abs().max()) < 0.02


def test_the_divergence_warms_up():
    records = []
    x, y = normal(20, 3), normal(20, 2, seed=3)
    fit_mean_field(
        nn.Sequential(nn.Linear(3, 2)).double(),
        [(x, y)],
        epochs=10,
        noise_cov=1.0,
        kl_warmup=0.5,
        on_epoch=lambda record, _: records.append(record),
    )
    weights = [r.kl_weight for r in records]
    assert weights == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0])
