"""Sums over a layer's data beside the plain products they stand for, however gradients lie."""

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.curvature import layer as layers
from bayes_vio.curvature.eigenbasis import CorrectedEigenvalueSums, Eigenbasis
from bayes_vio.curvature.kfac import FactorSums
from bayes_vio.curvature.layers import as_layer
from tests.cases import normal


class LinearData:
    """What a linear layer of 150 inputs sees at four positions: d_out is their last axis."""

    module = nn.Linear(150, 34).double()
    x = normal(5, 4, 150)
    gradients = normal(3, 5, 4, 34, seed=7)


class ConvData:
    """A convolution with more positions than columns times rows: positions come last."""

    module = nn.Conv2d(4, 3, 3, padding=1).double()
    x = normal(5, 4, 6, 7)
    gradients = normal(3, 5, 3, 6, 7, seed=7)


class WideConvData:
    """One with fewer, and factors large enough to be added up block by block."""

    module = nn.Conv2d(16, 70, 3, stride=2).double()
    x = normal(5, 16, 6, 5)
    gradients = normal(3, 5, 70, 2, 2, seed=7)


def recorded(data) -> tuple:
    """Return the layer, features [batch, positions, d_in], gradients [batch, columns, ...]."""
    layer = as_layer("layer", data.module)
    return layer, layer.features([data.x]), layer.gradients([data.gradients])


def jacobian(features: Tensor, gradients: Tensor) -> Tensor:
    return torch.einsum("bcso,bsi->bcoi", gradients, features)


DATA = [LinearData, ConvData, WideConvData]


@pytest.mark.parametrize("data", DATA)
def test_jacobians_are_sums_over_positions(data):
    layer, features, gradients = recorded(data)
    expected = jacobian(features, gradients)
    torch.testing.assert_close(layer.jacobian(features, gradients), expected)
    some = [layer.jacobian_rows(features, gradients, slice(1, 3))]
    some.append(layer.jacobian_rows(features, gradients, torch.tensor([2, 0])))
    torch.testing.assert_close(some[0], expected[:, :, 1:3])
    torch.testing.assert_close(some[1], expected[:, :, [2, 0]])


@pytest.mark.parametrize("data", DATA)
def test_factors_are_the_whole_outer_products(data):
    layer, features, gradients = recorded(data)
    sums = FactorSums(layer)
    for part in (slice(0, 2), slice(2, 5)):
        sums.add(features[part], gradients[part], first_columns=True)
    factors = sums.factors(5)
    n = features.shape[1]
    expand = torch.einsum("bsi,bsj->ij", features, features) / (5 * n)
    torch.testing.assert_close(factors.A_expand.matrix(), expand)
    torch.testing.assert_close(
        factors.G_expand.matrix(), torch.einsum("bcso,bcsp->op", gradients, gradients) / 5
    )
    torch.testing.assert_close(factors.A_expand.matrix(), factors.A_expand.matrix().mT)
    mean, total = features.mean(1), gradients.sum(2)
    reduce = [torch.einsum("bi,bj->ij", mean, mean), torch.einsum("bco,bcp->op", total, total)]
    for found, expected in zip((sums._A, sums._G), reduce, strict=True):
        upper = list(found.values())[1].total().triu()
        torch.testing.assert_close(upper, expected.triu())
    torch.testing.assert_close(
        sums.diagonal(5), jacobian(features, gradients).square().sum((0, 1)) / 5
    )


@pytest.mark.parametrize("numbers", [1, 2**19])
@pytest.mark.parametrize("data", DATA)
def test_corrected_eigenvalues_are_squares_in_the_basis(data, numbers, monkeypatch):
    monkeypatch.setattr(layers, "_JACOBIAN_NUMBERS", {"cpu": numbers})
    layer, features, gradients = recorded(data)
    d_out, d_in = layer.shape
    Q_g, Q_a = (torch.linalg.qr(normal(d, d, seed=d))[0] for d in (d_out, d_in))
    sums = CorrectedEigenvalueSums(layer, Eigenbasis(Q_g, Q_a, Q_g[0], Q_a[0]))
    for part in (slice(0, 1), slice(1, 5)):
        sums.add(features[part], gradients[part], first_columns=True)
    turned = Q_g.mT @ jacobian(features, gradients) @ Q_a
    torch.testing.assert_close(sums.mean(5), turned.square().sum((0, 1)) / 5)


def test_both_ways_into_the_basis_are_taken():
    """The cases above are on both sides of the choice."""
    sides = {
        data.__name__: g.shape[2] > g.shape[1] * g.shape[3]
        for data in DATA
        for _, _, g in [recorded(data)]
    }
    assert sides == {"LinearData": False, "ConvData": True, "WideConvData": False}
