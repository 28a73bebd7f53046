"""Compacted chains give what the pruned ones give, with fewer numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayes_vio.variational import compacted
from tests.cases import normal, randomise


def perceptron() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = [nn.Flatten(), nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 7, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(7, 3, bias=False)), (2, 3)


def images() -> tuple[nn.Sequential, tuple[int, ...]]:
    convolutions = [
        *(nn.Conv2d(2, 6, 3, bias=False), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 5, 2, padding=1), nn.GELU()),
        *(nn.Conv2d(5, 4, 2, padding=1, padding_mode="reflect"), nn.ReLU(), nn.MaxPool2d(2)),
    ]
    return nn.Sequential(
        *convolutions, nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)
    ), (2, 9, 9)


def series() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = [nn.Conv1d(2, 6, 3), nn.Softplus(), nn.AdaptiveAvgPool1d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 3)), (2, 8)


@settings(deadline=None, max_examples=60)
@given(
    make=st.sampled_from([perceptron, images, series]),
    share=st.floats(0.0, 1.0),
    units=st.floats(0.0, 1.0),
    seed=st.integers(0, 1000),
)
def test_compacted_networks_give_the_same(make, share, units, seed):
    network, shape = make()
    randomise(network)
    generator = torch.Generator().manual_seed(seed)
    for module in network:
        if hasattr(module, "weight"):
            weight = module.weight.data
            weight[torch.rand(weight.shape, generator=generator) < share] = 0.0
            weight[torch.rand(len(weight), generator=generator) < units] = 0.0
            weight[:, torch.rand(weight.shape[1], generator=generator) < units] = 0.0
    before = {n: t.clone() for n, t in network.state_dict().items()}
    small, x = compacted(network), normal(3, *shape)
    torch.testing.assert_close(small(x), network(x).detach(), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    # Without a bias, one may have to be added.
    n_outputs = sum(m.weight.shape[0] for m in network if hasattr(m, "weight"))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (small, network)]
    assert sizes[0] <= sizes[1] + n_outputs


def test_superfluous_units_go():
    network = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    randomise(network)
    network[0].weight.data[1] = 0.0  # a constant
    network[4].weight.data[:, [0, 3]] = 0.0  # unused
    network[2].weight.data[[1, 2, 4], 2] = 0.0  # used by what is unused alone
    small = compacted(network)
    assert [tuple(small[i].weight.shape) for i in (0, 2, 4)] == [(2, 3), (3, 2), (2, 3)]
    assert (small[0].out_features, small[2].in_features) == (2, 2)
    x = normal(4, 3)
    torch.testing.assert_close(small(x), network(x).detach())


def test_an_empty_network_is_its_bias():
    network, shape = images()
    randomise(network)
    for module in network:
        if hasattr(module, "weight"):
            module.weight.data.zero_()
    small = compacted(network)
    assert all(len(small[i].weight) == 1 for i in (0, 3, 5, 9))
    torch.testing.assert_close(small(normal(3, *shape)), network[-1].bias.detach().expand(3, -1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(2, 2), "nn.Sequential"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "LayerNorm"),
        (nn.Sequential(nn.Conv1d(2, 2, 1, groups=2)), "grouped"),
        (nn.Sequential(nn.Linear(2, 3), nn.Flatten(), nn.Linear(6, 2)), "in their order"),
        (nn.Sequential(nn.Conv1d(2, 3, 1), nn.Linear(6, 2)), "in their order"),
        (nn.Sequential(nn.Linear(2, 3), nn.Conv1d(3, 2, 1)), "in their order"),
    ],
)
def test_other_networks_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        compacted(network)
