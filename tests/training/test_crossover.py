"""Whose rotation is taken beyond which length is what held-out errors say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from bayes_vio.conventions import ANGULAR
from bayes_vio.models.backbone import mean_angular_rate
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover, fused_rotations
from bayes_vio.models.motion import MotionModel
from bayes_vio.training.crossover import (
    CANDIDATES_S,
    HORIZONS,
    DriveAnswers,
    choose_crossover,
    drive_answers,
)
from tests.motion_cases import TINY, Samples, random_motion

DT_S, N = 0.1, 2000


def answers(network_bias: float, gyro_bias: float, vibration: float, seed: int) -> DriveAnswers:
    """Return a drive on which both err by a bias (rad/s), and the gyro vibrates (rad)."""
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 0.02, (N, 6))
    mean = target + rng.normal(0, 3e-4, (N, 6))
    mean[:, ANGULAR] += DT_S * network_bias
    # Angles that a car swings by come and go: rates are their differences.
    swing = np.diff(rng.normal(0, vibration, (N + 1, 3)), axis=0)
    gyro_rate = (target[:, ANGULAR] + swing) / DT_S + gyro_bias
    noise_cholesky = np.broadcast_to(3e-4 * np.eye(6), (N, 6, 6))
    return DriveAnswers(
        mean, noise_cholesky, target, gyro_rate, np.full(N, DT_S), np.ones(N, bool)
    )


def test_a_gyro_without_bias_takes_over_from_a_network_with_one() -> None:
    drives = [answers(3e-4, 0.0, 1e-3, seed) for seed in range(2)]
    chosen = choose_crossover(drives)
    assert max(chosen.time_s) <= 2.0
    before, after = (
        np.sqrt(np.mean([d.errors(c)[:, ANGULAR].sum(0) ** 2 for d in drives], axis=0))
        for c in (NETWORK_ALONE, chosen)
    )
    assert (after < before / 3).all()


def test_a_gyro_with_a_bias_leaves_the_network_alone() -> None:
    assert choose_crossover([answers(1e-5, 2e-2, 1e-3, 0)]) == NETWORK_ALONE


def test_a_stronger_vibration_is_averaged_for_longer() -> None:
    calm, rough = (
        choose_crossover([answers(2e-4, 0.0, vibration, 0)]) for vibration in (2e-4, 1e-2)
    )
    assert max(calm.time_s) < min(rough.time_s)


def test_a_rotation_that_translation_hangs_on_is_left_to_the_network_for_longer() -> None:
    drive = answers(2e-4, 0.0, 2e-3, 0)
    # The network's errors of z and rotY are nearly one: a vibration of rotY would betray it.
    cov = 9e-8 * np.eye(6)
    cov[2, 4] = cov[4, 2] = 9e-8 * 0.98
    mean = drive.mean.copy()
    error = mean - drive.target
    mean[:, 2] = drive.target[:, 2] + 0.98 * error[:, 4] + np.sqrt(1 - 0.98**2) * error[:, 2]
    linked = replace(
        drive, mean=mean, noise_cholesky=np.broadcast_to(np.linalg.cholesky(cov), (N, 6, 6))
    )
    alone, together = choose_crossover([drive]).time_s, choose_crossover([linked]).time_s
    assert together[1] > alone[1]
    assert together[::2] == alone[::2]


def test_the_choice_is_the_least_of_likelihood_and_errors_of_sums() -> None:
    drive = answers(2e-4, 5e-5, 2e-3, 5)
    scores = []
    for time_s in CANDIDATES_S:
        # The noise is diagonal here: axes do not meddle with one another.
        errors = drive.errors(Crossover((time_s, time_s, time_s)))[:, ANGULAR]
        score = -stats.norm.logpdf(errors, scale=3e-4).mean(0)
        for n in HORIZONS:
            sums = errors[: N // n * n].reshape(-1, n, 3).sum(1)
            score += np.log(np.sqrt((sums**2).mean(0)))
        scores.append(score)
    best = np.argmin(scores, axis=0)
    assert choose_crossover([drive]).time_s == tuple(CANDIDATES_S[i] for i in best)


def test_without_an_imu_the_network_stays_alone() -> None:
    drive = answers(3e-4, 0.0, 1e-3, 0)
    blind = replace(drive, has_imu=np.zeros(N, bool))
    assert choose_crossover([blind]) == NETWORK_ALONE
    np.testing.assert_array_equal(blind.errors(Crossover((1.0, 1.0, 1.0))), blind.errors())


def test_intervals_without_imu_are_passed_over() -> None:
    drive = answers(3e-4, 0.0, 1e-3, 0)
    has_imu = np.arange(N) % 7 != 3
    partly = replace(drive, has_imu=has_imu)
    crossover = Crossover((1.0, 2.0, math.inf))
    errors = partly.errors(crossover)
    np.testing.assert_array_equal(errors[~has_imu], (drive.target - drive.mean)[~has_imu])
    fused = fused_rotations(
        crossover, drive.mean[has_imu], drive.gyro_rate[has_imu], drive.dt_s[has_imu]
    )
    np.testing.assert_array_equal(errors[has_imu], drive.target[has_imu] - fused)


def test_a_short_drive_is_judged_over_what_it_has() -> None:
    drive = answers(3e-4, 0.0, 1e-3, 0)
    short = DriveAnswers(**{name: value[:8] for name, value in vars(drive).items()})
    assert set(choose_crossover([short]).time_s) <= set(CANDIDATES_S)


def test_answers_are_the_models() -> None:
    torch.manual_seed(0)
    model = MotionModel(TINY).eval()
    x, target = random_motion(20)
    x.imu_valid[3, 5] = 0
    found = drive_answers(model, Samples(x, target), batch_size=7)
    with torch.no_grad():
        mean, L = model(x)
    np.testing.assert_allclose(found.mean, mean.numpy(), rtol=1e-4, atol=1e-7)
    std = (L @ L.mT).diagonal(dim1=1, dim2=2).sqrt().numpy()
    np.testing.assert_allclose(found.std, std, rtol=1e-4)
    np.testing.assert_array_equal(found.gyro_rate, mean_angular_rate(x).double().numpy())
    np.testing.assert_array_equal(found.target, target.double().numpy())
    assert np.flatnonzero(~found.has_imu).tolist() == [3]
    assert found.dt_s == pytest.approx(0.1)
