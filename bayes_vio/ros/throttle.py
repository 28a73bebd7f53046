"""Log the same trouble once, then at most once per period with how often it came."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any


class ThrottledLog:
    """A logger that tells each cause at most once per period (s)."""

    def __init__(self, logger: Any, period_s: float = 5.0) -> None:
        self._logger = logger
        self._period_s = period_s
        self._told_s: dict[str, float] = {}
        self._withheld: Counter[str] = Counter()

    # rclpy ties a severity to the line that logs, so each has its own.

    def info(self, cause: str, text: str) -> None:
        """Log a piece of news of a kind."""
        if due := self._due(cause, text):
            self._logger.info(due)

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
