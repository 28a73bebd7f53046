"""Stamps keep every nanosecond, whatever way they are written; names stay in their folder."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_vio.data.convert.kitti import read_stamps
from bayes_vio.data.convert.source import SourceError
from bayes_vio.data.convert.tables import inside, stamp_ns_of, stamps_ns_of_s

STAMPS = st.integers(0, 2**31 * 10**9 - 1)


@given(STAMPS)
def test_every_way_of_writing_a_stamp_is_exact(stamp):
    assert stamp_ns_of(str(stamp), "here") == stamp
    assert stamp_ns_of(f"{stamp // 10**9}.{stamp % 10**9:09d}", "here") == stamp


@given(st.integers(0, 10**7 - 1), st.integers(-6, 3))
def test_scientific_notation_is_exact(digits, exponent):
    text = f"{digits // 10**6}.{digits % 10**6:06d}e{exponent:+03d}"
    exact = digits * 10 ** (9 - 6 + exponent) if exponent >= -3 else None
    found = stamp_ns_of(text, "here")
    if exact is not None:
        assert found == exact
    assert abs(found - digits * 10.0 ** (3 + exponent)) <= 0.5 + 1e-9


@given(st.text(max_size=12))
def test_no_text_makes_a_stamp_raise_anything_else(text):
    try:
        stamp = stamp_ns_of(text, "here")
    except SourceError:
        return
    assert 0 <= stamp <= 2**31 * 10**9


def test_dates_are_read_to_the_nanosecond(tmp_path):
    lines = ["2011-09-26 13:04:32.349659964", "2011-09-26 13:04:33", "", "1970-01-01 00:00:00.5"]
    (tmp_path / "timestamps.txt").write_text("\n".join(lines))
    found = read_stamps(tmp_path / "timestamps.txt")
    assert found.tolist() == [1317042272349659964, 1317042273000000000, 500_000_000]


def test_times_stored_as_float64_are_rounded_to_the_nearest_nanosecond():
    times = np.array([46408.547498, 46408.580034294])
    assert stamps_ns_of_s(times, Path("t")).tolist() == [46408547498000, 46408580034294]


@pytest.mark.parametrize("bad", [[-1.0], [np.nan], [3e9], [[1.0, 2.0]]])
def test_times_that_are_none_are_refused(bad):
    with pytest.raises(SourceError, match="row of times"):
        stamps_ns_of_s(np.array(bad), Path("t"))


@given(st.text(min_size=0, max_size=20))
def test_no_name_leads_out_of_its_folder(name):
    try:
        path = inside(Path("/data/set"), name, "here")
    except SourceError:
        return
    parts = path.parts
    assert parts[:3] == ("/", "data", "set")
    assert ".." not in parts
