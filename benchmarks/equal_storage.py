"""INF beside the diagonal and the published rank rule at equal storage, against dense truth.

Run ``python benchmarks/equal_storage.py``; writes benchmarks/results/equal_storage.json. On three
small trained nets, several seeds: the distance to the dense GGN's blocks, and to its predictive
covariance at inputs that training has not seen, all under the prior precision that the dense
evidence prefers. A second table has INF with every way to treat negative diagonal corrections.
Needs the recordings: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_nets import NETS, TrainedNet
from storage import largest_entries
from torch import Tensor

from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.block import CurvatureBlock
from bayes_vio.posterior.blockwise import BlockwiseCurvature
from bayes_vio.posterior.full import FullCurvature, rows_of
from bayes_vio.posterior.grid import Grid, choose_grids
from bayes_vio.posterior.information import InformationCurvature
from bayes_vio.posterior.kronecker import EfbCurvature
from bayes_vio.posterior.sparsify import kronecker_diagonal, sparsify_on

RESULTS = Path(__file__).parent / "results" / "equal_storage.json"
RANKS = (4, 16)
SEEDS = (0, 1, 2)
PRIORS = np.logspace(-1, 3, 33)
# Negative corrections that dropping and shrinking leave, as a share of the trace.
_MASS_LEFT = 0.01

Build = Callable[[Grid, EfbCurvature, Tensor], InformationCurvature]


@dataclass(frozen=True)
class Truth:
    """The dense GGN of a net, its layers' blocks alone, and the fits that forms are made from."""

    net: TrainedNet
    blocks: Posterior
    joint: Posterior
    efb: Posterior
    diagonal: Posterior

    @property
    def kronecker(self) -> dict[str, EfbCurvature]:
        """Return the layers with a Kronecker basis."""
        found = self.efb.curvature.blocks.items()  # pyright: ignore[reportAttributeAccessIssue]
        return {name: b for name, b in found if isinstance(b, EfbCurvature)}

    def exact_diagonal(self, name: str) -> Tensor:
        """Return a layer's F_diag."""
        return self.diagonal.curvature.blocks[name].diagonal  # pyright: ignore


def truth_of(net: TrainedNet) -> Truth:
    fits = {
        structure: fit_posterior(
            net.model, net.loader, net.likelihood, structure, fisher="type2",
            noise_cov=net.noise_cov,
        )
        for structure in ("full", "efb", "diagonal")
    }  # fmt: skip
    full = fits["full"].curvature
    assert isinstance(full, FullCurvature)
    blocks = torch.zeros_like(full.matrix)
    for rows in rows_of({n: a * b for n, (a, b) in full.shapes.items()}).values():
        blocks[rows, rows] = full.matrix[rows, rows]
    alone = replace(fits["full"], curvature=FullCurvature(blocks, full.shapes))
    prior = max(map(float, PRIORS), key=lambda p: evidence(alone, p))
    fits = {name: fit.with_prior_precision(prior) for name, fit in fits.items()}
    alone = alone.with_prior_precision(prior)
    return Truth(net, alone, fits["full"], fits["efb"], fits["diagonal"])


def evidence(posterior: Posterior, prior: float) -> float:
    return posterior.with_prior_precision(prior).log_marginal_likelihood()


