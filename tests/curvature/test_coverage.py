"""What is covered, what is not and why; the layer matrices reproduce what modules compute."""

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.curvature.coverage import cover
from bayes_vio.curvature.layers import as_layer
from bayes_vio.curvature.recorder import frozen_copy
from bayes_vio.posterior import fit_posterior
from tests.cases import CASES, attention, normal, norms, randomise, two_heads


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
    ],
)
def test_a_layer_reproduces_its_module(module, x):
    """W times the features, position by position, is the module's output."""
    module = randomise(module)
    layer = as_layer("layer", module)
    features, W = layer.features(x), layer.matrix()
    output = module(x)
    expected = layer.gradients(output[None])[:, 0]
    found = features @ W.mT if layer.is_kronecker else features * W[:, 0] + W[:, 1:].sum(1)
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
    covered = [p for c in report.covered for p in c.parameters]
    uncovered = [p for u in report.uncovered for p in u.parameters]
    assert sorted(covered + uncovered) == sorted(n for n, _ in case.model.named_parameters())


def test_the_noise_head_stays_at_the_map():
    case = two_heads()
    found = reasons(case.model, case.x)
    assert found == {"noise": "the mean does not depend on it"}


def test_a_bare_parameter_is_listed():
    case = attention()
    found = reasons(case.model, case.x)
    assert list(found) == [""]
    assert "Attention" in found[""]


class Awkward(nn.Module):
    """Modules that are used in every way that is not covered."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.partner = nn.Linear(4, 4)
        self.partner.weight = self.tied.weight
        self.unused = nn.Linear(4, 3)
        self.grouped = nn.Conv1d(4, 4, 1, groups=2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.folded = nn.Linear(2, 2)
        self.embedding = nn.Embedding(3, 4)
        self.constant = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.good = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.partner(self.tied(self.twice(self.twice(x))))
        h = self.normed(self.grouped(h[..., None])[..., 0])
        h = self.folded(h.reshape(-1, 2)).reshape(len(x), 4)
        h = h + self.embedding(torch.zeros(len(x), dtype=torch.long))
        with torch.no_grad():
            constant = self.constant(x)
        h = h + constant
        h = h + self.attention(h[:, None], h[:, None], h[:, None])[0][:, 0]
        return self.good(h)


def test_every_awkward_use_has_its_reason():
    model = randomise(Awkward())
    found = reasons(model, normal(6, 4))
    expected = {
        "twice": "used 2 times",
        "tied": "tied",
        "partner": "tied",
        "unused": "does not call it",
        "grouped": "grouped",
        "folded": "not the batch",
        "embedding": "Embedding",
        "constant": "does not depend",
        "attention": "MultiheadAttention",
        "attention.out_proj": "does not call it",
    }
    for name, part in expected.items():
        assert part in found.pop(name)
    assert all("normed" in name for name in found)
    assert found["normed"]
    coverage = cover(frozen_copy(model), normal(6, 4))
    assert [layer.name for layer in coverage.layers] == ["good"]


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
    model = nn.Sequential(nn.Embedding(3, 2)).double()
    with pytest.raises(ValueError, match="no layer can be covered"):
        cover(frozen_copy(model), torch.zeros(4, dtype=torch.long))
