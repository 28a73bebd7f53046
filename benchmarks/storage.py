"""What INF stores of whole image nets, and what share of the trace its low ranks keep.

Run ``python benchmarks/storage.py [NET ...]``; writes benchmarks/results/storage.json. The nets
have their published sizes and random weights; their norms' statistics and their curvature (Fisher
by labels that the net draws itself) are those of some CIFAR-10 images (enlarged if asked). Storage
is bounded by sizes alone; what share is kept would be another one for trained weights and more
data, so two ways to choose are compared on the same eigenvalues. Layers are taken a few at a time:
3 GiB do. Results that the file has of other nets are kept.
Needs the recordings: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from image_nets import N_CLASSES, NETS, build
from kitti_bags import data_folder
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.curvature.coverage import cover
from bayes_vio.curvature.eigenbasis import CorrectedEigenvalueSums, eigenbasis
from bayes_vio.curvature.kfac import FactorSums
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.passes import Pass, Tally
from bayes_vio.curvature.recorder import Recorder, frozen_copy
from bayes_vio.models.likelihood import Fisher, make_likelihood
from bayes_vio.posterior.grid import Grid, choose_grids

RESULTS = Path(__file__).parent / "results" / "storage.json"
BATCH = 16
RANK = 100
# The low rank's matrices [L, L] are what prediction computes with.
LARGEST_GRID = 1024
MIB = 2**20
LAYERS_AT_ONCE = 12
# Lee et al. (2020), poster: fp32 MiB of the diagonal and of INF, without the norms' parameters.
POSTER = {"densenet121": (30.1, 37.0), "densenet161": (108.6, 123.3)}


@dataclass(frozen=True)
class Choice:
    """Grids of all layers: numbers stored with all diagonals, norms included, and trace kept.

    ``kept_of_network``: of the sum of all traces; ``kept_of_layers``: the mean of shares.
    """

    numbers: int
    mib_fp32: float
    kept_of_network: float
    kept_of_layers: float
    largest_grid: int


def images(n: int, size: int) -> Tensor:
    """Return CIFAR-10 test images [n, 3, size, size], classes in turn, standardised."""
    found: dict[str, list[Tensor]] = {}
    with tarfile.open(data_folder() / "images" / "cifar10_jpeg.tar.xz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if len(parts) != 4 or parts[1] != "test" or not member.isfile():
                continue
            own = found.setdefault(parts[2], [])
            if len(own) * 10 < n:
                content = io.BytesIO(archive.extractfile(member).read()).getvalue()  # pyright: ignore
                pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
                own.append(torch.from_numpy(pixels).permute(2, 0, 1) / 255.0)
            if len(found) == 10 and all(len(v) * 10 >= n for v in found.values()):
                break
    whole = torch.stack([image for row in zip(*found.values(), strict=True) for image in row])
    whole = (whole - whole.mean((0, 2, 3), keepdim=True)) / whole.std((0, 2, 3), keepdim=True)
    return F.interpolate(whole, size=size, mode="bilinear")[:n]


def spectra(net: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], int]:
    """Return every layer's corrected eigenvalues, and the numbers of all diagonals."""
    coverage = cover(frozen_copy(net), x[:2])
    n_diagonal = sum(layer.matrix().numel() for layer in coverage.layers)
    names = [layer.name for layer in coverage.layers if layer.is_kronecker]
    found: dict[str, Tensor] = {}
    for start in range(0, len(names), LAYERS_AT_ONCE):
        group = names[start : start + LAYERS_AT_ONCE]
        found |= _spectra_of(net, x, group, coverage.copied)
        print(f"  {len(found)} of {len(names)} layers", flush=True)
    return found, n_diagonal


