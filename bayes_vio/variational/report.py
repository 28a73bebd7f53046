"""What a variational fit covers and what came of it, as plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from torch import nn

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.variational.layers import weighted
from bayes_vio.variational.training import EpochRecord


class Method(Enum):
    """How the weights became uncertain."""

    MEAN_FIELD = "mean_field"
    MC_DROPOUT = "mc_dropout"
    SPARSE_DROPOUT = "sparse_dropout"
    ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class StochasticLayer:
    """A layer with a distribution over its weights, and how many of them were pruned."""

    name: str
    kind: str
    parameters: tuple[str, ...]
    n_weights: int
    n_pruned: int = 0

    @property
    def sparsity(self) -> float:
        """Return the share of the weights that were pruned."""
        return self.n_pruned / self.n_weights


@dataclass(frozen=True)
class VariationalReport:
    """Which layers are stochastic, what stays deterministic and why, and the course of the fit.

    ``settings`` are the method's; ``histories``: one per network trained, an ensemble's members.
    """

    method: Method
    likelihood: str
    n_data: int
    n_outputs: int
    numbers_per_datum: int
    stochastic: tuple[StochasticLayer, ...]
    deterministic: tuple[Uncovered, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    histories: tuple[tuple[EpochRecord, ...], ...] = ()

    @property
    def compression(self) -> float:
        """Return the number of weights of stochastic layers over that of those not pruned.

        Biases and deterministic layers do not count; infinite where nothing is left.
        """
        total = sum(layer.n_weights for layer in self.stochastic)
        left = total - sum(layer.n_pruned for layer in self.stochastic)
        return total / left if left else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts and lists for JSON."""
        return asdict(self) | {"method": self.method.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VariationalReport:
        """Return the report that ``to_dict`` described."""

        def tupled(row: dict[str, Any]) -> dict[str, Any]:
            return row | {"parameters": tuple(row["parameters"])}

        return cls(
            **values
            | {
                "method": Method(values["method"]),
                "stochastic": tuple(StochasticLayer(**tupled(r)) for r in values["stochastic"]),
                "deterministic": tuple(Uncovered(**tupled(r)) for r in values["deterministic"]),
                "histories": tuple(
                    tuple(EpochRecord(**e) for e in history) for history in values["histories"]
                ),
            }
        )


def describe_layers(
    model: nn.Module,
    parameters: Mapping[str, Sequence[str]],
    pruned: Mapping[str, int] | None = None,
) -> tuple[StochasticLayer, ...]:
    """Return the report's rows of layers: {layer: its stochastic parameters, by local name}."""
    return tuple(
        StochasticLayer(
            name=name,
            kind=type(weighted(model, name)).__name__,
            parameters=tuple(f"{name}.{p}" if name else p for p in own),
            n_weights=weighted(model, name).weight.numel(),
            n_pruned=(pruned or {}).get(name, 0),
        )
        for name, own in parameters.items()
    )
