"""Subnetwork and ELLA against their dense truths."""

import math

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.hyperparameters import maximize_marginal_likelihood
from bayes_vio.posterior.subnetwork import select_weights
from tests import reference
from tests.cases import CASES, Case, classifier, linear_chain, mlp, normal, randomise

PRIOR = 0.7
SIZE = 9
N_EIGEN = 5
JOINT = ("subnetwork", "ella")
BACKPACK_CASES = ("linear_chain", "classifier")


def make(structure: str, case: Case, **options) -> Posterior:
    options = {
        "prior_precision": PRIOR,
        "subset_size": SIZE,
        "n_points": 10**6,
        "n_eigen": N_EIGEN,
    } | options
    loader = options.pop("loader", None) or case.loader()
    return fit_posterior(
        case.model, loader, case.likelihood, structure, noise_cov=case.noise_cov, **options
    )


def dense_jacobian(case: Case, layers) -> Tensor:
    return torch.cat([reference.jacobian(case.model, case.x, n).flatten(2) for n in layers], 2)


def map_weights(posterior: Posterior) -> Tensor:
    return torch.cat([layer.matrix().flatten() for layer in posterior.layers.values()])


def directions(structure: str, case: Case, posterior: Posterior, layers: list[str]) -> Tensor:
    """Return V [p, q], the part of the space of all layers' weights that has a posterior."""
    J = dense_jacobian(case, layers)
    if structure == "subnetwork":
        F = torch.cat([reference.exact_diagonal(case, name).flatten() for name in layers])
        variances = 1 / (len(case.y) * F + PRIOR)
        chosen = variances.float().argsort(descending=True, stable=True)[:SIZE].sort().values
        return torch.eye(J.shape[2], dtype=torch.float64)[:, chosen]
    J = J.flatten(0, 1)
    eigenvalues, U = torch.linalg.eigh(J @ J.mT)
    return J.mT @ U[:, -N_EIGEN:] / eigenvalues[-N_EIGEN:].sqrt()


