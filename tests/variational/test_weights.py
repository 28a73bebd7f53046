"""What distributions draw: moments, masks, members."""

import math

import pytest
import torch
from torch import nn

from bayes_vio.variational.mc_dropout import input_dropout
from bayes_vio.variational.weights import BernoulliWeights, GaussianWeights, Members
from tests.cases import normal, randomise


def draws(distribution, weights, n, seed=0):
    found = list(distribution.draws(n, weights, torch.Generator().manual_seed(seed)))
    return {name: torch.stack([d[name] for d in found]) for name in found[0]}


def test_gaussian_draws_have_their_moments():
    weights, std = {"w": normal(3, 2)}, normal(3, 2, seed=4).abs()
    found = draws(GaussianWeights({"w": std}), weights, 5000)["w"]
    assert float(((found.mean(0) - weights["w"]) / std).abs().max()) < 5 / math.sqrt(5000)
    assert float((found.std(0) / std - 1).abs().max()) < 5 / math.sqrt(2 * 5000)


def test_masks_drop_whole_channels_as_often_as_asked():
    weights, rate = {"w": torch.ones(4, 5, 2, 2)}, torch.full((5,), 0.3)
    found = draws(BernoulliWeights({"w": rate}), weights, 4000)["w"]
    assert set(found.unique().tolist()) == {0.0, found.max().item()}
    assert found.max().item() == pytest.approx(1 / 0.7)
    by_channel = found[:, :1, :, :1, :1]
    assert torch.equal(found, by_channel.expand_as(found))
    dropped = (by_channel == 0).double().mean(0).flatten()
    assert float((dropped - 0.3).abs().max()) < 5 * math.sqrt(0.3 * 0.7 / 4000)


def test_masks_of_groups_follow_their_own_channels():
    layer = nn.Conv2d(4, 6, 1, groups=2, bias=False)
    weights = {"w": layer.weight.detach()}
    x = torch.eye(4)[:, :, None, None]
    for seed in range(5):
        rate = torch.full((4,), 0.5)
        mask = torch.rand(4, generator=torch.Generator().manual_seed(seed)) >= 0.5
        drawn = draws(BernoulliWeights({"w": rate}), weights, 1, seed)["w"][0]
        masked = nn.functional.conv2d(x, drawn, groups=2)
        truth = layer(x * mask[:, None, None] / 0.5)
        torch.testing.assert_close(masked, truth)


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv1d(4, 3, 2), nn.Conv2d(4, 3, 1)])
def test_training_masks_are_those_of_drawn_weights(layer):
    model = nn.Sequential(randomise(layer)).requires_grad_(False)
    x = normal(1, 4, *(2,) * (layer.weight.dim() - 2), seed=5)
    n = 4000
    torch.manual_seed(0)
    with input_dropout(model, ["0"], 0.4):
        trained = model(x.expand(n, *x.shape[1:]))
    weights = dict(model.named_parameters())
    rate = torch.full((4,), 0.4, dtype=torch.float64)
    found = draws(BernoulliWeights({"0.weight": rate}), weights, n)
    predicted = torch.cat(
        [torch.func.functional_call(model, {"0.weight": w}, (x,)) for w in found["0.weight"]]
    )
    std = trained.std(0)
    assert float(((trained.mean(0) - model(x)[0]) / std).abs().max()) < 5 / math.sqrt(n)
    assert float(((predicted.mean(0) - model(x)[0]) / std).abs().max()) < 5 / math.sqrt(n)
    assert float((trained.var(0) / predicted.var(0) - 1).abs().max()) < 0.15


def test_positions_share_a_mask_in_training():
    model = nn.Sequential(nn.Linear(6, 6, bias=False))
    model[0].weight.data.copy_(torch.eye(6))
    with torch.no_grad(), input_dropout(model, ["0"], 0.5):
        out = model(torch.ones(8, 3, 6))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert len(out[:, 0].unique(dim=0)) > 1


def test_members_come_in_turn():
    members = Members({"w": torch.arange(3.0)[:, None]})
    assert draws(members, {}, 5)["w"][:, 0].tolist() == [0, 1, 2, 0, 1]
    assert members.n_draws == 3


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (GaussianWeights({"w": torch.ones(3)}), "another shape"),
        (GaussianWeights({"w": -torch.ones(2, 4)}), "negative"),
        (GaussianWeights({"w": torch.full((2, 4), math.nan)}), "not finite"),
        (BernoulliWeights({"w": torch.full((3,), 0.5)}), "one per input channel"),
        (BernoulliWeights({"w": torch.full((4,), 1.0)}), "outside"),
        (Members({"v": torch.ones(2, 3)}), "not the network's"),
        (Members({"w": torch.ones(2, 3)}), "another shape"),
    ],
)
def test_what_does_not_fit_a_network_is_refused(distribution, message):
    with pytest.raises(ValueError, match=message):
        distribution.check({"w": torch.ones(2, 4)})
