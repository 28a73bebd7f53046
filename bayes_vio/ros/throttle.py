"""Log the same trouble once, then at most once per period with how often it came."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from typing import Any


class ThrottledLog:
    """A logger that tells each cause at most once per period (s)."""

    def __init__(self, logger: Any, period_s: float = 5.0) -> None:
        self._logger = logger
        self._period_s = period_s
        self._told_s: dict[str, float] = {}
        self._withheld: Counter[str] = Counter()

    # rclpy ties a severity to the line that logs, so each has its own.

    def warn(self, cause: str, text: str) -> None:
        """Log a warning of a cause."""
        if due := self._due(cause, text):
            self._logger.warning(due)

    def error(self, cause: str, text: str) -> None:
        """Log an error of a cause."""
        if due := self._due(cause, text):
            self._logger.error(due)

    def _due(self, cause: str, text: str) -> str:
        """Return what is to be logged now, empty where nothing is."""
        now_s = time.monotonic()
        if now_s - self._told_s.get(cause, -math.inf) < self._period_s:
            self._withheld[cause] += 1
            return ""
        withheld = self._withheld.pop(cause, 0)
        self._told_s[cause] = now_s
        return f"{text} ({withheld} more since the last such line)" if withheld else text


class ChangeLog:
    """Tell every change of a state, but of a state that flickers no more than the last.

    burst: changes told one by one within period_s; further ones are told together, by the state to
    which they have led, as soon as there is room again. A state not told in that time is told at
    once.
    """

    def __init__(self, logger: Any, first: str, burst: int = 10, period_s: float = 5.0) -> None:
        self._logger = logger
        self._told = self._seen = first
        self._untold = 0
        self._burst, self._period_s = burst, period_s
        self._recent: deque[tuple[float, str]] = deque()

    def see(self, state: str, cause: str) -> None:
        """Take the state as it is now, and what it comes from."""
        if state != self._seen:
            self._seen, self._untold = state, self._untold + 1
        if not self._untold or not self._has_room(state):
            return
        changes = f" ({self._untold} changes)" if self._untold > 1 else ""
        text = f"state {self._told} -> {state}{changes}"
        self._logger.info(f"{text}: {cause}" if cause else text)
        self._told, self._untold = state, 0
        self._recent.append((time.monotonic(), state))

    def _has_room(self, state: str) -> bool:
        oldest_s = time.monotonic() - self._period_s
        while self._recent and self._recent[0][0] < oldest_s:
            self._recent.popleft()
        return len(self._recent) < self._burst or state not in {told for _, told in self._recent}
