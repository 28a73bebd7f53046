"""Turn the fields of a dataclass into a node's parameters, and a node's values into the dataclass.

A field is a parameter where `parameter`, `number` or `choice` made it, and many of them where
`group` did. None is NaN in ROS, an enum its text.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import Any

from bayes_vio.ros.parameter_spec import ParameterSpec


@dataclass(frozen=True)
class Group:
    """A settings class whose fields are parameters, named prefix + field."""

    kind: Any
    prefix: str
    specs: dict[str, ParameterSpec]


def parameter(default: Any, description: str, **spec: Any) -> Any:
    """Return a field that is a parameter; spec: what else `ParameterSpec` takes."""
    return field(default=default, metadata={"spec": ParameterSpec(description, **spec)})


def number(
    default: float | None,
    description: str,
    unit: str,
    minimum: float,
    maximum: float,
    nan_means: str = "",
) -> Any:
    """Return a field that is a number within a range; None is meant by NaN."""
    bounds = {"minimum": minimum, "maximum": maximum, "nan_means": nan_means}
    return parameter(default, description, unit=unit, **bounds)


def choice(default: Enum, description: str, *choices: Enum) -> Any:
    """Return a field that holds an enum; choices: all its members unless given."""
    allowed = choices or tuple(type(default))
    return parameter(default, description, choices=tuple(str(c.value) for c in allowed))


def group(kind: Any, prefix: str, specs: dict[str, ParameterSpec]) -> Any:
    """Return a field that holds a settings class; specs: of each of its fields by name."""
    return field(default_factory=kind, metadata={"group": Group(kind, prefix, specs)})


def table_of(kind: Any) -> dict[str, tuple[Any, ParameterSpec]]:
    """Return the ROS default and the specification of every parameter of a dataclass, by name."""
    table = {f.name: (ros_value(f.default), f.metadata["spec"]) for f in _parameters(kind)}
    for part in _groups(kind).values():
        defaults = part.kind()
        for name, spec in part.specs.items():
            table[part.prefix + name] = (ros_value(getattr(defaults, name)), spec)
    return table


def of_values(kind: Any, values: dict[str, Any]) -> Any:
    """Return the dataclass of a complete table of checked ROS values, by name."""
    own = {f.name: own_value(values[f.name], f.default) for f in _parameters(kind)}
    for name, part in _groups(kind).items():
        own[name] = part.kind(**{n: values[part.prefix + n] for n in part.specs})
    return kind(**own)


def shared_values(source: Any, kind: Any) -> dict[str, Any]:
    """Return the values of a dataclass's fields that another class has by the same names."""
    return {f.name: getattr(source, f.name) for f in fields(kind) if hasattr(source, f.name)}


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


def _parameters(kind: Any) -> list[Field[Any]]:
    return [f for f in fields(kind) if "spec" in f.metadata]


def _groups(kind: Any) -> dict[str, Group]:
    return {f.name: f.metadata["group"] for f in fields(kind) if "group" in f.metadata}
