"""Specks planted on synthetic views that move: told where they are, and nothing else is."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.data.lens_specks import LensSpecks

SEEN = np.ones((40, 128), np.float32)
CENTRES = ((22, 20), (30, 50), (25, 80), (33, 105))
ALL_ALIKE = 0.85  # least change of synthetic views without specks is above it


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Return views [n, 40, 128] of texture that is another in every image."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, 40, 128))
    return 120 + 10 * np.stack([cv2.GaussianBlur(one, (0, 0), 0.7) * 2 for one in noise])


def discs(radius: int) -> np.ndarray:
    cover = np.zeros((40, 128), np.float32)
    for row, column in CENTRES:
        cv2.circle(cover, (column, row), radius, 1.0, -1)
    return cover


def behind(cover: np.ndarray, images: np.ndarray, level: float = 60.0) -> np.ndarray:
    """Return what a cover [40, 128] of opacity in 0 to 1 leaves of images."""
    return np.clip(np.rint(images * (1 - cover) + level * cover), 0, 255).astype(np.uint8)


def shown(images: np.ndarray, specks: LensSpecks | None = None, dt_s: float = 0.1) -> LensSpecks:
    specks = specks or LensSpecks(SEEN)
    for earlier, later in pairwise(images):
        specks.add(earlier, later, dt_s)
    return specks


def least(specks: LensSpecks) -> float:
    assert specks.least_change is not None
    return specks.least_change


@pytest.mark.parametrize("opacity", [0.3, 0.5, 0.7])
def test_a_speck_changes_by_as_much_less_as_it_is_opaque(opacity):
    specks = shown(behind(opacity * discs(3), pictures(80)))
    relative = specks.relative_change()
    inside = [relative[row, column] for row, column in CENTRES]
    # The speck is among its own neighbours.
    share = np.count_nonzero(discs(3)) / len(CENTRES) / 9**2
    expected = (1 - opacity) / (1 - share * opacity)
    np.testing.assert_allclose(inside, expected, atol=0.1)
    assert least(specks) < 1 - 0.6 * opacity


def test_the_cells_that_are_told_are_those_behind_specks():
    cover = discs(3)
    told = shown(behind(0.7 * cover, pictures(80))).relative_change() < 0.7
    planted = cover > 0
    assert (told & planted).sum() > 0.6 * planted.sum()
    assert (told & ~planted).sum() < 0.1 * planted.sum()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_a_clean_lens_shows_no_specks(seed):
    assert least(shown(behind(0 * SEEN, pictures(60, seed)))) > ALL_ALIKE


def test_lanes_that_stay_where_they_are_on_a_straight_road_are_no_specks():
    plain = np.zeros((40, 128), np.float32)
    for bottom in (20, 64, 108):
        cv2.line(plain, (64, 14), (bottom, 39), 1.0, 3)
    lanes, specks = (least(shown(behind(0.6 * c, pictures(80)))) for c in (plain, discs(3)))
    assert specks < 0.6 < 0.68 < lanes


def test_only_three_seconds_that_move_tell():
    images = behind(0.7 * discs(3), pictures(40))
    assert shown(images[:30]).least_change is None
    assert shown(images[:32], dt_s=0.05).least_change is None
    assert least(shown(images[:12], dt_s=0.5)) < 0.7
    told = shown(images[:32])
    before = least(told)
    resting = np.stack([images[31]] * 40)
    assert least(shown(resting, told)) == before
    waiting = LensSpecks(SEEN)
    assert shown(np.concatenate([images[:20], resting]), waiting).least_change is None


def test_a_reset_forgets_and_a_cleaned_lens_is_noticed():
    specks = shown(behind(0.7 * discs(3), pictures(80)))
    clean = behind(0 * SEEN, pictures(200, seed=1))
    dirty = least(specks)
    assert dirty < 0.6
    assert least(shown(clean, specks)) > 0.8
    specks.reset()
    assert specks.least_change is None
    assert shown(clean[:20], specks).least_change is None
    assert least(shown(clean[20:52], specks)) > ALL_ALIKE


def test_what_the_camera_does_not_see_is_no_speck():
    valid = SEEN.copy()
    valid[:, 90:] = 0
    valid[:, 89] = 0.5
    images = behind(0 * SEEN, pictures(60))
    images[:, :, 89:] = 0
    assert least(shown(images, LensSpecks(valid))) > ALL_ALIKE
    images = behind(0.7 * discs(3), pictures(60))
    images[:, :, 89:] = 0
    assert least(shown(images, LensSpecks(valid))) < 0.6


def test_a_camera_that_sees_no_road_does_not_judge():
    sky = SEEN.copy()
    sky[15:] = 0
    assert shown(behind(0.7 * discs(3), pictures(60)), LensSpecks(sky)).least_change is None
    assert shown(behind(0 * SEEN, pictures(60)), LensSpecks(0 * SEEN)).least_change is None
