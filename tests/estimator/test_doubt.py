"""Unusual inputs widen the epistemic covariance, degrade the state, and leave the mean alone."""

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayes_vio.data.frames import to_grid
from bayes_vio.estimator import Estimator, TrackingState
from bayes_vio.estimator.doubt import Doubt
from bayes_vio.estimator.tracking import Cause
from bayes_vio.models.agreement import camera_rotation
from bayes_vio.models.reliability import Reliability, fit_picture, picture_statistics
from bayes_vio.models.street import fit_street, means_along
from tests.estimator_cases import (
    YAW_RATE_RAD_S,
    Drive,
    KnownArtifact,
    assert_publishable,
    scene,
)
from tests.motion_cases import random_motion


class CameraOfTheCircle(nn.Module):
    """What a camera alone tells on the circle of ``Drive``, with noise as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked = []

    def forward(self, x):
        self.asked.append(x)
        mean = torch.zeros(len(x), 6)
        mean[:, 5] = YAW_RATE_RAD_S * x.dt
        return mean, (x.dt[:, None] * torch.full((len(x), 6), 0.01)).diag_embed()


@dataclass
class Judged(KnownArtifact):
    """An artifact that knows the drive's own pictures as usual."""

    least_change: tuple[float, ...] | None = (0.85, 0.03)

    def __post_init__(self):
        views = np.stack([to_grid(scene(k)) for k in range(60)])
        statistics = picture_statistics(views, np.ones((40, 128)))
        mean, precision = fit_picture(statistics, statistics)
        self.model = CameraOfTheCircle()
        self.reliability = Reliability(
            picture_mean=tuple(mean.tolist()),
            picture_precision=tuple(map(tuple, precision.tolist())),
            still_share=0.05,
            unseen_share=0.0,
            disagreement_std=(2e-3, 2e-3, 2e-3, 0.2, 5e-3),
            disagreement_response=(1.0,) * 5,
            least_change=self.least_change,
        )


@cache
def usual_street() -> dict:
    """Return what the drive's street is like, as fields of ``Reliability``."""
    views = np.stack([to_grid(scene(k)) for k in range(200)])
    pictures = picture_statistics(views, np.ones((40, 128)))
    # The model's rotation is the gyro's own, give or take what little is put in here.
    rough = np.log(1e-3) + 0.3 * np.random.default_rng(0).normal(size=(200, 2))
    statistics = np.concatenate([pictures, rough], axis=1)
    parts = np.array_split(statistics, 5)
    known = fit_street([means_along(part, np.full(len(part), 0.1), 5.0) for part in parts])
    assert known is not None
    rows = tuple(map(tuple, known[1].tolist()))
    return {"street_mean": tuple(known[0].tolist()), "street_precision": rows}


class JudgedByStreet(Judged):
    """Knows the drive's street as usual, too."""

    def __post_init__(self):
        super().__post_init__()
        self.reliability = replace(self.reliability, **usual_street())


def run(seconds: float = 4.0, artifact: Judged | None = None, **changes):
    artifact = artifact or Judged()
    return Drive(**changes).run(Estimator(artifact), seconds), artifact


def std(estimate, axis: int) -> float:
    return float(np.sqrt(estimate.cov[axis, axis]))


@pytest.fixture(scope="module")
def good():
    return run()[0]


def test_usual_inputs_are_hardly_doubted(good):
    plain = Drive().run(Estimator(KnownArtifact()), 4.0)
    assert {e.state for e in good} == {TrackingState.TRACKING}
    for judged, known in zip(good, plain, strict=True):
        assert 1 <= std(judged, 0) / std(known, 0) < 1.5
        np.testing.assert_allclose(judged.noise_cov, known.noise_cov)
        np.testing.assert_allclose(judged.T_earlier_later, known.T_earlier_later)


def dirty(index, image):
    covered = image.copy()
    if index >= 10:
        covered[:, :100] = 20
    return covered