def dense_truth(structure: str, case: Case, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Hook two: V [p, q] and P [q, q] over the layers that can be covered."""
    layers = list(make("full", case).layers)
    V = directions(structure, case, posterior, layers)
    P = len(case.y) * V.mT @ reference.ggn(case, layers) @ V
    return V, P + PRIOR * torch.eye(len(P), dtype=torch.float64)


def all_map_weights(case: Case) -> Tensor:
    return map_weights(make("full", case))


EASY = ("linear_chain", "mlp", "classifier", "attention", "two_heads", "image_and_vector", "norms")


@pytest.fixture(params=JOINT)
def structure(request) -> str:
    return request.param


@pytest.fixture(params=EASY)
def case_name(request) -> str:
    return request.param


def test_the_functional_covariance_is_that_of_dense_algebra(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    V, P = dense_truth(structure, case, posterior)
    J = dense_jacobian(case, make("full", case).layers) @ V
    truth = J @ torch.linalg.inv(P) @ J.mT
    found = posterior.functional_covariance(case.x)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-9)
    assert torch.equal(found, found.mT)


def test_the_evidence_is_that_of_dense_algebra(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case)
    V, P = dense_truth(structure, case, posterior)
    w = V.mT @ all_map_weights(case)
    penalty = torch.logdet(P) - len(w) * math.log(PRIOR) + PRIOR * w.square().sum()
    truth = make("full", case).log_likelihood - 0.5 * float(penalty)
    assert posterior.log_marginal_likelihood() == pytest.approx(truth, rel=1e-8)
    best = maximize_marginal_likelihood(posterior)
    (value,) = set(best.prior_precision.values())
    for factor in (0.9, 1.1):
        other = posterior.with_prior_precision(factor * value)
        assert other.log_marginal_likelihood() <= best.log_marginal_likelihood()


@pytest.mark.parametrize("fisher", ["type2", "empirical"])
def test_neither_batch_size_nor_order_matters(structure, case_name, fisher):
    case = CASES[case_name]()
    shuffled = torch.randperm(len(case.y), generator=torch.Generator().manual_seed(0))
    covs = []
    for loader in (case.loader(1), case.loader(len(case.y)), case.loader(3, shuffled)):
        posterior = make(structure, case, loader=loader, fisher=fisher)
        covs.append(posterior.functional_covariance(case.x))
    for cov in covs[1:]:
        torch.testing.assert_close(cov, covs[0], rtol=1e-6, atol=1e-9)


def test_another_prior_precision_is_as_good_as_a_refit(structure, case_name):
    case = CASES[case_name]()
    changed = make(structure, case).with_prior_precision(3.0)
    refitted = make(structure, case, prior_precision=3.0)
    torch.testing.assert_close(
        changed.functional_covariance(case.x), refitted.functional_covariance(case.x)
    )
    found, truth = changed.log_marginal_likelihood(), refitted.log_marginal_likelihood()
    assert found == pytest.approx(truth, rel=1e-9)


def test_an_infinite_prior_precision_leaves_no_epistemic_covariance(structure, case_name):
    case = CASES[case_name]()
    posterior = make(structure, case).with_prior_precision(1e12)
    V = directions(structure, case, posterior, list(make("full", case).layers))
    J = dense_jacobian(case, make("full", case).layers) @ V
    truth = J @ J.mT / 1e12
    torch.testing.assert_close(
        posterior.functional_covariance(case.x), truth, rtol=1e-4, atol=1e-20
    )


@pytest.mark.parametrize("name", ["mlp", "attention", "norms"])
def test_contributions_and_samples_of_a_subnetwork(name):
    case = CASES[name]()
    posterior = make("subnetwork", case)
    parts = posterior.layer_contributions(case.x)
    variances = posterior.functional_covariance(case.x).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(sum(parts.values()), variances, rtol=1e-10, atol=1e-12)
    n, start, drawn = 4000, map_weights(posterior), make("subnetwork", case)
    draws = []
    for draw in posterior.sample(n, torch.Generator().manual_seed(1)):
        for key, p in drawn.model.named_parameters():
            p.copy_(draw[key])
        draws.append(map_weights(drawn) - start)
    changes = torch.stack(draws)
    _, P = dense_truth("subnetwork", case, posterior)
    moved = changes.abs().sum(0) > 0
    assert int(moved.sum()) == SIZE
    white = changes[:, moved] @ torch.linalg.cholesky(P)
    moments = white.mT @ white / n
    bound = 6 * math.sqrt(2 / n)
    torch.testing.assert_close(moments, torch.eye(SIZE).double(), rtol=0, atol=bound)


@pytest.mark.parametrize("name", list(CASES))
def test_a_subnetwork_of_all_weights_is_the_full_posterior(name):
    case = CASES[name]()
    full, whole = make("full", case), make("subnetwork", case, subset_size=10**4)
    torch.testing.assert_close(
        whole.functional_covariance(case.x), full.functional_covariance(case.x)
    )
    evidence = full.log_marginal_likelihood()
    assert whole.log_marginal_likelihood() == pytest.approx(evidence, rel=1e-9)


@pytest.mark.parametrize("name", list(CASES))
def test_ella_with_all_directions_is_the_full_posterior_at_the_training_inputs(name):
    """The gradients there span what their covariance depends on."""
    case = CASES[name]()
    full, whole = make("full", case), make("ella", case, n_eigen=10**6)
    torch.testing.assert_close(
        whole.functional_covariance(case.x), full.functional_covariance(case.x)
    )


@pytest.mark.parametrize("structure", ["subnetwork", "inf", "efb", "kfac", "diagonal", "full"])
@pytest.mark.parametrize("name", ["mlp", "classifier", "attention", "two_heads", "norms"])
def test_the_last_layer_alone(structure, name):
    case = CASES[name]()
    posterior = make(structure, case, layers="last", rank=10**4)
    (layer,) = posterior.layers
    names = list(dict(case.model.named_parameters()))
    rest = {p for u in posterior.report.uncovered for p in u.parameters}
    assert set(posterior.report.covered[0].parameters) | rest == set(names)
    P = len(case.y) * reference.ggn(case, [layer])
    if structure in ("subnetwork", "full"):
        J = reference.jacobian(case.model, case.x, layer).flatten(2)
        truth = J @ torch.linalg.inv(P + PRIOR * torch.eye(len(P)).double()) @ J.mT
        torch.testing.assert_close(posterior.functional_covariance(case.x), truth)
    assert posterior.nbytes > 0


def test_ella_of_the_last_layer_alone():
    case = classifier()
    found = make("ella", case, layers="last", n_eigen=10**6).functional_covariance(case.x)
    truth = make("full", case, layers="last").functional_covariance(case.x)
    torch.testing.assert_close(found, truth)


def test_fewer_points_are_a_sample_of_the_kernel():
    case = mlp()
    some = make("ella", case, n_points=6, n_eigen=6)
    assert some.report.details["n_points"] == some.report.details["n_eigen"] == 6
    assert some.report.details["kept_trace_share"] == pytest.approx(1.0)
    first, again = (make("ella", case, n_points=6, seed=s) for s in (0, 1))
    x = case.x
    assert not torch.allclose(first.functional_covariance(x), again.functional_covariance(x))
    # A subspace holds less than the whole prior.
    full = make("full", case).functional_covariance(x)
    gap = torch.linalg.eigvalsh(full - some.functional_covariance(x))
    assert gap.min() > -1e-9


@pytest.mark.parametrize("parts", [1, 3, 100])
def test_the_kernel_is_made_in_parts(monkeypatch, parts):
    case = CASES["attention"]()
    whole = make("ella", case).functional_covariance(case.x)
    p = sum(layer.matrix().numel() for layer in make("ella", case).layers.values())
    monkeypatch.setattr("bayes_vio.posterior.nystrom._PART_NUMBERS", 27 * p // parts)
    monkeypatch.setattr("bayes_vio.posterior.nystrom.TANGENT_BATCH", max(1, 9 // parts))
    monkeypatch.setattr("bayes_vio.posterior.ella.TANGENT_NUMBERS", 10**6 // parts)
    torch.testing.assert_close(make("ella", case).functional_covariance(case.x), whole)


class VisionTransformer(nn.Module):
    """Patches, a class token, one encoder block of torch's own kind, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.block(tokens)[:, 0])


def test_ella_on_a_vision_transformer():
    torch.manual_seed(0)
    net = randomise(VisionTransformer(), scale=0.3)
    labels = torch.arange(10) % 3
    case = Case(net, normal(10, 1, 4, 4), labels, None, "categorical")
    with torch.inference_mode():
        whole = make("ella", case, n_eigen=10**6)
        found = whole.functional_covariance(case.x)
    truth = make("full", case).functional_covariance(case.x)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-9)
    probs = whole.predict(case.x).probs
    torch.testing.assert_close(probs.sum(1), torch.ones(10).double())


