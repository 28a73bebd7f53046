import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.estimator.buffers import ImuBuffer


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 30), st.data())
def test_buffer_holds_the_newest_samples_in_order(n, capacity, data):
    buffer = ImuBuffer(1.0, float(capacity))
    gaps = data.draw(st.lists(st.integers(1, 10**8), min_size=n, max_size=n))
    stamps = 10**9 + np.cumsum(gaps)
    for k, stamp_ns in enumerate(stamps):
        buffer.append(int(stamp_ns), np.full(6, float(k)))
    kept = np.flatnonzero(stamps >= stamps[-1] - 10**9)[-max(2, capacity) :]
    found_ns, samples = buffer.around(int(stamps[0]), int(stamps[-1]))
    np.testing.assert_array_equal(found_ns, stamps[kept])
    np.testing.assert_array_equal(samples[:, 0], kept)
    assert buffer.last_stamp_ns == stamps[-1]
    assert len(buffer) == len(kept)


def test_around_brackets_the_interval_and_shows_the_period_before():
    buffer = ImuBuffer(5.0, 100.0)
    for k in range(300):
        buffer.append((k + 1) * 10**7, np.zeros(6))
    stamps, samples = buffer.around(2_005_000_000, 2_100_000_000)
    assert stamps[-1] == 2_100_000_000
    assert stamps[0] == 2_000_000_000 - 50 * 10**7
    assert len(samples) == len(stamps)
    assert buffer.around(2_005_000_000, 2_095_000_000)[0][-1] == 2_100_000_000


def test_clear_and_empty():
    buffer = ImuBuffer(5.0, 100.0)
    assert buffer.last_stamp_ns is None
    assert len(buffer.around(1, 2)[0]) == 0
    buffer.append(5, np.zeros(6))
    buffer.clear()
    assert len(buffer) == 0
