"""Turn the fields of a dataclass into a node's parameters, and a node's values into the dataclass.

A field is a parameter where its metadata hold a ParameterSpec under "spec". None is NaN in ROS, an
enum its text.
"""

from __future__ import annotations

import math
from dataclasses import fields
from enum import Enum
from typing import Any

from bayes_vio.ros.parameter_spec import ParameterSpec


def about(description: str, **spec: Any) -> dict[str, ParameterSpec]:
    """Return a field's metadata: what the parameter means and which values it may take."""
    return {"spec": ParameterSpec(description, **spec)}


def choice(description: str, *choices: Enum) -> dict[str, ParameterSpec]:
    """Return the metadata of a field that holds an enum."""
    return about(description, choices=tuple(str(c.value) for c in choices))


def ros_value(default: Any) -> Any:
    """Return a field's default as ROS holds it: an enum's text, NaN for None."""
    if default is None:
        return math.nan
    return default.value if isinstance(default, Enum) else default


def own_value(value: Any, default: Any) -> Any:
    """Return a checked ROS value as the field holds it."""
    if default is None:
        return None if math.isnan(value) else value
    if isinstance(default, Enum):
        return type(default)(value)
    return tuple(value) if isinstance(default, tuple) else value


def table_of(kind: Any) -> dict[str, tuple[Any, ParameterSpec]]:
    """Return the ROS default and the specification of every parameter of a dataclass, by name."""
    return {
        f.name: (ros_value(f.default), f.metadata["spec"])
        for f in fields(kind)
        if "spec" in f.metadata
    }


def own_values(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return a dataclass' fields from a complete table of ROS values, by name."""
    return {
        f.name: own_value(values[f.name], f.default) for f in fields(kind) if "spec" in f.metadata
    }
