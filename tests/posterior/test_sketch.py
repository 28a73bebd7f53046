"""Features of epistemic errors: exact ones against dense algebra, sketches within their bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.filters.transported import TransportedSum
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.network import NetworkPrecision, WhitenedPart
from bayes_vio.posterior.sketch import SKETCH_SIZE, FeatureSketch, whitened_jacobian
from tests import reference
from tests.cases import CASES, Case

STRUCTURES = ("diagonal", "kfac", "efb", "inf", "full")


def fit(structure: str, case: Case) -> Posterior:
    return fit_posterior(
        case.model,
        case.loader(),
        likelihood=case.likelihood,
        structure=structure,
        noise_cov=case.noise_cov,
        prior_precision=0.7,
        rank=6,
        subset_size=20,
        n_points=12,
        n_eigen=5,
    )


def dense(case: Case, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return J [batch, outputs, p] and P [p, p], assembled without the features."""
    blocks = [reference.jacobian(case.model, case.x, name) for name in posterior.layers]
    if posterior.report.structure == "full":
        P = posterior.precision.matrix  # pyright: ignore
    else:
        P = torch.block_diag(*(posterior.precision_dense(name) for name in posterior.layers))
    return torch.cat([J.flatten(2) for J in blocks], 2), P


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ["linear_chain", "attention", "norms", "grouped", "tokens"])
def test_the_sum_over_frames_is_that_of_dense_algebra(structure: str, name: str) -> None:
    case = CASES[name]()
    posterior = fit(structure, case)
    J, P = dense(case, posterior)
    n_outputs = J.shape[1]
    moves = np.random.default_rng(3).normal(size=(len(J), n_outputs, n_outputs))
    summed, total = torch.zeros_like(J[0]), TransportedSum.empty(n_outputs)
    for A, J_k, Phi_k in zip(moves, J, whitened_jacobian(posterior, case.x), strict=True):
        summed = torch.from_numpy(A) @ summed + J_k
        total = total.moved(A).plus(Phi_k.numpy())
        truth = (summed @ torch.linalg.solve(P, summed.mT)).numpy()
        np.testing.assert_allclose(total.cov, truth, rtol=1e-7, atol=1e-10 * np.abs(truth).max())


@pytest.mark.parametrize("structure", [*STRUCTURES, "subnetwork", "ella"])
@pytest.mark.parametrize("name", ["mlp", "encoder", "tokens"])
def test_features_square_to_the_functional_covariance(structure: str, name: str) -> None:
    case = CASES[name]()
    posterior = fit(structure, case)
    truth = posterior.functional_covariance(case.x)
    Phi = whitened_jacobian(posterior, case.x)
    torch.testing.assert_close(Phi @ Phi.mT, truth, rtol=1e-9, atol=1e-12)
    prediction, Z = posterior.predict_features(case.x, FeatureSketch())
    assert Z.shape == (*truth.shape[:2], SKETCH_SIZE)
    cov = getattr(prediction, "epistemic_cov", getattr(prediction, "logits_cov", None))
    torch.testing.assert_close(cov, truth, rtol=1e-9, atol=1e-12)


class Given(NetworkPrecision):
    """A precision whose Phi is given, cut into parts of some rows."""

    def __init__(self, Phi: Tensor, step: int | None):
        self._Phi, self._step = Phi, step

    def whitened(self, at):
        """Yield the rows step by step, or as the odd ones and the even ones."""
        n = self._Phi.shape[2]
        by_index = [torch.arange(0, n, 2), torch.arange(1, n, 2)]
        starts = range(0, n, self._step or 1)
        rows = [slice(s, s + self._step) for s in starts] if self._step else by_index
        for r in rows:
            shape = (n, self._Phi.shape[3])
            yield WhitenedPart("layer", shape, r, self._Phi[:, :, r].clone())

    def layer_covariances(self, at): ...
    def sample(self, noise): ...
    def logdet(self): ...
    def dense(self, layer): ...


