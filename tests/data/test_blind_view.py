from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_vio.data.blind_view import StillCells, blind_share, unseen_share

SEEN = np.ones((40, 128), np.float32)


def pictures(n: int, moving: bool, seed: int = 0):
    """Return pictures of noise that changes from one to the next, or hardly does."""
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 255, (40, 128))
    if not moving:
        return [(still + rng.integers(0, 2, still.shape)).astype(np.uint8) for _ in range(n)]
    return [rng.integers(0, 255, still.shape).astype(np.uint8) for _ in range(n)]


def shown(cells: StillCells, images) -> float:
    for earlier, later in pairwise(images):
        cells.add(earlier, later)
    return cells.share


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_dirt_on_the_lens_is_told_by_its_share(share):
    images = pictures(20, moving=True)
    for image in images:
        image[:, : round(128 * share)] = 20
    assert shown(StillCells(SEEN), images) == pytest.approx(round(128 * share) / 128)


def test_a_car_that_stands_covers_nothing():
    assert shown(StillCells(SEEN), pictures(30, moving=False)) == 0


def test_standing_keeps_what_was_seen_before():
    dirty, standing = pictures(20, moving=True), pictures(20, moving=False)
    for image in [*dirty, *standing]:
        image[:20] = 20
    assert shown(StillCells(SEEN), [*dirty, *standing]) == 0.5


def test_what_falls_on_the_lens_is_known_within_a_second():
    images = pictures(20, moving=True)
    for image in images[10:]:
        image[:20] = 20
    assert shown(StillCells(SEEN), images) == 0.5


def test_a_cleaned_lens_is_noticed():
    dirty, clean = pictures(20, moving=True), pictures(20, moving=True, seed=1)
    for image in dirty:
        image[:20] = 20
    cells = StillCells(SEEN)
    assert shown(cells, dirty) == 0.5
    assert shown(cells, clean) == 0
    cells.reset()
    assert cells.share == 0


def test_few_images_tell_nothing_and_unseen_cells_do_not_count():
    images = pictures(5, moving=True)
    for image in images:
        image[:] = np.where(np.arange(128) < 64, 20, image)
    assert shown(StillCells(SEEN), images) == 0
    half = SEEN.copy()
    half[:, :64] = 0
    assert shown(StillCells(half), pictures(20, moving=True)) == 0
    assert unseen_share(half) == 0.5


@given(*[st.floats(0, 1)] * 4)
def test_a_blind_share_is_a_share(still, unseen, usual_still, usual_unseen):
    share = blind_share(still, unseen, usual_still, usual_unseen)
    assert 0 <= share <= 1
    assert blind_share(usual_still, usual_unseen, usual_still, usual_unseen) == 0
    assert blind_share(still, unseen, 0, 0) == pytest.approx(unseen + still * (1 - unseen))
