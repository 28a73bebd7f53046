"""BackPACK's structures, KFLR and KFRA, against their dense truths."""

import math

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.posterior import Posterior, fit_posterior
from tests import reference
from tests.cases import CASES, Case, classifier, normal, randomise

PRIOR = 0.7
BACKPACK_CASES = ("linear_chain", "classifier")


def make(structure: str, case: Case, loader=None, **options) -> Posterior:
    return fit_posterior(
        case.model,
        loader or case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        prior_precision=PRIOR,
        **options,
    )


def backpack_truth(case: Case, layer: str, G: Tensor) -> Tensor:
    A, _ = reference.kfac_factors(case, layer, "none")
    if case.model.get_submodule(layer).bias is not None:
        A[-1, :-1] = A[:-1, -1] = 0.0  # weight and bias are apart
    return torch.kron(G, A)


@pytest.mark.parametrize("name", BACKPACK_CASES)
def test_kflr_is_its_dense_truth(name):
    case = CASES[name]()
    posterior = make("kflr", case)
    for layer in posterior.layers:
        _, G = reference.kfac_factors(case, layer, "none")
        truth = len(case.y) * backpack_truth(case, layer, G)
        truth += PRIOR * torch.eye(len(truth)).double()
        torch.testing.assert_close(posterior.precision_dense(layer), truth)


@pytest.mark.parametrize("name", BACKPACK_CASES)
def test_kfra_is_its_recursion(name):
    """Botev, Ritter, Barber (2017), equation 19: averages over the data at every layer."""
    case = CASES[name]()
    posterior = make("kfra", case)
    G = reference.output_hessian(case).mean(0)
    modules = list(case.model.named_children())
    values = [case.x]
    for _, module in modules:
        values.append(module(values[-1]).detach())
    for (layer, module), output in zip(modules[::-1], values[:0:-1], strict=True):
        if isinstance(module, nn.Linear):
            truth = len(case.y) * backpack_truth(case, layer, G)
            truth += PRIOR * torch.eye(len(truth)).double()
            torch.testing.assert_close(posterior.precision_dense(layer), truth)
            G = module.weight.detach().mT @ G @ module.weight.detach()
        else:
            slope = 1 - output.square()
            G = G * (slope.mT @ slope / len(slope))


@pytest.mark.parametrize("structure", ["kflr", "kfra"])
def test_backpack_of_a_convolution_has_the_exact_block_of_its_bias(structure):
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2 * 6, 2, bias=False))
    case = Case(randomise(net), normal(7, 1, 3, 4), normal(7, 2, seed=5), 0.4)
    block = make(structure, case).precision_dense("0").reshape(2, 5, 2, 5)
    truth = reference.ggn(case, ["0"]).reshape(2, 5, 2, 5)[:, 4, :, 4]
    found = (block[:, 4, :, 4] - PRIOR * torch.eye(2).double()) / 7
    torch.testing.assert_close(found, truth)
    # A is a mean over positions, as E1's is.
    patches = torch.nn.functional.unfold(case.x, 2)
    A = torch.einsum("bis,bjs->ij", patches, patches) / (7 * patches.shape[2])
    weights = (block[:, :4, :, :4] - PRIOR * torch.eye(8).double().reshape(2, 4, 2, 4)) / 7
    torch.testing.assert_close(weights, torch.einsum("op,ij->oipj", truth, A))


@pytest.mark.parametrize("structure", ["kflr", "kfra"])
@pytest.mark.parametrize("name", BACKPACK_CASES)
def test_backpack_structures_do_what_blocks_do(structure, name):
    case = CASES[name]()
    posterior = make(structure, case)
    shuffled = torch.randperm(len(case.y), generator=torch.Generator().manual_seed(0))
    other = make(structure, case, loader=case.loader(5, shuffled))
    found = posterior.functional_covariance(case.x)
    torch.testing.assert_close(other.functional_covariance(case.x), found)
    parts = posterior.layer_contributions(case.x)
    torch.testing.assert_close(sum(parts.values()), found.diagonal(dim1=1, dim2=2))
    assert math.isfinite(posterior.log_marginal_likelihood())
    kfac = make("kfac", case)
    assert posterior.log_likelihood == pytest.approx(kfac.log_likelihood)
    assert len(list(posterior.sample(2))) == 2


@pytest.mark.parametrize("structure", ["kflr", "kfra"])
def test_what_backpack_does_not_cover_is_refused(structure):
    refused = [n for n in CASES if n not in BACKPACK_CASES]
    for name in refused:
        with pytest.raises(ValueError, match="BackPACK"):
            make(structure, CASES[name]())
    with pytest.raises(ValueError, match="exact Fisher"):
        make(structure, classifier(), fisher="mc")


def test_kfra_refuses_more_data_than_one_batch(monkeypatch):
    monkeypatch.setattr("bayes_vio.curvature.backpack.MAX_KFRA_NUMBERS", 10)
    with pytest.raises(ValueError, match="one batch"):
        make("kfra", classifier())
