"""Find in a recorded stream the messages whose stamps cannot be trusted, seen from all others.

A live node has to judge a stamp by those before it; a recording also tells how it went on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S

Stamps = NDArray[np.int64]


class Cause(IntEnum):
    """Why a message is left out; a byte each, since a long recording has many."""

    NONE = 0
    NOT_FINITE = 1
    ABSURD_VALUE = 2
    NO_ROTATION = 3
    ZERO_STAMP = 4
    DUPLICATE_STAMP = 5
    BACKWARD_STAMP = 6
    STRAY_STAMP = 7
    BEFORE_THE_CLOCK_WAS_SET = 8
    AFTER_THE_CLOCK_WAS_SET = 9

    @property
    def text(self) -> str:
        """The cause in words."""
        return self.name.lower().replace("_", " ")


CLOCK_SET = (Cause.BEFORE_THE_CLOCK_WAS_SET, Cause.AFTER_THE_CLOCK_WAS_SET)

# So few messages of another time say nothing about the clock; more are one that was set.
_FEW = 3
_SET_BACK_NS = NS_PER_S
# No recording pauses for so long: its clock was set ahead, as where GPS or NTP came late.
_SET_AHEAD_NS = 86_400 * NS_PER_S


@dataclass
class _Stretch:
    """Messages on one clock: ranges [start, end) of indices whose stamps rise throughout."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0

    @property
    def last(self) -> int:
        """Index of the last message."""
        return self.ranges[-1][1] - 1

    def add(self, start: int, end: int) -> None:
        """Add the messages [start, end), later than all others."""
        self.ranges.append((start, end))
        self.count += end - start

    def count_of(self, wanted: NDArray[np.bool_] | None) -> int:
        """Return how many messages are among those wanted [n]; None: all are."""
        if wanted is None:
            return self.count
        return sum(int(np.count_nonzero(wanted[start:end])) for start, end in self.ranges)

    def count_from(self, stamp_ns: Stamps, first_ns: int) -> int:
        """Return how many of the last messages are stamped ``first_ns`` or later."""
        count = 0
        for start, end in reversed(self.ranges):
            later = end - start - int(np.searchsorted(stamp_ns[start:end], first_ns))
            count += later
            if later < end - start:
                break
        return count

    def drop_last(self, count: int) -> None:
        """Forget the last messages."""
        self.count -= count
        while count:
            start, end = self.ranges.pop()
            if end - start > count:
                self.ranges.append((start, end - count))
            count -= min(count, end - start)


def stamp_faults(stamp_ns: Stamps, wanted: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return the Cause by which each message of a stream [n], in order of logging, is left out.

    Where two stretches overlap the fewer messages are at fault. Where many overlap by more than a
    second, or a day passes between two messages, the clock was set, and what is then called
    right is the stretch on one clock that holds most of the messages ``wanted`` [n] (None, or
    where none is: all). Stamps without fault rise strictly.
    """
    faults = np.full(len(stamp_ns), Cause.NONE, dtype=np.uint8)
    if not len(stamp_ns):
        return faults
    step_ns = np.diff(stamp_ns)
    breaks = np.flatnonzero((step_ns <= 0) | (step_ns > _SET_AHEAD_NS)) + 1
    edges = [0, *breaks.tolist(), len(stamp_ns)]
    stretches = [_Stretch([(0, edges[1])], edges[1])]
    for start, end in pairwise(edges[1:]):
        _leave_strays(stretches, stamp_ns, start)
        _go_on(stretches, stamp_ns, start, end, faults)
    sizes = [(stretch.count_of(wanted), stretch.count) for stretch in stretches]
    kept = sizes.index(max(sizes))
    is_kept = np.zeros(len(stamp_ns), dtype=bool)
    for k, stretch in enumerate(stretches):
        cause = Cause.STRAY_STAMP if stretch.count <= _FEW else CLOCK_SET[k > kept]
        for start, end in stretch.ranges:
            is_kept[start:end] = k == kept
            faults[start:end] = Cause.NONE if k == kept else cause
    faults[~is_kept & (faults == Cause.NONE)] = Cause.STRAY_STAMP
    return faults


def _leave_strays(stretches: list[_Stretch], stamp_ns: Stamps, start: int) -> None:
    """Forget a last stretch of a few messages where the stream goes on as before it."""
    if len(stretches) < 2 or stretches[-1].count > _FEW:
        return
    step_ns = stamp_ns[start] - stamp_ns[stretches[-2].last]
    if 0 < step_ns <= _SET_AHEAD_NS:
        stretches.pop()


def _go_on(
    stretches: list[_Stretch], stamp_ns: Stamps, start: int, end: int, faults: NDArray[np.uint8]
) -> None:
    """Add the rising stamps of [start, end) to the last stretch, or begin another with them."""
    stretch = stretches[-1]
    last_ns, first_ns = int(stamp_ns[stretch.last]), int(stamp_ns[start])
    if first_ns > last_ns:
        if first_ns - last_ns > _SET_AHEAD_NS:
            stretches.append(_Stretch([(start, end)], end - start))
        else:
            stretch.add(start, end)
        return
    old = stretch.count_from(stamp_ns, first_ns)
    new = int(np.searchsorted(stamp_ns[start:end], last_ns, side="right"))
    if min(old, new) > _FEW and last_ns - first_ns > _SET_BACK_NS:
        stretches.append(_Stretch([(start, end)], end - start))
        return
    if old < new:
        stretch.drop_last(old)
        new = 0
    dropped = stamp_ns[start : start + new]
    repeated = dropped == last_ns
    faults[start : start + new] = np.where(repeated, Cause.DUPLICATE_STAMP, Cause.BACKWARD_STAMP)
    if start + new < end:
        stretch.add(start + new, end)
