"""Training state on disk: written whole or not at all, read back to the same bits, no pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_FORMAT = "bayes_vio.checkpoint.1"


class CheckpointError(ValueError):
    """A checkpoint that belongs to another run or cannot be read."""


@dataclass(frozen=True)
class Progress:
    """How far a fit has come: finished epochs, best validation NLL and its epoch, the curves."""

    epochs: int
    best_nll: float | None
    best_epoch: int
    train_loss: list[float]
    validation_nll: list[float]


def save_checkpoint(
    path: Path,
    fingerprint: str,
    progress: Progress,
    weights: dict[str, Tensor],
    best_weights: dict[str, Tensor],
    moments: dict[str, Tensor],
) -> None:
    """Write a checkpoint atomically; an interrupted write leaves the earlier one in place."""
    groups = {"weights": weights, "best": best_weights, "moments": moments}
    tensors = {
        f"{g}/{n}": t.detach().cpu().contiguous()
        for g, ts in groups.items()
        for n, t in ts.items()
    }
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    metadata = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "progress": json.dumps(asdict(progress)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, fingerprint: str) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    """Return the progress and the tensors by group: weights, best, moments.

    Raises CheckpointError when the file is of another format or of a fit with other inputs.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is not a checkpoint of this version; remove it")
        if metadata.get("fingerprint") != fingerprint:
            raise CheckpointError(
                f"{path} is of a fit with other data or settings; remove it or use another folder"
            )
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "moments": {}}
        for key in file.keys():  # noqa: SIM118 (a safe_open handle is no dict)
            group, name = key.split("/", 1)
            groups[group][name] = file.get_tensor(key)
    return Progress(**json.loads(metadata["progress"])), groups


def optimizer_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's tensors by name "INDEX.FIELD"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{k}": torch.as_tensor(v) for i, fields in state.items() for k, v in fields.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Put tensors from optimizer_moments back into an optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
