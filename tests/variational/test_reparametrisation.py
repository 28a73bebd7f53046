"""Local noise against the variance that weight noise has by the Jacobian, and by sampling."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from bayes_vio.variational.reparametrisation import (
    Reparametrisation,
    drawn,
    local_noise,
    output_variance,
)
from tests.cases import normal, randomise

LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), (2, 3)),
    "linear_tokens": (lambda: nn.Linear(3, 4, bias=False), (2, 5, 3)),
    "conv1d_reflect": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 2, 5, 4)),
    "conv2d_groups": (lambda: nn.Conv2d(4, 6, 2, groups=2, dilation=2), (2, 4, 4, 5)),
    "conv2d_same": (lambda: nn.Conv2d(2, 3, 3, padding="same", bias=False), (2, 2, 3, 4)),
}


def layer_and_input(name):
    make, shape = LAYERS[name]
    return randomise(make()), normal(*shape, seed=7)


def variances(layer):
    return {n: 0.1 + normal(*p.shape, seed=9).square() for n, p in layer.named_parameters()}


@pytest.mark.parametrize("name", LAYERS)
def test_output_variance_is_that_of_independent_weights(name):
    layer, x = layer_and_input(name)
    chosen = variances(layer)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}
    J = jacrev(lambda w: functional_call(layer, w, (x,)))(parameters)
    n = layer(x).dim()
    truth = sum((J[k].square() * v).flatten(n).sum(-1) for k, v in chosen.items())
    torch.testing.assert_close(output_variance(layer, x, chosen), truth)


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_local_noise_has_the_moments_of_weight_noise(name):
    layer, x = layer_and_input(name)
    model, n_draws = nn.Sequential(layer).requires_grad_(False), 4000
    log_variances = {f"0.{k}": v.log() for k, v in variances(layer).items()}
    means = dict(model.named_parameters())
    torch.manual_seed(0)
    with local_noise(model, log_variances):
        local = torch.stack([model(x) for _ in range(n_draws)])
    weights = torch.stack(
        [functional_call(model, drawn(means, log_variances), (x,)) for _ in range(n_draws)]
    )
    std = local.std(0)
    for samples in (local, weights):
        error = (samples.mean(0) - model(x)).abs() / std
        assert float(error.max()) < 5 / math.sqrt(n_draws)
    ratio = local.var(0) / weights.var(0)
    assert float((ratio - 1).abs().max()) < 6 * math.sqrt(2 * 2 / n_draws)


def test_hooks_go_with_their_context():
    model, x = nn.Sequential(nn.Linear(3, 2)).double(), normal(4, 3)
    before = model(x)
    with local_noise(model, {"0.weight": torch.zeros(2, 3, dtype=torch.float64)}):
        assert not torch.equal(model(x), before)
    assert torch.equal(model(x), before)


def test_a_dead_input_has_finite_gradients():
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    log_variance = torch.full((2, 3), -5.0, requires_grad=True)
    with local_noise(model, {"0.weight": log_variance}):
        model(torch.zeros(4, 3)).sum().backward()
    assert log_variance.grad is not None
    assert bool(torch.isfinite(log_variance.grad).all())


def test_local_gradients_are_finite_differences():
    layer, x = layer_and_input("linear")
    model = nn.Sequential(layer)
    log_variance = normal(4, 3, seed=11).requires_grad_()

    def noisy(value):
        torch.manual_seed(3)
        with local_noise(model, {"0.weight": value}):
            return model(x).sin().sum()

    torch.autograd.gradcheck(noisy, (log_variance,))


def test_mixed_is_local_for_linear_layers_alone():
    assert Reparametrisation.MIXED.is_local(nn.Linear(2, 2))
    assert not Reparametrisation.MIXED.is_local(nn.Conv2d(1, 1, 1))
    assert Reparametrisation.LOCAL.is_local(nn.Conv1d(1, 1, 1))
    assert not Reparametrisation.WEIGHTS.is_local(nn.Linear(2, 2))
