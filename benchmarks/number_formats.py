"""What storing INF in bfloat16 or float8 costs in predictive covariance, and what it saves.

Run ``python benchmarks/number_formats.py``; writes benchmarks/results/number_formats.json. The
packaged artifact and three small trained nets (see small_nets: the recordings are needed).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from posterior_latency import motion_input
from small_nets import NETS
from torch import Tensor

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.posterior import Posterior, fit_posterior

RESULTS = Path(__file__).parent / "results" / "number_formats.json"
RANK = 100
SIGNED_FLOAT8 = torch.float8_e4m3fn
# Prior precisions beside the posterior's own: the smaller, the more the curvature's numbers count.
WEAKER = (1.0, 1e-2)


def everything_float8(posterior: Posterior) -> Posterior:
    """Round every tensor to e4m3, with one power of two per column as its scale: not offered."""

    def cut(t: Tensor) -> Tensor:
        if not t.numel():
            return t
        largest = t.abs().amax(0, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        scale = (largest / torch.finfo(SIGNED_FLOAT8).max).log2().ceil().exp2()
        return (t / scale).to(SIGNED_FLOAT8).to(t.dtype) * scale

    return replace(posterior, curvature=posterior.curvature.map(cut))


FORMATS: dict[str, Callable[[Posterior], Posterior]] = {
    "bfloat16": lambda p: p.with_number_format("bfloat16"),
    "float8": lambda p: p.with_number_format("float8"),
    "everything_float8": everything_float8,
}


def change(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Return relative Frobenius changes of covariances [batch, outputs, outputs], and of stds."""
    cov = (found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    std = (found.diagonal(dim1=1, dim2=2) / truth.diagonal(dim1=1, dim2=2)).sqrt() - 1
    return {
        "cov_mean": float(cov.mean()),
        "cov_max": float(cov.max()),
        "std_max": float(std.abs().max()),
    }


def measure(posterior: Posterior, x: Any) -> dict[str, Any]:
    """Return the size and the changes of every format, under several prior precisions."""
    own = {"own": posterior.prior_precision} | {str(p): p for p in WEAKER}
    result: dict[str, Any] = {"native": {"bytes": posterior.nbytes}}
    for name, form in FORMATS.items():
        rounded = form(posterior)
        row: dict[str, Any] = {"bytes": rounded.nbytes} if name != "everything_float8" else {}
        for label, prior in own.items():
            pair = (
                p.with_prior_precision(prior).functional_covariance(x)
                for p in (rounded, posterior)
            )
            row[label] = change(*pair)
        result[name] = row
    return result


def main() -> None:
    torch.manual_seed(0)
    motion = MotionArtifact.load(default_artifact_path()).posterior
    results: dict[str, Any] = {"date": date.today().isoformat(), "torch": torch.__version__}
    nets = {"motion_model": measure(motion, motion_input(32))}
    for name, make in NETS.items():
        net = make(0)
        posterior = fit_posterior(
            net.model.float(),
            [(x.float(), y if net.noise_cov is None else y.float()) for x, y in net.loader],
            net.likelihood,
            rank=RANK,
            noise_cov=None if net.noise_cov is None else net.noise_cov.float(),
        )
        nets[name] = measure(posterior, net.x_test.float())
    results["nets"] = nets
    print(json.dumps(results, indent=1))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
