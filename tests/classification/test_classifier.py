"""One API over every method: what each must hold, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayes_vio.classification import BayesianClassifier, Method, TrainingSettings
from bayes_vio.classification.networks import mlp
from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.hyperparameters import maximize_marginal_likelihood, mean_nll
from tests.classification.blobs import (
    LAPLACE,
    METHODS,
    OPTIONS,
    POST_HOC,
    VARIATIONAL,
    blobs,
    fitted,
    trained,
)

TEST = blobs(60, 2)
QUICK = TrainingSettings(epochs=3, batch_size=16)


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_probabilities(method):
    p = fitted(method).predict(TEST[0])
    assert p.probs.shape == (60, 3)
    torch.testing.assert_close(p.probs.sum(1), torch.ones(60).double())
    assert float(p.probs.min()) >= 0
    assert float(p.entropy.max()) <= np.log(3) + 1e-9
    assert bool((p.mutual_information <= p.entropy + 1e-9).all())
    assert fitted(method).evaluate(*TEST).accuracy > 0.75


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e6, 1e18, 1e37])
def test_extreme_inputs_give_finite_probabilities(method, scale):
    x = scale * torch.tensor([[1.0, -1, 1, 0], [0, 0, -3, 2], [1, 1, 1, 1]])
    p = fitted(method).predict(x)
    for part in (p.probs, p.entropy, p.mutual_information, p.logits_mean, p.logits_cov):
        assert bool(torch.isfinite(part).all())
    torch.testing.assert_close(p.probs.sum(1), torch.ones(3).double())


def test_a_linear_network_s_overflow_in_float32_is_predicted_in_float64():
    x, y = blobs(60, 0)
    clf = BayesianClassifier(mlp(4, 3), "full", prior_precision=1.0).fit((x, y))
    far = torch.tensor([[1e30, 1e30, -1e30, 1e30]])
    p = clf.predict(far)
    # J P^-1 J^T of a linear network, in float64 by hand.
    a = torch.cat([far, torch.ones(1, 1)], 1).double()
    J = torch.kron(torch.eye(3).double(), a)
    cov = J @ torch.linalg.inv(clf.posterior.precision_dense("0")) @ J.mT
    torch.testing.assert_close(p.logits_cov[0], cov, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("method", POST_HOC)
def test_the_given_model_stays_untouched(method):
    model = copy.deepcopy(trained()).train()
    next(model.parameters()).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    clf = BayesianClassifier(model, method, True, training=QUICK, **OPTIONS.get(method, {}))
    clf.fit(blobs(30, 0), blobs(15, 1)).predict(TEST[0])
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    moved = clf.network.state_dict()
    assert torch.equal(moved["0.weight"], before["0.weight"])
    assert not torch.equal(moved["2.weight"], before["2.weight"])


@pytest.mark.parametrize("method", ["map", "inf", "ella", *VARIATIONAL])
def test_the_same_seed_gives_the_same_result(method):
    def probs(seed: int) -> torch.Tensor:
        options = OPTIONS.get(method, {})
        clf = BayesianClassifier(
            mlp(4, 3, (5,)), method, True, seed=seed, training=QUICK, **options
        )
        return clf.fit(blobs(60, 0)).predict_proba(TEST[0])

    state = torch.get_rng_state()
    assert torch.equal(probs(4), probs(4))
    assert not torch.equal(probs(4), probs(5))
    assert torch.equal(torch.get_rng_state(), state)


def test_arrays_tensors_loaders_and_structures_are_the_same_data():
    x, y = blobs(40, 0)
    loader = DataLoader(TensorDataset(x, y), batch_size=256)
    sources = [(x, y), (x.numpy(), y.numpy()), (x.tolist(), y.tolist()), loader, [(x, y)]]
    predictions = [
        BayesianClassifier(trained(), "inf").fit(source).predict_proba(TEST[0])
        for source in sources
    ]
    for other in predictions[1:]:
        torch.testing.assert_close(other, predictions[0], rtol=1e-6, atol=1e-9)

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(trained())

        def forward(self, pair: dict) -> torch.Tensor:
            return self.net(torch.cat([pair["a"], pair["b"]], 1))

    def halves(t: torch.Tensor) -> dict:
        return {"a": t[:, :2], "b": t[:, 2:]}

    pairs = BayesianClassifier(Pairs(), "inf").fit((halves(x), y)).predict_proba(halves(TEST[0]))
    torch.testing.assert_close(pairs, predictions[0])


def test_predictions_do_not_depend_on_the_batch_size():
    whole = fitted("inf").predict(TEST[0])
    clf = BayesianClassifier(trained(), "inf", batch_size=7, **OPTIONS["inf"])
    parts = clf.fit(blobs(90, 0), blobs(45, 1)).predict(TEST[0])
    torch.testing.assert_close(parts.probs, whole.probs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["diagonal", "kfac", "full"])
def test_it_predicts_what_the_posterior_predicts(method):
    loader = [blobs(90, 0)]
    posterior = fit_posterior(trained(), loader, "categorical", method, prior_precision=2.5)
    clf = BayesianClassifier(trained(), method, prior_precision=2.5).fit(loader)
    ours, theirs = clf.predict(TEST[0]), posterior.predict(TEST[0])
    assert torch.equal(ours.probs, theirs.probs)
    assert torch.equal(ours.logits_cov, theirs.logits_cov)


def test_the_last_layer_s_covariance_is_that_of_logistic_regression():
    x, y = blobs(90, 0)
    clf = BayesianClassifier(trained(), "last_layer", prior_precision=0.5).fit((x, y))
    features = trained()[:2](x).detach().double()
    a = torch.cat([features, torch.ones(90, 1)], 1)
    p = (a.float() @ _affine(trained()[2]).float().mT).softmax(1).double().detach()
    H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    P = torch.einsum("nij,nk,nl->ikjl", H, a, a).reshape(24, 24) + 0.5 * torch.eye(24)
    torch.testing.assert_close(clf.posterior.precision_dense("2"), P, rtol=1e-4, atol=1e-4)


def _affine(layer: nn.Linear) -> torch.Tensor:
    return torch.cat([layer.weight, layer.bias[:, None]], 1)


def test_the_prior_precision_is_chosen_as_asked():
    train, validation = blobs(90, 0), blobs(45, 1)
    evidence = BayesianClassifier(trained(), "kfac").fit(train).posterior
    asked = BayesianClassifier(trained(), "kfac", prior_precision="marginal_likelihood")
    assert asked.fit(train, validation).posterior.prior_precision == evidence.prior_precision
    best = maximize_marginal_likelihood(evidence).log_marginal_likelihood()
    assert evidence.log_marginal_likelihood() == pytest.approx(best)
    by_nll = BayesianClassifier(trained(), "kfac").fit(train, validation).posterior
    nlls = mean_nll([by_nll, evidence], [validation])
    assert nlls[0] <= nlls[1] + 1e-3
    fixed = BayesianClassifier(trained(), "kfac", prior_precision=3).fit(train).posterior
    assert set(fixed.prior_precision.values()) == {3.0}
    with pytest.raises(ValueError, match="needs validation"):
        BayesianClassifier(trained(), "kfac", prior_precision="validation_nll").fit(train)


def test_temperature_is_the_minimum_of_the_validation_nll():
    clf, validation = fitted("temperature"), blobs(45, 1)
    logits = trained()(validation[0]).detach().double()
    best = clf.fitted.temperature
    grid = best * torch.linspace(0.7, 1.4, 29).double()
    nlls = [float(nn.functional.cross_entropy(logits / t, validation[1])) for t in grid]
    assert np.argmin(nlls) in (11, 12, 13)
    p = (trained()(TEST[0]).detach().double() / best).softmax(1)
    torch.testing.assert_close(clf.predict_proba(TEST[0]), p)
    with pytest.raises(ValueError, match="needs validation"):
        BayesianClassifier(trained(), "temperature").fit(blobs(30, 0))


def test_training_finds_the_maximum_a_posteriori():
    x, y = blobs(60, 0)
    settings = TrainingSettings(epochs=400, batch_size=60, learning_rate=0.05, prior_precision=4.0)
    clf = BayesianClassifier(mlp(4, 3), "map", True, training=settings).fit((x, y))
    W = _affine(clf.network[0]).detach().double().requires_grad_()
    a = torch.cat([x, torch.ones(60, 1)], 1).double()
    loss = nn.functional.cross_entropy(a @ W.mT, y, reduction="sum") + 2.0 * W.square().sum()
    (gradient,) = torch.autograd.grad(loss, W)
    assert float(gradient.abs().max()) < 0.02


def test_training_keeps_the_best_epoch_of_validation():
    told: list = []
    overfit = TrainingSettings(epochs=150, batch_size=8, learning_rate=0.05, prior_precision=1e-6)
    train, validation = blobs(15, 0, 2.5), blobs(60, 1, 2.5)

    def nll(*held_out) -> float:
        clf = BayesianClassifier(
            mlp(4, 3, (20,)), "map", True, training=overfit, on_progress=lambda *a: told.append(a)
        )
        return clf.fit(train, *held_out).evaluate(*validation).nll

    assert nll(validation) < nll() - 0.1
    assert told[:2] == [("training", 1, 150), ("training", 2, 150)]


def test_seeded_loaders_that_shuffle_give_the_same_weights():
    loader = DataLoader(TensorDataset(*blobs(60, 0)), batch_size=16, shuffle=True)
    models = [
        BayesianClassifier(mlp(4, 3), "map", True, training=QUICK).fit(loader).network
        for _ in range(2)
    ]
    assert torch.equal(models[0][0].weight, models[1][0].weight)


@pytest.mark.parametrize("method", ["full", "diagonal", "inf", "efb", "subnetwork", "last_layer"])
def test_an_update_moves_towards_the_new_data(method):
    clf = copy.copy(fitted(method))
    x, y = blobs(60, 3)
    new = (x, (y + 1) % 3)
    before = clf.evaluate(*new).nll
    clf.update(new)
    assert clf.evaluate(*new).nll < before
    assert clf.posterior.n_data == 150
    one_class = (x[y == 0], y[y == 0])
    assert clf.update(one_class).posterior.n_data == 170


@pytest.mark.parametrize("method", ["map", "temperature", "kfac", "ella", *VARIATIONAL])
def test_methods_without_an_update_refuse_by_name(method):
    with pytest.raises(ValueError, match=f"'{method}' cannot be updated"):
        fitted(method).update(blobs(9, 3))


@given(
    x=st.lists(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=15, deadline=None)
def test_any_finite_input_has_probabilities(x):
    for method in ("map", "inf", "last_layer", "ensemble"):
        p = fitted(method).predict(x)
        assert bool(torch.isfinite(p.probs).all())
        torch.testing.assert_close(p.probs.sum(1), torch.ones(len(x)).double())


X, Y = blobs(12, 0)
REFUSED_DATA = {
    "below 0": (((X, Y - 1), None), "labels run from -1 to 1"),
    "too high": (((X, Y + 1), None), "from 1 to 3, but the network has 3"),
    "one class": (((X, 0 * Y), None), "all 12 training labels are 0"),
    "validation labels": (((X, Y), (X, Y + 5)), "validation labels run from 5"),
    "NaN": (((X.masked_fill(X > 1, torch.nan), Y), None), "NaN or infinity"),
    "infinity": (((np.full((12, 4), np.inf), Y.numpy()), None), "NaN or infinity"),
    "empty": (((X[:0], Y[:0]), None), "empty"),
    "empty loader": (([], None), "training data are empty"),
    "empty validation": (((X, Y), []), "validation data are empty"),
    "lengths": (((X, Y[:5]), None), "12 inputs but 5 labels"),
    "shape": (((X[:, :3], Y), None), r"cannot take inputs \[2, 3\]"),
    "one-hot": (((X, nn.functional.one_hot(Y)), None), r"class indices \[n\]"),
    "float labels": (((X, Y.double()), None), "must be integers"),
    "names": (((X.numpy(), np.array(["a", "b"] * 6)), None), "must be integers"),
    "iterator": ((iter([(X, Y)]), None), "is an iterator"),
    "number": ((3, None), "a loader"),
    "no pairs": (([X], None), r"must yield \(x, y\)"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED_DATA.values(), ids=REFUSED_DATA)
@pytest.mark.parametrize("method", ["map", "inf"])
def test_bad_data_are_refused_in_one_sentence(method, data, message):
    with pytest.raises(ValueError, match=message):
        BayesianClassifier(trained(), method).fit(*data)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:0], "empty"),
        (X * torch.nan, "NaN"),
        (X[:, :2], r"cannot take inputs \[1, 2\]"),
        (X[0], "cannot take"),
        ("text", "an input holds a str"),
        (1e300 * np.ones((2, 4)), "NaN or infinity"),
    ],
)
def test_bad_inputs_are_refused_in_one_sentence(x, message):
    with pytest.raises(ValueError, match=message):
        fitted("inf").predict(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "'magic' is not available; these are: 'map'"),
        ({"method": "ensemble", "train": False}, "is a way to train"),
        ({"method": "map", "prior_precision": 1.0}, "takes no prior_precision"),
        ({"method": "kfac", "prior_precision": "guess"}, "'guess' is not available"),
        ({"method": "kfac", "link": "logit"}, "link 'logit'"),
        ({"method": "map", "rank": 3}, r"no setting \['rank'\]; it has: none"),
        ({"method": "last_layer", "layers": "0"}, r"no setting \['layers'\]"),
        ({"method": "inf", "batch_size": 0}, "at least 1"),
        ({"method": "inf", "device": "cuda:99"}, "is not there"),
        ({"method": "inf", "n_samples": 0}, "at least 1"),
    ],
)
def test_settings_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BayesianClassifier(trained(), **arguments)


def test_networks_that_give_no_logits_are_refused():
    with pytest.raises(ValueError, match="2 or more classes"):
        BayesianClassifier(mlp(4, 1), "map").fit((X, Y))
    with pytest.raises(ValueError, match="no parameters"):
        BayesianClassifier(nn.Flatten(), "map")
    with pytest.raises(ValueError, match="not fitted"):
        BayesianClassifier(trained(), "map").predict(X)
    frozen = copy.deepcopy(trained()).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing can be trained"):
        BayesianClassifier(frozen, "map", True).fit((X, Y))
    with pytest.raises(ValueError, match="no Laplace posterior"):
        _ = fitted("map").posterior
    with pytest.raises(ValueError, match="12 inputs but 3"):
        fitted("map").evaluate(X, Y[:3])
    assert len(LAPLACE) == sum(method.is_laplace for method in Method)


@pytest.mark.parametrize("link", ["monte_carlo", "probit"])
def test_links(link):
    clf = BayesianClassifier(trained(), "kfac", link=link, n_samples=20_000, prior_precision=1.0)
    p = clf.fit(blobs(90, 0)).predict(TEST[0])
    std = p.logits_cov.diagonal(dim1=1, dim2=2)
    probit = (p.logits_mean / (1 + np.pi / 8 * std).sqrt()).softmax(1)
    if link == "probit":
        torch.testing.assert_close(p.probs, probit)
    else:
        assert 1e-3 < float((p.probs - probit).abs().max()) < 0.1


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = (blobs(90, 0), blobs(45, 1))
    for method in POST_HOC:
        clf = BayesianClassifier(trained(), method, device="cuda", **OPTIONS.get(method, {}))
        p = clf.fit(*data).predict(TEST[0])
        assert p.probs.device.type == "cuda"
        torch.testing.assert_close(
            p.probs.cpu(), fitted(method).predict_proba(TEST[0]), atol=1e-3, rtol=1e-2
        )
        assert clf.to("cpu").predict(TEST[0]).probs.device.type == "cpu"
