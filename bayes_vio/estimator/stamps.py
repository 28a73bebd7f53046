"""Judge the stamps of one stream: what is out of order is left out, a clock that jumps followed.

One message whose stamp lies an hour ahead says nothing about the clock; several in a row that go
on from there do. Between the two a message is held, neither taken nor lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from bayes_vio.conventions import NS_PER_S

Item = TypeVar("Item")

# Far beyond any epoch in use (the year 2116), and far below where int64 arithmetic overflows.
_STAMP_END_NS = 1 << 62
# A message is held no longer than until time has come to its stamp, less this part of a jump.
_PROMPTNESS = 5


class StampFault(Enum):
    """What is wrong with a stamp, seen from those before it in the same stream."""

    INVALID = "invalid"  # zero, negative, or beyond what a clock can say
    DUPLICATE = "duplicate"
    BACKWARDS = "backwards"
    AHEAD = "ahead"  # beyond what time can have passed, and the stream did not go on from there
    JUMP = "jump"  # several in a row: a bag that loops, or a clock set anew


@dataclass(frozen=True)
class FaultyStamp:
    """A stamp, what is wrong with it, and the stamp before it in its stream (None: none)."""

    stamp_ns: int
    fault: StampFault
    last_ns: int | None


@dataclass(frozen=True)
class Passage(Generic[Item]):
    """What a gate lets through, stamps rising; went_back: the stream's clock was set back."""

    items: list[tuple[int, Item]] = field(default_factory=list)
    faults: list[FaultyStamp] = field(default_factory=list)
    went_back: bool = False


class StampGate(Generic[Item]):
    """Let a stream's messages through in the order of their stamps.

    A stamp may step ahead by jump_s more than the caller's clock has gone on since the one before.
    A longer step, ahead or back, is held. Once ``messages`` in a row go on from there, the clock
    has jumped, and all of them pass; if the stream goes on as before, they are left out.
    """

    def __init__(self, jump_s: float, messages: int) -> None:
        self._jump_ns = round(jump_s * NS_PER_S)
        self._messages = messages
        self._now_ns = 0
        self._has_time = False
        self._held: list[tuple[int, Item]] = []
        self.reset()

    def reset(self) -> list[tuple[int, Item]]:
        """Forget the stream, whose next stamp may be any; return the messages that were held."""
        held, self._held = self._held, []
        self._last_ns: int | None = None
        # The caller's time at the last message that passed, and at the last one held.
        self._last_now_ns = self._held_now_ns = self._now_ns
        return held

    def observe(self, now_ns: int) -> Passage[Item]:
        """Take the caller's time, which may have come to what is held and let it pass."""
        if not self._has_time or now_ns < self._now_ns:  # none is known to have passed
            self._last_now_ns = self._held_now_ns = now_ns
        self._now_ns, self._has_time = now_ns, True
        if self._held and self._last_ns is not None:
            step_ns = self._held[0][0] - self._last_ns
            passed_ns = now_ns - self._last_now_ns
            if 0 < step_ns <= passed_ns + self._jump_ns // _PROMPTNESS:
                return self._pass(self._held)
        return Passage()

    def take(self, stamp_ns: int, item: Item) -> Passage[Item]:
        """Take one message; return what may pass now, and what was found wrong."""
        last_ns = self._last_ns
        if not 0 < stamp_ns < _STAMP_END_NS:
            return self._fault(stamp_ns, StampFault.INVALID)
        if last_ns is None or self._follows(stamp_ns, last_ns, self._last_now_ns):
            return self._pass([(stamp_ns, item)], self._outliers())
        if stamp_ns == last_ns or any(stamp_ns == held_ns for held_ns, _ in self._held):
            return self._fault(stamp_ns, StampFault.DUPLICATE)
        if 0 < last_ns - stamp_ns <= self._jump_ns:
            return self._fault(stamp_ns, StampFault.BACKWARDS)
        return self._hold(stamp_ns, item)

    def _follows(self, stamp_ns: int, earlier_ns: int, earlier_now_ns: int) -> bool:
        """Return whether a stamp goes on from an earlier one, as far as time allows."""
        passed_ns = self._now_ns - earlier_now_ns
        return 0 < stamp_ns - earlier_ns <= self._jump_ns + passed_ns

    def _pass(
        self, items: list[tuple[int, Item]], faults: list[FaultyStamp] | None = None
    ) -> Passage[Item]:
        went_back = self._last_ns is not None and items[-1][0] < self._last_ns
        self._held = []
        self._last_ns, self._last_now_ns = items[-1][0], self._now_ns
        return Passage(items, faults or [], went_back)

    def _hold(self, stamp_ns: int, item: Item) -> Passage[Item]:
        """Keep a message far from the last one, and let all go once enough of them agree."""
        faults = []
        if not (self._held and self._follows(stamp_ns, self._held[-1][0], self._held_now_ns)):
            faults, self._held = self._outliers(), []
        self._held.append((stamp_ns, item))
        self._held_now_ns = self._now_ns
        if len(self._held) < self._messages:
            return Passage(faults=faults)
        jump = FaultyStamp(self._held[0][0], StampFault.JUMP, self._last_ns)
        return self._pass(self._held, [*faults, jump])

    def _outliers(self) -> list[FaultyStamp]:
        """Return what is wrong with the messages held, now that they are left out."""
        last_ns = self._last_ns
        sides = {True: StampFault.AHEAD, False: StampFault.BACKWARDS}
        return [
            FaultyStamp(stamp_ns, sides[last_ns is None or stamp_ns > last_ns], last_ns)
            for stamp_ns, _ in self._held
        ]

    def _fault(self, stamp_ns: int, fault: StampFault) -> Passage[Item]:
        return Passage(faults=[FaultyStamp(stamp_ns, fault, self._last_ns)])