def test_dirt_on_the_lens_widens_and_degrades(good):
    spoilt, _ = run(images=dirty)
    last = spoilt[-1]
    assert last.state is TrackingState.DEGRADED
    assert "view_blind" in last.cause
    assert std(last, 0) > 1.8 * std(good[-1], 0)
    np.testing.assert_allclose(last.noise_cov, good[-1].noise_cov)
    np.testing.assert_allclose(last.T_earlier_later, good[-1].T_earlier_later)
    assert_publishable(last)


def speckled(index, image):
    """Return an image behind four half-transparent specks from its twentieth on."""
    cover = np.zeros(image.shape, np.float32)
    for k in range(4):
        cv2.circle(cover, (32 + 64 * k, 54), 6, 0.7, -1)
    return np.uint8(image * (1 - cover) + 120 * cover) if index >= 20 else image


def test_specks_on_the_lens_widen_translation_alone_and_degrade():
    spoilt, _ = run(7.0, images=speckled)
    older = Drive(images=speckled).run(Estimator(Judged(least_change=None)), 7.0)
    assert not any("lens_speckled" in e.cause for e in older)
    told = [(e, o) for e, o in zip(spoilt, older, strict=True) if e.cause == "lens_speckled"]
    assert len(told) > 10
    last, unaware = told[-1]
    assert last.state is TrackingState.DEGRADED
    grown = np.diagonal(last.cov) / np.diagonal(unaware.cov)
    assert grown[:3].min() > 1.1
    np.testing.assert_allclose(grown[3:], 1, rtol=1e-6)
    np.testing.assert_allclose(last.noise_cov, unaware.noise_cov)
    np.testing.assert_allclose(last.T_earlier_later, unaware.T_earlier_later)
    assert_publishable(last)


def test_opaque_dirt_is_not_counted_twice():
    spoilt, older = (
        Drive(images=dirty).run(Estimator(Judged(least_change=usual)), 5.0)
        for usual in ((0.85, 0.03), None)
    )
    assert "view_blind" in spoilt[-1].cause
    assert "lens_speckled" in spoilt[-1].cause
    np.testing.assert_allclose(spoilt[-1].cov, older[-1].cov)


def test_clean_lenses_are_not_called_speckled_and_a_reset_forgets_specks():
    estimator = Estimator(Judged())
    assert {e.state for e in Drive().run(estimator, 7.0)} == {TrackingState.TRACKING}
    estimator.reset()
    assert "lens_speckled" in Drive(images=speckled).run(estimator, 7.0)[-1].cause
    estimator.reset()
    again = Drive(images=lambda k, image: speckled(k + 20, image)).run(estimator, 2.9)
    assert not any("lens_speckled" in e.cause for e in again)


