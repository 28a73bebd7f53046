"""Marginal variances against dense inverses, shares against the whole."""

import pytest
import torch

from bayes_vio.classification.weight_variance import (
    layer_shares,
    layer_uncertainties,
    marginal_variances,
    mean_shares,
)
from bayes_vio.posterior import fit_posterior
from tests.cases import CASES, classifier
from tests.classification.blobs import blobs, fitted

BLOCKS = ("diagonal", "kfac", "efb", "inf")


@pytest.mark.parametrize("structure", BLOCKS)
@pytest.mark.parametrize("name", ["classifier", "image_and_vector", "norms"])
def test_variances_are_the_diagonal_of_the_dense_inverse(structure, name):
    case = CASES[name]()
    posterior = fit_posterior(
        case.model, case.loader(), case.likelihood, structure, rank=7, prior_precision=0.3,
        noise_cov=case.noise_cov,
    )  # fmt: skip
    for layer, variances in marginal_variances(posterior).items():
        dense = torch.linalg.inv(posterior.precision_dense(layer)).diagonal()
        torch.testing.assert_close(variances.flatten(), dense, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("structure", ["full", "subnetwork", "ella"])
def test_joint_variances(structure):
    case = classifier()
    posterior = fit_posterior(
        case.model, case.loader(), "categorical", structure, subset_size=9, n_eigen=5
    )
    found = torch.cat([v.flatten() for v in marginal_variances(posterior).values()])
    inverse = torch.linalg.inv(posterior.precision.matrix)
    if structure == "full":
        torch.testing.assert_close(found, inverse.diagonal())
    elif structure == "subnetwork":
        torch.testing.assert_close(found[found > 0], inverse.diagonal())
        assert int((found > 0).sum()) == 9
    else:
        V = torch.cat([d.flatten(1) for d in posterior.curvature.directions.values()], 1)
        torch.testing.assert_close(found, (V.mT @ inverse @ V).diagonal())


@pytest.mark.parametrize("method", ["diagonal", "inf", "full", "subnetwork"])
def test_shares_sum_to_one(method):
    posterior, x = fitted(method).posterior, blobs(20, 4)[0]
    shares = layer_shares(posterior, x)
    torch.testing.assert_close(torch.stack(list(shares.values())).sum(0), torch.ones(20).double())
    means = mean_shares(posterior, {"in": x, "out": 10 * x}, size=7)
    for name, share in shares.items():
        assert means["in"][name] == pytest.approx(float(share.mean()), rel=1e-4)
    assert sum(means["out"].values()) == pytest.approx(1.0)


def test_data_take_variance_away():
    case = classifier()

    def kept(n_data: float) -> list[float]:
        posterior = fit_posterior(
            case.model, case.loader(), "categorical", "inf", prior_precision=2.0, n_data=n_data
        )
        return [u.kept_prior_share for u in layer_uncertainties(posterior).values()]

    none, some, many = kept(1e-9), kept(10.0), kept(1e6)
    assert none == pytest.approx([1.0] * len(none))
    assert all(a > b > c > 0 for a, b, c in zip(none, some, many, strict=True))


def test_ella_has_no_shares():
    with pytest.raises(ValueError, match="ella"):
        layer_shares(fitted("ella").posterior, blobs(3, 0)[0])
