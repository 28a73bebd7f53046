"""100 networks drawn from the posterior side by side, beside 100 weight swaps one after the other.

    python benchmarks/sampling.py [--device cuda] [--samples 100]

A swap draws all weights and runs the network with them: ``torch.func.functional_call`` on a draw
of ``Posterior.sample``, in float64 and in the network's dtype. The stages of ``predict_samples``
are timed by themselves: random numbers, draws (random numbers included), forward passes, and the
floor that no sampler of as many weights can pass, its random numbers and one product per layer.
One CPU thread, by the processor's time of this process; writes benchmarks/results/sampling.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from networks import motion_input, motion_model, reference_cnn
from peer_libraries import seconds
from posterior_latency import swapped
from torch import Tensor, nn

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.functional import at_map, bare_model, evaluate, plain_operations, stacked
from bayes_vio.posterior.samples import drawn_matrices, networks_at_once

RESULTS = Path(__file__).parent / "results" / "sampling.json"
N_DATA = 32
RANK = 100


def forward_passes(posterior: Posterior, x: Any, n: int) -> Callable[[], list[Tensor]]:
    """Return a function that runs n networks, drawn beforehand, in the chunks of the sampler."""
    at_once = min(n, networks_at_once(posterior, x))
    start, model = at_map(posterior.recorder), bare_model(posterior.recorder)
    weights = stacked(posterior.recorder, drawn_matrices(posterior, at_once, None), start)

    def run() -> list[Tensor]:
        with plain_operations():
            call = torch.vmap(lambda chosen: evaluate(model, start | chosen, x)[0])
            return [call(weights) for _ in range(-(-n // at_once))]

    return run


def loaded(posterior: Posterior, x: Any, n: int) -> list[Tensor]:
    """Return the outputs of n networks, every draw copied into the model's own parameters."""
    model = bare_model(posterior.recorder)
    start = at_map(posterior.recorder)
    outputs = []
    with torch.inference_mode():
        for draw in posterior.sample(n):
            for name, parameter in model.named_parameters():
                parameter.copy_(draw[name])
            outputs.append(model(x))
        for name, parameter in model.named_parameters():
            parameter.copy_(start[name])
    return outputs


def measure(posterior: Posterior, x: Any, n: int, repeats: int) -> dict[str, Any]:
    """Return the medians (ms) of calls that take turns."""
    shapes = [layer.shape for layer in posterior.layers.values()]
    device = posterior.device

    def random_numbers() -> None:
        for shape in shapes:
            for _ in range(n):
                torch.randn(shape, device=device)

    at_once = min(n, networks_at_once(posterior, x))
    functions: dict[str, Callable[[], Any]] = {
        "swaps_ms": lambda: swapped(posterior, x, n),
        "loads_ms": lambda: loaded(posterior, x, n),
        "side_by_side_ms": lambda: posterior.predict_samples(x, n),
        "random_numbers_ms": random_numbers,
        "draws_ms": lambda: [
            drawn_matrices(posterior, at_once, None) for _ in range(-(-n // at_once))
        ],
        "forward_passes_ms": forward_passes(posterior, x, n),
    }
    durations: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            durations[name].append(1e3 * seconds(function, device))
    times = {name: round(median(d[1:]), 2) for name, d in durations.items()}
    ratio = round(times["swaps_ms"] / times["side_by_side_ms"], 2)
    loads = round(times["loads_ms"] / times["side_by_side_ms"], 2)
    return times | {"networks_at_once": at_once, "swaps_over": ratio, "loads_over": loads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases: dict[str, tuple[nn.Module, Any, float | None]] = {
        "motion_model": (motion_model(), motion_input(N_DATA), None),
        "reference_cnn": (reference_cnn(), torch.randn(N_DATA, 3, 96, 128), 0.01),
    }
    on_gpu = device.type == "cuda"
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
        "clock": "wall" if on_gpu else "processor time of the process",
        "samples": arguments.samples,
    }
    for name, (model, x, noise_cov) in cases.items():
        data = [(x, torch.randn(N_DATA, 6))]
        posterior = fit_posterior(model, data, rank=RANK, noise_cov=noise_cov, device=device)
        one = map_tensors(x, lambda t: t[:1].to(device))
        result[name] = measure(posterior, one, arguments.samples, arguments.repeats)
        print(name, json.dumps(result[name], indent=1), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
