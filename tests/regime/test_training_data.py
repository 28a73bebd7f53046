"""What the regime classifier is trained on: features, degradations, pairs, outliers, a fit."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.models.backbone import ImageEncoder, Stabiliser
from bayes_vio.regime import EgoMotion, ImageRegime
from bayes_vio.regime.classes import EGO_MOTION_CLASSES, IMAGE_CLASSES, ego_motion_of
from bayes_vio.regime.degradations import draw_degradation
from bayes_vio.regime.features import (
    APPEARANCE_FEATURES,
    FEATURE_GROUPS,
    IMAGE_FEATURES,
    ego_motion_features,
    image_features,
    imu_statistics,
    n_ego_motion_features,
)
from bayes_vio.regime.fit import shown_motions
from bayes_vio.regime.frame_pairs import labelled_features, spoil_pair
from bayes_vio.regime.outliers import outliers
from tests.motion_cases import random_motion
from tests.regime_cases import fitted_head, frame_pairs, imu_windows, scenes


def test_features_do_not_care_for_the_side_on_which_something_is():
    earlier, later = scenes(3)
    imu, valid = imu_windows(3)
    mirrored = image_features(earlier[:, :, ::-1], later[:, :, ::-1], imu, valid)
    np.testing.assert_allclose(
        mirrored, image_features(earlier, later, imu, valid), rtol=1e-4, atol=1e-4
    )


def test_features_are_those_of_loops_over_blocks():
    earlier, later = scenes(1)
    found = image_features(earlier, later, *imu_windows(1))[0]
    level = later[0].astype(float)
    laplacian = cv2.Laplacian(level, cv2.CV_64F, ksize=1)
    laplacian[[0, -1]] = laplacian[:, [0, -1]] = 0
    means, stds, details = (np.zeros((4, 8)) for _ in range(3))
    for row in range(4):
        for column in range(8):
            block = np.s_[10 * row : 10 * row + 10, 16 * column : 16 * column + 16]
            means[row, column] = level[block].mean() / 64
            stds[row, column] = np.log(level[block].std() + 0.15)
            details[row, column] = np.log(np.abs(laplacian[block]).mean() + 0.15)
    for kind, values in enumerate((means, stds, details)):
        expected = np.concatenate([values.min(1), values.mean(1), values.max(1)])
        np.testing.assert_allclose(found[FEATURE_GROUPS[kind]], expected, rtol=2e-3, atol=2e-3)


def test_groups_cover_the_appearance_and_leave_out_the_imu():
    covered = np.zeros(IMAGE_FEATURES, int)
    for group in FEATURE_GROUPS:
        covered[group] += 1
    assert (covered[:APPEARANCE_FEATURES] == 2).all()
    assert (covered[APPEARANCE_FEATURES:] == 0).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 128, 254, 255]))
@settings(max_examples=25, deadline=None)
def test_features_are_finite_for_any_image(seed, constant):
    rng = np.random.default_rng(seed)
    wild = rng.integers(0, 256, (2, 40, 128)).astype(np.uint8)
    flat = np.full((2, 40, 128), constant, np.uint8)
    imu, valid = imu_windows(2)
    for pair in ((wild, flat), (flat, wild), (flat, flat), (wild, wild)):
        for there in (valid, 0 * valid):
            assert np.isfinite(image_features(*pair, imu, there)).all()


def test_absent_imu_bins_count_for_nothing():
    imu, valid = imu_windows(2)
    valid[:, ::2] = 0
    wrong = np.where(valid[..., None] > 0, imu, 1e3).astype(np.float32)
    np.testing.assert_allclose(imu_statistics(wrong, valid), imu_statistics(imu, valid), rtol=1e-5)
    assert imu_statistics(imu, valid)[0, 2] == 0.5


def test_ego_motion_features_are_pooled_tokens_with_rates():
    torch.manual_seed(0)
    encoder, (x, _) = ImageEncoder(6), random_motion(3)
    found = ego_motion_features(encoder, x)
    assert found.shape == (3, n_ego_motion_features(6))
    tokens = torch.nn.functional.gelu(encoder(x, Stabiliser()(x))).reshape(3, 5, 4, 4, 6)
    torch.testing.assert_close(found[:, :24].reshape(3, 6, 4), tokens.mean((1, 3)).mT)
    torch.testing.assert_close(found[:, 24:27], x.imu[..., 3:].mean(1) / 0.05)


def test_ego_motion_classes_have_their_borders():
    increments = np.zeros((5, 6))
    increments[:, 0] = [0.02, 0.5, 0.5, 0.5, 0.02]
    increments[:, 5] = [0.0, 0.0, 0.0051, -0.0051, 0.1]
    found = [EGO_MOTION_CLASSES[i] for i in ego_motion_of(increments, np.full(5, 0.1))]
    assert found == [
        EgoMotion.STILL, EgoMotion.STRAIGHT, EgoMotion.LEFT, EgoMotion.RIGHT, EgoMotion.STILL,
    ]  # fmt: skip


def motions_of(encoder: ImageEncoder, shown) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and classes of (input, target) batches."""
    pairs = [(ego_motion_features(encoder, x), x.dt, target) for x, target in shown]
    labels = [ego_motion_of(target.numpy(), dt.numpy()) for _, dt, target in pairs]
    return torch.cat([x for x, *_ in pairs]), torch.from_numpy(np.concatenate(labels))


