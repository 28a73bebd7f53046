"""A posterior in use: predictions, autograd modes, parts of batches, refusals."""

import copy
import math

import pytest
import torch
from torch import nn

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.posterior import (
    ClassPrediction,
    GaussianPrediction,
    Link,
    LinkSettings,
    Posterior,
    fit_posterior,
    laplace,
    linearisation,
)
from bayes_vio.posterior.hyperparameters import maximize_marginal_likelihood
from bayes_vio.posterior.linearisation import linearise
from bayes_vio.posterior.predictive import class_prediction
from tests.cases import CASES, Case, attention, classifier, mlp, normal, norms, spd, two_heads


def fit(case: Case, structure: str = "inf", **options) -> Posterior:
    options = {"noise_cov": case.noise_cov, "rank": 6} | options
    loader = options.pop("loader", case.loader())
    return fit_posterior(case.model, loader, case.likelihood, structure, **options)


@pytest.mark.parametrize("name", list(CASES))
def test_fitting_and_predicting_leave_the_model_alone(name):
    case = CASES[name]()
    case.model.train()
    before = copy.deepcopy(case.model.state_dict())
    fit(case).predict(case.x)
    assert case.model.training
    assert all(p.requires_grad and p.grad is None for p in case.model.parameters())
    assert all(not m._forward_hooks for m in case.model.modules())
    after = case.model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_a_gaussian_prediction_tells_epistemic_and_noise_apart():
    case = two_heads()
    posterior = fit(case)
    prediction = posterior.predict(case.x)
    assert isinstance(prediction, GaussianPrediction)
    mean, cholesky = case.model(case.x)
    assert torch.equal(prediction.mean, mean)
    torch.testing.assert_close(prediction.noise_cov, cholesky @ cholesky.mT)
    assert torch.equal(prediction.epistemic_cov, posterior.functional_covariance(case.x))
    torch.linalg.cholesky(prediction.cov)


def test_float32_networks_give_float64_covariances():
    case = attention()
    truth = fit(case, "efb").functional_covariance(case.x)
    case = Case(case.model.float(), case.x.float(), case.y.float(), case.noise_cov)
    posterior = fit(case, "efb")
    found = posterior.predict(case.x)
    assert found.mean.dtype == torch.float32
    assert found.epistemic_cov.dtype == torch.float64
    torch.testing.assert_close(found.epistemic_cov, truth, rtol=1e-3, atol=1e-4)
    assert all(t.dtype == torch.float32 for t in posterior.curvature.tensors().values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("structure", ["inf", "kfac", "full"])
def test_prediction_works_in_every_autograd_mode(mode, structure):
    case = norms()
    expected = fit(case, structure).predict(case.x).epistemic_cov
    with mode():
        posterior = fit(case, structure)
        found = posterior.predict(case.x.clone()).epistemic_cov
        contributions = posterior.layer_contributions(case.x.clone())
    assert torch.equal(found, expected)
    assert torch.equal(posterior.predict(case.x).epistemic_cov, expected)
    assert not any(c.requires_grad for c in contributions.values())


@pytest.mark.parametrize("structure", ["inf", "full"])
def test_large_batches_are_predicted_in_parts(monkeypatch, structure):
    case = classifier()
    posterior = fit(case, structure)
    whole = posterior.predict(case.x)
    parts_of = posterior.layer_contributions(case.x)
    monkeypatch.setattr(laplace, "CHUNK_NUMBERS", 2 * posterior._largest_jacobian)
    assert len(list(posterior.linearisations(case.x))) == math.ceil(len(case.y) / 2)
    split = posterior.predict(case.x)
    for field in vars(whole):
        torch.testing.assert_close(getattr(split, field), getattr(whole, field))
    for name, part in posterior.layer_contributions(case.x).items():
        torch.testing.assert_close(part, parts_of[name])


@pytest.mark.parametrize("structure", ["inf", "kfac", "diagonal"])
def test_jacobians_are_worked_through_in_blocks(monkeypatch, structure):
    case = attention()
    posterior = fit(case, structure)
    whole = posterior.functional_covariance(case.x)
    monkeypatch.setattr(linearisation, "_BLOCK_NUMBERS", {"cpu": 300})
    ((at, _),) = posterior.linearisations(case.x)
    assert len(list(at.layers["qkv"].jacobian_blocks(torch.float64))) > 2
    torch.testing.assert_close(posterior.functional_covariance(case.x), whole)


@pytest.mark.parametrize("structure", ["inf", "efb", "diagonal"])
def test_products_in_a_float32_network_are_those_of_float64(structure):
    case = attention()
    case = Case(case.model.float(), case.x.float(), case.y.float(), case.noise_cov)
    posterior = fit(case, structure, prior_precision=1e-3)
    at = linearise(posterior.recorder, case.x, posterior.can_batch)
    blocks = posterior.curvature.map(torch.Tensor.double)
    exact = blocks.precision(posterior.n_data, posterior.prior_precision).layer_covariances(at)
    truth, found = sum(exact.values()), posterior.prediction(at).epistemic_cov
    std = truth.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found - truth) / (std[:, :, None] * std[:, None])).abs().max() < 1e-3
    assert torch.linalg.eigvalsh(found).min() > 0


