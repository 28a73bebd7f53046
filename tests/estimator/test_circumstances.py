"""The estimator scales the noise by circumstances that training has not."""

import numpy as np

from bayes_vio.estimator import Estimator
from bayes_vio.models.noise import Circumstances
from tests.estimator_cases import START_NS, Drive, KnownArtifact


def test_the_imu_alone_has_a_noise_scale_of_its_own():
    spoil = lambda k, image: image // 16 if k >= 20 else image  # noqa: E731
    scale = (2.0, 1.0, 0.5, 3.0, 1.0, 1.0)
    drive = Drive(images=spoil)
    usual, scaled = (
        drive.run(Estimator(KnownArtifact(circumstances=Circumstances(imu_alone_scale=s))), 3.0)
        for s in ((1.0,) * 6, scale)
    )
    seeing, blind = 14, 24
    np.testing.assert_allclose(scaled[seeing].noise_cov, usual[seeing].noise_cov)
    ratio = np.diagonal(scaled[blind].noise_cov) / np.diagonal(usual[blind].noise_cov)
    # All but x and y, which the turn within the interval mixes.
    np.testing.assert_allclose(np.sqrt(ratio)[2:], scale[2:], rtol=1e-2)
    assert 1.9 < np.sqrt(ratio[0]) <= 2.0
    np.testing.assert_allclose(scaled[blind].epistemic_cov, usual[blind].epistemic_cov)


def test_the_camera_alone_has_a_noise_scale_of_its_own():
    scale = (0.5, 1.0, 1.0, 3.0, 1.0, 1.0)
    drive = Drive(without_imu=range(150, 200))
    usual, scaled = (
        drive.run(Estimator(KnownArtifact(circumstances=Circumstances(camera_alone_scale=s))), 2.5)
        for s in ((1.0,) * 6, scale)
    )
    (k,) = [k for k, e in enumerate(scaled) if 1.75e9 < e.stamp_ns - START_NS < 1.85e9]
    assert "imu_missing" in scaled[k].cause
    ratio = np.diagonal(scaled[k].noise_cov) / np.diagonal(usual[k].noise_cov)
    np.testing.assert_allclose(np.sqrt(ratio), scale, rtol=1e-2)
    np.testing.assert_allclose(scaled[5].noise_cov, usual[5].noise_cov)