def omega(sketch: FeatureSketch, rows: int, columns: int) -> Tensor:
    """Return the map [rows * columns, size] as the sketch of one-hot features."""
    one_hot = torch.eye(rows * columns).double().reshape(1, -1, rows, columns)
    return sketch.project(Given(one_hot, rows), None)[1][0]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([7, 11, 31, 53]),
    st.integers(1, 9),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(0, 1000),
)
def test_a_sketch_is_one_fixed_signed_map_of_columns(size, rows, columns, step, seed) -> None:
    """However the columns come, each has its one bucket and sign."""
    sketch = FeatureSketch(size, seed)
    Omega = omega(sketch, rows, columns)
    first = int(Omega[0].abs().argmax())
    place = torch.arange(rows * columns)
    signs = Omega[place, (first + place) % size]
    assert (signs.abs() == 1).all()
    assert float(Omega.abs().sum()) == rows * columns
    generator = torch.Generator().manual_seed(seed)
    Phi = torch.randn(2, 3, rows, columns, generator=generator, dtype=torch.float64)
    cov, Z = sketch.project(Given(Phi, min(step, rows) if step else None), None)
    torch.testing.assert_close(Z, Phi.flatten(2) @ Omega)
    torch.testing.assert_close(cov, Phi.flatten(2) @ Phi.flatten(2).mT)


def test_a_sketch_is_unbiased_and_as_exact_as_its_size_says() -> None:
    """Its mean over seeds and its scatter, for even features and for a few heavy ones."""
    n = 400
    generator = torch.Generator().manual_seed(0)
    Phi = torch.randn(1, 3, 40, 25, generator=generator, dtype=torch.float64)
    Phi[..., 3] *= 20  # all the variance in one input: 40 columns of 1000
    truth = (Phi.flatten(2) @ Phi.flatten(2).mT)[0]
    std = truth.diagonal().sqrt()
    found = []
    for seed in range(n):
        Z = FeatureSketch(101, seed).project(Given(Phi, 40), None)[1][0]
        found.append((Z @ Z.mT - truth) / std / std[:, None])
    errors = torch.stack(found)
    bound = math.sqrt(2 / 101)
    assert float(errors.mean(0).abs().max()) < 5 * bound / math.sqrt(n)
    assert float(errors.square().mean(0).sqrt().max()) < 1.25 * bound


def test_sketches_of_sums_stay_as_exact_over_many_frames() -> None:
    case = CASES["attention"]()
    posterior = fit("inf", case)
    Phi = whitened_jacobian(posterior, case.x).sum(0).numpy()
    truth = Phi @ Phi.T
    std = np.sqrt(np.diagonal(truth))
    for seed in range(10):
        _, Z = posterior.predict_features(case.x, FeatureSketch(509, seed))
        total = TransportedSum.empty(3)
        for Z_k in Z.numpy():
            total = total.plus(Z_k)
        error = (total.cov - truth) / np.outer(std, std)
        assert np.abs(error).max() < 5 * math.sqrt(2 / 509)
        assert np.linalg.eigvalsh(total.cov).min() > 0


@pytest.mark.parametrize("name", ["attention", "tokens", "grouped"])
def test_neither_batches_nor_the_process_change_a_sketch(name: str, monkeypatch) -> None:
    case = CASES[name]()
    posterior = fit("inf", case)
    _, whole = posterior.predict_features(case.x, FeatureSketch(31))
    singles = []
    for i in range(len(case.y)):
        x = map_tensors(case.x, lambda t, i=i: t[i : i + 1])
        singles.append(posterior.predict_features(x, FeatureSketch(31))[1])
    torch.testing.assert_close(torch.cat(singles), whole)
    monkeypatch.setattr("bayes_vio.posterior.linearisation._BLOCK_NUMBERS", {"cpu": 1})
    torch.testing.assert_close(posterior.predict_features(case.x, FeatureSketch(31))[1], whole)
    monkeypatch.setattr("bayes_vio.posterior.laplace.CHUNK_NUMBERS", 1)
    torch.testing.assert_close(posterior.predict_features(case.x, FeatureSketch(31))[1], whole)
    _, other = posterior.predict_features(case.x, FeatureSketch(31, seed=1))
    assert not torch.allclose(other, whole)


@pytest.mark.parametrize("size", [0, 5, 100, 1023])
def test_a_size_that_repeats_buckets_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="prime"):
        FeatureSketch(size)
