"""The sparse information form against dense algebra, on matrices of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayes_vio.posterior.information import InformationPrecision
from bayes_vio.posterior.sparsify import choose_grid, kronecker_diagonal, sparsify
from tests.cases import terms_of


def precision(seed: int, d_out: int, d_in: int, r_g: int, r_a: int) -> InformationPrecision:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    D = 0.1 + normal(d_out, d_in).square()
    U_g, U_a = torch.linalg.qr(normal(d_out, d_out))[0], torch.linalg.qr(normal(d_in, d_in))[0]
    scale = 10 * normal(r_g * r_a).abs()
    return InformationPrecision(D, U_g[:, :r_g], U_a[:, :r_a], scale)


shapes = st.integers(1, 5).flatmap(
    lambda d_out: st.integers(1, 6).flatmap(
        lambda d_in: st.tuples(
            st.just(d_out), st.just(d_in), st.integers(0, d_out), st.integers(0, d_in)
        )
    )
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), shape=shapes)
def test_every_operation_is_that_of_the_dense_matrix(seed, shape):
    P = precision(seed, *shape)
    d_out, d_in = P.D.shape
    dense, inverse = P.dense(), torch.linalg.inv(P.dense())
    U = torch.from_numpy(np.kron(P.U_g.numpy(), P.U_a.numpy())) * P.scale
    torch.testing.assert_close(P.gram, U.mT @ (U / P.D.flatten()[:, None]))
    torch.testing.assert_close(P.logdet(), torch.logdet(dense))
    g = torch.Generator().manual_seed(seed + 1)
    J = torch.randn(2, 3, d_out, d_in, generator=g, dtype=torch.float64)
    truth = J.flatten(2) @ inverse @ J.flatten(2).mT
    torch.testing.assert_close(P.covariance(terms_of(J)), truth, rtol=1e-7, atol=1e-9)
    left = torch.randn(2, 3, d_out, generator=g, dtype=torch.float64)
    right = torch.randn(2, d_in, generator=g, dtype=torch.float64)
    outer = left[..., None] * right[:, None, None, :]
    torch.testing.assert_close(
        P.rank_one_covariance(left, right), P.covariance(terms_of(outer)), rtol=1e-7, atol=1e-9
    )
    basis = torch.eye(d_out * d_in, dtype=torch.float64).reshape(-1, d_out, d_in)
    root = torch.stack([P.sample(e).flatten() for e in basis], 1)
    torch.testing.assert_close(root @ root.mT, inverse, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rest", [1.0, 1e-2, 1e-3])
def test_products_in_float32_stay_right_where_nearly_all_is_explained(rest):
    """J lies in the span of U but for a rest: down to 3e-5 of J D^-1 J^T is left.

    The difference of E11's two terms would be off by a hundredth of the variances there.
    """
    double = precision(3, 24, 60, 6, 8)
    double = replace(double, scale=1e3 * double.scale)
    g = torch.Generator().manual_seed(1)
    mixed = torch.randn(5, 6, 6, 8, generator=g, dtype=torch.float64)
    J = double.U_g @ mixed @ double.U_a.mT
    J += rest * torch.randn(5, 6, 24, 60, generator=g, dtype=torch.float64)
    truth = double.covariance(terms_of(J))
    found = replace(double, dtype=torch.float32).covariance(terms_of(J.float()))
    std = truth.diagonal(dim1=1, dim2=2).sqrt()
    correlation_error = (found - truth) / (std[:, :, None] * std[:, None])
    assert correlation_error.abs().max() < 1e-4
    assert torch.linalg.eigvalsh(found).min() > 0
    unexplained = (J * double.D_inverse * J).sum((2, 3))
    assert (std.square() / unexplained).max() < max(1e-4, rest)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    d_out=st.integers(1, 12),
    d_in=st.integers(1, 12),
    max_rank=st.integers(1, 40),
)
def test_the_grid_is_bounded_and_cannot_grow(seed, d_out, d_in, max_rank):
    g = torch.Generator().manual_seed(seed)
    eigenvalues = torch.rand(d_out, d_in, generator=g, dtype=torch.float64).pow(4) + 1e-6
    rows, columns = choose_grid(eigenvalues, max_rank)
    L = len(rows) * len(columns)
    assert 1 <= L <= max_rank
    assert len(set(rows.tolist())) == len(rows)
    assert len(set(columns.tolist())) == len(columns)
    row_fits = len(rows) < d_out and (len(rows) + 1) * len(columns) <= max_rank
    column_fits = len(columns) < d_in and len(rows) * (len(columns) + 1) <= max_rank
    assert not row_fits
    assert not column_fits


def test_the_greedy_grid_keeps_more_than_the_grid_of_the_top_entries():
    g = torch.Generator().manual_seed(0)
    kept_greedy, kept_top = 0.0, 0.0
    for _ in range(20):
        factors = [torch.rand(n, generator=g, dtype=torch.float64).pow(6) for n in (40, 60)]
        noise = torch.rand(40, 60, generator=g, dtype=torch.float64).pow(8)
        eigenvalues = torch.outer(*factors) * (1 + 20 * noise)
        n_top = 1
        while True:
            top = eigenvalues.flatten().topk(n_top).indices
            rows, columns = (top // 60).unique(), (top % 60).unique()
            if len(rows) * len(columns) > 64:
                break
            best = float(eigenvalues[rows][:, columns].sum())
            n_top += 1
        kept_top += best
        rows, columns = choose_grid(eigenvalues, 64)
        kept_greedy += float(eigenvalues[rows][:, columns].sum())
    assert kept_greedy > kept_top


def test_what_sparsification_reports_is_what_dense_matrices_say():
    g = torch.Generator().manual_seed(4)
    d_out, d_in = 4, 5
    Q_g = torch.linalg.qr(torch.randn(d_out, d_out, generator=g, dtype=torch.float64))[0]
    Q_a = torch.linalg.qr(torch.randn(d_in, d_in, generator=g, dtype=torch.float64))[0]
    eigenvalues = torch.rand(d_out, d_in, generator=g, dtype=torch.float64).pow(3)
    exact = kronecker_diagonal(Q_g, Q_a, eigenvalues) * (
        0.6 + 0.8 * torch.rand(d_out, d_in, generator=g, dtype=torch.float64)
    )
    form, report = sparsify(Q_g, Q_a, eigenvalues, exact, 6)
    Q = torch.kron(Q_g, Q_a)
    efb = Q @ torch.diag(eigenvalues.flatten()) @ Q.mT
    target = efb - torch.diag(efb.diagonal()) + torch.diag(exact.flatten())
    found = form.precision(1.0, 0.0).dense()
    low_rank = found - torch.diag(form.diagonal.flatten())
    correction = exact.flatten() - low_rank.diagonal()
    assert report.frobenius_error == pytest.approx(
        float((found - target).norm() / target.norm()), rel=1e-9
    )
    assert report.kept_trace_share == pytest.approx(float(low_rank.trace() / efb.trace()))
    assert report.clamped_share == pytest.approx(float((correction < 0).double().mean()))
    assert 0 < report.clamped_share < 1
    mass = float(-correction.clamp(max=0).sum() / exact.sum())
    assert report.clamped_mass == pytest.approx(mass)
    assert (report.rank_g * report.rank_a) == form.eigenvalues.numel() <= 6