def test_of_every_kind_of_turn_as_many_are_shown_to_the_left_as_to_the_right():
    x, target = random_motion(40, seed=4)
    _, label = motions_of(ImageEncoder(6), shown_motions(x, target))
    count = np.bincount(label, minlength=len(EGO_MOTION_CLASSES))
    left, right = (EGO_MOTION_CLASSES.index(m) for m in (EgoMotion.LEFT, EgoMotion.RIGHT))
    assert count[left] == count[right] > 0
    assert count.sum() == 100


def test_some_motions_are_shown_as_a_camera_alone_has_them():
    x, target = random_motion(9)
    whole, camera, mirror, mirrored_camera = shown_motions(x, target)
    assert len(camera[0]) == len(mirrored_camera[0]) == 3
    for (alone, moved), (seen, all_moved) in ((camera, whole), (mirrored_camera, mirror)):
        assert not alone.imu.any()
        assert not alone.imu_valid.any()
        torch.testing.assert_close(alone.flow, seen.flow[::4])
        torch.testing.assert_close(moved, all_moved[::4])


def test_drives_that_only_turn_left_teach_what_a_right_turn_is():
    x, target = random_motion(300, seed=6)
    left = target[:, 5] > -0.004
    torch.manual_seed(0)
    encoder = ImageEncoder(6).eval().requires_grad_(False)
    shown = shown_motions(x.map(lambda t: t[left]), target[left])
    head = fitted_head(*motions_of(encoder, shown), len(EGO_MOTION_CLASSES))
    unseen = random_motion(200, seed=7)
    right = unseen[1][:, 5] < -0.012
    found = head.predict(motions_of(encoder, [unseen])[0]).probs.argmax(1)
    told = found[right] == EGO_MOTION_CLASSES.index(EgoMotion.RIGHT)
    assert len(told) > 30
    assert float(told.float().mean()) > 0.8


@pytest.mark.parametrize("seed", range(12))
def test_degradations_do_what_their_names_say(seed):
    _, (image, *_) = scenes(2)
    blurred, dark, covered = (
        draw_degradation(kind, np.random.default_rng(seed))(image)
        for kind in (ImageRegime.BLURRED, ImageRegime.DARK, ImageRegime.OCCLUDED)
    )
    detail = np.abs(cv2.Laplacian(image, cv2.CV_64F)).mean()
    assert np.abs(cv2.Laplacian(blurred, cv2.CV_64F)).mean() < 0.5 * detail
    assert abs(float(blurred.mean()) - float(image.mean())) < 3
    assert dark.max() <= 0.4 * float(image.max()) + 0.5
    changed = np.abs(covered.astype(float) - image) > 3
    assert changed.mean() > 0.06


def test_the_same_draws_give_the_same_degradation_of_any_image():
    earlier, later = scenes(1)
    cover = draw_degradation(ImageRegime.OCCLUDED, np.random.default_rng(8))
    again = draw_degradation(ImageRegime.OCCLUDED, np.random.default_rng(8))
    np.testing.assert_array_equal(cover(later[0]), cover(later[0]))
    np.testing.assert_array_equal(cover(earlier[0]), again(earlier[0]))


@pytest.mark.parametrize("regime", [ImageRegime.NOMINAL, ImageRegime.FROZEN])
def test_what_is_no_change_of_one_image_is_refused(regime):
    with pytest.raises(ValueError, match=f"{regime.value} is no change"):
        draw_degradation(regime, np.random.default_rng(0))


def test_frozen_pairs_repeat_the_image_and_a_standing_cars_do_so_exactly():
    pairs, rng = frame_pairs(10), np.random.default_rng(0)
    standing = replace(pairs, speed_m_s=0 * pairs.speed_m_s)
    for row in range(10):
        earlier, later = spoil_pair(standing, row, ImageRegime.FROZEN, rng)
        np.testing.assert_array_equal(earlier, later)
    for row in range(10):
        earlier, later = spoil_pair(pairs, row, ImageRegime.FROZEN, rng)
        assert np.abs(earlier.astype(int) - later).max() <= 1


def test_every_pair_is_shown_in_every_regime_and_the_same_seed_gives_the_same():
    pairs = frame_pairs(6)
    x, y = labelled_features(pairs, np.random.default_rng(4))
    again, _ = labelled_features(pairs, np.random.default_rng(4))
    assert x.shape == (30, IMAGE_FEATURES)
    assert np.bincount(y).tolist() == [6] * len(IMAGE_CLASSES)
    np.testing.assert_array_equal(x, again)


def test_outliers_lie_out_in_one_group_each():
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=g)
    nominal = torch.randn(500, 5, generator=g) @ mixing + 2.0
    groups, rng = (slice(0, 2), slice(2, 5)), np.random.default_rng(0)
    far = outliers(nominal, nominal.std(0), groups, 400, rng)
    # Every outlier is a nominal datum outside the one group in which it was moved.
    exact = "donot_use_mm_for_euclid_dist"
    kept = [
        torch.cdist(far[:, g], nominal[:, g], compute_mode=exact).min(1).values < 1e-4
        for g in groups
    ]
    assert bool((kept[0] ^ kept[1]).all())
    away = (far - nominal.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(torch.cov(nominal.T))
    ).T
    assert away.square().mean(1).sqrt().median() > 3 * 1.0
