"""Declare parameters on a node, keep what was refused by name, read them back checked."""

from __future__ import annotations

import math
from array import array
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from bayes_vio.ros.parameter_spec import ParameterSpec
from bayes_vio.ros.parameter_table import of_values, table_of

# Declared by rclpy itself, in every node.
_FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


KindT = TypeVar("KindT")


class Declaration(Generic[KindT]):
    """A node's declared parameters.

    The node must have been created with ``automatically_declare_parameters_from_overrides``, so
    that a misspelled name in a file is seen. A value from outside that is refused is replaced by
    the default, and its reason kept in ``refused`` by name until a good value is set.

    kind: the dataclass that ``read`` returns, whose fields are the parameters.
    """

    def __init__(self, node: Node, kind: type[KindT]) -> None:
        self._node, self._kind = node, kind
        self._specs = table_of(kind)
        given = {p.name: p.value for p in node.get_parameters_by_prefix("").values()}
        self.refused = {
            name: "unknown parameter"
            for name in given
            if name not in self._specs and not name.startswith(_FOREIGN)
        }
        for name, (default, spec) in self._specs.items():
            self._declare(name, default, spec, given)
        node.add_on_set_parameters_callback(self._check)
        self.fixed = False

    def _declare(
        self, name: str, default: Any, spec: ParameterSpec, given: dict[str, Any]
    ) -> None:
        value = default
        if name in given:
            self._node.undeclare_parameter(name)
            value = _widened(given[name], default, spec)
            reason = spec.refusal(value, default)
            if reason:
                self.refused[name] = reason
                value = default
        descriptor = spec.descriptor(name, default)
        self._node.declare_parameter(name, _ros_list(value), descriptor, ignore_override=True)

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuse a value outside its range, and any while the node is active."""
        for parameter in parameters:
            if parameter.name not in self._specs:
                continue
            if self.fixed:
                reason = f"{parameter.name} cannot change while the node is active: deactivate"
                return SetParametersResult(successful=False, reason=reason)
            default, spec = self._specs[parameter.name]
            reason = spec.refusal(parameter.value, default)
            if reason:
                reason = f"{parameter.name} {reason}"
                return SetParametersResult(successful=False, reason=reason)
        for parameter in parameters:
            self.refused.pop(parameter.name, None)
        return SetParametersResult(successful=True)

    def read(self) -> KindT:
        """Return the current parameters; ValueError naming every one that was refused."""
        if self.refused:
            raise ValueError("; ".join(f"parameter {n}: {r}" for n, r in self.refused.items()))
        values = {name: self._node.get_parameter(name).value for name in self._specs}
        return of_values(self._kind, values)


def _widened(value: Any, default: Any, spec: ParameterSpec) -> Any:
    """Return the value as YAML means it: 0 for 0.0, an empty text for NaN."""
    if spec.nan_means and value == "":
        return math.nan
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(default[0], float) and _is_list(value):
        return tuple(float(v) if type(v) is int else v for v in value)
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, array))


def _ros_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
