"""Stamps of a recording that cannot be trusted: strays, repetitions, a clock that was set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import open_streams
from bayes_vio.data.stamp_order import CLOCK_SET, Cause, stamp_faults
from tests.data.bag_cases import GRAY, mounted
from tests.data.drives import START_NS

DAY_S = 86_400
DUPLICATE, BACKWARD, STRAY = Cause.DUPLICATE_STAMP, Cause.BACKWARD_STAMP, Cause.STRAY_STAMP
BEFORE_SET, AFTER_SET = CLOCK_SET


def regular(n: int = 200) -> np.ndarray:
    return START_NS + np.arange(n) * (NS_PER_S // 10)


def told(stamp_ns: np.ndarray) -> dict[Cause, list[int]]:
    """Return the indices at fault by cause; what is left must rise."""
    faults = stamp_faults(stamp_ns)
    assert (np.diff(stamp_ns[faults == Cause.NONE]) > 0).all()
    return {Cause(c): np.flatnonzero(faults == c).tolist() for c in np.unique(faults) if c}


def test_a_sound_stream_has_no_faults_pauses_included():
    stamps = regular()
    assert told(stamps) == {}
    stamps[100:] += 3600 * NS_PER_S
    assert told(stamps) == {}
    assert told(stamps[:1]) == {}
    assert told(stamps[:0]) == {}


@pytest.mark.parametrize("away_s", [-50 * 365 * DAY_S, -600, 600, 10 * DAY_S, 80 * 365 * DAY_S])
@pytest.mark.parametrize("where", [2, 30, 100, 150, 195])
@pytest.mark.parametrize("count", [1, 2])
def test_a_stray_message_is_left_out_alone(away_s, where, count):
    """Whenever it comes: what follows a stamp of the future is no worse than what came before."""
    stamps = regular()
    stamps[where : where + count] += away_s * NS_PER_S
    (indices,) = told(stamps).values()
    assert indices == list(range(where, where + count))


def test_a_stray_first_message_is_left_out_alone():
    for away_s in (-10 * DAY_S, 600, 10 * DAY_S):
        stamps = regular()
        stamps[0] += away_s * NS_PER_S
        assert told(stamps) == {STRAY: [0]}


def test_repeated_and_late_messages_are_left_out():
    stamps = regular(8)
    assert told(stamps[[0, 1, 1, 2, 3, 4]]) == {DUPLICATE: [2]}
    assert told(stamps[[0, 1, 3, 4, 2, 5, 6]]) == {BACKWARD: [4]}
    assert told(np.repeat(stamps, 2)) == {DUPLICATE: list(range(1, 16, 2))}


@pytest.mark.parametrize(("at", "cause"), [(60, BEFORE_SET), (140, AFTER_SET)])
@pytest.mark.parametrize("by_s", [-50 * 365 * DAY_S, -5.0, 2 * DAY_S, 53 * 365 * DAY_S])
def test_of_a_clock_that_was_set_the_longer_part_stays(at, cause, by_s):
    stamps = regular()
    stamps[at:] += round(by_s * NS_PER_S)
    left_out = range(at) if cause == BEFORE_SET else range(at, len(stamps))
    assert told(stamps) == {cause: list(left_out)}


def test_of_a_clock_that_was_set_the_wanted_part_stays():
    stamps = regular()
    stamps[60:] -= 5 * NS_PER_S
    wanted = np.arange(200) < 40
    faults = stamp_faults(stamps, wanted)
    assert np.flatnonzero(faults == Cause.NONE).tolist() == list(range(60))
    unlogged = stamp_faults(stamps, np.zeros(200, dtype=bool))  # another clock logged these
    assert np.flatnonzero(unlogged == Cause.NONE).tolist() == list(range(60, 200))


def test_a_stray_message_does_not_hide_that_the_clock_was_set():
    stamps = regular()
    stamps[120:] -= 5 * NS_PER_S
    stamps[50] += 600 * NS_PER_S
    assert told(stamps) == {STRAY: [50], AFTER_SET: list(range(120, 200))}


@given(st.lists(st.integers(0, 2**62), max_size=60))
def test_any_stamps_are_left_rising(stamps):
    faults = stamp_faults(np.array(stamps, dtype=np.int64))
    kept = np.array(stamps, dtype=np.int64)[faults == Cause.NONE]
    assert (np.diff(kept) > 0).all()
    assert len(kept) or not stamps


def test_a_bag_begun_before_the_clock_was_set_is_read(tmp_path):
    """From 1970 to now in one step: the rest is a recording of its own length, not of 50 years."""
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for k, stamp in enumerate(regular(120).tolist()):
            early = k < 30
            stamp -= START_NS - NS_PER_S if early else 0
            log_ns = START_NS + k * NS_PER_S // 10
            bag.imu(stamp, np.array([0, 0, 9.8, 0, 0, 0.1]), log_ns=log_ns)
            bag.odometry(stamp, np.eye(4), log_ns=log_ns)
            bag.image(stamp + (900 * NS_PER_S if k == 70 else 0), GRAY, log_ns=log_ns)
    streams = open_streams(tmp_path / "bag")
    assert streams.imu is not None
    assert streams.imu.stamp_ns.tolist() == regular(120)[30:].tolist()
    assert streams.dropped == {
        "imu: before the clock was set": 30,
        "reference: before the clock was set": 30,
        "image: before the clock was set": 30,
        "image: stray stamp": 1,
    }
    assert [s for s, _ in streams.frames()] == np.delete(regular(120), 70)[30:].tolist()


@pytest.mark.parametrize("images", ["before", "after"])
def test_streams_of_a_clock_that_was_set_keep_the_same_part(tmp_path, images):
    """Most IMU samples come before, most images before or after: the images decide."""
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for k, stamp in enumerate(regular(200).tolist()):
            log_ns, stamp = stamp, stamp - (5 * NS_PER_S if k >= 100 else 0)
            sparse = k % 2 == 0
            if k < 100 or sparse:
                bag.imu(stamp, np.array([0, 0, 9.8, 0, 0, 0.1]), log_ns=log_ns)
            if (k < 100) == (images == "before") or sparse:
                bag.image(stamp, GRAY, log_ns=log_ns)
            bag.odometry(stamp, np.eye(4), log_ns=log_ns)
    streams = open_streams(tmp_path / "bag")
    assert streams.imu is not None
    assert streams.reference is not None
    counts = (len(streams.imu.stamp_ns), len(streams.image_stamp_ns))
    first_ns = regular(200)[0 if images == "before" else 50]  # the earliest stamp of each part
    assert counts == ((100, 100) if images == "before" else (50, 100))
    assert streams.image_stamp_ns[0] == streams.imu.stamp_ns[0] == first_ns
    assert streams.reference.stamp_ns[0] == first_ns
    assert len(streams.reference.stamp_ns) == 100
