"""What is covered, what is not and why; the layer matrices reproduce what modules compute."""

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.curvature.coverage import cover
from bayes_vio.curvature.layers import as_layer
from bayes_vio.curvature.recorder import Recorder, frozen_copy, recording_gradients
from bayes_vio.posterior import fit_posterior
from tests.cases import (
    CASES,
    attention,
    encoder,
    grouped,
    heads,
    normal,
    norms,
    randomise,
    shared,
    two_heads,
)


def reasons(model: nn.Module, x: Tensor, layers=None) -> dict[str, str]:
    coverage = cover(frozen_copy(model), x, layers)
    return {u.name: u.reason for u in coverage.uncovered}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Linear(3, 4), normal(2, 3)),
        (nn.Linear(3, 4, bias=False), normal(2, 5, 2, 3)),
        (nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), normal(2, 3, 9)),
        (nn.Conv1d(3, 4, 4, padding="same"), normal(2, 3, 9)),
        (nn.Conv2d(3, 4, (2, 3), (2, 1), (1, 2), (1, 2)), normal(2, 3, 7, 8)),
        (nn.Conv2d(3, 4, (2, 4), padding="same", bias=False), normal(2, 3, 7, 8)),
        (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), normal(2, 3, 7, 8)),
        (nn.Conv2d(3, 4, 3, padding="valid"), normal(2, 3, 7, 8)),
        (nn.LayerNorm((3, 4)), normal(2, 5, 3, 4)),
        (nn.LayerNorm(4, bias=False), normal(2, 4)),
        (nn.GroupNorm(2, 4), normal(2, 4, 3, 2)),
        (nn.BatchNorm1d(4), normal(2, 4)),
        (nn.BatchNorm2d(4), normal(2, 4, 3, 2)),
        (nn.RMSNorm(4), normal(2, 5, 4)),
        (nn.InstanceNorm1d(4, affine=True), normal(2, 4, 3)),
        (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), normal(2, 4, 3, 2)),
        (nn.Conv1d(36, 72, 2, groups=36), normal(2, 36, 3)),
        (nn.Conv2d(66, 33, (1, 2), padding=1, groups=33, bias=False), normal(2, 66, 2, 3)),
    ],
)
def test_a_layer_reproduces_its_module(module, x):
    """W times the features, position by position, is the module's output."""
    module = randomise(module)
    layer = as_layer("layer", module)
    features, W = layer.features([x]), layer.matrix()
    output = module(x)
    expected = layer.gradients([output[None]])[:, 0]
    found = {
        "norm": lambda: features * W[:, 0] + W[:, 1:].sum(1),
        "grouped": lambda: (features * W).sum(-1),
    }.get(layer.kind, lambda: features @ W.mT)()
    torch.testing.assert_close(found, expected)
    parts = layer.split(W)
    for name, parameter in module.named_parameters(prefix="layer"):
        assert torch.equal(parts[name], parameter)


@pytest.mark.parametrize("name", list(CASES))
def test_every_parameter_is_covered_or_named(name):
    case = CASES[name]()
    report = fit_posterior(
        case.model, case.loader(), case.likelihood, "diagonal", noise_cov=case.noise_cov
    ).report
    named = [*report.covered, *report.uncovered]
    pieces = [p for layer in named for p in layer.parameters]
    assert len(set(pieces)) == len(pieces)
    parameters = dict(case.model.named_parameters())
    assert {p.partition("[")[0] for p in pieces} == set(parameters)
    n_covered = sum(c.d_out * c.d_in for c in report.covered)
    n_uncovered = sum(u.n_parameters for u in report.uncovered)
    n_padding = sum(
        m.embedding_dim
        for m in case.model.modules()
        if isinstance(m, nn.Embedding) and m.padding_idx is not None
    )
    n_all = sum(p.numel() for p in parameters.values())
    assert n_covered + n_uncovered + n_padding == n_all


def test_the_noise_head_stays_at_the_map():
    case = two_heads()
    found = reasons(case.model, case.x)
    assert found == {"noise": "the mean does not depend on it"}


def test_a_bare_parameter_is_listed():
    case = attention()
    found = reasons(case.model, case.x)
    assert list(found) == [""]
    assert "Attention" in found[""]


class Renamed(nn.MultiheadAttention):
    """A subclass, which may compute something else."""


