"""The estimator with a regime classifier: its verdicts become states, causes and masks."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from bayes_vio.estimator import Cause, Estimator, TrackingState
from bayes_vio.regime import ClassBelief, ImageRegime, ImageVerdict, Regime
from bayes_vio.regime.classes import EGO_MOTION_CLASSES, IMAGE_CLASSES, EgoMotion
from tests.estimator_cases import START_NS, Drive, KnownArtifact

MS = 1_000_000


def belief(classes: tuple, member: object) -> ClassBelief:
    probs = np.full(len(classes), 0.01)
    probs[classes.index(member)] = 1 - probs[1:].sum()
    return ClassBelief(probs, 0.2, 0.1)


@dataclass
class Verdicts:
    """A classifier that says what it was told to, by the number of the image; notes its calls."""

    told: dict[int, tuple[ImageRegime, ImageVerdict]]
    pairs: list = field(default_factory=list)
    motions: list = field(default_factory=list)

    def judge_image(self, earlier, later, imu, imu_valid) -> Regime:
        self.pairs.append((earlier, later, imu, imu_valid))
        nominal = ImageRegime.NOMINAL, ImageVerdict.NOMINAL
        kind, verdict = self.told.get(len(self.pairs), nominal)
        return Regime(belief(IMAGE_CLASSES, kind), verdict)

    def with_ego_motion(self, regime: Regime, x) -> Regime:
        self.motions.append(x)
        return Regime(regime.image, regime.verdict, belief(EGO_MOTION_CLASSES, EgoMotion.LEFT))


def run(
    verdicts: Verdicts, end_s: float = 2.0, **changes
) -> tuple[dict, KnownArtifact, Estimator]:
    artifact = KnownArtifact(regime=verdicts)
    estimator = Estimator(artifact)
    estimates = Drive(**changes).run(estimator, end_s)
    by_frame = {round((e.stamp_ns - START_NS) / (100 * MS)): e for e in estimates}
    return by_frame, artifact, estimator


def test_every_image_but_the_first_is_judged_once_beside_the_one_before():
    verdicts = Verdicts({})
    estimates, _, _ = run(verdicts)
    assert len(verdicts.pairs) == len(estimates) == 20
    for (_, before, _, _), (earlier, _, imu, valid) in zip(
        verdicts.pairs, verdicts.pairs[1:], strict=False
    ):
        np.testing.assert_array_equal(before, earlier)
        assert earlier.shape == (40, 128)
        assert (imu.shape, valid.shape) == ((20, 6), (20,))
    for e in estimates.values():
        assert e.state is TrackingState.TRACKING
        assert e.regime.image_class is ImageRegime.NOMINAL


def test_the_motion_is_judged_where_somebody_asks():
    verdicts = Verdicts({})
    _, _, estimator = run(verdicts)
    assert not verdicts.motions
    assert estimator.regime.ego_motion_class is EgoMotion.LEFT
    assert len(verdicts.motions) == 1
    estimator.reset("test")
    assert estimator.regime is None


def test_a_doubtful_image_is_used_but_the_state_says_so():
    verdicts = Verdicts({8: (ImageRegime.BLURRED, ImageVerdict.DOUBTFUL)})
    estimates, artifact, estimator = run(verdicts)
    doubtful = estimates[8]
    assert (doubtful.state, doubtful.cause) == (TrackingState.DEGRADED, "image_doubtful")
    assert artifact.asked[7].camera_valid == 1
    np.testing.assert_array_equal(doubtful.cov, estimates[7].cov)
    assert estimates[9].state is TrackingState.TRACKING
    assert estimator.counters["image_doubtful"] == 1


CAUSES = {
    ImageRegime.BLURRED: Cause.IMAGE_BLURRED,
    ImageRegime.DARK: Cause.IMAGE_DARK,
    ImageRegime.OCCLUDED: Cause.IMAGE_OCCLUDED,
    ImageRegime.FROZEN: Cause.IMAGE_FROZEN,
}


@pytest.mark.parametrize("kind", CAUSES)
def test_an_unusable_image_is_left_out_with_its_class_as_the_cause(kind):
    verdicts = Verdicts(dict.fromkeys((8, 9), (kind, ImageVerdict.UNUSABLE)))
    estimates, artifact, _ = run(verdicts)
    for k in (8, 9):
        assert (estimates[k].state, estimates[k].cause) == (
            TrackingState.DEGRADED,
            CAUSES[kind].value,
        )
        assert artifact.asked[k - 1].camera_valid == 0
        assert estimates[k].regime.verdict is ImageVerdict.UNUSABLE
    assert estimates[10].cause == "earlier_image_unusable"
    assert estimates[8].cov[1, 1] > 100 * estimates[7].cov[1, 1]
    assert estimates[11].state is TrackingState.TRACKING


def test_without_imu_an_unusable_image_leaves_nothing():
    verdicts = Verdicts({8: (ImageRegime.OCCLUDED, ImageVerdict.UNUSABLE)})
    estimates, _, _ = run(verdicts, without_imu=range(1, 10_000))
    lost = [e for e in estimates.values() if Cause.IMAGE_OCCLUDED.value in e.cause]
    assert [e.state for e in lost] == [TrackingState.LOST]


def test_a_view_outside_the_simple_bounds_keeps_their_cause_and_is_judged_all_the_same():
    dark = lambda k, image: image // 16 if k == 8 else image  # noqa: E731
    estimates, _, _ = run(
        Verdicts({8: (ImageRegime.OCCLUDED, ImageVerdict.UNUSABLE)}), images=dark
    )
    assert estimates[8].cause == "image_dark"
    assert estimates[8].regime.image_class is ImageRegime.OCCLUDED


def test_without_a_classifier_there_is_no_regime_and_no_image_no_regime():
    plain = Drive().run(Estimator(KnownArtifact()), 1.0)
    assert all(e.regime is None for e in plain)
    estimates, _, _ = run(Verdicts({}), without_image=range(5, 30))
    assert estimates[4].regime is not None
    late = [e for k, e in estimates.items() if k > 5]
    assert late
    assert all(e.regime is None for e in late)
