"""BackPACK and the recorder's path give the same curvature where both cover a network."""

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.curvature.backpack import backpack_diagonal, backpack_factors
from bayes_vio.models.likelihood import make_likelihood
from bayes_vio.posterior import fit_posterior
from tests.cases import Case, classifier, linear_chain, normal, randomise


def chain() -> Case:
    net = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(3 * 3 * 6, 4),
        nn.Tanh(),
        nn.Linear(4, 2),
    )
    return Case(randomise(net), normal(7, 2, 5, 5), normal(7, 2, seed=5), 0.4)


class Residual(nn.Module):
    """A residual branch, which BackPACK sees only through its converter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        h = self.tanh(self.first(x))
        return self.last(h + self.tanh(self.branch(h)))


def residual() -> Case:
    return Case(randomise(Residual()), normal(7, 3), normal(7, 2, seed=5), 0.4)


def plain_classifier() -> Case:
    return classifier()


def likelihood_of(case: Case):
    outputs = case.model(case.x).shape[1]
    return make_likelihood(case.likelihood, case.noise_cov, outputs, torch.device("cpu"))


@pytest.mark.parametrize("make", [chain, linear_chain, plain_classifier, residual])
def test_the_diagonal_agrees(make):
    case = make()
    posterior = fit_posterior(
        case.model, case.loader(), case.likelihood, "diagonal", noise_cov=case.noise_cov
    )
    theirs = backpack_diagonal(
        case.model, case.loader(3), likelihood_of(case), use_converter=make is residual
    )
    for name, layer in posterior.layers.items():
        ours = layer.split(posterior.curvature.blocks[name].diagonal)
        for parameter, diagonal in ours.items():
            torch.testing.assert_close(diagonal, theirs[parameter], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [linear_chain, plain_classifier])
def test_kflr_is_type2_kfac(make):
    case = make()
    posterior = fit_posterior(
        case.model, case.loader(), case.likelihood, "kfac", noise_cov=case.noise_cov
    )
    theirs = backpack_factors(case.model, case.loader(3), likelihood_of(case))
    for name, layer in posterior.layers.items():
        block = posterior.curvature.blocks[name]
        factors = theirs[layer.parameter_names[0]]
        G = spread(block.Q_g, block.output_eigenvalues)
        A = spread(block.Q_a, block.input_eigenvalues)
        d_in = len(factors.A)
        torch.testing.assert_close(G, factors.G, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(A[:d_in, :d_in], factors.A, rtol=1e-9, atol=1e-10)


def test_sampled_kfac_converges_to_kflr():
    case = plain_classifier()
    many = Case(case.model, case.x.repeat(2000, 1), case.y.repeat(2000), None, case.likelihood)
    torch.manual_seed(0)
    sampled = backpack_factors(case.model, many.loader(11000), likelihood_of(case), sampled=True)
    exact = backpack_factors(case.model, case.loader(), likelihood_of(case))
    for name, factors in exact.items():
        scale = float(factors.G.abs().max())
        torch.testing.assert_close(sampled[name].G, factors.G, rtol=0, atol=0.05 * scale)


def spread(Q: Tensor, eigenvalues: Tensor) -> Tensor:
    return Q @ torch.diag(eigenvalues) @ Q.mT


def test_a_layer_that_backpack_does_not_know_is_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    case = Case(randomise(net), normal(5, 3), normal(5, 2, seed=5), 1.0)
    with pytest.raises(ValueError, match="GroupNorm"):
        backpack_diagonal(case.model, case.loader(), likelihood_of(case))


def test_a_residual_network_without_the_converter_is_refused():
    case = residual()
    with pytest.raises(ValueError, match="use_converter"):
        backpack_diagonal(case.model, case.loader(), likelihood_of(case))


def test_noise_that_depends_on_the_input_is_refused():
    case = linear_chain()
    own = make_likelihood("gaussian", None, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="does not depend on the input"):
        backpack_diagonal(case.model, case.loader(), own)
