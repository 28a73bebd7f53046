"""Against other people's code: curvlinops' KFAC and EKFAC, laplace-torch's posteriors.

Run with ``-m oracle`` where they are installed (the extra ``oracle``).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.posterior import Posterior, fit_posterior
from tests.cases import Case, classifier, linear_chain, normal, randomise
from tests.posterior.test_exactness import per_position, pooled

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
# MSELoss(reduction="sum") is |error|^2: its Hessian is 2.
NOISE = 0.5


def conv_chain() -> Case:
    net = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(3 * 3 * 6, 4),
        nn.Tanh(),
        nn.Linear(4, 2),
    )
    return Case(randomise(net), normal(7, 2, 5, 5), normal(7, 2, seed=5), NOISE)


def of_noise(case: Case) -> Case:
    noise = NOISE if case.likelihood == "gaussian" else None
    return Case(case.model, case.x, case.y, noise, case.likelihood)


def fit(case: Case, structure: str, **options) -> Posterior:
    return fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        **options,
    )


def blocks(posterior: Posterior) -> dict[str, Tensor]:
    """Return n_data times the curvature of every layer, the bias a column of W."""
    found = {}
    for name in posterior.layers:
        P = posterior.precision_dense(name)
        prior = posterior.prior_precision[name]
        found[name] = P - prior * torch.eye(len(P), dtype=P.dtype)
    return found


def their_blocks(kind: str, case: Case, posterior: Posterior, approximation: str):
    """Return curvlinops' blocks in our order of weights."""
    import curvlinops

    classes = {"kfac": "KFACLinearOperator", "efb": "EKFACLinearOperator"}
    loss = nn.MSELoss if case.likelihood == "gaussian" else nn.CrossEntropyLoss
    parameters = dict(case.model.named_parameters())
    operator = getattr(curvlinops, classes[kind])(
        case.model,
        loss(reduction="sum"),
        list(parameters.values()),
        case.loader(),
        fisher_type="type-2",
        kfac_approx=approximation,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    matrix = operator @ torch.eye(operator.shape[1], dtype=torch.float64)
    sizes = [p.numel() for p in parameters.values()]
    places = dict(zip(parameters, torch.arange(sum(sizes)).split(sizes), strict=True))
    found = {}
    for name, layer in posterior.layers.items():
        weight, *bias = (places[p] for p in layer.parameter_names)
        columns = [weight.reshape(layer.shape[0], -1), *(b[:, None] for b in bias)]
        order = torch.cat(columns, 1).flatten()
        found[name] = matrix[order][:, order]
    return found


@pytest.mark.parametrize("structure", ["kfac", "efb"])
@pytest.mark.parametrize("make", [linear_chain, classifier, conv_chain, per_position, pooled])
def test_curvlinops_has_the_same_blocks(make, structure, record_property):
    pytest.importorskip("curvlinops")
    case = of_noise(make())
    posterior = fit(case, structure)
    theirs = {a: their_blocks(structure, case, posterior, a) for a in ("expand", "reduce")}
    worst = 0.0
    for covered in posterior.report.covered:
        truth = theirs["reduce" if covered.sharing == "reduce" else "expand"][covered.name]
        found = blocks(posterior)[covered.name]
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9 * float(truth.abs().max()))
        worst = max(worst, float((found - truth).norm() / truth.norm()))
    record_property("relative_error", worst)


def biasless() -> Case:
    net = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False))
    return Case(randomise(net), normal(11, 3), normal(11, 2, seed=5), 0.3)


def biasless_classifier() -> Case:
    net = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 4, bias=False))
    return Case(randomise(net), normal(11, 3), torch.arange(11) % 4, None, "categorical")


def their_posterior(case: Case, structure: str, prior: float):
    from laplace import Laplace
    from laplace.curvature import BackPackGGN, CurvlinopsGGN

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.x, case.y), 4)
    regression = case.likelihood == "gaussian"
    posterior = Laplace(
        case.model,
        "regression" if regression else "classification",
        subset_of_weights="all",
        hessian_structure=structure,
        prior_precision=prior,
        backend=CurvlinopsGGN if structure == "kron" else BackPackGGN,
        **({"sigma_noise": case.noise_cov**0.5} if regression else {}),
    )
    posterior.fit(loader)
    return posterior


@pytest.mark.parametrize(
    ("ours", "theirs"), [("kfac", "kron"), ("diagonal", "diag"), ("full", "full")]
)
@pytest.mark.parametrize("make", [biasless, biasless_classifier])
def test_laplace_torch_has_the_same_functional_covariance(make, ours, theirs, record_property):
    """Without biases: its Kronecker factors keep weights and biases apart."""
    pytest.importorskip("laplace")
    case, prior = make(), 0.7
    posterior, other = fit(case, ours, prior_precision=prior), their_posterior(case, theirs, prior)
    mean, truth = other._glm_predictive_distribution(case.x)
    found = posterior.functional_covariance(case.x)
    torch.testing.assert_close(posterior.predict(case.x).__dict__.get("mean", mean), mean)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-9)
    record_property("relative_error", float((found - truth).norm() / truth.norm()))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("kfac", "kron"), ("diagonal", "diag"), ("full", "full")]
)
def test_laplace_torch_has_the_same_evidence(ours, theirs):
    pytest.importorskip("laplace")
    case, prior = biasless(), 0.7
    posterior, other = fit(case, ours, prior_precision=prior), their_posterior(case, theirs, prior)
    found = posterior.log_marginal_likelihood()
    assert found == pytest.approx(float(other.log_marginal_likelihood()), rel=1e-7)
