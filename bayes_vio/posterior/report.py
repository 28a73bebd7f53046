"""What a posterior covers and what it costs, as plain values that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.curvature.layers import DIAGONAL_KINDS
from bayes_vio.posterior.sparsify import Sparsification


@dataclass(frozen=True)
class CoveredLayer:
    """A layer in the posterior: its kind, parameters, matrix shape (bias as a column), and how.

    ``parameters`` may be rows of one, like ``in_proj_weight[4:8]``; ``batch_axis`` is that of the
    layer's input. ``sharing`` is "none", "expand" or "reduce" for Kronecker factors, else None;
    ``sparsification`` is there under "inf" alone, ``n_selected`` (weights) under "subnetwork".
    """

    name: str
    kind: str
    block: str
    parameters: tuple[str, ...]
    d_out: int
    d_in: int
    sharing: str | None = None
    sparsification: Sparsification | None = None
    batch_axis: int = 0
    n_selected: int | None = None


@dataclass(frozen=True)
class Update:
    """New data added to a posterior: their number, how far the mean moved in it (Mahalanobis
    distance), the objective per datum before and after, whether its minimum was reached, and by
    layer the share of the new curvature that yesterday's basis does not hold (E21)."""

    n_data: float
    distance: float
    loss_before: float
    loss_after: float
    converged: bool
    misfit: dict[str, float]


@dataclass(frozen=True)
class PosteriorReport:
    """How a posterior was fitted, layer by layer, and what stays at the MAP with its reason.

    ``details`` belongs to the structure: how many weights or directions it has, and what share of
    the kernel's trace they hold. ``number_format``: what the numbers are rounded to and stored in.
    """

    structure: str
    likelihood: str
    fisher: str
    n_data: float
    n_outputs: int
    covered: tuple[CoveredLayer, ...]
    uncovered: tuple[Uncovered, ...]
    details: dict[str, float] = field(default_factory=dict)
    updates: tuple[Update, ...] = ()
    number_format: str = "native"

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts and lists for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PosteriorReport:
        """Return the report that ``to_dict`` described."""
        covered = [
            CoveredLayer(
                **layer
                | {
                    "parameters": tuple(layer["parameters"]),
                    "sparsification": layer["sparsification"]
                    and Sparsification(**layer["sparsification"]),
                }
            )
            for layer in values["covered"]
        ]
        uncovered = [
            Uncovered(**u | {"parameters": tuple(u["parameters"])}) for u in values["uncovered"]
        ]
        updates = tuple(Update(**u) for u in values.get("updates", ()))
        parts = {"covered", "uncovered", "updates"}
        rest = {f.name: values[f.name] for f in fields(cls) if f.name in set(values) - parts}
        return cls(covered=tuple(covered), uncovered=tuple(uncovered), updates=updates, **rest)

    def numbers_stored(self) -> dict[str, int]:
        """Return how many numbers each structure stores for the covered layers.

        "inf", "subnetwork" and "ella" are there only where this posterior has that structure,
        since its size is chosen.
        """
        diagonal = sum(c.d_out * c.d_in for c in self.covered)
        kronecker = [c for c in self.covered if c.kind not in DIAGONAL_KINDS]
        norms = diagonal - sum(c.d_out * c.d_in for c in kronecker)
        kfac = norms + sum(c.d_out * (c.d_out + 1) + c.d_in * (c.d_in + 1) for c in kronecker)
        efb = norms + sum(c.d_out**2 + c.d_in**2 + c.d_out * c.d_in for c in kronecker)
        counts = {"diagonal": diagonal, "kfac": kfac, "efb": efb}
        low_ranks = [(c, c.sparsification) for c in kronecker if c.sparsification]
        if self.structure == "inf":
            counts["inf"] = diagonal + sum(
                c.d_out * s.rank_g + c.d_in * s.rank_a + s.rank_g * s.rank_a for c, s in low_ranks
            )
        n = int(self.details.get("n_selected", self.details.get("n_eigen", 0)))
        if self.structure == "subnetwork":
            counts["subnetwork"] = n * n + n
        if self.structure == "ella":
            counts["ella"] = n * n + n * diagonal
        return counts
