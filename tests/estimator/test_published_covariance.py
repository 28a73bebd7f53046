"""What leaves the estimator is a covariance, whatever a model says."""

import numpy as np
import pytest
import torch

from bayes_vio.estimator import Estimator, TrackingState
from tests.estimator_cases import (
    START_NS,
    Drive,
    KnownArtifact,
    Prediction,
    assert_publishable,
    scene,
)

MS = 1_000_000
TRACKING, LOST = TrackingState.TRACKING, TrackingState.LOST


def with_(**changes) -> object:
    def corrupt(p: Prediction) -> Prediction:
        parts = {name: getattr(p, name).clone() for name in vars(p)}
        for name, change in changes.items():
            parts[name] = change(parts[name])
        return Prediction(**parts)

    return corrupt


@pytest.mark.parametrize(
    "corrupt",
    [
        with_(mean=lambda m: m * np.nan),
        with_(mean=lambda m: m + 1e20),
        with_(noise_cov=lambda c: -c),
        with_(noise_cov=lambda c: c * 0),
        with_(noise_cov=lambda c: c + np.inf),
        with_(epistemic_cov=lambda c: -c),
        with_(epistemic_cov=lambda c: c * np.nan),
        with_(epistemic_cov=lambda c: c + 0.1 * torch.ones_like(c).triu(1)),
    ],
)
def test_a_covariance_that_is_none_never_leaves(corrupt):
    artifact = KnownArtifact()
    drive = Drive()
    estimator = Estimator(artifact)
    drive.run(estimator, 1.0)
    artifact.corrupt = corrupt
    estimator.feed_imu(START_NS + 1100 * MS, drive.sample(0))
    estimator.feed_image(START_NS + 1100 * MS, scene(11))
    estimate = estimator.estimate(START_NS + 1100 * MS)
    assert estimate is not None
    assert_publishable(estimate)
    assert (estimate.state, estimate.cause) == (LOST, "imu_missing, model_output")


def test_singular_epistemic_covariance_is_as_good_as_known():
    artifact = KnownArtifact(corrupt=with_(epistemic_cov=lambda c: c * 0))
    estimates = Drive().run(Estimator(artifact), 1.0)
    assert {e.state for e in estimates} == {TRACKING}
    np.testing.assert_allclose(estimates[-1].epistemic_cov[2, 2], 1e-12, rtol=0.2)


def test_covariances_of_any_size_stay_publishable():
    for scale in (1e-6, 1e3, 1e8, 1e12):
        artifact = KnownArtifact(
            corrupt=with_(
                noise_cov=lambda c, s=scale: c * s, epistemic_cov=lambda c, s=scale: c * s
            )
        )
        assert len(Drive().run(Estimator(artifact), 2.0)) == 20
