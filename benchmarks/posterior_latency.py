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
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH, IMU_BINS, MotionInput
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.linearisation import linearise

RESULTS = Path(__file__).parent / "results" / "posterior_latency.json"
STRUCTURES = ("inf", "diagonal", "efb", "kfac")
N_DATA = 32
RANK = 100


def reference_cnn() -> nn.Module:
    """Return the CNN of 456 k parameters, [batch, 3, 96, 128] to 6 outputs."""
    widths, layers = (3, 32, 64, 128, 256), []
    for d_in, d_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(d_in, d_out, 3, stride=2, padding=1), nn.ReLU()]
    head = [nn.Linear(256, 257), nn.ReLU(), nn.Linear(257, 6)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def motion_model() -> nn.Module:
    """Return the motion model with heads that are not at their zero initialisation."""
    model = MotionModel()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def motion_input(n: int) -> MotionInput:
    return MotionInput(
        gray=torch.rand(n, GRID_HEIGHT, GRID_WIDTH),
        flow=0.05 * torch.randn(n, 2, GRID_HEIGHT, GRID_WIDTH),
        view_valid=torch.ones(n, GRID_HEIGHT, GRID_WIDTH),
        imu=torch.randn(n, IMU_BINS, 6),
        imu_valid=torch.ones(n, IMU_BINS),
        dt=torch.full((n,), 0.1),
        camera_valid=torch.ones(n),
    )


def milliseconds(function: Callable[[], Any], device: torch.device, n: int = 60) -> float:
    """Return the median duration of a call, after warming up."""
    durations = []
    for _ in range(n + 10):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(1e3 * (time.perf_counter() - start))
    return sorted(durations[10:])[n // 2]


def measure(model: nn.Module, x: Any, structure: str, device: torch.device) -> dict[str, float]:
    """Fit on random data and time batch 1: forward, linearisation, prediction, five samples."""
    targets = torch.randn(N_DATA, 6)
    noise_cov = None if isinstance(model, MotionModel) else 0.01
    loader = [(x, targets)]
    posterior = fit_posterior(
        model, loader, structure=structure, rank=RANK, noise_cov=noise_cov, device=device
    )
    one = map_tensors(x, lambda t: t[:1].to(device))
    with torch.inference_mode():
        forward = milliseconds(lambda: posterior.model(one), device)
    linearisation = milliseconds(
        lambda: linearise(posterior.recorder, one, posterior.batched), device
    )
    predictive = milliseconds(lambda: posterior.predict(one), device)
    return {
        "forward_ms": round(forward, 3),
        "linearisation_ms": round(linearisation, 3),
        "predictive_ms": round(predictive, 3),
        "ratio": round(predictive / forward, 2),
        "thirty_samples_ms": round(milliseconds(lambda: sampled(posterior, one), device, 5), 1),
        "stored_bytes": posterior.nbytes,
    }


def sampled(posterior: Posterior, x: Any) -> list[Tensor]:
    """Return the outputs of thirty sampled networks: the other way to a predictive covariance."""
    with torch.inference_mode():
        return [
            torch.func.functional_call(posterior.model, draw, (x,))
            for draw in posterior.sample(30)
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