def low_rank(grid: Grid, efb: EfbCurvature, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return U_g, U_a and Lam_L, scaled, on a grid."""
    kept = scale * efb.eigenvalues[grid.rows][:, grid.columns]
    return efb.Q_g[:, grid.rows], efb.Q_a[:, grid.columns], kept


def zero(grid: Grid, efb: EfbCurvature, exact: Tensor, scale: float = 1.0) -> InformationCurvature:
    """Set negative entries to zero, after Lam_L was scaled."""
    parts = low_rank(grid, efb, scale)
    return InformationCurvature((exact - kronecker_diagonal(*parts)).clamp(min=0.0), *parts)


def rest(grid: Grid, efb: EfbCurvature, exact: Tensor) -> InformationCurvature:
    """Give negative entries what is not kept (E22): the package's own way."""
    return sparsify_on(grid, efb.Q_g, efb.Q_a, efb.eigenvalues, exact)[0]


def rest_at_least(grid: Grid, efb: EfbCurvature, exact: Tensor) -> InformationCurvature:
    """Give every entry at least what is not kept."""
    parts = low_rank(grid, efb)
    whole = kronecker_diagonal(efb.Q_g, efb.Q_a, efb.eigenvalues)
    explained = kronecker_diagonal(*parts)
    return InformationCurvature(torch.maximum(exact - explained, whole - explained), *parts)


def proportional(grid: Grid, efb: EfbCurvature, exact: Tensor) -> InformationCurvature:
    """Give negative entries the share of the exact diagonal that EFB's has outside the grid."""
    parts, explained, own = share_outside(grid, efb, exact)
    return InformationCurvature(torch.where(exact < explained, own, exact - explained), *parts)


def proportional_at_least(grid: Grid, efb: EfbCurvature, exact: Tensor) -> InformationCurvature:
    """Give every entry at least that share: more than is left wherever EFB's diagonal is above."""
    parts, explained, own = share_outside(grid, efb, exact)
    return InformationCurvature(torch.maximum(exact - explained, own), *parts)


def share_outside(
    grid: Grid, efb: EfbCurvature, exact: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Return the low rank, its diagonal, and the exact diagonal times the share outside it."""
    parts = low_rank(grid, efb)
    whole, explained = (
        kronecker_diagonal(efb.Q_g, efb.Q_a, efb.eigenvalues),
        kronecker_diagonal(*parts),
    )
    share = (1 - explained / whole.clamp(min=torch.finfo(whole.dtype).tiny)).clamp(min=0.0)
    return parts, explained, exact * share


def shrunk(grid: Grid, efb: EfbCurvature, exact: Tensor) -> InformationCurvature:
    """Shrink Lam_L until the negative mass is small, by bisection; zero for what is left."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if negative_mass(low_rank(grid, efb, middle), exact) <= _MASS_LEFT
            else (low, middle)
        )
    return zero(grid, efb, exact, low)


def dropped(grid: Grid, efb: EfbCurvature, exact: Tensor) -> InformationCurvature:
    """Drop rows and columns, the one that leaves least negative mass first; zero for the rest."""
    while len(grid.rows) and negative_mass(low_rank(grid, efb), exact) > _MASS_LEFT:
        fewer = [Grid(_without(grid.rows, i), grid.columns) for i in range(len(grid.rows))]
        fewer += [Grid(grid.rows, _without(grid.columns, i)) for i in range(len(grid.columns))]
        fewer = [g for g in fewer if len(g.rows) and len(g.columns)]
        none = grid.rows[:0]
        grid = min(
            fewer or [Grid(none, none)],
            key=lambda g: negative_mass(low_rank(g, efb), exact),
        )
    return zero(grid, efb, exact)


def negative_mass(parts: tuple[Tensor, Tensor, Tensor], exact: Tensor) -> float:
    """Return the sum of negative corrections over the trace."""
    return float((kronecker_diagonal(*parts) - exact).clamp(min=0.0).sum() / exact.sum())


def _without(index: Tensor, i: int) -> Tensor:
    return torch.cat([index[:i], index[i + 1 :]])


TREATMENTS: dict[str, Build] = {
    f.__name__: f
    for f in (zero, shrunk, dropped, rest, rest_at_least, proportional, proportional_at_least)
}


def posterior_of(truth: Truth, grids: Mapping[str, Grid], build: Build) -> Posterior:
    """Return INF on some grids; norms have their diagonals."""
    blocks: dict[str, CurvatureBlock] = dict(truth.diagonal.curvature.blocks)  # pyright: ignore
    for name, efb in truth.kronecker.items():
        blocks[name] = build(grids[name], efb, truth.exact_diagonal(name))
    return replace(truth.efb, curvature=BlockwiseCurvature(blocks))


def compared(truth: Truth, posterior: Posterior) -> dict[str, float]:
    """Return the numbers a posterior stores and its distances to the dense truth.

    ``ggn``: relative Frobenius distance to the GGN's blocks. ``frobenius``: the mean of relative
    distances of predictive covariances; ``log_distance``: the mean root mean square of log
    eigenvalues of one relative to the other (Foerstner and Moonen 1999), which takes too wide and
    too narrow alike; ``joint``: the latter, to the GGN with its blocks between layers;
    ``visible``: the latter, of what the likelihood sees of the outputs.
    """
    x = truth.net.x_test
    found = posterior.functional_covariance(x)
    blocks, joint = (t.functional_covariance(x) for t in (truth.blocks, truth.joint))
    difference = (found - blocks).flatten(1).norm(dim=1) / blocks.flatten(1).norm(dim=1)
    return {
        "numbers": sum(t.numel() for t in posterior.curvature.tensors().values()),
        "ggn": ggn_distance(truth, posterior),
        "frobenius": float(difference.mean()),
        "log_distance": log_distance(found, blocks),
        "joint": log_distance(found, joint),
        "visible": log_distance(seen(truth.net, found), seen(truth.net, blocks)),
    }


def seen(net: TrainedNet, cov: Tensor) -> Tensor:
    """Return the covariance of what the likelihood sees: of logits, all but their common shift."""
    if net.likelihood != "categorical":
        return cov
    ones = cov.new_ones(cov.shape[-1], 1)
    differences = torch.linalg.qr(ones, mode="complete")[0][:, 1:]
    return differences.mT @ cov @ differences


def ggn_distance(truth: Truth, posterior: Posterior) -> float:
    full = truth.blocks.curvature
    assert isinstance(full, FullCurvature)
    sizes = {n: a * b for n, (a, b) in full.shapes.items()}
    error = 0.0
    for name, rows in rows_of(sizes).items():
        block = posterior.curvature.blocks[name].precision(1.0, 0.0)  # pyright: ignore
        error += float((block.dense() - full.matrix[rows, rows]).square().sum())
    return (error / float(full.matrix.square().sum())) ** 0.5


def log_distance(found: Tensor, truth: Tensor) -> float:
    L = torch.linalg.cholesky(truth)
    half = torch.linalg.solve_triangular(L, found, upper=False)
    ratio = torch.linalg.solve_triangular(L, half.mT, upper=False)
    logs = torch.linalg.eigvalsh((ratio + ratio.mT) / 2).log()
    return float(logs.square().mean(1).sqrt().mean())


def measure(net: TrainedNet) -> dict[str, Any]:
    """Return both tables of one net: {row: figures}."""
    truth = truth_of(net)
    lams = {name: efb.eigenvalues for name, efb in truth.kronecker.items()}
    equal = {"diagonal": compared(truth, truth.diagonal), "efb": compared(truth, truth.efb)}
    negative: dict[str, Any] = {}
    for rank in RANKS:
        published = {name: largest_entries(lam, rank) for name, lam in lams.items()}
        numbers = sum(
            lam.shape[0] * len(g.rows)
            + lam.shape[1] * len(g.columns)
            + len(g.rows) * len(g.columns)
            for lam, g in ((lams[n], published[n]) for n in lams)
        )
        ours = choose_grids(lams, 10**6, numbers)
        rows = {
            "published": posterior_of(truth, published, zero),
            "published_grid": posterior_of(truth, published, rest),
            "inf": posterior_of(truth, ours, rest),
        }
        equal |= {f"{row}_{rank}": compared(truth, p) for row, p in rows.items()}
        for name, build in TREATMENTS.items():
            negative[f"{name}_{rank}"] = compared(truth, posterior_of(truth, ours, build))
        negative[f"clamped_{rank}"] = clamped(truth, ours)
    prior = next(iter(truth.blocks.prior_precision.values()))
    return {"prior_precision": prior, "equal_storage": equal, "negative_corrections": negative}


def clamped(truth: Truth, grids: Mapping[str, Grid]) -> dict[str, float]:
    """Return share and mass of the negative entries, over all layers."""
    n_negative, n_entries, mass, trace = 0, 0, 0.0, 0.0
    for name, efb in truth.kronecker.items():
        exact = truth.exact_diagonal(name)
        correction = exact - kronecker_diagonal(*low_rank(grids[name], efb))
        n_negative += int((correction < 0).sum())
        n_entries += exact.numel()
        mass -= float(correction.clamp(max=0.0).sum())
        trace += float(exact.sum())
    return {"share": n_negative / n_entries, "mass": mass / trace}


def averaged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds of nested figures."""
    first = results[0]
    return {
        key: averaged([r[key] for r in results])
        if isinstance(value, dict)
        else sum(r[key] for r in results) / len(results)
        for key, value in first.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {
        "date": date.today().isoformat(), "torch": torch.__version__,
        "seeds": SEEDS, "ranks": RANKS,
    }  # fmt: skip
    for name in arguments.nets:
        each = [measure(NETS[name](seed)) for seed in SEEDS]
        parameters = sum(p.numel() for p in NETS[name](0).model.parameters())
        own = {"parameters": parameters, "mean": averaged(each), "by_seed": each}
        results.setdefault("nets", {})[name] = own
        print(name, json.dumps(own["mean"], indent=1))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
