"""What a posterior covers and what it costs, as plain values that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.posterior.sparsify import Sparsification


@dataclass(frozen=True)
class CoveredLayer:
    """A layer in the posterior: its kind, parameters, matrix shape (bias as a column), and how.

    ``sharing`` is "none", "expand" or "reduce" for Kronecker factors, else None;
    ``sparsification`` is there under "inf" alone.
    """

    name: str
    kind: str
    block: str
    parameters: tuple[str, ...]
    d_out: int
    d_in: int
    sharing: str | None = None
    sparsification: Sparsification | None = None


@dataclass(frozen=True)
class PosteriorReport:
    """How a posterior was fitted, layer by layer, and what stays at the MAP with its reason."""

    structure: str
    likelihood: str
    fisher: str
    n_data: float
    n_outputs: int
    covered: tuple[CoveredLayer, ...]
    uncovered: tuple[Uncovered, ...]

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
        rest = {f.name: values[f.name] for f in fields(cls) if "covered" not in f.name}
        return cls(covered=tuple(covered), uncovered=tuple(uncovered), **rest)

    def numbers_stored(self) -> dict[str, int]:
        """Return how many numbers each structure stores for the covered layers.

        "inf" is there only where this posterior has that structure, since its rank decides.
        """
        diagonal = sum(c.d_out * c.d_in for c in self.covered)
        kronecker = [c for c in self.covered if c.kind != "norm"]
        norms = diagonal - sum(c.d_out * c.d_in for c in kronecker)
        kfac = norms + sum(c.d_out * (c.d_out + 1) + c.d_in * (c.d_in + 1) for c in kronecker)
        efb = norms + sum(c.d_out**2 + c.d_in**2 + c.d_out * c.d_in for c in kronecker)
        counts = {"diagonal": diagonal, "kfac": kfac, "efb": efb}
        low_ranks = [(c, c.sparsification) for c in kronecker if c.sparsification]
        if self.structure == "inf":
            counts["inf"] = diagonal + sum(
                c.d_out * s.rank_g + c.d_in * s.rank_a + s.rank_g * s.rank_a for c, s in low_ranks
            )
        return counts
