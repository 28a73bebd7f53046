"""Training state on disk: written whole or not at all, read back to the same bits, no pickle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bayes_vio.sealed import FormatError, pack, unpack
from bayes_vio.whole_files import read_bounded, write_whole

_FORMAT, _VERSION = "bayes_vio.checkpoint", 2
_LARGEST_BYTES = 2**31


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
    # Cloned: the format has no word for tensors that share memory.
    tensors = {f"{g}/{n}": t.detach().clone() for g, ts in groups.items() for n, t in ts.items()}
    description = {
        "format": _FORMAT,
        "version": _VERSION,
        "fingerprint": fingerprint,
        "progress": asdict(progress),
    }
    write_whole(path, pack(tensors, description))


def load_checkpoint(path: Path, fingerprint: str) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    """Return the progress and the tensors by group: weights, best, moments.

    Raises CheckpointError when the file is damaged, of another format or of a fit with other
    inputs.
    """
    try:
        description, tensors = unpack(read_bounded(path, _LARGEST_BYTES), _FORMAT, _VERSION)
    except FormatError as error:
        raise CheckpointError(
            f"{path} {error}; remove it, and the fit begins its weights anew"
        ) from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if description["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} is of a fit with other data or settings; remove it or use another folder"
        )
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "moments": {}}
    for key, tensor in tensors.items():
        group, name = key.split("/", 1)
        groups[group][name] = tensor
    return Progress(**description["progress"]), groups


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
