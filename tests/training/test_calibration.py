"""Noise scale and correlation time against data drawn from known ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch

from bayes_vio.data.samples import MotionInput
from bayes_vio.posterior import GaussianPrediction, Posterior
from bayes_vio.training.calibration import (
    Residuals,
    calibrate,
    fit_epistemic_scale,
    fit_noise_scale,
    gaussian_cov_nll,
    noise_scale_for_new_drives,
    score,
    widest_epistemic_scale,
)
from bayes_vio.training.correlation import (
    correlation_time_s,
    epistemic_correlation_s,
    noise_correlation,
)
from tests.motion_cases import random_motion, tiny_artifact


def test_noise_scale_is_recovered_beside_a_known_epistemic_covariance() -> None:
    g = torch.Generator().manual_seed(0)
    n, d = 20_000, 3
    scale = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
    root = torch.randn(d, d, generator=g, dtype=torch.float64)
    noise_cov = (root @ root.T + torch.eye(d)).expand(n, d, d)
    epistemic_cov = 0.7 * torch.eye(d, dtype=torch.float64).expand(n, d, d)
    cov = epistemic_cov + scale[:, None] * noise_cov * scale
    draws = torch.randn(n, d, generator=g, dtype=torch.float64)
    residual = (torch.linalg.cholesky(cov) @ draws[..., None]).squeeze(-1)
    found, nll = fit_noise_scale(Residuals(residual, epistemic_cov, noise_cov))
    torch.testing.assert_close(found, scale, rtol=0.05, atol=0)
    penalty = 0.5 * float((scale.log() / 0.5).square().sum()) / (n / 20)
    assert nll <= float(gaussian_cov_nll(residual, cov).mean()) + penalty


def under_both_parts(noise: list[float], epistemic: list[float], seed: int = 0) -> Residuals:
    """Return errors of a covariance whose parts differ from interval to interval, and which are
    said to be of other sizes by factors."""
    g = torch.Generator().manual_seed(seed)
    n, d = 20_000, len(noise)
    s, e = torch.tensor(noise).double(), torch.tensor(epistemic).double()
    N, E = (torch.diag_embed(torch.exp(2 * torch.randn(n, d, generator=g)).double()) for _ in "NE")
    std = (s[:, None] * N * s + e[:, None] * E * e).diagonal(dim1=1, dim2=2).sqrt()
    return Residuals(std * torch.randn(n, d, generator=g).double(), E, N)


def test_both_scales_are_told_apart_by_intervals_that_differ() -> None:
    residuals = under_both_parts([1.5, 0.6, 1.0], [0.1, 0.5, 1.0])
    factors = fit_epistemic_scale(residuals)
    expected = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(factors, expected, rtol=0.1, atol=0)
    scale, _ = fit_noise_scale(residuals.with_epistemic_scale(factors))
    expected = torch.tensor([1.5, 0.6, 1.0], dtype=torch.float64)
    torch.testing.assert_close(scale, expected, rtol=0.05, atol=0)


def test_what_is_too_narrow_is_noise() -> None:
    factors = fit_epistemic_scale(under_both_parts([1.0], [3.0]))
    assert 0.9 < float(factors) <= 1
    wide, narrow = (under_both_parts([1.0], [e], seed) for seed, e in enumerate((0.6, 0.1)))
    both = float(widest_epistemic_scale(narrow, wide))
    assert both > 2 * float(fit_epistemic_scale(narrow))
    assert both <= 0.66


@dataclass(frozen=True)
class FixedPosterior:
    """A posterior whose epistemic covariance is eye / prior precision, noise eye, mean zero."""

    prior_precision: float = 1.0

    def with_prior_precision(self, value: float) -> "FixedPosterior":
        return FixedPosterior(value)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def linearisations(self, x: MotionInput) -> Iterator[tuple[MotionInput, slice]]:
        yield x, slice(None)

    def prediction(self, at: MotionInput) -> GaussianPrediction:
        eye = torch.eye(2, dtype=torch.float64).expand(len(at), 2, 2)
        return GaussianPrediction(torch.zeros(len(at), 2), eye / self.prior_precision, eye)


def batches(std: float, n: int = 2000) -> list[tuple[Any, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(random_motion(n)[0], std * torch.randn(n, 2, dtype=torch.float64, generator=g))]


def test_total_variance_is_split_by_the_likelihood() -> None:
    found = calibrate(
        cast(Posterior, FixedPosterior()), batches(3.0), batches(3.0), [0.2, 1.0, 1e6]
    )
    total = 1 / found.prior_precision + found.noise_scale.square()
    torch.testing.assert_close(total, torch.full_like(total, 9.0), rtol=0.15, atol=0)
    assert [p for p, _ in found.search] == [0.2, 1.0, 1e6]


def test_drives_seen_may_widen_the_noise_and_never_narrow_it() -> None:
    eye = torch.eye(3, dtype=torch.float64).expand(4000, 3, 3)
    g = torch.Generator().manual_seed(3)

    def drives(*std: float) -> Residuals:
        error = torch.randn(4000, 3, dtype=torch.float64, generator=g) * torch.tensor(std)
        return Residuals(error, 0.01 * eye, eye)

    unseen = drives(0.5, 1.0, 2.0)
    scale, nll = noise_scale_for_new_drives(unseen, drives(1.5, 1.0, 0.5))
    # Of both together the variance is the mean of the two.
    expected = torch.tensor([(0.5 * (0.25 + 2.25)) ** 0.5, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(scale, expected, rtol=0.05, atol=0)
    alone, _ = fit_noise_scale(unseen)
    assert bool((scale >= alone).all())
    cov = 0.01 * eye + scale[:, None] * eye * scale
    assert nll == pytest.approx(float(gaussian_cov_nll(unseen.error, cov).mean()))


def test_the_prior_is_told_by_drives_unseen_alone() -> None:
    found = calibrate(
        cast(Posterior, FixedPosterior()), batches(2.0), batches(0.1), [0.3, 1.0, 1e6]
    )
    alone = calibrate(
        cast(Posterior, FixedPosterior()), batches(2.0), batches(2.0), [0.3, 1.0, 1e6]
    )
    assert found.search == alone.search
    assert found.prior_precision == alone.prior_precision
    torch.testing.assert_close(found.noise_scale, alone.noise_scale, rtol=0.02, atol=0)


def test_noise_that_does_not_carry_over_is_refused() -> None:
    with pytest.raises(ValueError, match="does not carry over"):
        calibrate(cast(Posterior, FixedPosterior()), batches(100.0), batches(1.0), [1e6])


def test_score_of_a_true_covariance() -> None:
    result = score(cast(Posterior, FixedPosterior(0.5)), batches(math.sqrt(3.0)))
    assert result.nees == pytest.approx(1.0, rel=0.08)
    assert result.coverage_95 == pytest.approx([0.95, 0.95], abs=0.016)
    assert result.epistemic_share == pytest.approx([2 / 3, 2 / 3])
    assert result.median_std == pytest.approx([math.sqrt(3.0)] * 2)


@pytest.mark.parametrize("tau_s", [0.5, 3.0])
def test_correlation_time_of_a_first_order_process(tau_s: float) -> None:
    g = torch.Generator().manual_seed(2)
    rho, dt_s = math.exp(-0.1 / tau_s), 0.1
    z = torch.randn(400, 2, generator=g, dtype=torch.float64)
    frames = [z]
    for _ in range(299):
        w = torch.randn(400, 2, generator=g, dtype=torch.float64)
        frames.append(rho * frames[-1] + math.sqrt(1 - rho**2) * w)
    errors = torch.stack(frames, 1) * torch.tensor([1.0, 1e-4])
    assert correlation_time_s(errors, dt_s) == pytest.approx(tau_s, rel=0.1)


def test_correlation_time_of_constant_and_of_white_errors() -> None:
    constant = torch.randn(32, 1, 2, dtype=torch.float64).expand(32, 100, 2)
    assert correlation_time_s(constant, 0.1) == pytest.approx(100.0)
    white = torch.randn(
        64, 500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    assert correlation_time_s(white, 0.1) < 0.1


def test_correlation_time_of_a_model_that_sees_the_same_frame_again_and_again() -> None:
    artifact = tiny_artifact()
    x, _ = random_motion(1)
    still = [x.map(lambda t: t.expand(10, *t.shape[1:])) for _ in range(3)]
    tau_s = epistemic_correlation_s(artifact.posterior, artifact.model, still, dt_s=0.1, draws=4)
    assert tau_s == pytest.approx(10 * 30 * 0.1)


def test_lasting_share_and_time_of_simulated_noise() -> None:
    rng = np.random.default_rng(0)
    share, dt_s = np.array([0.6, 0.0, 0.3, 0.0, 0.8, 1.0]), 0.1
    tau_s = np.array([2.0, 1.0, 0.8, 1.0, 4.0, 1.0])
    rho = np.exp(-dt_s / tau_s)
    drives = []
    for _ in range(6):
        z = rng.normal(size=6)
        rows = []
        for _ in range(4000):
            z = rho * z + np.sqrt(1 - rho**2) * rng.normal(size=6)
            rows.append(np.sqrt(share) * z + np.sqrt(1 - share) * rng.normal(size=6))
        drives.append((np.array(rows), dt_s))
    found = noise_correlation(drives)
    np.testing.assert_allclose(found.share, share, atol=0.1)
    lasts = share > 0
    np.testing.assert_allclose(np.array(found.time_s)[lasts], tau_s[lasts], rtol=0.35)


def test_drives_too_short_for_a_correlation_are_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        noise_correlation([(np.ones((5, 6)), 0.1)])


def test_few_errors_move_the_noise_scale_little() -> None:
    g = torch.Generator().manual_seed(5)
    residual = 0.01 * torch.randn(40, 2, dtype=torch.float64, generator=g)
    eye = torch.eye(2, dtype=torch.float64).expand(40, 2, 2)
    many = residual.repeat(100, 1)
    few_scale, _ = fit_noise_scale(Residuals(residual, 1e-12 * eye, eye))
    alike = eye.repeat(100, 1, 1)
    many_scale, _ = fit_noise_scale(Residuals(many, 1e-12 * alike, alike))
    assert bool((few_scale > 3 * many_scale).all())
