"""What all methods share: the given model untouched, seeds, checkpoints, files, clear errors."""

import copy
import math

import pytest
import torch
from torch import nn

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior.predictive import ClassPrediction, GaussianPrediction
from bayes_vio.training.checkpoint import CheckpointError
from bayes_vio.variational import (
    VariationalError,
    VariationalPosterior,
    fit_mean_field,
    sampling,
)
from tests.cases import CASES, Case, classifier, mlp, two_heads
from tests.motion_cases import TINY, Samples
from tests.variational_cases import FITS, fit


def assert_equal(ours, theirs):
    for field in vars(ours):
        assert torch.equal(getattr(ours, field), getattr(theirs, field)), field


def assert_sound(prediction, n, n_outputs):
    if isinstance(prediction, ClassPrediction):
        assert prediction.probs.shape == (n, n_outputs)
        torch.testing.assert_close(prediction.probs.sum(1), torch.ones(n, dtype=torch.float64))
        assert bool((prediction.mutual_information >= 0).all())
        assert bool((prediction.mutual_information <= prediction.entropy + 1e-12).all())
    else:
        assert isinstance(prediction, GaussianPrediction)
        for cov in (prediction.epistemic_cov, prediction.noise_cov):
            assert cov.shape == (n, n_outputs, n_outputs)
            assert torch.equal(cov, cov.mT)
        assert bool((torch.linalg.eigvalsh(prediction.epistemic_cov) > -1e-9).all())
        torch.linalg.cholesky(prediction.cov)


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("name", CASES)
def test_every_method_fits_every_network(method, name, tmp_path):
    case = CASES[name]()
    posterior = fit(method, case)
    prediction = posterior.predict(case.x, n_samples=5 if method != "ensemble" else None)
    assert_sound(prediction, len(case.y), posterior.report.n_outputs)
    posterior.save(tmp_path / "p")
    loaded = VariationalPosterior.load(tmp_path / "p", case.model)
    again = loaded.predict(case.x, n_samples=5 if method != "ensemble" else None)
    assert_equal(again, prediction)
    assert loaded.report == posterior.report
    assert loaded.nbytes == posterior.nbytes
    named = {p for u in posterior.report.deterministic for p in u.parameters}
    named |= {p for layer in posterior.report.stochastic for p in layer.parameters}
    if method.startswith("mean_field"):
        everything = {n for n, _ in case.model.named_parameters()}
        assert named == everything


@pytest.mark.parametrize("method", FITS)
def test_the_given_model_is_untouched(method):
    case = mlp()
    case.model.train()
    case.model[0].weight.requires_grad_(False)
    before = copy.deepcopy(case.model.state_dict())
    fit(method, case)
    assert case.model.training
    assert [p.requires_grad for p in case.model.parameters()][:2] == [False, True]
    assert all(torch.equal(t, before[n]) for n, t in case.model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in case.model.modules())


@pytest.mark.parametrize("method", FITS)
def test_the_same_seed_gives_the_same_bits(method):
    case = classifier()
    torch.manual_seed(1)
    first = fit(method, case, seed=3)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = fit(method, case, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_equal(first.predict(case.x), second.predict(case.x))
    other = fit(method, case, seed=4)
    assert not torch.equal(other.predict(case.x).probs, first.predict(case.x).probs)
    draws = [first.predictive_samples(case.x, 3, torch.Generator().manual_seed(s)) for s in (0, 0)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("method", FITS)
def test_a_killed_fit_goes_on_to_the_same_bits(method, tmp_path):
    case = two_heads()

    def kill(record, posterior):
        posterior()  # looking at it changes nothing
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(method, case, 4, checkpoint=tmp_path / "c", on_epoch=kill)
    resumed = fit(method, case, 4, checkpoint=tmp_path / "c")
    whole = fit(method, case, 4)
    assert_equal(resumed.predict(case.x), whole.predict(case.x))
    assert [len(h) for h in resumed.report.histories] == [len(h) for h in whole.report.histories]
    with pytest.raises(CheckpointError, match="another model, data or settings"):
        fit(method, case, 5, checkpoint=tmp_path / "c")


@pytest.mark.parametrize("method", FITS)
def test_training_lowers_the_loss(method):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=generator)
    labels = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    case = Case(classifier().model.float(), x, labels, None, "categorical")
    loader = case.loader(20)
    posterior = fit(method, case, 30, loader=loader, learning_rate=2e-2)
    for history in posterior.report.histories:
        assert history[-1].nll < 0.7 * history[0].nll
    accuracy = (posterior.predict(x).probs.argmax(1) == labels).double().mean()
    assert float(accuracy) > 0.8


@pytest.mark.parametrize("method", FITS)
def test_the_motion_model_keeps_its_own_noise(method):
    torch.manual_seed(0)
    model = MotionModel(TINY)
    samples = Samples.random(12)
    posterior = FITS[method](model, samples.loader(6), "gaussian", 2)
    prediction = posterior.predict(samples.x, n_samples=8)
    assert_sound(prediction, 12, 6)
    assert bool((prediction.epistemic_cov.diagonal(dim1=1, dim2=2) > 0).all())
    reasons = {u.name: u.reason for u in posterior.report.deterministic}
    if method != "ensemble":
        assert reasons["noise_head"] == "the mean does not depend on it"


def test_chunks_of_draws_and_data_change_nothing(monkeypatch):
    case = classifier()
    posterior = fit("mean_field", case)
    whole = posterior.predict(case.x)
    monkeypatch.setitem(sampling._NUMBERS_AT_ONCE, "cpu", 130)
    parts = posterior.predict(case.x)
    for field in vars(whole):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field))


