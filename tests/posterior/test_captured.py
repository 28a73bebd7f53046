"""What a captured prediction needs holds on a CPU, too; the graph itself needs a CUDA device."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bayes_vio.curvature.inputs import map_tensors, tensors
from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.captured import (
    CapturedPredictive,
    copied,
    prediction_call,
)
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.posterior.tape import StaticInput
from tests.cases import CASES, classifier, encoder, mlp
from tests.motion_cases import Samples, random_motion, tiny_artifact

# Operations that wait for a GPU, or bring numbers to it from the host.
MEETS_HOST = (
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique",
    "_unique2", "unique_dim", "unique_consecutive", "lift_fresh", "lift_fresh_copy", "lift",
    "_linalg_check_errors", "randn", "rand", "randint", "normal", "bernoulli", "multinomial",
    "repeat_interleave", "from_numpy", "_pin_memory", "bincount", "_assert_async",
)  # fmt: skip

# Classes draw on the host, embeddings look up tokens, torch's encoder looks at its mask.
RECORDED = sorted(set(CASES) - {"classifier", "tokens", "encoder"})


class RefuseHost(TorchDispatchMode):
    """Raise where an operation would meet the host; count the others."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in MEETS_HOST or any(m is not None and m.dtype == torch.bool for m in masks):
            raise AssertionError(f"{function.name()} meets the host")
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "meets",
    [
        lambda t: t.sum().item(),
        lambda t: t[t > 0],
        lambda t: bool(t.any()),
        lambda t: torch.linalg.cholesky(t @ t.mT + torch.eye(3)),
        lambda t: t + torch.tensor([1.0, 2.0, 3.0]),
        lambda t: t.new_tensor([1.0, 2.0, 3.0]),
        lambda t: t + torch.randn(3),
        lambda t: t.unique(),
        torch.nonzero,
    ],
)
def test_the_check_itself_finds_what_meets_the_host(meets):
    with pytest.raises(AssertionError, match="meets the host"), RefuseHost():
        meets(torch.ones(3, 3))


@pytest.mark.parametrize("structure", ["inf", "diagonal", "kfac", "efb"])
@pytest.mark.parametrize("sketch", [None, FeatureSketch(101)])
def test_nothing_inside_a_prediction_meets_the_host(structure, sketch):
    model = tiny_artifact().model
    loader = Samples.random(24, 0).loader(8)
    call = prediction_call(fit_posterior(model, loader, structure=structure, rank=8), sketch)
    place = StaticInput(random_motion(1, seed=3)[0])
    call(place.value)
    place.fill(random_motion(1, seed=4)[0])
    with RefuseHost() as host:
        found = call(place.value)
    assert host.count > 100
    for got, expected in zip(tensors(found), tensors(call(place.value)), strict=True):
        assert torch.equal(got, expected)


def test_inputs_keep_their_place():
    first, second = (random_motion(2, seed=s)[0] for s in (3, 4))
    place = StaticInput(first)
    before = [t.data_ptr() for t in tensors(place.value)]
    assert not set(before) & {t.data_ptr() for t in tensors(first)}
    place.fill(second)
    assert [t.data_ptr() for t in tensors(place.value)] == before
    for own, new in zip(tensors(place.value), tensors(second), strict=True):
        assert torch.equal(own, new)
    with pytest.raises(ValueError, match="capture another one"):
        place.fill(random_motion(3, seed=4)[0])
    with pytest.raises(ValueError, match="capture another one"):
        place.fill(second.map(lambda t: t.double()))


def test_results_are_copies():
    output = tiny_artifact().predict(random_motion(2, seed=3)[0])
    mine = copied((output, output.mean))
    map_tensors(output, lambda t: t.zero_())
    assert all(bool(t.abs().sum() > 0) for t in tensors(mine))