class Awkward(nn.Module):
    """Modules that are used in every way that is not covered."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Linear(4, 4)
        self.partner = nn.Linear(4, 4)
        self.partner.weight = self.tied.weight
        self.unused = nn.Linear(4, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.folded = nn.Linear(2, 2)
        self.place = nn.Embedding(3, 4)
        self.bounded = nn.Embedding(3, 4, max_norm=1.0)
        self.constant = nn.Linear(4, 4)
        self.attention = Renamed(4, 2, batch_first=True)
        self.biased = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)
        self.packed = nn.LSTM(4, 4, batch_first=True)
        self.turned = nn.Conv1d(1, 1, 1)
        self.upward = nn.ConvTranspose1d(4, 4, 1)
        self.good = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.normed(self.partner(self.tied(x)))
        h = self.folded(h.reshape(-1, 2)).reshape(len(x), 4)
        h = h + self.place(torch.arange(1)) + self.bounded(torch.zeros(len(x)).long())
        with torch.no_grad():
            constant = self.constant(x)
        h = (h + constant)[:, None]
        h = h + self.attention(h, h, h)[0]
        h = self.biased(h, h, h)[0]
        packed = nn.utils.rnn.pack_padded_sequence(h, [1] * len(h), batch_first=True)
        h = self.packed(packed)[1][0][0]
        h = self.turned(h.mT[:, None])[:, 0].mT
        return self.good(self.upward(h[..., None])[..., 0])


def test_every_awkward_use_has_its_reason():
    model = randomise(Awkward())
    found = reasons(model, normal(6, 4))
    expected = {
        "tied": "tied to those of partner",
        "partner": "tied to those of tied",
        "unused": "does not call it",
        "folded": "no axis of its input is the batch",
        "place": "no axis of its input is the batch",
        "bounded": "max_norm",
        "constant": "does not depend",
        "attention": "in_proj_weight and in_proj_bias of a Renamed",
        "attention.out_proj": "does not call it",
        "biased": "bias_k and bias_v of a MultiheadAttention",
        "packed.ih_l0": "packed",
        "packed.hh_l0": "packed",
        "turned": "no axis of its input is the batch",
        "upward": "ConvTranspose1d",
    }
    for name, part in expected.items():
        assert part in found.pop(name)
    assert all("normed" in name for name in found)
    assert found["normed"]
    coverage = cover(frozen_copy(model), normal(6, 4))
    names = [layer.name for layer in coverage.layers]
    assert names == [f"biased.{part}" for part in ("q", "k", "v", "out_proj")] + ["good"]


def test_parts_say_which_rows_of_which_parameter_they_are():
    case = heads()
    coverage = cover(frozen_copy(case.model), case.x)
    found = {layer.name: layer.parameter_names for layer in coverage.layers}
    assert found["own.k"] == ("own.in_proj_weight[4:8]", "own.in_proj_bias[4:8]")
    assert found["cross.v"] == ("cross.v_proj_weight",)
    case = grouped()
    layers = {layer.name: layer for layer in cover(frozen_copy(case.model), case.x).layers}
    assert layers["pairs.group1"].parameter_names == ("pairs.weight[3:6]", "pairs.bias[3:6]")
    assert layers["many"].kind == "grouped"
    (weight, bias) = layers["pairs.group1"].split(layers["pairs.group1"].matrix()).values()
    assert torch.equal(weight, case.model.pairs.weight[3:])
    assert torch.equal(bias, case.model.pairs.bias[3:])


def test_a_matrix_is_written_into_its_rows_alone():
    case = grouped()
    layers = {layer.name: layer for layer in cover(frozen_copy(case.model), case.x).layers}
    parameters = dict(case.model.named_parameters())
    draw = dict(parameters)
    layer = layers["pairs.group0"]
    layer.write(2 * layer.matrix(), draw)
    changed = draw["pairs.weight"]
    assert torch.equal(changed[:3], 2 * parameters["pairs.weight"][:3])
    assert torch.equal(changed[3:], parameters["pairs.weight"][3:])
    assert torch.equal(parameters["pairs.weight"], case.model.pairs.weight)


def test_the_batch_may_be_another_axis():
    case = encoder()
    axes = {c.name: c.batch_axis for c in cover(frozen_copy(case.model), case.x).layers}
    assert axes["embed"] == axes["encoder.layers.0.self_attn.q"] == 0
    assert axes["encoder.layers.0.linear1"] == axes["encoder.layers.0.norm1"] == axes["head"] == 1


def test_all_uses_of_a_module_are_recorded():
    case = shared()
    coverage = cover(frozen_copy(case.model), case.x)
    assert [c.name for c in coverage.layers] == ["conv", "norm", "step", "head"]
    assert not coverage.uncovered
    recorder = Recorder(frozen_copy(case.model), coverage.layers)
    layers = cover(recorder.model, case.x).layers
    with recording_gradients():
        recording = Recorder(recorder.model, layers).forward(case.x)
    uses = {name: len(inputs) for name, inputs in recording.inputs.items()}
    assert uses == {"conv": 2, "norm": 2, "step": 3, "head": 1}


def test_tensors_overwritten_in_place_are_copied():
    case = norms()
    coverage = cover(frozen_copy(case.model), case.x)
    assert coverage.copied == ("batch",)


def test_layers_are_chosen_by_name_pattern_or_place():
    case = attention()
    frozen = frozen_copy(case.model)

    def chosen(layers) -> list[str]:
        return [c.name for c in cover(frozen, case.x, layers).layers]

    assert chosen(None) == ["embed", "norm", "qkv", "out", "head"]
    assert chosen("last") == ["head"]
    assert chosen("*e*") == ["embed", "head"]
    assert chosen(["head", "qk?"]) == ["qkv", "head"]
    assert reasons(case.model, case.x, "last")["qkv"] == "not among layers='last'"


@pytest.mark.parametrize("layers", ["nothing", ["head", "h2"]])
def test_a_pattern_without_a_match_is_refused(layers):
    case = attention()
    with pytest.raises(ValueError, match="names nothing that can be covered"):
        cover(frozen_copy(case.model), case.x, layers)


def test_asking_for_a_layer_that_cannot_be_covered_says_why():
    case = two_heads()
    with pytest.raises(ValueError, match="the mean does not depend on it"):
        cover(frozen_copy(case.model), case.x, "noise")


def test_a_model_without_a_layer_is_refused():
    model = nn.Sequential(nn.PReLU()).double()
    with pytest.raises(ValueError, match="no layer can be covered"):
        cover(frozen_copy(model), normal(4, 3))


def test_an_input_of_another_dtype_is_refused_by_name():
    case = two_heads()
    with pytest.raises(ValueError, match=r"input is torch.float32.*parameters are torch.float64"):
        cover(frozen_copy(case.model), case.x.float())


def test_an_embedding_leaves_its_padding_alone():
    layer = as_layer("e", randomise(nn.Embedding(5, 3, padding_idx=2)))
    assert layer.shape == (4, 3)
    assert layer.parameter_names == ("e.weight[0:2]", "e.weight[3:5]")
    parameters = {"e.weight": layer.module.weight}
    layer.write(torch.zeros(4, 3).double(), parameters)
    assert torch.equal(parameters["e.weight"][2], layer.module.weight[2])
    assert not parameters["e.weight"][[0, 1, 3, 4]].any()
    x, g = torch.tensor([[0, 2, 3], [4, 4, 2]]), normal(2, 2, 3, 3)
    features, gradients = layer.features([x]), layer.gradients([g])
    J = layer.jacobian(features, gradients)
    torch.testing.assert_close(J[0, :, 0], g[:, 0, 0])
    torch.testing.assert_close(J[0, :, 2], g[:, 0, 2])
    torch.testing.assert_close(J[1, :, 3], g[:, 1, 0] + g[:, 1, 1])
    assert not J[0, :, [1, 3]].any()
    assert not J[1, :, :3].any()
    total = layer.zeros(4, 3)
    layer.add_squares(total, features, gradients)
    torch.testing.assert_close(total, J.square().sum((0, 1)))
    blocks = list(layer.jacobian_blocks(features, gradients, 1))
    assert [rows.tolist() for rows, _ in blocks] == [[0], [2], [3]]
    for rows, block in blocks:
        torch.testing.assert_close(block, J[:, :, rows])
    nothing = torch.full_like(x, 2)
    ((rows, block),) = layer.jacobian_blocks(layer.features([nothing]), gradients, 1)
    assert block.shape == (2, 2, 0, 3)
    assert not len(rows)
