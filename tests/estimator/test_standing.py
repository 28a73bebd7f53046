"""A car that stands does not move, and slow rotation is the gyro's where the artifact says so."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_vio.conventions import GRAVITY_M_S2
from bayes_vio.estimator import Estimator, TrackingState
from bayes_vio.geometry import so3
from bayes_vio.models.complementary import Crossover
from bayes_vio.models.noise import AS_IN_TRAINING
from tests.estimator_cases import YAW_RATE_RAD_S, Drive, KnownArtifact, scene

AT_REST = np.array([0, 0, GRAVITY_M_S2, 0, 0, 0])
BIAS_RAD_S = 0.01


def parked(index: int, image: np.ndarray) -> np.ndarray:
    """Return what a parked car sees: the same place, with the camera's noise."""
    noise = np.random.default_rng(index).normal(scale=1.5, size=image.shape)
    return np.clip(scene(0) + noise, 0, 255).astype(np.uint8)


def still(index: int, sample: np.ndarray) -> np.ndarray:
    return AT_REST + np.random.default_rng(index).normal(scale=1e-4, size=6)


def test_a_parked_car_stays_where_it_is():
    artifact = KnownArtifact()
    estimates = Drive(images=parked, samples=still).run(Estimator(artifact), 5.0)
    assert not artifact.asked  # whose answer would be 8 m/s
    assert {e.state for e in estimates} == {TrackingState.TRACKING}
    for e in estimates:
        assert not e.T_earlier_later[:3, 3].any()
        twist_cov = AS_IN_TRAINING.standing_twist_cov
        np.testing.assert_allclose(e.noise_cov, e.dt_s**2 * twist_cov, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(estimates[-1].T_odom_base, np.eye(4), atol=1e-3)
    # 50 independent errors of 10 mm.
    assert estimates[-1].odom_cov[0, 0] == pytest.approx(50 * 0.01**2, rel=0.1)


def test_what_a_gyro_reads_at_rest_may_be_bias_before_that_is_known():
    def biased(index: int, sample: np.ndarray) -> np.ndarray:
        return still(index, sample) + np.array([0, 0, 0, 0, 0, BIAS_RAD_S])

    estimates = Drive(images=parked, samples=biased).run(Estimator(KnownArtifact()), 5.0)
    first, last = estimates[1], estimates[-1]
    usual_std = AS_IN_TRAINING.standing_std[5]
    turned = [
        float(so3.log(torch.from_numpy(e.T_earlier_later[:3, :3]))[2]) for e in (first, last)
    ]
    assert turned[0] == pytest.approx(BIAS_RAD_S * first.dt_s, rel=0.02)
    expected_std = np.hypot(usual_std, BIAS_RAD_S) * first.dt_s
    assert np.sqrt(first.noise_cov[5, 5]) == pytest.approx(expected_std, rel=0.02)
    assert abs(turned[1]) < 1e-5
    assert np.sqrt(last.noise_cov[5, 5]) == pytest.approx(usual_std * last.dt_s, rel=0.02)


def test_a_car_that_swings_to_rest_turns_as_the_gyro_says():
    def swinging(index: int, sample: np.ndarray) -> np.ndarray:
        swing = np.array([0, 0, 0, 0, 0.02 * np.cos(0.05 * index), 0])
        return still(index, sample) + swing

    artifact = KnownArtifact()
    # Before the swing could be taken for a bias.
    estimates = Drive(images=parked, samples=swinging).run(Estimator(artifact), 1.5)
    assert not artifact.asked
    turned = np.array(
        [float(so3.log(torch.from_numpy(e.T_earlier_later[:3, :3]))[1]) for e in estimates]
    )
    edges = np.sin(0.05 * 10 * np.arange(len(turned) + 1)) * 0.02 / 0.05 / 100
    np.testing.assert_allclose(turned, np.diff(edges), atol=1e-4)


def test_a_car_that_moves_off_is_followed_at_once():
    drive = Drive(
        images=lambda i, image: parked(i, image) if i <= 20 else image,
        samples=lambda i, sample: still(i, sample) if i <= 200 else sample,
    )
    estimates = drive.run(Estimator(KnownArtifact()), 4.0)
    speed = np.array([e.T_earlier_later[0, 3] / e.dt_s for e in estimates])
    assert not speed[:20].any()
    assert (speed[20:] > 7.0).all()


def test_no_car_stops_at_once():
    drive = Drive(
        images=lambda i, image: image if i <= 20 else parked(i, image),
        samples=lambda i, sample: sample if i <= 200 else still(i, sample),
    )
    artifact = KnownArtifact()
    estimates = drive.run(Estimator(artifact), 4.0)
    assert len(artifact.asked) == len(estimates)


@pytest.mark.parametrize("crossover_s", [1.0, np.inf])
def test_rotation_that_lasts_is_the_gyros(crossover_s: float):
    def with_bias(p):
        bias = torch.tensor([0, 0, 0, 0, 0, 0.1 * BIAS_RAD_S]).double()
        return replace(p, mean=p.mean + bias)

    artifact = KnownArtifact(
        crossover=Crossover((crossover_s, crossover_s, crossover_s)), corrupt=with_bias
    )
    estimates = Drive().run(Estimator(artifact), 12.0)
    T = torch.from_numpy(estimates[-1].T_odom_base)
    turned = float(so3.log(T[:3, :3])[2])
    error = turned - YAW_RATE_RAD_S * 0.1 * len(estimates)
    lasted_s = min(0.1 / -np.expm1(-0.1 / crossover_s), 12.0) if np.isfinite(crossover_s) else 12.0
    assert error == pytest.approx(BIAS_RAD_S * lasted_s, rel=0.02)


def test_without_a_camera_rotation_stays_the_networks():
    artifact = KnownArtifact(crossover=Crossover((1.0, 1.0, 1.0)))
    plain = KnownArtifact()
    drive = Drive(images=lambda i, image: np.zeros_like(image) if i > 15 else image)
    fused, alone = (drive.run(Estimator(a), 3.0) for a in (artifact, plain))
    for a, b in zip(fused, alone, strict=True):
        np.testing.assert_allclose(a.T_earlier_later, b.T_earlier_later, atol=1e-9)