def _spectra_of(
    net: nn.Module, x: Tensor, names: list[str], copied: tuple[str, ...]
) -> dict[str, Tensor]:
    model, cpu = frozen_copy(net), torch.device("cpu")
    layers = [c for c in cover(model, x[:2], names).layers if c.name in names]
    reading = Pass(
        recorder=Recorder(model, layers, copied),
        loader=[(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(BATCH)],
        likelihood=make_likelihood("categorical", None, N_CLASSES, cpu),
        fisher=Fisher.MC,
        seed=0,
        device=cpu,
    )
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    for _, recording, gradients in reading.columns(Tally()):
        for layer in layers:
            own = layer.features(recording.inputs[layer.name])
            parts[layer.name].append((own, layer.gradients(gradients[layer.name])))
    return {c.name: corrected_eigenvalues(c, parts.pop(c.name)) for c in layers}


def corrected_eigenvalues(layer: Layer, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return Lam [d_out, d_in] of (features, gradients) of all data.

    Where data are fewer than inputs the basis is narrower: outside it the eigenvalues are zero.
    """
    n_data, factors = sum(len(features) for features, _ in parts), FactorSums(layer)
    for features, gradients in parts:
        factors.add(features, gradients, True)
    sums = CorrectedEigenvalueSums(layer, eigenbasis(factors.factors(n_data), layer.resolution))
    for features, gradients in parts:
        sums.add(features, gradients, True)
    lam, (d_out, d_in) = sums.mean(n_data).float(), layer.shape
    return F.pad(lam, (0, d_in - lam.shape[1], 0, d_out - lam.shape[0]))


def largest_entries(lam: Tensor, rank: int) -> Grid:
    """Return the grid of the rows and columns that the largest entries touch (Lee et al. 2020)."""
    top = lam.flatten().topk(min(rank, lam.numel())).indices
    return Grid((top // lam.shape[1]).unique(), (top % lam.shape[1]).unique())


def measured(lams: Mapping[str, Tensor], grids: Mapping[str, Grid], n_diagonal: int) -> Choice:
    """Return what a choice of grids stores and keeps."""
    numbers, kept, shares, largest = n_diagonal, 0.0, [], 0
    for name, lam in lams.items():
        (d_out, d_in), (r_g, r_a) = lam.shape, (len(g) for g in grids[name])
        own = float(lam[grids[name].rows][:, grids[name].columns].double().sum())
        numbers += d_out * r_g + d_in * r_a + r_g * r_a
        kept += own
        shares.append(own / total if (total := float(lam.double().sum())) else 1.0)
        largest = max(largest, r_g * r_a)
    whole = sum(float(lam.double().sum()) for lam in lams.values())
    layers = sum(shares) / len(shares)
    return Choice(numbers, 4 * numbers / MIB, kept / whole, layers, largest)


def choices(name: str, lams: Mapping[str, Tensor], n_diagonal: int) -> dict[str, Any]:
    """Return the published rule, and ours with the numbers of that rule and of the poster."""
    paper = measured(lams, {n: largest_entries(v, RANK) for n, v in lams.items()}, n_diagonal)
    budgets = {"ours_same_numbers": paper.numbers}
    if name in POSTER:
        budgets["ours_poster"] = int(POSTER[name][1] * MIB) // 4
    found = {"published_rule": asdict(paper)}
    for key, numbers in budgets.items():
        grids = choose_grids(lams, LARGEST_GRID, numbers - n_diagonal)
        found[key] = asdict(measured(lams, grids, n_diagonal))
    kfac = sum(d_out**2 + d_in**2 for d_out, d_in in (v.shape for v in lams.values()))
    return found | {
        "n_layers": len(lams),
        "n_diagonal": n_diagonal,
        "diagonal_mib_fp32": 4 * n_diagonal / MIB,
        "efb_mib_fp32": 4 * (n_diagonal + kfac) / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--spectra", type=Path, help="folder that keeps eigenvalues for next time")
    parser.add_argument("--images", type=int, default=64, help="how many")
    parser.add_argument("--size", type=int, default=64, help="to which they are enlarged, pixels")
    arguments = parser.parse_args()
    x = images(arguments.images, arguments.size)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "rank": RANK,
        "largest_grid": LARGEST_GRID,
        "poster": POSTER,
    }
    for name in arguments.nets:
        start = time.perf_counter()
        kept = arguments.spectra and arguments.spectra / f"{name}.pt"
        if kept and kept.exists():
            lams, n_diagonal = torch.load(kept)
        else:
            lams, n_diagonal = spectra(build(name, x), x)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save((lams, n_diagonal), kept)
        own = {"n_images": arguments.images, "image_size": arguments.size}
        results.setdefault("nets", {})[name] = own | choices(name, lams, n_diagonal)
        print(
            name,
            f"{time.perf_counter() - start:.0f} s",
            json.dumps(results["nets"][name], indent=1),
        )
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