def test_vectorised_and_sequential_backward_passes_agree():
    case = attention()
    posterior = fit(case)
    assert posterior.can_batch
    at = [linearise(posterior.recorder, case.x, batched) for batched in (True, False)]
    found, truth = (posterior.prediction(a).epistemic_cov for a in at)
    torch.testing.assert_close(found, truth)


def test_class_predictions_agree_with_quadrature_for_two_classes():
    mean, cov = torch.tensor([[0.7, -0.4]]).double(), spd(2)[None]
    nodes = torch.linspace(-8, 8, 4001).double()
    weights = torch.exp(-(nodes**2) / 2) / nodes.exp().new_tensor(2 * math.pi).sqrt() * 0.004
    spread = (cov[0, 0, 0] + cov[0, 1, 1] - 2 * cov[0, 0, 1]).sqrt()
    p = torch.sigmoid(1.1 + spread * nodes)
    truth = float((weights * p).sum())
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    information = -(truth * math.log(truth) + (1 - truth) * math.log(1 - truth))
    information -= float((weights * entropy).sum())
    found = class_prediction(mean, cov, LinkSettings(n_samples=40_000))
    assert float(found.probs[0, 0]) == pytest.approx(truth, abs=0.01)
    assert float(found.mutual_information) == pytest.approx(information, abs=0.01)


def test_class_predictions_are_seeded_and_the_links_are_close():
    posterior = fit(classifier(), "full", prior_precision=20.0)
    x = classifier().x
    sampled, again = posterior.predict(x), posterior.predict(x)
    assert isinstance(sampled, ClassPrediction)
    assert torch.equal(sampled.probs, again.probs)
    torch.testing.assert_close(sampled.probs.sum(-1), torch.ones(len(x)).double())
    assert (sampled.mutual_information <= sampled.entropy).all()
    probit = posterior.predict(x, LinkSettings(Link.PROBIT))
    assert (probit.probs - sampled.probs).abs().max() < 0.1
    certain = posterior.with_prior_precision(1e12).predict(x)
    torch.testing.assert_close(
        certain.probs, classifier().model(x).softmax(-1), rtol=1e-4, atol=1e-5
    )
    assert certain.mutual_information.max() < 1e-6


def test_the_mc_fisher_converges_to_type2_and_ignores_the_batch_size():
    case = classifier()
    many = Case(case.model, case.x.repeat(400, 1), case.y.repeat(400), None, case.likelihood)
    options = {"loader": many.loader(200), "fisher": "mc"}
    sampled = fit(many, "diagonal", **options)
    again = fit(many, "diagonal", **options | {"loader": many.loader(333)})
    exact = fit(case, "diagonal")
    for name, block in exact.curvature.blocks.items():
        truth = block.diagonal
        found = sampled.curvature.blocks[name].diagonal
        torch.testing.assert_close(found, again.curvature.blocks[name].diagonal)
        torch.testing.assert_close(found, truth, rtol=0, atol=0.1 * float(truth.max()))
    gaussian = two_heads()
    many = Case(gaussian.model, gaussian.x.repeat(400, 1), gaussian.y.repeat(400, 1))
    sampled = fit(many, "diagonal", loader=many.loader(500), fisher="mc")
    for name, block in fit(gaussian, "diagonal").curvature.blocks.items():
        found, truth = sampled.curvature.blocks[name].diagonal, block.diagonal
        torch.testing.assert_close(found, truth, rtol=0, atol=0.1 * float(truth.max()))


def test_the_fisher_is_chosen_by_the_number_of_outputs():
    assert fit(mlp()).report.fisher == "type2"
    wide = Case(nn.Linear(3, 11).double(), normal(6, 3), normal(6, 11), 1.0)
    assert fit(wide).report.fisher == "mc"


