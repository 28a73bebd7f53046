"""What every structure must hold, given two hooks: make one, and give its dense truth."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from bayes_vio.posterior import Posterior, fit_posterior
from tests import reference
from tests.cases import CASES, Case

RANK = 6
STRUCTURES = ("diagonal", "kfac", "efb", "inf", "full")
# The reference's Kronecker factors know no other padding than zeros.
KRONECKER_CASES = tuple(name for name in CASES if name != "image_and_vector")
# Cases that are there for their kinds of layers.
LAYER_CASES = ("grouped", "heads", "encoder", "recurrent", "tokens", "shared")
PRIOR = 0.7


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def make(structure: str, case: Case, **options) -> Posterior:
    """Hook one: a posterior of the structure."""
    options = {"prior_precision": PRIOR, "rank": RANK} | options
    return fit_posterior(
        case.model,
        options.pop("loader", None) or case.loader(),
        likelihood=case.likelihood,
        structure=structure,
        noise_cov=case.noise_cov,
        **options,
    )


def dense_curvature(structure: str, case: Case, posterior: Posterior, layer: str) -> Tensor:
    """Hook two: the truth of a layer's curvature, a mean over data."""
    covered = {c.name: c for c in posterior.report.covered}[layer]
    diagonal = reference.exact_diagonal(case, layer)
    if structure == "full":
        return reference.ggn(case, [layer])
    if structure == "diagonal" or covered.kind in ("norm", "embedding", "grouped"):
        return torch.diag(diagonal.flatten())
    A, G = reference.kfac_factors(case, layer, covered.sharing or "none", covered.batch_axis)
    if structure == "kfac":
        return torch.kron(G, A)
    block = posterior.curvature.blocks[layer]
    if structure == "efb":
        assert_eigenvectors(block.Q_a, A)
        assert_eigenvectors(block.Q_g, G)
        eigenvalues = reference.corrected_eigenvalues(case, layer, block.Q_g, block.Q_a)
        return _spread(block.Q_g, block.Q_a, eigenvalues)
    assert_eigenvectors(block.U_a, A)
    assert_eigenvectors(block.U_g, G)
    kept = reference.corrected_eigenvalues(case, layer, block.U_g, block.U_a)
    low_rank = _spread(block.U_g, block.U_a, kept)
    correction = diagonal.flatten() - low_rank.diagonal()
    whole = dense_curvature("efb", case, make("efb", case), layer).diagonal()
    rest = whole - low_rank.diagonal()
    return low_rank + torch.diag(torch.where(correction < 0, rest, correction))


def _spread(Q_g: Tensor, Q_a: Tensor, eigenvalues: Tensor) -> Tensor:
    Q = torch.kron(Q_g, Q_a)
    return Q @ torch.diag(eigenvalues.flatten()) @ Q.mT


def assert_eigenvectors(U: Tensor, factor: Tensor) -> None:
    """Check that U's columns are orthonormal eigenvectors of a factor."""
    torch.testing.assert_close(U.mT @ U, eye(U.shape[1]), rtol=0, atol=1e-12)
    eigenvalues = (U.mT @ factor @ U).diagonal()
    scale = float(factor.abs().max())
    torch.testing.assert_close(factor @ U, U * eigenvalues, rtol=0, atol=1e-11 * scale)


def dense_precision(posterior: Posterior) -> Tensor:
    """Return P [p, p] of all layers in order, assembled from what the posterior says of itself."""
    if posterior.report.structure == "full":
        return posterior.precision.matrix
    return torch.block_diag(*(posterior.precision_dense(name) for name in posterior.layers))


def dense_jacobian(case: Case, posterior: Posterior) -> Tensor:
    blocks = [reference.jacobian(case.model, case.x, name) for name in posterior.layers]
    return torch.cat([J.flatten(2) for J in blocks], 2)


@pytest.fixture(params=STRUCTURES)
def structure(request) -> str:
    return request.param


@pytest.fixture(params=list(CASES))
def case_name(request) -> str:
    return request.param


@pytest.mark.parametrize(
    ("structure", "case_name"),
    [
        *itertools.product(("diagonal", "full"), CASES),
        *itertools.product(("kfac", "efb", "inf"), KRONECKER_CASES),
    ],
)
def test_the_information_matrix_is_the_dense_truth(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    for layer in posterior.layers:
        truth = len(case.y) * dense_curvature(structure, case, posterior, layer)
        truth = truth + PRIOR * eye(len(truth))
        found = posterior.precision_dense(layer)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9 * float(truth.abs().max()))


def test_the_functional_covariance_is_that_of_dense_algebra(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    J = dense_jacobian(case, posterior)
    truth = J @ torch.linalg.inv(dense_precision(posterior)) @ J.mT
    found = posterior.functional_covariance(case.x)
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-10)
    assert torch.equal(found, found.mT)