def test_ella_is_over_functions():
    case = mlp()
    posterior = make("ella", case)
    with pytest.raises(ValueError, match="no samples of weights"):
        next(posterior.sample(1))
    with pytest.raises(ValueError, match="no samples of weights"):
        posterior.predict_samples(case.x, 2)
    with pytest.raises(ValueError, match="mix all layers"):
        posterior.layer_contributions(case.x)
    with pytest.raises(ValueError, match="no information matrix of a layer"):
        posterior.precision_dense("0")
    with pytest.raises(ValueError, match="one prior precision"):
        posterior.with_prior_precision({"0": 3.0})
    with pytest.raises(ValueError, match="at least 1"):
        make("ella", case, n_eigen=0)


@pytest.mark.parametrize("structure", ["subnetwork", "ella", "kflr", "kfra"])
@pytest.mark.parametrize("name", BACKPACK_CASES)
def test_a_loaded_posterior_has_equal_bits(structure, name, tmp_path):
    case = CASES[name]()
    posterior = make(structure, case, subset_size=3)
    posterior.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p", case.model)
    assert loaded.report == posterior.report
    assert loaded.nbytes == posterior.nbytes
    assert torch.equal(
        loaded.functional_covariance(case.x), posterior.functional_covariance(case.x)
    )
    assert loaded.log_marginal_likelihood() == posterior.log_marginal_likelihood()
    if structure != "ella":
        draws = [next(p.sample(1, torch.Generator().manual_seed(0))) for p in (posterior, loaded)]
        assert all(torch.equal(draws[0][k], draws[1][k]) for k in draws[0])


def test_layers_without_selected_weights_are_named():
    case = linear_chain()
    posterior = make("subnetwork", case, subset_size=1)
    (covered,) = posterior.report.covered
    assert covered.n_selected == 1
    assert posterior.report.details == {"n_selected": 1}
    reasons = {u.name: u.reason for u in posterior.report.uncovered}
    assert set(reasons) == set(dict(case.model.named_children())) - {covered.name}
    assert all("largest variance" in reason for reason in reasons.values())
    with pytest.raises(ValueError, match="between 1 and"):
        make("subnetwork", case, subset_size=0)


def test_ties_of_variances_go_to_the_first_weight():
    ones = {"a": torch.ones(2, 2), "b": torch.ones(1, 3)}
    rounded = {"a": torch.ones(2, 2) + 1e-12 * torch.rand(2, 2).double(), "b": ones["b"].double()}
    for variances in (ones, rounded):
        selection = select_weights(variances, 5)
        assert selection["a"].tolist() == [0, 1, 2, 3]
        assert selection["b"].tolist() == [0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("structure", ["subnetwork", "ella"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_gpu_gives_the_same_posterior(structure, name):
    case = CASES[name]()
    on_cpu, on_gpu = make(structure, case), make(structure, case, device="cuda")
    expected = on_cpu.functional_covariance(case.x)
    x = map_tensors(case.x, lambda t: t.cuda())
    for posterior in (on_gpu, on_cpu.to("cuda")):
        found = posterior.functional_covariance(x)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-9)
