"""The regime classifier: its predictive against the posterior's, its verdicts, its files."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_vio.models.backbone import Stabiliser
from bayes_vio.posterior import LinkSettings, fit_posterior
from bayes_vio.regime import (
    ClassBelief,
    ImageRegime,
    ImageVerdict,
    RegimeClassifier,
    Thresholds,
    storage,
)
from bayes_vio.regime.classes import IMAGE_CLASSES
from bayes_vio.regime.classifier import LINK, ClassHead, EgoMotionHead
from bayes_vio.regime.degradations import draw_degradation
from bayes_vio.regime.features import image_features
from bayes_vio.regime.network import RegimeNetwork
from tests.motion_cases import random_motion
from tests.regime_cases import (
    features_of,
    fitted_head,
    imu_windows,
    scenes,
    small_classifier,
)


@pytest.fixture(scope="module")
def classifier() -> RegimeClassifier:
    return small_classifier()


@pytest.mark.parametrize("link", [LINK, LinkSettings(n_samples=300, seed=4)])
def test_a_head_predicts_what_its_posterior_does(classifier, link):
    x = torch.cat([features_of(6), 3 * features_of(4, seed=3)])
    ours, theirs = classifier.image.predict(x, link), classifier.image.posterior.predict(x, link)
    torch.testing.assert_close(ours.logits_mean, theirs.logits_mean)
    torch.testing.assert_close(ours.logits_cov, theirs.logits_cov)
    # Draws turn with the eigenvectors of a covariance, which rounding may mirror.
    for name in ("probs", "entropy", "mutual_information"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=0.06)


def test_the_logits_covariance_is_that_of_dense_algebra(classifier):
    head, x = classifier.image, features_of(3)
    information = head.posterior.precision_dense("head").double()
    a = torch.cat([head.network.activations(x), torch.ones(3, 1)], 1).double()
    for row, cov in zip(a, head.predict(x).logits_cov, strict=True):
        J = torch.kron(torch.eye(len(IMAGE_CLASSES), dtype=torch.float64), row[None])
        torch.testing.assert_close(cov, J @ torch.linalg.solve(information, J.T))


def test_distances_are_mahalanobis_distances_of_the_reference_class():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 5, generator=g) @ torch.randn(5, 5, generator=g) + 3.0
    network = RegimeNetwork.for_groups(5, 4, 2, (slice(0, 2), slice(1, 5)))
    network.standardise(x, x[:2000], (slice(0, 2), slice(1, 5)))
    z = (x - network.offset) / network.scale
    squares = ((z - network.centre) @ network.whitening.T).square() @ network.grouping.T
    centred = z[:2000] - z[:2000].mean(0)
    for i, group in enumerate((slice(0, 2), slice(1, 5))):
        cov = torch.cov(centred[:, group].T, correction=0)
        d = len(cov)
        cov += (0.05 * cov.diagonal().mean() + 1e-6) * torch.eye(d)
        offset = (z - network.centre)[:, group]
        expected = (offset @ torch.linalg.inv(cov) * offset).sum(1) / d
        torch.testing.assert_close(squares[:, i], expected, rtol=1e-3, atol=1e-4)


def test_far_from_all_that_was_seen_the_classifier_knows_less(classifier):
    x = features_of(20)
    away = x + 20 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    near, far = classifier.image.predict(x), classifier.image.predict(away)
    assert far.mutual_information.mean() > 3 * near.mutual_information.mean()


@pytest.mark.parametrize("regime", [ImageRegime.BLURRED, ImageRegime.DARK, ImageRegime.OCCLUDED])
def test_images_are_judged_one_by_one_as_in_a_batch(classifier, regime):
    earlier, later = scenes(12, seed=11)
    imu, valid = imu_windows(12)
    rng = np.random.default_rng(3)
    spoiled = [draw_degradation(regime, rng)(levels) for levels in later]
    found = [classifier.judge_image(earlier[i], spoiled[i], imu[i], valid[i]) for i in range(12)]
    together = classifier.image.predict(
        torch.from_numpy(image_features(earlier, np.stack(spoiled), imu, valid))
    )
    np.testing.assert_allclose([r.image.probs for r in found], together.probs, atol=1e-5)
    assert sum(r.image_class is regime for r in found) >= 9
    for r in found:
        assert r.image.probs.sum() == pytest.approx(1.0)
        entropy = -(r.image.probs * np.log(r.image.probs + 1e-300)).sum()
        assert r.image.entropy == pytest.approx(entropy, abs=1e-9)
        assert 0.0 <= r.image.mutual_information <= r.image.entropy + 1e-12


def test_a_repeated_image_is_frozen_and_the_next_is_not(classifier):
    earlier, later = scenes(8, seed=12)
    imu, valid = imu_windows(8)
    frozen = [classifier.judge_image(e, e, imu[0], valid[0]).image_class for e in earlier]
    moving = [
        classifier.judge_image(e, x, imu[0], valid[0]).image_class
        for e, x in zip(earlier, later, strict=True)
    ]
    assert frozen == [ImageRegime.FROZEN] * 8
    assert moving == [ImageRegime.NOMINAL] * 8


def belief(p_nominal: float, mutual_information: float = 0.0) -> ClassBelief:
    probs = np.full(5, (1 - p_nominal) / 4)
    probs[0] = p_nominal
    return ClassBelief(probs, 0.5, mutual_information)


def test_verdicts_follow_the_thresholds():
    limits = Thresholds(doubtful_fault=0.3, doubtful_information=0.1, unusable_fault=0.9)
    assert limits.verdict(belief(0.71)) is ImageVerdict.NOMINAL
    assert limits.verdict(belief(0.69)) is ImageVerdict.DOUBTFUL
    assert limits.verdict(belief(0.95, 0.11)) is ImageVerdict.DOUBTFUL
    for kind in ImageRegime:
        probs = np.full(5, 0.02)
        probs[IMAGE_CLASSES.index(kind)] = 0.92
        surely = {
            ImageRegime.NOMINAL: ImageVerdict.NOMINAL,
            ImageRegime.DARK: ImageVerdict.DOUBTFUL,
        }
        told = limits.verdict(ClassBelief(probs, 0.5, 0.0))
        assert told is surely.get(kind, ImageVerdict.UNUSABLE)


@pytest.mark.parametrize(
    "wrong", [{"doubtful_fault": 1.1}, {"unusable_fault": float("nan")},
              {"doubtful_information": -1.0}, {"doubtful_information": float("inf")}],
)  # fmt: skip
def test_thresholds_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(Thresholds(0.3, 0.1, 0.9), **wrong)


def test_ego_motion_is_added_where_there_is_a_head(classifier):
    x, _ = random_motion(1, seed=3)
    earlier, later = scenes(1)
    imu, valid = imu_windows(1)
    regime = classifier.judge_image(earlier[0], later[0], imu[0], valid[0])
    told = classifier.with_ego_motion(regime, x)
    assert regime.ego_motion_class is None
    assert told.ego_motion is not None
    assert told.ego_motion.probs.sum() == pytest.approx(1.0)
    assert replace(classifier, ego_motion=None).with_ego_motion(regime, x) is regime


def test_files_give_back_the_same_bits(classifier):
    files = storage.to_files(classifier)
    loaded = storage.from_files(storage.describe(classifier), files, "here")
    assert loaded.thresholds == classifier.thresholds
    x, _ = random_motion(1, seed=4)
    assert torch.equal(
        loaded.image.predict(features_of(3)).probs, classifier.image.predict(features_of(3)).probs
    )
    ours, theirs = classifier.ego_motion, loaded.ego_motion
    assert ours is not None
    assert theirs is not None
    still = Stabiliser()(x)
    assert torch.equal(ours.encoder(x, still), theirs.encoder(x, still))
    assert storage.to_files(loaded) == files


def test_without_a_head_for_motion_there_is_no_file_of_it(classifier):
    alone = replace(classifier, ego_motion=None)
    files = storage.to_files(alone)
    assert set(files) == {storage.WEIGHTS, storage.IMAGE}
    assert storage.from_files(storage.describe(alone), files, "here").ego_motion is None


def test_heads_for_other_sizes_or_structures_are_refused(classifier):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 3
    other = fitted_head(x, y, 3)
    message = "the image head maps 4 features to 3 classes"
    with pytest.raises(ValueError, match=re.escape(message)):
        RegimeClassifier(other, classifier.thresholds, None)
    with pytest.raises(ValueError, match="the ego-motion head maps 4"):
        EgoMotionHead(other, classifier.ego_motion.encoder)
    network = other.posterior.model
    diagonal = fit_posterior(
        network, [(x, y)], likelihood="categorical", structure="diagonal", layers="last"
    )
    with pytest.raises(ValueError, match="is diagonal, not full"):
        ClassHead(diagonal)
