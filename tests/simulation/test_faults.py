"""Faults: what is lost, frozen, dark, blurred or covered, when and how much."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_vio.simulation.faults import (
    Fault,
    FaultKind,
    added_bias,
    frozen,
    lost_frames,
    lost_samples,
    spoil,
)

TIMES = np.arange(0, 100, 0.1)


def image():
    rng = np.random.default_rng(0)
    return rng.integers(60, 255, (80, 256)).astype(np.uint8)


@given(start=st.floats(0, 90), duration=st.floats(0.1, 50), seed=st.integers(0, 100))
def test_full_losses_are_exactly_the_interval(start, duration, seed):
    rng = np.random.default_rng(seed)
    inside = np.array([start <= t < start + duration for t in TIMES])
    drop = (Fault(FaultKind.FRAME_DROP, start, duration),)
    gap = (Fault(FaultKind.IMU_GAP, start, duration),)
    np.testing.assert_array_equal(lost_frames(TIMES, drop, 0.0, 1.0, rng), inside)
    np.testing.assert_array_equal(lost_samples(TIMES, gap, rng), inside)
    assert not lost_samples(TIMES, drop, rng).any()


@pytest.mark.parametrize(("share", "burst"), [(0.1, 1.0), (0.1, 4.0), (0.4, 10.0)])
def test_random_losses_have_the_stated_share_and_burst_length(share, burst):
    times = np.arange(200_000) * 0.1
    lost = lost_frames(times, (), share, burst, np.random.default_rng(0))
    begins = np.flatnonzero(lost[1:] & ~lost[:-1]).size
    # Bursts are geometric: the share's standard deviation is about share sqrt(2 burst / lost).
    spread = np.sqrt(2 * burst / (share * len(times)))
    assert abs(lost.mean() / share - 1) < 4 * spread
    assert abs(lost.sum() / begins / burst - 1) < 4 * spread


def test_bias_is_added_during_the_fault_only():
    bias = added_bias(TIMES, (Fault(FaultKind.IMU_BIAS, 10, 5, 0.5),))
    during = (TIMES >= 10) & (TIMES < 15)
    np.testing.assert_allclose(bias[during], [[0.5] * 3 + [0.025] * 3] * during.sum())
    assert not bias[~during].any()


def test_images_outside_the_interval_are_untouched():
    for kind in (FaultKind.DARKNESS, FaultKind.BLUR, FaultKind.OCCLUSION):
        faults = (Fault(kind, 10, 5),)
        for time_s in (9.99, 15.0):
            np.testing.assert_array_equal(spoil(image(), time_s, faults, 0), image())


@pytest.mark.parametrize("strength", [0.3, 0.9, 1.0])
def test_darkness_takes_its_share_of_the_light(strength):
    dark = spoil(image(), 12, (Fault(FaultKind.DARKNESS, 10, 5, strength),), 0)
    assert abs(dark.mean() - (1 - strength) * image().mean()) < 0.5


def test_blur_removes_detail_and_keeps_brightness():
    blurred = spoil(image(), 12, (Fault(FaultKind.BLUR, 10, 5, 0.5),), 0)
    assert blurred.std() < 0.1 * image().std()
    assert abs(blurred.mean() - image().mean()) < 2


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_dirt_covers_its_share_and_stays_where_it_is(strength):
    faults = (Fault(FaultKind.OCCLUSION, 10, 5, strength),)
    light = np.full((80, 256), 220, np.uint8)
    first, second = spoil(light, 11, faults, 3), spoil(light, 14, faults, 3)
    np.testing.assert_array_equal(first, second)
    assert abs((first < 120).mean() - strength) < 0.12
    if strength < 1:
        assert (spoil(light, 11, faults, 4) != first).any()


def test_freezing_holds_during_its_interval():
    faults = (Fault(FaultKind.FREEZE, 3, 2),)
    assert [frozen(t, faults) for t in (2.9, 3.0, 4.9, 5.0)] == [False, True, True, False]


def test_several_faults_act_together():
    faults = (Fault(FaultKind.DARKNESS, 0, 5, 0.5), Fault(FaultKind.BLUR, 0, 5, 0.2))
    both = spoil(image(), 1, faults, 0)
    one_by_one = spoil(spoil(image(), 1, faults[:1], 0), 1, faults[1:], 0)
    np.testing.assert_array_equal(both, one_by_one)
    assert cv2.Laplacian(both, cv2.CV_64F).std() < cv2.Laplacian(image(), cv2.CV_64F).std()


def test_faults_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Fault(FaultKind.BLUR, 0, 1, 1.5)
    with pytest.raises(ValueError, match="positive"):
        Fault(FaultKind.BLUR, 0, 0)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="below 1"):
        lost_frames(TIMES, (), 1.0, 1.0, rng)
    with pytest.raises(ValueError, match="at least 1 frame"):
        lost_frames(TIMES, (), 0.1, 0.5, rng)