@pytest.mark.parametrize("value", [1e30, -1e30, 1e-40, 0.0])
@pytest.mark.parametrize("method", FITS)
def test_extreme_inputs_have_finite_predictions(method, value):
    case = classifier()
    prediction = fit(method, case).predict(torch.full((2, 3), value, dtype=torch.float64))
    for field in vars(prediction):
        assert bool(torch.isfinite(getattr(prediction, field)).all())


def loaders(case: Case):
    x, y = case.x.clone(), case.y.clone()
    with_nan = x.clone()
    with_nan[-1, 0] = math.nan
    return {
        "class indices|reach from": [(x, y + 1)],
        "reach from -1": [(x, y - 1)],
        "int64": [(x, y.double())],
        "hold NaN or infinity": [(x[:4], y[:4]), (with_nan[4:], y[4:])],
        "the loader is empty": [],
        "is empty": [(x[:0], y[:0])],
        "11 inputs and 10 targets": [(x, y[:-1])],
        "iterator": iter([(x, y)]),
    }


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("message", loaders(classifier()))
def test_bad_data_is_one_clear_error(method, message):
    case = classifier()
    with pytest.raises(ValueError, match=message):
        fit(method, case, loader=loaders(case)[message])


def test_gaussian_targets_are_checked():
    case = mlp()
    with pytest.raises(ValueError, match="targets of batch 0 have shape"):
        fit("mean_field", case, loader=[(case.x, case.y[:, :1])])
    bad = case.y.clone()
    bad[0, 0] = math.inf
    with pytest.raises(ValueError, match="targets of batch 0 hold NaN"):
        fit("mean_field", case, loader=[(case.x, bad)])
    with pytest.raises(ValueError, match="returns no noise_cholesky"):
        fit_mean_field(case.model, case.loader())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "must not be negative"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"prior_precision": 0.0}, "prior_precision"),
        ({"kl_warmup": 1.5}, "share of the epochs"),
        ({"layers": "nothing"}, "names no layer"),
        ({"reparametrisation": "global"}, "global"),
    ],
)
def test_bad_settings_are_one_clear_error(settings, message):
    case = classifier()
    with pytest.raises(ValueError, match=message):
        fit_mean_field(case.model, case.loader(), "categorical", **settings)


def test_a_loss_that_explodes_is_told():
    case = mlp()
    with pytest.raises(ValueError, match="is not finite"):
        fit("mean_field", case, 20, learning_rate=1e300)


def test_bad_inputs_to_predictions_are_refused():
    posterior = fit("mean_field", classifier())
    with pytest.raises(ValueError, match="NaN"):
        posterior.predict(torch.full((1, 3), math.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="is empty"):
        posterior.predict(torch.zeros(0, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 1"):
        posterior.predictive_samples(torch.zeros(1, 3, dtype=torch.float64), 0)


def test_files_of_other_architectures_or_with_damage_are_refused(tmp_path):
    case, path = classifier(), tmp_path / "p"
    fit("mean_field", case).save(path)
    relu = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    for other in (relu, copy.deepcopy(case.model).float(), mlp().model):
        with pytest.raises(VariationalError, match="another architecture"):
            VariationalPosterior.load(path, other)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(VariationalError, match="damaged"):
        VariationalPosterior.load(path, case.model)
    path.write_bytes(content[:100])
    with pytest.raises(VariationalError, match="truncated"):
        VariationalPosterior.load(path, case.model)
    with pytest.raises(VariationalError, match="is no file"):
        VariationalPosterior.load(tmp_path / "nothing", case.model)


def test_layers_can_be_chosen():
    case = CASES["image_and_vector"]()
    posterior = fit("mean_field", case, layers="last")
    assert [layer.name for layer in posterior.report.stochastic] == ["head"]
    reasons = {u.name: u.reason for u in posterior.report.deterministic}
    assert "not among layers" in reasons["conv"]
    posterior = fit("sparse_dropout", case, layers=["conv", "vec*"])
    assert {layer.name for layer in posterior.report.stochastic} == {"conv", "vector"}


def test_samples_run_in_the_network():
    case = two_heads()
    posterior = fit("mean_field", case)
    draws = posterior.sample(4, torch.Generator().manual_seed(0))
    means = [torch.func.functional_call(posterior.model, d, (case.x,))[0] for d in draws]
    ours = posterior.predictive_samples(case.x, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.stack(means).detach(), ours)


def test_inside_inference_mode():
    case = classifier()
    with torch.inference_mode():
        x = map_tensors(case.x, lambda t: t.clone())
        posterior = fit("mean_field", case, loader=[(x, case.y)])
        assert_sound(posterior.predict(x), 11, 4)
