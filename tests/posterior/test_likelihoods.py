"""Every likelihood with every structure."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.hyperparameters import mean_nll
from tests.cases import Case, classifier, mlp


def make(structure: str, case: Case) -> Posterior:
    return fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        subset_size=9,
        n_eigen=5,
    )


STRUCTURES = ("inf", "diagonal", "kfac", "efb", "full", "subnetwork", "ella")
NOISES = (0.3, torch.tensor([0.2, 0.5]), torch.tensor([[0.4, 0.1], [0.1, 0.3]]))


@pytest.mark.parametrize(
    ("structure", "noise"), list(itertools.product(STRUCTURES, range(len(NOISES))))
)
def test_a_noise_covariance_in_each_shape(structure, noise):
    case = mlp()
    full = torch.as_tensor(NOISES[noise], dtype=torch.float64)
    matrix = full if full.dim() == 2 else torch.diag(full.expand(2))
    found = make(structure, Case(case.model, case.x, case.y, NOISES[noise]))
    truth = make(structure, Case(case.model, case.x, case.y, matrix))
    prediction = found.predict(case.x)
    torch.testing.assert_close(prediction.noise_cov, matrix.expand(11, 2, 2), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(prediction.epistemic_cov, truth.predict(case.x).epistemic_cov)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_noise_that_the_model_predicts(structure):
    """A model whose own noise is constant gives what the same noise_cov gives."""

    class Constant(nn.Module):
        def __init__(self, mean: nn.Module):
            super().__init__()
            self.mean = mean

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.mean(x), torch.diag(x.new_tensor([0.5, 0.8])).expand(len(x), -1, -1)

    case = mlp()
    own = make(structure, Case(Constant(case.model), case.x, case.y))
    given = make(structure, Case(case.model, case.x, case.y, torch.tensor([0.25, 0.64]).double()))
    torch.testing.assert_close(own.predict(case.x).cov, given.predict(case.x).cov)
    evidence = given.log_marginal_likelihood()
    assert own.log_marginal_likelihood() == pytest.approx(evidence)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_classes_with_every_structure(structure):
    case = classifier()
    posterior = make(structure, case)
    prediction = posterior.predict(case.x)
    torch.testing.assert_close(prediction.probs.sum(1), torch.ones(11).double())
    truth = -float(prediction.probs[torch.arange(11), case.y].log().mean())
    assert mean_nll([posterior], case.loader(3))[0] == pytest.approx(truth)
