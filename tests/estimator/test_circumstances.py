"""The estimator scales the noise by circumstances that training has not."""

from dataclasses import dataclass

import numpy as np
import torch

from bayes_vio.data.samples import MotionInput
from bayes_vio.estimator import Estimator
from bayes_vio.estimator.increments import Increment
from bayes_vio.models.noise import Circumstances
from bayes_vio.posterior.sketch import FeatureSketch
from tests.estimator_cases import START_NS, Drive, KnownArtifact, Prediction, no_inertia


def test_the_imu_alone_has_a_noise_scale_of_its_own():
    spoil = lambda k, image: image // 16 if k >= 20 else image  # noqa: E731
    scale = (2.0, 1.0, 0.5, 3.0, 1.0, 1.0)
    drive = Drive(images=spoil)
    usual, scaled = (
        drive.run(
            Estimator(KnownArtifact(circumstances=Circumstances(imu_alone_scale=s)), no_inertia()),
            3.0,
        )
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


@dataclass
class FeaturedArtifact(KnownArtifact):
    """The known model, which tells its epistemic error by features, too."""

    def predict_features(
        self, x: MotionInput, sketch: FeatureSketch
    ) -> tuple[Prediction, torch.Tensor]:
        prediction = self.predict(x)
        return prediction, torch.linalg.cholesky(prediction.epistemic_cov)


def _increments(artifact: KnownArtifact, drive: Drive, end_s: float) -> list[Increment]:
    estimator, found = Estimator(artifact, no_inertia()), []
    predict = estimator._predictor.predict
    estimator._predictor.predict = lambda interval: found.append(predict(interval)) or found[-1]
    drive.run(estimator, end_s)
    return found


def test_what_is_epistemic_is_scaled_where_a_sensor_is_alone_features_and_all():
    spoil = lambda k, image: image // 16 if k >= 20 else image  # noqa: E731
    scaled = Circumstances(
        imu_alone_epistemic_scale=(0.5, 1.0, 1.0, 0.1, 1.0, 1.0),
        camera_alone_epistemic_scale=(0.2, 1.0, 1.0, 0.3, 1.0, 1.0),
    )
    for drive, at, name in (
        (Drive(images=spoil), 24, "imu_alone_epistemic_scale"),
        (Drive(without_imu=range(150, 200)), 17, "camera_alone_epistemic_scale"),
    ):
        usual, alone = (
            _increments(FeaturedArtifact(circumstances=c), drive, 2.6)
            for c in (Circumstances(), scaled)
        )
        seeing = 10
        np.testing.assert_allclose(alone[seeing].epistemic_cov, usual[seeing].epistemic_cov)
        factors = np.array(getattr(scaled, name))
        before, after = (found[at].epistemic_cov for found in (usual, alone))
        ratio = np.sqrt(np.diagonal(after) / np.diagonal(before))
        np.testing.assert_allclose(ratio[[2, 3]], factors[[2, 3]], rtol=1e-2)
        assert ratio[0] < 0.99
        for k in (seeing, at):
            features = alone[k].features
            assert features is not None
            np.testing.assert_allclose(
                features @ features.T, alone[k].epistemic_cov, rtol=1e-4, atol=1e-10
            )
        np.testing.assert_allclose(alone[at].noise_cov, usual[at].noise_cov)
