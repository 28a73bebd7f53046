"""Say what a ROS parameter means and which values it may take."""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor


@dataclass(frozen=True)
class ParameterSpec:
    """What a parameter means and which values it may take."""

    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    read_only: bool = False
    nan_means: str = ""

    def refusal(self, value: Any, default: Any) -> str:
        """Say why a value is refused; empty where it is not."""
        kind = type(default)
        if isinstance(default, tuple):
            return _tuple_refusal(value, default)
        if type(value) is not kind:
            return f"must be of type {kind.__name__}, not {type(value).__name__} ({value!r})"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not '{value}'"
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"must match {self.pattern}, not '{value}'"
        return self._range_refusal(value) if kind in (int, float) else ""

    def _range_refusal(self, value: float) -> str:
        if self.nan_means and math.isnan(value):
            return ""
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return "" if low <= value <= high else f"must lie in [{low}, {high}], not {value}"

    def descriptor(self, name: str, default: Any) -> ParameterDescriptor:
        """Return the ROS descriptor: description with unit and range, read-only flag, range."""
        message = ParameterDescriptor(name=name, description=self.text(), read_only=self.read_only)
        bounded = self.minimum is not None and self.maximum is not None and not self.nan_means
        if bounded and isinstance(default, int) and not isinstance(default, bool):
            low, high = int(self.minimum or 0), int(self.maximum or 0)
            message.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        elif bounded and isinstance(default, float):
            low, high = float(self.minimum or 0), float(self.maximum or 0)
            message.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        return message

    def text(self) -> str:
        """Return the description with unit, range and choices."""
        notes = [f"unit {self.unit}"] if self.unit else []
        if self.minimum is not None:
            notes.append(f"range [{self.minimum}, {self.maximum}]")
        if self.choices:
            notes.append(f"one of {', '.join(self.choices)}")
        if self.nan_means:
            notes.append(f".nan: {self.nan_means}")
        return f"{self.description} ({'; '.join(notes)})" if notes else self.description


def _tuple_refusal(value: Any, default: tuple) -> str:
    """Say why a value is no list of finite numbers as long as the default; empty where it is."""
    if not isinstance(value, (list, tuple, array)) or len(value) != len(default):
        return f"must be a list of {len(default)} numbers, not {value!r}"
    kind = type(default[0])
    good = all(type(v) is kind and math.isfinite(v) for v in value)
    return "" if good else f"must hold finite numbers of type {kind.__name__}, not {value!r}"
