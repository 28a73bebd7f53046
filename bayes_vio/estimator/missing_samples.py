"""Tell from a stream's stamps how many of its samples never came."""

from __future__ import annotations

from collections import deque

import numpy as np

_STEPS = 100  # in one look at what is usual
_LOOKS = 20
_USUAL_SHARE = 0.9
_LONG = 1.5  # of the usual step


class MissingSamples:
    """Count the samples that a step between stamps has left out.

    The usual step is the 90th percentile of 100 steps, in the best of the last 20 such looks: some
    jitter is usual, and a time of heavy losses does not make them so. Exact where the stream is
    regular. A step beyond silence_s is a silence and not counted by the sample.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_ns = silence_s * 1e9
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._last_ns: int | None = None
        self._steps_ns: list[int] = []
        self._usual_ns: deque[float] = deque(maxlen=_LOOKS)
        self._least_usual_ns = np.inf

    def add(self, stamp_ns: int) -> int:
        """Take the next stamp of a stream; return how many are missing before it."""
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if last_ns is None or stamp_ns - last_ns > self._silence_ns:
            return 0
        step_ns = stamp_ns - last_ns
        self._steps_ns.append(step_ns)
        if len(self._steps_ns) == _STEPS:
            self._look()
        long = step_ns > _LONG * self._least_usual_ns
        return max(1, round(step_ns / self._least_usual_ns) - 1) if long else 0

    def _look(self) -> None:
        self._usual_ns.append(float(np.quantile(self._steps_ns, _USUAL_SHARE)))
        self._steps_ns.clear()
        self._least_usual_ns = min(self._usual_ns)
