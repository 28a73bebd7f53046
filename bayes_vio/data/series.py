"""Gather one topic's messages with their stamps, and leave out what cannot be trusted."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.messages import BagError


def cdr_header(raw: bytes) -> tuple[int, str]:
    """Return stamp_ns and frame_id of a serialised message that starts with a std_msgs/Header."""
    order = "<" if raw[1] else ">"  # second byte of the CDR encapsulation: endianness
    try:
        seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", raw, 4)
        frame_id = bytes(raw[16 : 16 + length]).rstrip(b"\0").decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise BagError(f"a message's header cannot be read: {error}") from error
    return seconds * NS_PER_S + nanoseconds, frame_id


class Series:
    """Stamped rows [n, width] of one topic in the order in which they were logged."""

    def __init__(self, width: int) -> None:
        self._width = width
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
        self, name: str, dropped: dict[str, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        """Return stamps [n], kept [n] and rows [n, width], and count causes in ``dropped``.

        Left out: values that are not finite, zero stamps, stamps not after all earlier ones.
        Where every header is unstamped the log's stamps stand in, which is counted too. Raises
        BagError where less than half of the messages remain.
        """
        stamp_ns = np.array(self.stamps, dtype=np.int64)
        rows = np.array(self._rows, dtype=np.float64).reshape(len(stamp_ns), self._width)
        if not stamp_ns.any():
            stamp_ns = np.array(self._log_stamps, dtype=np.int64)
            dropped[f"{name}: header unstamped, log stamp used"] = len(stamp_ns)
        causes = _causes(stamp_ns, rows)
        for cause in np.unique(causes[causes != ""]):
            dropped[f"{name}: {cause}"] = int(np.count_nonzero(causes == cause))
        kept = causes == ""
        if 2 * np.count_nonzero(kept) < len(kept):
            counts = {k: v for k, v in dropped.items() if k.startswith(f"{name}:")}
            raise BagError(f"most messages of the {name} stream are unusable: {counts}")
        return stamp_ns, kept, rows


def _causes(stamp_ns: NDArray[np.int64], rows: NDArray[np.float64]) -> NDArray[np.str_]:
    """Return why each message is left out [n], "" where it stays."""
    causes = np.full(len(stamp_ns), "", dtype="<U16")
    causes[stamp_ns == 0] = "zero stamp"
    if rows.shape[1] == 7:  # position and quaternion
        causes[np.linalg.norm(rows[:, 3:], axis=1) < 0.5] = "no rotation"
    causes[~np.isfinite(rows).all(axis=1)] = "not finite"
    usable = np.flatnonzero(causes == "")
    latest = np.maximum.accumulate(stamp_ns[usable])
    step = stamp_ns[usable][1:] - latest[:-1]
    causes[usable[1:][step == 0]] = "duplicate stamp"
    causes[usable[1:][step < 0]] = "backward stamp"
    return causes
