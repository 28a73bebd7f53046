"""How long one prediction with its full 6x6 epistemic covariance takes, next to one forward pass.

Run ``python benchmarks/posterior_latency.py``: batch 1, one CPU thread (or ``--device cuda``);
writes benchmarks/results/posterior_latency.json.
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

import torch
from networks import motion_input, motion_model, reference_cnn
from torch import Tensor, nn

from bayes_vio.choices import Structure
from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.captured import CapturedPredictive
from bayes_vio.posterior.linearisation import linearise

RESULTS = Path(__file__).parent / "results" / "posterior_latency.json"
STRUCTURES = ("inf", "diagonal", "efb", "kfac", "subnetwork")
N_DATA = 32
RANK = 100


def milliseconds(
    functions: dict[str, Callable[[], Any]], device: torch.device, n: int = 60
) -> dict[str, float]:
    """Return median durations of calls that take turns, so that load meets all of them alike."""
    durations: dict[str, list[float]] = {name: [] for name in functions}
    n_warm_up = min(n, 10)
    for _ in range(n + n_warm_up):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            durations[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(median(d[n_warm_up:]), 3) for name, d in durations.items()}


def measure(model: nn.Module, x: Any, structure: str, device: torch.device) -> dict[str, float]:
    """Fit on random data and time batch 1: forward, linearisation, prediction, 100 samples."""
    posterior = fit_posterior(
        model,
        [(x, torch.randn(N_DATA, 6))],
        structure=structure,
        rank=RANK,
        noise_cov=None if isinstance(model, MotionModel) else 0.01,
        device=device,
    )
    one = map_tensors(x, lambda t: t[:1].to(device))
    times = milliseconds(
        {
            "forward_ms": lambda: forward(posterior, one),
            "linearisation_ms": lambda: linearise(posterior.recorder, one, posterior.can_batch),
            "predictive_ms": lambda: posterior.predict(one),
        },
        device,
    )
    times |= milliseconds(
        {
            "thirty_samples_ms": lambda: swapped(posterior, one, 30),
            "hundred_swaps_ms": lambda: swapped(posterior, one, 100),
            "hundred_samples_ms": lambda: posterior.predict_samples(one, 100),
        },
        device,
        3,
    )
    if structure != Structure.SUBNETWORK:
        times |= captured_milliseconds(posterior, one, device)
    ratio = round(times["predictive_ms"] / times["forward_ms"], 2)
    return times | {"ratio": ratio, "stored_bytes": posterior.nbytes}


def captured_milliseconds(posterior: Posterior, x: Any, device: torch.device) -> dict[str, float]:
    """Return median and 99th percentile of 1000 predictions replayed from a graph or a tape."""
    captured, durations = CapturedPredictive(posterior, x), []
    for _ in range(1010):
        start = time.perf_counter()
        captured(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(1e3 * (time.perf_counter() - start))
    timed = sorted(durations[10:])
    return {"captured_ms": round(median(timed), 3), "captured_p99_ms": round(timed[989], 3)}


def forward(posterior: Posterior, x: Any) -> Any:
    with torch.inference_mode():
        return posterior.model(x)


def swapped(posterior: Posterior, x: Any, n: int) -> list[Tensor]:
    """Return the outputs of n sampled networks, one after the other."""
    with torch.inference_mode():
        return [
            torch.func.functional_call(posterior.model, draw, (x,)) for draw in posterior.sample(n)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    cases = {
        "reference_cnn": (reference_cnn(), torch.randn(N_DATA, 3, 96, 128)),
        "motion_model": (motion_model(), motion_input(N_DATA)),
    }
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rank": RANK,
    }
    if device.type == "cuda":
        results["device"] = torch.cuda.get_device_name(device)
    for name, (model, x) in cases.items():
        rows = {s: measure(model, x, s, device) for s in STRUCTURES}
        n_parameters = sum(p.numel() for p in model.parameters())
        results[name] = {"parameters": n_parameters, **rows}
        print(name, n_parameters, json.dumps(rows, indent=1))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
