"""Where data are few, factors are diagonalised within their range: as the dense one, but zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayes_vio.curvature import eigenbasis as module
from bayes_vio.curvature.eigenbasis import Eigenbasis, basis_width, eigenbasis, room_for
from bayes_vio.curvature.kfac import KroneckerFactors, Sharing
from bayes_vio.posterior import fit_posterior
from tests.cases import CASES, normal

FLOAT32 = 2.0**-23
FEW = ("mlp", "attention", "tokens", "norms")


def few_data(n_data: int, n_positions: int, d_in: int, d_out: int, seed: int) -> KroneckerFactors:
    """Return REDUCE factors with what they have under EXPAND beside them."""
    a = normal(n_data, n_positions, d_in, seed=seed)
    g = normal(n_data, n_positions, d_out, seed=seed + 1)
    (A, A_expand), (G, G_expand) = ([x.mean(1).mT @ x.mean(1), gram(x)] for x in (a, g))
    n_rows = n_data * n_positions
    ranks = (min(n_rows, d_in), min(n_rows, d_out))
    return KroneckerFactors(A, G, Sharing.REDUCE, A_expand, G_expand, *ranks)


def gram(x: Tensor) -> Tensor:
    rows = x.flatten(0, 1)
    return rows.mT @ rows


def spread(Q: Tensor, eigenvalues: Tensor) -> Tensor:
    return Q * eigenvalues @ Q.mT


def assert_diagonalises(Q: Tensor, eigenvalues: Tensor, factor: Tensor, tie: Tensor) -> None:
    """Check that columns are orthonormal, give the factor, hold all of ``tie``."""
    scale = float(tie.diagonal().max())
    torch.testing.assert_close(Q.mT @ Q, torch.eye(Q.shape[1], dtype=Q.dtype))
    torch.testing.assert_close(spread(Q, eigenvalues), factor, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(Q @ (Q.mT @ tie), tie, rtol=0, atol=1e-11 * scale)


@settings(max_examples=40, deadline=None)
@given(
    n_data=st.integers(1, 6),
    n_positions=st.integers(1, 4),
    d_in=st.integers(1, 70),
    d_out=st.integers(1, 50),
    seed=st.integers(0, 2**31),
)
def test_a_basis_holds_both_factors_and_is_as_wide_as_told(n_data, n_positions, d_in, d_out, seed):
    factors = few_data(n_data, n_positions, d_in, d_out, seed)
    basis, room = eigenbasis(factors, FLOAT32), room_for(factors)
    assert_diagonalises(basis.Q_a, basis.input_eigenvalues, factors.A, factors.A_expand)
    assert_diagonalises(basis.Q_g, basis.output_eigenvalues, factors.G, factors.G_expand)
    for name in vars(basis):
        assert getattr(basis, name).shape == getattr(room, name).shape
    assert basis.Q_a.shape[1] == basis_width(d_in, factors.input_rank)


def test_eigenvalues_are_those_of_the_dense_factor_and_tied_vectors_those_of_the_other():
    """Two data at three positions: two directions of A, four more that EXPAND alone has."""
    factors = few_data(2, 3, 60, 40, seed=5)
    basis = eigenbasis(factors, FLOAT32)
    assert basis.Q_a.shape == (60, 6)
    torch.testing.assert_close(
        basis.input_eigenvalues[-2:], torch.linalg.eigvalsh(factors.A)[-2:], rtol=1e-12, atol=0
    )
    assert torch.equal(basis.input_eigenvalues[:4], torch.zeros(4, dtype=torch.float64))
    tied = basis.Q_a[:, :4].mT @ factors.A_expand @ basis.Q_a[:, :4]
    off = tied - torch.diag(tied.diagonal())
    assert float(off.abs().max()) < 1e-12 * float(tied.diagonal().max())


def test_completed_bases_are_square_and_give_the_same_factors():
    factors = few_data(2, 2, 50, 20, seed=1)
    thin = eigenbasis(factors, FLOAT32)
    whole = thin.completed()
    assert whole.Q_a.shape == (50, 50)
    assert_diagonalises(whole.Q_a, whole.input_eigenvalues, factors.A, factors.A_expand)
    assert_diagonalises(whole.Q_g, whole.output_eigenvalues, factors.G, factors.G_expand)
    again = whole.completed()
    assert again.Q_a is whole.Q_a and again.Q_g is whole.Q_g  # noqa: PT018


def test_many_data_have_a_square_basis():
    x = normal(200, 1, 12)
    A = gram(x)
    factors = KroneckerFactors(A, A, Sharing.NONE, A, A, 12, 12)
    assert isinstance(eigenbasis(factors, FLOAT32), Eigenbasis)
    assert eigenbasis(factors, FLOAT32).Q_a.shape == (12, 12)


@pytest.mark.parametrize("structure", ["kfac", "efb", "inf"])
@pytest.mark.parametrize("name", FEW)
def test_a_posterior_does_not_depend_on_how_wide_its_basis_was(structure, name, monkeypatch):
    """The first datum of a case alone, within its range and with square bases."""
    case = CASES[name]()
    loader = [(x, y) for x, y in case.loader(1)][:1]
    narrow: list[bool] = []

    def fitted(width):
        def told(d: int, rank: int) -> int:
            narrow.append(width(d, rank) < d)
            return width(d, rank)

        monkeypatch.setattr(module, "basis_width", told)
        return fit_posterior(
            case.model, loader, likelihood=case.likelihood, structure=structure, rank=6,
            noise_cov=case.noise_cov,
        )  # fmt: skip

    monkeypatch.setattr(module, "_OVERSAMPLING", 1)
    thin, whole = fitted(basis_width), fitted(lambda d, rank: d)
    assert any(narrow)
    torch.testing.assert_close(
        thin.functional_covariance(case.x), whole.functional_covariance(case.x),
        rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    assert thin.log_marginal_likelihood() == pytest.approx(whole.log_marginal_likelihood())
    if structure == "inf":
        share = thin.report.details["kept_trace_share"]
        assert share == pytest.approx(whole.report.details["kept_trace_share"], rel=1e-12)
