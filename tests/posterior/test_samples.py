"""Networks drawn side by side are the networks drawn one by one."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bayes_vio.posterior import fit_posterior, samples
from bayes_vio.posterior.functional import stacked
from tests.cases import CASES, Case, mlp, normal, randomise, spd


def fit(case: Case, structure: str = "inf", **options):
    options = {"noise_cov": case.noise_cov, "rank": 6, "subset_size": 12} | options
    return fit_posterior(case.model, case.loader(), case.likelihood, structure, **options)


@pytest.mark.parametrize("structure", ["inf", "efb", "kfac", "diagonal", "full", "subnetwork"])
@pytest.mark.parametrize("name", list(CASES))
def test_outputs_are_those_of_the_drawn_networks(structure, name):
    case = CASES[name]()
    posterior = fit(case, structure)
    found = posterior.predict_samples(case.x, 3, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    noise = samples.standard_normal(posterior.layers, (3,), generator)
    for i in range(3):
        change = posterior.precision.sample({k: v[i] for k, v in noise.items()})
        draw = dict(posterior.model.named_parameters())
        for layer, part in change.items():
            posterior.layers[layer].write(posterior.layers[layer].matrix() + part, draw)
        output = functional_call(posterior.model, draw, (case.x,), tie_weights=False)
        mean = output[0] if isinstance(output, tuple) else output
        torch.testing.assert_close(found[i], mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("structure", ["inf", "kfac", "diagonal", "full"])
def test_moments_of_a_linear_network_are_the_linearised_ones(structure):
    case = Case(randomise(nn.Linear(3, 2)), normal(9, 3), normal(9, 2, seed=5), spd(2))
    posterior = fit(case, structure, rank=3)
    x, n = case.x[:2], 20_000
    outputs = posterior.predict_samples(x, n, torch.Generator().manual_seed(1))
    truth = posterior.functional_covariance(x)
    for i in range(2):
        bound = 6 * math.sqrt(2 / n) * float(truth[i].diagonal().max())
        torch.testing.assert_close(outputs[:, i].T.cov(), truth[i], rtol=0, atol=bound)
        error = (outputs[:, i].mean(0) - case.model(x)[i]).abs().max()
        assert float(error.detach()) < 6 * math.sqrt(float(truth[i].diagonal().max()) / n)


def test_memory_bounds_how_many_are_drawn_at_once(monkeypatch):
    case = CASES["attention"]()
    posterior = fit(case)
    sizes = []
    drawn = samples.standard_normal

    def watch(layers, shape, generator, dtype=torch.float64):
        sizes.append(shape[0])
        return drawn(layers, shape, generator, dtype)

    monkeypatch.setattr(samples, "standard_normal", watch)
    monkeypatch.setattr(samples, "_NUMBERS_AT_ONCE", {"cpu": 20_000})
    outputs = posterior.predict_samples(case.x, 10)
    assert outputs.shape == (10, 9, 3)
    assert len(sizes) > 1
    assert sum(sizes) == 10
    with pytest.raises(ValueError, match="at least 1"):
        posterior.predict_samples(case.x, 0)


def test_samples_in_float32_have_the_network_s_dtype():
    case = mlp()
    narrow = Case(case.model.float(), case.x.float(), case.y.float(), case.noise_cov)
    posterior = fit(narrow, prior_precision=1e-2)
    with torch.inference_mode():
        outputs = posterior.predict_samples(narrow.x.clone(), 4)
    assert outputs.dtype == torch.float32
    noise = samples.standard_normal(posterior.layers, (50,), torch.Generator().manual_seed(0))
    rounded = posterior.precision.sample({k: v.float() for k, v in noise.items()})
    exact = posterior.precision.sample(noise)
    for name, change in exact.items():
        error = (rounded[name].double() - change).abs().max()
        assert error < 1e-4 * change.std()


def test_parameters_of_several_parts_are_stacked_whole():
    case = CASES["heads"]()
    posterior = fit(case)
    matrices = {
        name: torch.stack([layer.matrix(), 2 * layer.matrix()])
        for name, layer in posterior.layers.items()
    }
    start = dict(posterior.model.named_parameters())
    found = stacked(posterior.recorder, matrices, start)
    for name, value in found.items():
        torch.testing.assert_close(value[0], start[name])
        torch.testing.assert_close(value[1], 2 * start[name])