def test_what_cannot_be_captured_is_refused():
    artifact, (x, _) = tiny_artifact(), random_motion(1, seed=3)
    elsewhere = replace(artifact.posterior, recorder=artifact.posterior.recorder.to("meta"))
    with pytest.raises(ValueError, match="on CPU and CUDA only"):
        CapturedPredictive(elsewhere, x)
    ella = fit_posterior(
        artifact.model, Samples.random(24, 0).loader(8), structure="ella", n_points=20
    )
    with pytest.raises(ValueError, match="'ella' differentiates forward"):
        CapturedPredictive(ella, x)
    case = encoder()
    with pytest.raises(ValueError, match=r"_local_scalar_dense cannot be recorded on a tape"):
        CapturedPredictive(fit_posterior(case.model, case.loader(), noise_cov=1.0), case.x)
    case = classifier()
    with pytest.raises(ValueError, match="draws its predictions on the host"):
        prediction_call(fit_posterior(case.model, case.loader(), case.likelihood))
    case = mlp()
    looked_up = fit_posterior(
        case.model, case.loader(), structure="subnetwork", noise_cov=case.noise_cov, subset_size=9
    )
    with pytest.raises(ValueError, match="looks up its weights"):
        prediction_call(looked_up)
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    data = [(torch.arange(8).reshape(4, 2) % 5, torch.ones(4, 2).double())]
    with pytest.raises(ValueError, match=r"fit without \['0'\] to capture"):
        prediction_call(fit_posterior(words, data, noise_cov=1.0))


@pytest.mark.parametrize("structure", ["inf", "diagonal", "kfac", "efb"])
@pytest.mark.parametrize("sketch", [None, FeatureSketch(101)])
def test_a_tape_gives_the_ordinary_prediction(structure, sketch):
    artifact, loader = tiny_artifact(), Samples.random(24, 0).loader(8)
    posterior = fit_posterior(artifact.model, loader, structure=structure, rank=8)
    inputs = [random_motion(1, seed=s)[0] for s in range(4)]
    inputs.append(replace(inputs[0], camera_valid=torch.zeros(1)))
    inputs.append(replace(inputs[1], imu_valid=torch.zeros_like(inputs[1].imu_valid)))
    captured = CapturedPredictive(posterior, inputs[0], sketch)
    call = prediction_call(posterior, sketch)
    found = [captured(x) for x in inputs]
    for got, x in zip(found, inputs, strict=True):
        for a, b in zip(tensors(got), tensors(call(x)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    with pytest.raises(ValueError, match="capture another one"):
        captured(random_motion(2, seed=3)[0])


@pytest.mark.parametrize("structure", ["inf", "full"])
@pytest.mark.parametrize("name", RECORDED)
def test_tapes_hold_every_kind_of_layer(name, structure):
    case = CASES[name]()
    posterior = fit_posterior(
        case.model, case.loader(), structure=structure, noise_cov=case.noise_cov, rank=6
    )
    captured = CapturedPredictive(posterior, case.x, FeatureSketch(31))
    other = map_tensors(case.x, lambda t: t.flip(0))
    call = prediction_call(posterior, FeatureSketch(31))
    for a, b in zip(tensors(captured(other)), tensors(call(other)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sketch", [None, FeatureSketch(101)])
def test_a_captured_prediction_is_the_ordinary_one(sketch):
    loader = Samples.random(24, 0).loader(8)
    posterior = fit_posterior(tiny_artifact().model, loader, rank=8, device="cuda")
    inputs = [random_motion(1, seed=s)[0].map(lambda t: t.cuda()) for s in range(4)]
    call = prediction_call(posterior, sketch)
    expected = [call(x) for x in inputs]
    captured = CapturedPredictive(posterior, inputs[0], sketch)
    found = [captured(x) for x in inputs]
    for got, truth in zip(found, expected, strict=True):
        for a, b in zip(tensors(got), tensors(truth), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="capture another one"):
        captured(random_motion(2, seed=3)[0].map(lambda t: t.cuda()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replaying_never_waits_for_the_host():
    loader = Samples.random(24, 0).loader(8)
    posterior = fit_posterior(tiny_artifact().model, loader, rank=8, device="cuda")
    x = random_motion(1, seed=3)[0].map(lambda t: t.cuda())
    captured = CapturedPredictive(posterior, x)
    captured(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        captured(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
