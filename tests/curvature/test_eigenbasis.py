"""Where data are few, factors are diagonalised within their range: as the dense one, but zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bayes_vio.curvature import outer
from bayes_vio.curvature.eigenbasis import eigenbasis, room_for
from bayes_vio.curvature.kfac import FactorSums, KroneckerFactors, Sharing
from bayes_vio.curvature.layers import LinearLayer
from bayes_vio.curvature.outer import Factor, OuterSum, keeps_rows
from bayes_vio.posterior import fit_posterior
from tests.cases import CASES, normal

FLOAT32 = 2.0**-23
FEW = ("mlp", "attention", "tokens", "norms")


def few_data(n_data: int, n_positions: int, d_in: int, d_out: int, seed: int) -> KroneckerFactors:
    """Return REDUCE factors with what they have under EXPAND beside them."""
    layer = LinearLayer("layer", nn.Linear(d_in, d_out).double())

    def factors(x: Tensor) -> list[Factor]:
        found = []
        for part in (x.mean(1), x):
            found.append(OuterSum(layer, x.shape[-1]))
            found[-1].add(part[:1])
            found[-1].add(part[1:])
        return [total.mean(1) for total in found]

    A, A_expand = factors(normal(n_data, n_positions, d_in, seed=seed))
    G, G_expand = factors(normal(n_data, n_positions, d_out, seed=seed + 1))
    return KroneckerFactors(A, G, Sharing.REDUCE, A_expand, G_expand)


def spread(Q: Tensor, eigenvalues: Tensor) -> Tensor:
    return Q * eigenvalues @ Q.mT


def assert_diagonalises(Q: Tensor, eigenvalues: Tensor, F: Factor, F_expand: Factor) -> None:
    """Check that columns are orthonormal, give the factor, hold all of the expanded one."""
    factor, tie = F.matrix(), F_expand.matrix()
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
    n_rows = n_data * n_positions
    assert basis.Q_a.shape[1] == (n_rows if keeps_rows(n_rows, d_in) else d_in)


def test_eigenvalues_are_those_of_the_dense_factor_and_tied_vectors_those_of_the_other():
    """Two data at three positions: two directions of A, four more that EXPAND alone has."""
    factors = few_data(2, 3, 60, 40, seed=5)
    basis = eigenbasis(factors, FLOAT32)
    assert basis.Q_a.shape == (60, 6)
    torch.testing.assert_close(
        basis.input_eigenvalues[-2:],
        torch.linalg.eigvalsh(factors.A.matrix())[-2:],
        rtol=1e-12,
        atol=0,
    )
    assert torch.equal(basis.input_eigenvalues[:4], torch.zeros(4, dtype=torch.float64))
    tied = basis.Q_a[:, :4].mT @ factors.A_expand.matrix() @ basis.Q_a[:, :4]
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


def test_rows_become_a_matrix_when_they_are_many():
    layer = LinearLayer("layer", nn.Linear(12, 5).double())
    x, total = normal(40, 12), OuterSum(layer, 12)
    for part in x.split(3):
        total.add(part, weight=2.0)
    whole = total.mean(40)
    assert whole.rows is None
    torch.testing.assert_close(whole.matrix(), 2 * x.mT @ x / 40)
    assert total.trace() == pytest.approx(float(2 * x.square().sum()))


@pytest.mark.parametrize("n_rows", [1, 5, 9])
def test_what_few_rows_say_is_what_their_matrix_says(n_rows):
    layer = LinearLayer("layer", nn.Linear(12, 5).double())
    x, total = normal(n_rows, 12), OuterSum(layer, 12)
    total.add(x)
    factor, matrix = total.mean(4), x.mT @ x / 4
    assert factor.rows is not None
    assert total.trace() == pytest.approx(4 * float(matrix.trace()))
    V = torch.linalg.qr(normal(12, 7, seed=3))[0]
    torch.testing.assert_close(factor.within(V).matrix(), V.mT @ matrix @ V)
    eigenvalues, Q = factor.eigh()
    torch.testing.assert_close(spread(Q, eigenvalues), matrix)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(eigenvalues, torch.linalg.eigvalsh(matrix), rtol=1e-9, atol=1e-12)


def test_sums_that_are_exchanged_are_matrices():
    """Workers add up what each of them has: a matrix, however few its rows."""
    module = nn.Linear(30, 20, dtype=torch.float64)
    sums = FactorSums(LinearLayer("layer", module))
    sums.add(normal(2, 3, 31), normal(2, 1, 3, 20), first_columns=True)
    before = sums.factors(2)
    assert before.A_expand.rows is not None
    sizes = [tuple(t.shape) for t in sums.totals()]
    assert sizes[:4] == [(31, 31), (31, 31), (20, 20), (20, 20)]
    after = sums.factors(2)
    assert after.A_expand.rows is None
    torch.testing.assert_close(after.A_expand.matrix(), before.A_expand.matrix())
    torch.testing.assert_close(after.G.matrix(), before.G.matrix())


@pytest.mark.parametrize("structure", ["kfac", "efb", "inf"])
@pytest.mark.parametrize("name", FEW)
def test_a_posterior_does_not_depend_on_how_its_factors_were_kept(structure, name, monkeypatch):
    """Of the first datum of a case alone: as rows, and as matrices."""
    case = CASES[name]()
    loader = [(x, y) for x, y in case.loader(1)][:1]
    kept: list[bool] = []

    def fitted(keeps):
        def told(n_rows: float, d: int) -> bool:
            kept.append(keeps(n_rows, d))
            return kept[-1]

        monkeypatch.setattr(outer, "keeps_rows", told)
        return fit_posterior(
            case.model, loader, likelihood=case.likelihood, structure=structure, rank=6,
            noise_cov=case.noise_cov,
        )  # fmt: skip

    thin = fitted(keeps_rows)
    assert any(kept)
    whole = fitted(lambda n_rows, d: False)
    torch.testing.assert_close(
        thin.functional_covariance(case.x), whole.functional_covariance(case.x),
        rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    assert thin.log_marginal_likelihood() == pytest.approx(whole.log_marginal_likelihood())
    if structure == "inf":
        share = thin.report.details["kept_trace_share"]
        assert share == pytest.approx(whole.report.details["kept_trace_share"], rel=1e-12)