def test_n_data_multiplies_once():
    case = mlp()
    doubled, twice = fit(case, n_data=22), fit(case, loader=case.loader() * 2)
    assert doubled.n_data == twice.n_data == 22
    torch.testing.assert_close(
        doubled.functional_covariance(case.x), twice.functional_covariance(case.x)
    )
    assert doubled.log_marginal_likelihood() == pytest.approx(twice.log_marginal_likelihood())


def test_inputs_may_be_dicts_and_tuples():
    class Sum(nn.Module):
        def __init__(self, pick) -> None:
            super().__init__()
            self.line, self.pick = nn.Linear(3, 2), pick

        def forward(self, x):
            a, b = self.pick(x)
            return self.line(a + b)

    a, b, y = normal(6, 3), normal(6, 3, seed=4), normal(6, 2)
    covs = []
    for x, pick in (({"a": a, "b": b}, lambda x: (x["a"], x["b"])), ((a, b), lambda x: x)):
        torch.manual_seed(0)
        posterior = fit(Case(Sum(pick).double(), x, y, 1.0))
        covs.append(posterior.functional_covariance(x))
    assert torch.equal(*covs)


def test_sampling_without_a_generator_and_moving_to_a_device():
    case = mlp()
    posterior = fit(case, noise_cov=spd(2))
    moved = posterior.to("cpu")
    assert moved.model is not posterior.model
    assert torch.equal(
        moved.functional_covariance(case.x), posterior.functional_covariance(case.x)
    )
    torch.manual_seed(3)
    first, second = moved.sample(2)
    assert not torch.equal(first["0.weight"], second["0.weight"])


class Once:
    def __init__(self, items: list) -> None:
        self.items = iter(items)

    def __iter__(self):
        return self.items


class Changing:
    """A loader with augmentation: other data each time."""

    def __init__(self, case: Case, shrinking: bool) -> None:
        self.case, self.n_read, self.shrinking = case, 0, shrinking

    def __iter__(self):
        self.n_read += 1
        batches = self.case.loader()
        if self.shrinking:
            yield from batches[: 4 - self.n_read]
        else:
            yield from ((x + 1e-3 * self.n_read, y) for x, y in batches)


def test_what_cannot_be_fitted_is_refused_in_one_sentence():
    case = mlp()
    refusals = [
        ({"structure": "lowrank"}, "inf, diagonal, kfac, efb, full, subnetwork, ella, kflr"),
        ({"loader": iter(case.loader())}, "read twice"),
        ({"loader": []}, "empty"),
        ({"loader": Changing(case, False)}, "other data"),
        ({"loader": Changing(case, True)}, "re-iterable"),
        ({"noise_cov": None}, "give noise_cov"),
        ({"noise_cov": torch.ones(3)}, "shape"),
        ({"noise_cov": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
        ({"prior_precision": 0.0}, "must be positive"),
        ({"prior_precision": {"nothing": 1.0}}, "names"),
        ({"fisher": "true"}, "true"),
        ({"layers": "nothing"}, "names nothing"),
    ]
    for options, message in refusals:
        with pytest.raises(ValueError, match=message):
            fit(case, **options)
    with pytest.raises(ValueError, match="unknown likelihood"):
        fit_posterior(case.model, case.loader(), likelihood="poisson")
    with pytest.raises(ValueError, match="leave it None"):
        fit_posterior(classifier().model, classifier().loader(), "categorical", noise_cov=1.0)
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        fit(case).precision_dense("nothing")
    bad = Case(case.model, case.x.clone(), case.y, 1.0)
    bad.x[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        fit(bad, "diagonal")
    big = Case(nn.Linear(200, 101).double(), normal(3, 200), normal(3, 101), 1.0)
    with pytest.raises(ValueError, match="another structure"):
        fit(big, "full")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(CASES))
def test_a_gpu_gives_the_same_posterior(name):
    case = CASES[name]()
    on_cpu = fit(case)
    on_gpu = fit(case, device="cuda")
    expected = on_cpu.functional_covariance(case.x)
    x = map_tensors(case.x, lambda t: t.cuda())
    for posterior in (on_gpu, on_cpu.to("cuda")):
        prediction = posterior.predict(x)
        found = posterior.functional_covariance(x)
        assert found.is_cuda
        assert all(t.is_cuda for t in vars(prediction).values())
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-9)
    assert maximize_marginal_likelihood(on_gpu).log_marginal_likelihood() == pytest.approx(
        maximize_marginal_likelihood(on_cpu).log_marginal_likelihood(), rel=1e-6
    )
    draw = next(on_gpu.sample(1, torch.Generator().manual_seed(0)))
    assert all(t.is_cuda for t in draw.values())
