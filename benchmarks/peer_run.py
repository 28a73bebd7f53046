"""One library at one network, in a process of its own: what ``peers.py`` starts and reads.

Every library fits the same Laplace posterior: Gaussian noise of variance 0.01, prior precision 1,
the exact Fisher (one backward pass per output), whole network. What a library cannot do is told by
its own error; then it may try again with the linear layers and 2-d convolutions alone.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import networks
import torch
from peer_libraries import PEERS, Peer, seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

LONGEST_ERROR = 600
# Of one measurement; what takes longer is measured three times.
SECONDS_EACH = 8.0
# In place of a library's name: predictions of these and of ours take turns in one process.
IN_TURNS = "in turns"
TAKING_TURNS = ("laplace-torch kron",)
# Name: (network, shape of one input or None for the motion model's, data, batch size).
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None, int, int]] = {
    "motion_model": (networks.FlatMotion, None, 64, 16),
    "reference_cnn": (networks.reference_cnn, (3, 96, 128), 64, 16),
    "resnet18": (networks.resnet18, (3, 32, 32), 16, 8),
    "densenet121": (networks.densenet121, (3, 64, 64), 8, 4),
    "densenet161": (networks.densenet161, (3, 64, 64), 8, 4),
}


def make_case(case: str, device: torch.device) -> tuple[nn.Module, DataLoader]:
    """Return the network in eval mode and its data, the same for every library."""
    torch.manual_seed(0)
    make, shape, n_data, batch = CASES[case]
    model = make().eval().to(device)
    x = torch.randn(n_data, *shape) if shape else networks.flatten(networks.motion_input(n_data))
    y = torch.randn(n_data, networks.OUTPUTS)
    return model, DataLoader(TensorDataset(x, y), batch_size=batch)


def freeze_all_but_linear_and_conv2d(model: nn.Module) -> None:
    """Leave the layers that every library knows."""
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def measure(peer: Peer, x: Tensor) -> dict[str, Any]:
    """Return times and sizes of every stage that the library offers."""
    _forward(peer.model, x)
    before = peak_bytes(peer.device)
    rows: dict[str, Any] = {"factor_s": round(seconds(peer.factors, peer.device), 4)}
    eigen_s = seconds(peer.eigen, peer.device) if peer.eigen else None
    rows["finish_s"] = round(seconds(peer.finish, peer.device), 4)
    before_s = 0.0 if peer.finish_is_fit else rows["factor_s"]
    rows["fit_s"] = round(before_s + rows["finish_s"], 4)
    rows["eigen_s"] = getattr(peer, "eigen_s", eigen_s)
    rows["stored_bytes"] = sum(t.numel() * t.element_size() for t in peer.stored())
    predict, draw = peer.predict, peer.draw
    functions: dict[str, Callable[[], Any]] = {"forward_ms": lambda: _forward(peer.model, x)}
    if predict is not None:
        functions["predictive_ms"] = lambda: predict(x)
    rows |= timed(functions, peer.device)
    if predict is not None:
        rows["outputs"] = list(predict(x).shape)
        rows["ratio"] = round(rows["predictive_ms"] / rows["forward_ms"], 2)
    if draw is not None:
        rows |= timed({"draw_ms": draw}, peer.device)
    rows["peak_bytes"] = peak_bytes(peer.device) - before
    trainable = [p for p in peer.model.parameters() if p.requires_grad]
    return rows | {"weights": sum(p.numel() for p in trainable)}


def in_turns(case: str, device: torch.device) -> dict[str, Any]:
    """Return times of one prediction with its covariance, ours and laplace-torch's in turns.

    On a machine with other work only calls that take turns can be compared.
    """
    model, loader = make_case(case, device)
    one = next(iter(loader))[0][:1].to(device)
    functions: dict[str, Callable[[], Any]] = {"forward_ms": lambda: _forward(model, one)}
    for name in (*TAKING_TURNS, "bayes_vio inf"):
        peer = PEERS[name](make_case(case, device)[0], loader, device)
        peer.factors()
        peer.finish()
        functions[name] = lambda predict=peer.predict: predict(one)  # pyright: ignore
    times = timed(functions, device)
    ours = times["bayes_vio inf"]
    ratios = {name: round(times[name] / ours, 2) for name in TAKING_TURNS}
    return {"times_ms": times, "inf_over_forward": round(ours / times["forward_ms"], 2)} | {
        "slower_than_inf": ratios
    }


def timed(functions: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Return medians in ms of calls in turns: three each, the first of which warms the caches."""
    each_s = sum(seconds(function, device) for function in functions.values())
    durations: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(max(1, min(20, int(SECONDS_EACH / each_s / 3)))):
        for name, function in functions.items():
            durations[name] += [seconds(function, device) for _ in range(3)][1:]
    return {name: round(1e3 * median(d), 3) for name, d in durations.items()}


def peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: of the GPU's allocator, or this process' resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)


def error_text(error: Exception) -> str:
    """Return type, message and place of an error."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({place.name})"
    return " ".join(text.split())[:LONGEST_ERROR]


def run(case: str, device: torch.device, name: str) -> dict[str, Any]:
    """Measure a library with all weights; where it fails, with what every library knows."""
    errors = {}
    for scope in ("all weights", "linear and conv2d"):
        model, loader = make_case(case, device)
        if scope != "all weights":
            freeze_all_but_linear_and_conv2d(model)
        one = next(iter(loader))[0][:1].to(device)
        try:
            return {"scope": scope, **measure(PEERS[name](model, loader, device), one)} | (
                {"errors": errors} if errors else {}
            )
        except Exception as error:  # whatever a library raises is its result
            errors[scope] = error_text(error)
    return {"scope": None, "errors": errors}


def main() -> None:
    case, name, device = sys.argv[1:4]
    torch.set_num_threads(1)
    measured = in_turns if name == IN_TURNS else partial(run, name=name)
    print(json.dumps(measured(case, device=torch.device(device))))


if __name__ == "__main__":
    main()
