"""Gather one topic's messages with their stamps, and leave out what cannot be trusted."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.messages import BagError
from bayes_vio.data.stamp_order import CLOCK_SET, Cause, stamp_faults

# Beyond any position on Earth (m) and any sensor: such numbers only come of damage.
_LARGEST_VALUE = 1e9
# A few messages sent before their clock ran are left out; more, and one stream has two clocks.
_MAX_UNSTAMPED_SHARE = 0.1


def cdr_header(raw: bytes) -> tuple[int, str]:
    """Return stamp_ns and frame_id of a serialised message that starts with a std_msgs/Header."""
    try:
        order = "<" if raw[1] else ">"  # second byte of the CDR encapsulation: endianness
        seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", raw, 4)
        frame_id = bytes(raw[16 : 16 + length]).rstrip(b"\0").decode()
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BagError(f"a message's header cannot be read: {error}") from error
    return seconds * NS_PER_S + nanoseconds, frame_id


class Series:
    """Stamped rows [n, width] of one topic in the order in which they were logged.

    ``name`` is that of the stream in what is counted; ``where`` (bag and topic) goes into errors.
    """

    def __init__(self, width: int, name: str, where: str) -> None:
        self._width, self._name, self._where = width, name, where
        self.stamps = array("q")
        self._log_stamps = array("q")
        self._rows = array("d")
        self.frame_id = ""

    def append(self, stamp_ns: int, log_ns: int, frame_id: str, row: Sequence[float]) -> None:
        """Add one message; the frame is that of the first."""
        self.frame_id = self.frame_id or frame_id
        self.stamps.append(stamp_ns)
        self._log_stamps.append(log_ns)
        self._rows.extend(row)

    def cleaned(
        self, dropped: dict[str, int], logged_ns: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        """Return stamps [n], kept [n] and rows [n, width], and count causes in ``dropped``.

        Left out: values that are not finite or absurd, zero stamps, and stamps out of order. Where
        the clock was set while recording, the part stays of which most was logged in ``logged_ns``
        (first, last; None: the longest). Where every header is unstamped the log's stamps stand
        in, which is counted too. Raises BagError where only some are stamped, or less than half
        of the messages can be used whatever the clock.
        """
        if not self.stamps:
            raise BagError(f"{self._where}: there is not one {self._name} message")
        stamp_ns = self._stamps(dropped)
        rows = np.array(self._rows, dtype=np.float64).reshape(len(stamp_ns), self._width)
        log_ns = np.array(self._log_stamps, dtype=np.int64)
        first_ns, last_ns = logged_ns or (log_ns.min(), log_ns.max())
        causes = _causes(stamp_ns, rows, (first_ns <= log_ns) & (log_ns <= last_ns))
        present = np.bincount(causes, minlength=len(Cause))
        counts = {
            f"{self._name}: {cause.text}": int(present[cause])
            for cause in Cause
            if present[cause] and cause is not Cause.NONE
        }
        kept = causes == Cause.NONE
        useless = len(kept) - sum(present[cause] for cause in (Cause.NONE, *CLOCK_SET))
        if 2 * useless > len(kept) or not kept.any():
            told = ", ".join(f"{n} x {cause}" for cause, n in counts.items())
            raise BagError(
                f"{self._where}: {len(kept) - present[Cause.NONE]} of {len(kept)} messages "
                f"cannot be used: {told}"
            )
        dropped |= counts
        return stamp_ns, kept, rows

    def logged_ns(self, kept: NDArray[np.bool_]) -> tuple[int, int]:
        """Return when the first and the last of the messages kept [n] were logged."""
        log_ns = np.array(self._log_stamps, dtype=np.int64)[kept]
        return int(log_ns.min()), int(log_ns.max())

    def _stamps(self, dropped: dict[str, int]) -> NDArray[np.int64]:
        stamp_ns = np.array(self.stamps, dtype=np.int64)
        unstamped = int(np.count_nonzero(stamp_ns == 0))
        if unstamped == len(stamp_ns):
            dropped[f"{self._name}: header unstamped, log stamp used"] = unstamped
            return np.array(self._log_stamps, dtype=np.int64)
        if unstamped > _MAX_UNSTAMPED_SHARE * len(stamp_ns):
            raise BagError(
                f"{self._where}: {unstamped} of {len(stamp_ns)} {self._name} headers have no "
                "stamp and the others do: stamp all of them, or none to use the log's stamps"
            )
        return stamp_ns


def _causes(
    stamp_ns: NDArray[np.int64], rows: NDArray[np.float64], wanted: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return the Cause by which each message [n] is left out; wanted: as `stamp_faults`."""
    causes = np.full(len(stamp_ns), Cause.NONE, dtype=np.uint8)
    causes[stamp_ns == 0] = Cause.ZERO_STAMP
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    absurd = np.abs(np.where(finite[:, None], rows, 0)).max(axis=1, initial=0) > _LARGEST_VALUE
    if rows.shape[1] == 7:  # position and quaternion
        quaternion = np.where((finite & ~absurd)[:, None], rows[:, 3:], 1)
        causes[np.linalg.norm(quaternion, axis=1) < 0.5] = Cause.NO_ROTATION
    causes[absurd] = Cause.ABSURD_VALUE
    causes[~finite] = Cause.NOT_FINITE
    usable = np.flatnonzero(causes == Cause.NONE)
    causes[usable] = stamp_faults(stamp_ns[usable], wanted[usable])
    return causes