def test_contributions_of_layers_sum_to_the_variances(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    parts = posterior.layer_contributions(case.x)
    total = torch.stack(list(parts.values())).sum(0)
    variances = posterior.functional_covariance(case.x).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(total, variances, rtol=1e-10, atol=1e-12)
    P, J = dense_precision(posterior), dense_jacobian(case, posterior)
    weighted = J * torch.linalg.solve(P, J.mT).mT
    sizes = [layer.matrix().numel() for layer in posterior.layers.values()]
    for name, truth in zip(parts, weighted.split(sizes, 2), strict=True):
        torch.testing.assert_close(parts[name], truth.sum(2), rtol=1e-7, atol=1e-10)


def test_data_adds_information(structure, case_name):
    posterior = make(structure, CASES[case_name]())
    added = dense_precision(posterior) - PRIOR * eye(len(dense_precision(posterior)))
    eigenvalues = torch.linalg.eigvalsh(added)
    assert eigenvalues.min() > -1e-10 * eigenvalues.max()


def test_an_infinite_prior_precision_leaves_no_epistemic_covariance(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    J = dense_jacobian(case, posterior)
    found = posterior.with_prior_precision(1e12).functional_covariance(case.x)
    torch.testing.assert_close(found, J @ J.mT / 1e12, rtol=1e-4, atol=1e-20)


def test_no_data_leaves_the_prior(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case, n_data=0.0)
    J = dense_jacobian(case, posterior)
    found = posterior.functional_covariance(case.x)
    torch.testing.assert_close(found, J @ J.mT / PRIOR, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fisher", ["type2", "empirical"])
def test_neither_batch_size_nor_order_matters(structure, case_name, fisher):
    case = CASES[case_name]()
    shuffled = torch.randperm(len(case.y), generator=torch.Generator().manual_seed(0))
    covs, evidences = [], []
    for loader in (case.loader(1), case.loader(len(case.y)), case.loader(3, shuffled)):
        posterior = make(structure, case, loader=loader, fisher=fisher)
        covs.append(posterior.functional_covariance(case.x))
        evidences.append(posterior.log_marginal_likelihood())
    for cov, evidence in zip(covs[1:], evidences[1:], strict=True):
        torch.testing.assert_close(cov, covs[0], rtol=1e-6, atol=1e-9)
        assert evidence == pytest.approx(evidences[0], rel=1e-6)


def test_another_prior_precision_is_as_good_as_a_refit(structure, case_name):
    case = CASES[case_name]()
    changed = make(structure, case).with_prior_precision(3.0)
    refitted = make(structure, case, prior_precision=3.0)
    assert torch.equal(
        changed.functional_covariance(case.x), refitted.functional_covariance(case.x)
    )
    assert changed.log_marginal_likelihood() == refitted.log_marginal_likelihood()


def test_a_prior_precision_per_layer_reaches_its_layer_alone(structure, case_name):
    posterior = make(structure, CASES[case_name]())
    first, second, *_ = posterior.layers
    changed = posterior.with_prior_precision({first: 9.0})
    difference = changed.precision_dense(first) - posterior.precision_dense(first)
    torch.testing.assert_close(difference, (9.0 - PRIOR) * eye(len(difference)))
    assert torch.equal(changed.precision_dense(second), posterior.precision_dense(second))


def test_the_evidence_is_that_of_dense_algebra(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    P = dense_precision(posterior)
    w = torch.cat([layer.matrix().flatten() for layer in posterior.layers.values()])
    logdet_prior = len(w) * math.log(PRIOR)
    penalty = torch.logdet(P) - logdet_prior + PRIOR * w.square().sum()
    truth = _log_likelihood(case) - 0.5 * penalty
    assert posterior.log_marginal_likelihood() == pytest.approx(float(truth), rel=1e-9)


def _log_likelihood(case: Case) -> Tensor:
    with torch.no_grad():
        output = case.model(case.x)
    mean = output[0] if isinstance(output, tuple) else output
    if case.likelihood == "categorical":
        return torch.distributions.Categorical(logits=mean).log_prob(case.y).sum()
    cov = torch.linalg.inv(reference.output_hessian(case))
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(case.y).sum()


@pytest.mark.parametrize(
    ("structure", "case_name"),
    [
        *itertools.product(STRUCTURES, [name for name in CASES if name not in LAYER_CASES]),
        # Samplers belong to structures; of a kind of layer only the way back to parameters is new.
        *itertools.product(("inf",), LAYER_CASES),
    ],
)
def test_moments_of_samples_match(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    n = 1500
    draws = []
    at_map = dict(posterior.model.named_parameters())
    for draw in posterior.sample(n, torch.Generator().manual_seed(1)):
        change = {name: draw[name] - p for name, p in at_map.items()}
        draws.append(torch.cat([_matrix(layer, change) for layer in posterior.layers.values()]))
        assert all(not change[p].any() for u in posterior.report.uncovered for p in u.parameters)
    P = dense_precision(posterior)
    # Whitened draws have covariance 1: entries of n samples' moments stay within 6 / sqrt(n).
    white = torch.stack(draws) @ torch.linalg.cholesky(P)
    p = white.shape[1]
    assert (white.mean(0).abs() < 6 / n**0.5).all()
    assert ((white.mT @ white / n - eye(p)).abs() < 6 * 2**0.5 / n**0.5).all()


def _matrix(layer, change: dict[str, Tensor]) -> Tensor:
    rows = [change[name] if rows is None else change[name][rows] for name, rows in layer.pieces]
    weight, *bias = rows
    rows = weight.flatten(1) if weight.dim() > 1 else weight[:, None]
    return torch.cat([rows, *(b[:, None] for b in bias)], 1).flatten()