def test_a_picture_unlike_those_of_training_widens_and_degrades(good):
    flat = lambda k, image: (150 + (image.astype(int) - 150) // 5).astype(np.uint8)  # noqa: E731
    spoilt, _ = run(images=flat)
    assert "image_unfamiliar" in spoilt[-1].cause
    assert std(spoilt[-1], 0) > 1.5 * std(good[-1], 0)


def test_one_strange_picture_is_not_a_strange_street(good):
    flat = lambda image: (150 + (image.astype(int) - 150) // 5).astype(np.uint8)  # noqa: E731
    once, _ = run(images=lambda k, image: flat(image) if k == 30 else image)
    lasting, _ = run(images=lambda k, image: flat(image) if k >= 30 else image)
    last = [std(run[-1], 0) / std(good[-1], 0) for run in (once, lasting)]
    at_once = max(std(a, 0) / std(b, 0) for a, b in zip(once, good, strict=True))
    assert any("image_unfamiliar" in e.cause for e in once)
    assert last[0] < 1.02 * at_once
    assert last[0] - 1 < 0.3 * (last[1] - 1)
    assert at_once - 1 < 0.6 * (last[1] - 1)


def test_a_gyro_that_contradicts_the_camera_widens_rotation_by_as_much(good):
    bias = 0.03
    # About an axis that the circle does not turn about: else the camera's scale may be wrong.
    turned = lambda k, s: s + bias * np.array([0, 0, 0, 0, 1, 0])  # noqa: E731
    spoilt, artifact = run(8.0, samples=turned)
    last = spoilt[-1]
    assert "sensors_disagree" in last.cause
    # The increment errs by the bias, and says so.
    assert 0.8 * bias * 0.1 < std(last, 4) < 1.5 * bias * 0.1
    grown = std(last, 4) / std(good[-1], 4)
    assert std(good[-1], 2) < std(last, 2) < grown * std(good[-1], 2)
    assert all(not x.imu_valid.any() for x in artifact.model.asked)
    assert_publishable(last)


def test_the_camera_alone_is_asked_no_more_often_than_told():
    _, artifact = run(3.0, camera_hz=30.0)
    assert 5 <= len(artifact.model.asked) <= 7


def test_a_reset_forgets_the_contradiction(good):
    artifact = Judged()
    estimator = Estimator(artifact)
    turned = lambda k, s: s + 0.03 * np.array([0, 0, 0, 0, 1, 0])  # noqa: E731
    Drive(samples=turned).run(estimator, 5.0)
    estimator.reset()
    again = Drive().run(estimator, 1.0)
    assert std(again[0], 4) == pytest.approx(std(good[0], 4), rel=0.05)


def dull(index, image):
    """Return an image with half the contrast from the thirtieth on."""
    return (150 + (image.astype(int) - 150) // 2).astype(np.uint8) if index >= 30 else image


def shaken(index, sample):
    """Return an IMU sample that shakes about y from the third second on."""
    shake = 0.02 * (-1.0) ** (index // 10) if index >= 300 else 0.0
    return sample + shake * np.array([0, 0, 0, 0, 1, 0])


class OwnRotation(JudgedByStreet):
    """Answers without the gyro: the circle's rotation."""

    def predict(self, x):
        p = super().predict(x)
        p.mean[0, 3:] = torch.tensor([0, 0, YAW_RATE_RAD_S]) * x.dt[0].double()
        return p


@pytest.fixture(scope="module")
def usual():
    return run(8.0, JudgedByStreet())[0]


def test_the_street_of_training_is_tracked_and_hardly_widened(usual):
    plain = Drive().run(Estimator(KnownArtifact()), 8.0)
    assert {e.state for e in usual} == {TrackingState.TRACKING}
    assert max(std(a, 0) / std(b, 0) for a, b in zip(usual, plain, strict=True)) < 1.2


def test_a_street_of_other_pictures_widens_and_degrades(usual):
    spoilt, _ = run(8.0, JudgedByStreet(), images=dull)
    assert "image_unfamiliar" in spoilt[-1].cause
    assert std(spoilt[-1], 0) > 1.5 * std(usual[-1], 0)
    # Within seconds, and more with each.
    grown = [std(spoilt[k], 0) / std(usual[k], 0) for k in (28, 32, 45, -1)]
    assert grown[0] == pytest.approx(1)
    assert grown == sorted(grown)
    np.testing.assert_allclose(spoilt[-1].noise_cov, usual[-1].noise_cov)
    np.testing.assert_allclose(spoilt[-1].T_earlier_later, usual[-1].T_earlier_later)


def test_a_gyro_that_shakes_otherwise_than_the_network_says_widens(usual):
    spoilt, _ = run(8.0, OwnRotation(), samples=shaken)
    assert std(spoilt[-1], 0) > 1.5 * std(usual[-1], 0)
    assert_publishable(spoilt[-1])


def test_pictures_alone_tell_of_a_street_without_gyro(usual):
    alone, spoilt = (
        Drive(without_imu=range(10_000), images=images).run(Estimator(JudgedByStreet()), 8.0)
        for images in (lambda k, image: image, dull)
    )
    blind = Drive(without_imu=range(10_000)).run(Estimator(KnownArtifact()), 8.0)
    assert std(alone[-1], 0) / std(blind[-1], 0) < 1.2
    assert std(spoilt[-1], 0) > 1.5 * std(alone[-1], 0)


def test_a_reset_forgets_the_street(usual):
    estimator = Estimator(JudgedByStreet())
    Drive(images=dull).run(estimator, 8.0)
    estimator.reset()
    again = Drive().run(estimator, 1.0)
    assert {e.state for e in again} == {TrackingState.TRACKING}
    assert std(again[-1], 0) == pytest.approx(std(usual[len(again) - 1], 0))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), *[st.floats(0, 100)] * 3)
def test_what_is_added_is_no_negative_variance(seed, share, scale, linear):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(6, 6)), scale * rng.normal(size=(3, 3))
    cov = A @ A.T + 1e-3 * np.eye(6)
    added = Doubt(share, B @ B.T).added_cov(cov)
    more = Doubt(share, B @ B.T, linear_share=linear).added_cov(cov) - added
    np.testing.assert_allclose(more[:3, :3], linear * cov[:3, :3], atol=1e-9 * np.trace(added))
    np.testing.assert_array_equal(more[3:], 0)
    assert np.linalg.eigvalsh(added).min() >= -1e-9 * max(1.0, np.trace(added))
    np.testing.assert_allclose(Doubt().added_cov(cov), 0, atol=1e-12 * np.trace(cov))
    assert np.trace(added[3:, 3:]) == pytest.approx(
        share * np.trace(cov[3:, 3:]) + np.trace(B @ B.T)
    )


def test_levers_tell_how_far_a_contradiction_reaches_into_translation():
    rotation_cov = np.diag([1e-6, 4e-6, 0.0])
    lever_m = np.array([[0.0, 10.0, 0.0], [3.0, 4.0, 7.0], [0.0, 0.0, 50.0]])
    cov = np.diag([1e-4, 1e-6, 1e-6, 1e-7, 1e-7, 1e-8])
    added = Doubt(0.0, rotation_cov).added_cov(cov, lever_m)
    np.testing.assert_allclose(
        added, np.diag([4e-4, 9e-6 + 64e-6, 0.0, 1e-6, 4e-6, 0.0]), atol=1e-18
    )


def test_the_cameras_rotation_comes_with_the_covariance_of_the_networks_cholesky():
    L = torch.tril(torch.rand(6, 6, generator=torch.Generator().manual_seed(0))) + torch.eye(6)
    x, _ = random_motion(3)
    rotation, cov = camera_rotation(lambda x: (torch.ones(len(x), 6), L.expand(3, 6, 6)), x)
    np.testing.assert_array_equal(rotation, np.ones((3, 3)))
    np.testing.assert_allclose(cov[0], (L @ L.T)[3:, 3:].numpy(), rtol=1e-6)


def test_a_contradiction_that_lasts_widens_and_is_told() -> None:
    cov = np.diag([1e-4, 1e-6, 1e-6, 1e-7, 1e-7, 1e-8])
    before = Doubt(share=0.5, causes=(Cause.IMAGE_UNFAMILIAR,))
    assert before.widened(np.zeros(3)) is before
    after = before.widened(np.array([3e-7, 0.0, 0.0]))
    assert after.causes == (Cause.IMAGE_UNFAMILIAR, Cause.SENSORS_DISAGREE)
    assert after.widened(np.array([1e-7, 0.0, 0.0])).causes == after.causes
    more = after.added_cov(cov) - before.added_cov(cov)
    assert more[3, 3] == pytest.approx(3e-7)
    assert np.linalg.eigvalsh(more).min() > -1e-12
