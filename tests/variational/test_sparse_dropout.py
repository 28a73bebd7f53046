"""Pruning where the truth is sparse, and what pruned networks take on disk."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import nn

from bayes_vio.variational import VariationalPosterior, fit_sparse_dropout
from bayes_vio.variational.divergence import log_uniform_divergence
from bayes_vio.variational.sparse_dropout import PRUNED_ABOVE
from bayes_vio.variational.sparse_tensors import decode, encode
from bayes_vio.variational.storage import to_bytes
from tests.cases import normal

N_DATA, NOISE_VAR = 64, 0.25
LEAST_SQUARES_STD = math.sqrt(NOISE_VAR / N_DATA)
# In units of that std: from what the data hardly show to what they show for certain.
SIGNALS = torch.tensor([0.3, -0.2, 0.4, 1.0, -1.5, 2.0, 3.0, -5.0, 20.0], dtype=torch.float64)


def optimum(signal: float) -> tuple[float, float]:
    """Return mean and std of the bound's local optimum that is reached from least squares.

    All in units of the least-squares std, where the bound of a weight is
    ((mean - signal)^2 + std^2) / 2 + KL(log(std^2 / mean^2)).
    """

    def bound(p: np.ndarray) -> float:
        log_alphas = torch.tensor(p[1] - math.log(p[0] ** 2 + 1e-8 / LEAST_SQUARES_STD**2))
        data = 0.5 * ((p[0] - signal) ** 2 + math.exp(p[1]))
        return data + float(log_uniform_divergence(log_alphas))

    found = optimize.minimize(bound, [signal, -0.5], method="Nelder-Mead", tol=1e-9)
    return found.x[0], math.exp(found.x[1] / 2)


@pytest.fixture(scope="module")
def pruned():
    """Return a fit to orthogonal inputs, whose bound falls apart into one per weight, and x."""
    Q = torch.linalg.qr(normal(N_DATA, len(SIGNALS))).Q
    x, weight = Q * math.sqrt(N_DATA), SIGNALS * LEAST_SQUARES_STD
    model = nn.Sequential(nn.Linear(len(SIGNALS), 1, bias=False)).double()
    model[0].weight.data.copy_(weight)
    posterior = fit_sparse_dropout(
        model,
        [(x, x @ weight[:, None])],
        epochs=1500,
        noise_cov=NOISE_VAR,
        learning_rate=3e-3,
        variance_rate=5.0,
        log_variance=2 * math.log(LEAST_SQUARES_STD) - 0.5,
        kl_warmup=0.0,
    )
    return posterior, x


def test_weights_reach_the_optimum_of_the_bound(pruned):
    posterior, _ = pruned
    means = posterior.model[0].weight[0] / LEAST_SQUARES_STD
    stds = posterior.weights.tensors()["0.weight"][0] / LEAST_SQUARES_STD
    for signal, mean, std in zip(SIGNALS.tolist(), means, stds, strict=True):
        true_mean, true_std = optimum(signal)
        if 2 * math.log(true_std / abs(true_mean)) > PRUNED_ABOVE:
            # Mean and std go to zero together, slowly: pruned by now, or about to be.
            assert abs(float(mean)) < 0.15
            assert float(std) < 0.5
        else:
            assert float(mean) == pytest.approx(true_mean, abs=0.15)
            assert float(std) == pytest.approx(true_std, rel=0.1)


def test_what_the_data_hardly_show_is_pruned(pruned):
    posterior, _ = pruned
    gone = posterior.model[0].weight[0] == 0
    assert bool(gone[:3].any())
    assert not bool(gone[3:].any())
    n_gone = int(gone.sum())
    (layer,) = posterior.report.stochastic
    assert (layer.n_pruned, layer.n_weights) == (n_gone, 9)
    assert posterior.report.compression == pytest.approx(9 / (9 - n_gone))
    assert layer.sparsity == pytest.approx(n_gone / 9)


def test_the_pruned_network_is_the_masked_one(pruned):
    posterior, x = pruned
    weight, std = posterior.model[0].weight, posterior.weights.tensors()["0.weight"]
    assert torch.equal(weight == 0, std == 0)
    alone = posterior.at_mean().predict(x, n_samples=2)
    torch.testing.assert_close(alone.mean, x @ weight.mT)
    assert not alone.epistemic_cov.any()
    variance = (x.square() * std.square()).sum(1)
    sampled = posterior.predict(x, n_samples=4000).epistemic_cov[:, 0, 0]
    torch.testing.assert_close(sampled, variance, rtol=0.15, atol=0.0)


def test_its_file_is_smaller_and_reads_to_equal_bits(tmp_path):
    x, y = normal(20, 784).float(), normal(20, 2, seed=3).float()
    model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 2))
    posterior = fit_sparse_dropout(model, [(x, y)], epochs=1, noise_cov=0.01)
    weights = posterior.model[0].weight
    weights[torch.rand(50, 784, generator=torch.Generator().manual_seed(1)) > 0.02] = 0.0
    dense = 4 * sum(p.numel() for p in model.parameters())
    alone = posterior.at_mean()
    alone.save(tmp_path / "p")
    size = (tmp_path / "p").stat().st_size
    assert size < dense / 10
    assert size == len(to_bytes(alone))
    assert alone.nbytes < dense / 20
    loaded = VariationalPosterior.load(tmp_path / "p", model)
    assert torch.equal(loaded.model[0].weight, weights)
    assert torch.equal(loaded.predict(x, 1).mean, alone.predict(x, 1).mean)


@settings(deadline=None)
@given(
    share=st.floats(0.0, 1.0),
    n=st.integers(0, 90_000),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_sparse_tensors_keep_their_bits(share, n, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)
    values[torch.rand(n, generator=generator) > share] = 0.0
    if n > 3:
        values[3] = -0.0
    tensors = {"a": values.reshape(-1, 1), "b": torch.arange(100)}
    stored, shapes = encode(tensors)
    back = decode(stored, shapes)
    assert set(back) == set(tensors)
    assert torch.equal(back["a"].view(torch.uint8), tensors["a"].view(torch.uint8))
    assert back["a"].shape == tensors["a"].shape
    assert torch.equal(back["b"], tensors["b"])
    sizes = [sum(t.numel() * t.element_size() for t in ts.values()) for ts in (stored, tensors)]
    assert sizes[0] <= sizes[1]


@pytest.mark.parametrize(
    ("gaps", "values"), [([-1, 2], [1.0, 1.0]), ([3, 99], [1.0, 1.0]), ([0], [1.0, 1.0])]
)
def test_values_that_do_not_fit_are_refused(gaps, values):
    stored = {"a#gaps": torch.tensor(gaps), "a#values": torch.tensor(values)}
    with pytest.raises(ValueError, match="do not fit"):
        decode(stored, {"a": [10, 10]})
