"""How long the curvature pass of the motion model takes, beside training epochs on as many data.

    python benchmarks/curvature_pass.py [--data 256 512 1024] [--wanted 10000]

The pass with the exact Fisher, and with the probed one that fits of artifacts use, measured
in turns on random samples, one CPU thread, by the processor's time of this process, at several
numbers of data; all are linear in it, so the largest is scaled to --wanted, and what does not grow
(eigenvectors, sparsification) is told apart by a straight line through all.
Writes benchmarks/results/curvature_pass.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from networks import motion_input, motion_model
from torch import Tensor

from bayes_vio.data.samples import MotionInput
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior import fit_posterior
from bayes_vio.training.augmentation import AugmentationSettings, augment
from bayes_vio.training.objective import tempered_nll

RESULTS = Path(__file__).parent / "results" / "curvature_pass.json"
BATCH_SIZE = 64
RANK = 100
FISHERS = ("type2", "probed")


def batches(n: int) -> list[tuple[MotionInput, Tensor]]:
    x, y = motion_input(n), 0.1 * torch.randn(n, 6)
    starts = range(0, n, BATCH_SIZE)
    return [(x.map(lambda t, s=s: t[s : s + BATCH_SIZE]), y[s : s + BATCH_SIZE]) for s in starts]


def epoch(model: MotionModel, data: list[tuple[MotionInput, Tensor]]) -> None:
    """Train one epoch as ``training.map_fit`` does: augmentation, tempered NLL, AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    settings, generator = AugmentationSettings(), torch.Generator().manual_seed(0)
    for x, target in data:
        x, target = augment(x, target, settings, generator)
        mean, noise_cholesky = model(x)
        loss = tempered_nll(mean, noise_cholesky, target, 0.5).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0, error_if_nonfinite=True)
        optimizer.step()


def processor_s(function: Callable[[], Any]) -> float:
    start_s = time.process_time()
    function()
    return time.process_time() - start_s


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of an epoch and of the curvature passes over n data, in turns."""
    data, model = batches(n), motion_model()
    posterior_of = motion_model().eval()
    found: dict[str, list[float]] = {"epoch": [], **{fisher: [] for fisher in FISHERS}}
    for _ in range(repeats):
        found["epoch"].append(processor_s(lambda: epoch(model, data)))
        for fisher in FISHERS:
            options = {"rank": RANK, "fisher": fisher}
            one = processor_s(lambda o=options: fit_posterior(posterior_of, data, **o))
            found[fisher].append(one)
    return {"n_data": n, **{f"{name}_s": median(durations) for name, durations in found.items()}}


def scaled(rows: list[dict[str, Any]], key: str, wanted: int) -> dict[str, float]:
    """Return a line through the seconds: what each datum takes, what all share, at ``wanted``."""
    n, seconds = [r["n_data"] for r in rows], [r[key] for r in rows]
    slope, start = np.polyfit(n, seconds, 1)
    errors = np.polyval((slope, start), n) / seconds - 1
    return {
        "per_datum_ms": 1e3 * float(slope),
        "constant_s": float(start),
        "largest_deviation": float(np.abs(errors).max()),
        "scaled_s": float(slope * wanted + max(start, 0.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--wanted", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measure(BATCH_SIZE, 1)  # warms up
    rows = [measure(n, arguments.repeats) for n in arguments.data]
    fits = {name: scaled(rows, f"{name}_s", arguments.wanted) for name in ("epoch", *FISHERS)}
    ratios = {f: fits[f]["scaled_s"] / fits["epoch"]["scaled_s"] for f in FISHERS}
    result = {
        "date": date.today().isoformat(),
        "device": platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
        "clock": "processor time of the process",
        "batch_size": BATCH_SIZE,
        "rows": rows,
        "wanted": arguments.wanted,
        "lines": fits,
        "epochs_per_pass": {fisher: round(ratio, 2) for fisher, ratio in ratios.items()},
        "target": 5.0,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
