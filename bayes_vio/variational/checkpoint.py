"""The state of an unfinished fit on disk: written whole or not at all, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from bayes_vio.sealed import FormatError, pack, tensors_hash, unpack
from bayes_vio.training.checkpoint import CheckpointError, optimizer_moments, restore_moments
from bayes_vio.variational.training import EpochRecord, Run
from bayes_vio.whole_files import read_bounded, write_whole

_FORMAT, _VERSION = "bayes_vio.variational_checkpoint", 1
_LARGEST_BYTES = 2**31


def store(path: Path, run: Run, identity: str) -> None:
    """Write a run's state; an interrupted write leaves the earlier one in place."""
    groups = {"state": _state(run), "moments": optimizer_moments(run.optimizer)}
    tensors = {f"{g}:{n}": t.detach().clone() for g, ts in groups.items() for n, t in ts.items()}
    history = [asdict(record) for record in run.history]
    description = {"format": _FORMAT, "version": _VERSION, "identity": identity}
    write_whole(path, pack(tensors, description | {"history": history}))


def restore(path: Path, run: Run) -> str:
    """Bring a run that has not begun to the state at ``path``, if any; return its identity.

    Raises CheckpointError where the file is damaged or belongs to a fit that began otherwise.
    """
    identity = _identity(run)
    if not path.exists():
        return identity
    try:
        description, tensors = unpack(read_bounded(path, _LARGEST_BYTES), _FORMAT, _VERSION)
    except FormatError as error:
        raise CheckpointError(f"{path} {error}; remove it, and the fit begins anew") from error
    if description["identity"] != identity:
        raise CheckpointError(
            f"{path} is of a fit with another model, data or settings; remove it or name another"
        )
    found = {"state": {}, "moments": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(":")
        found[group][name] = tensor
    with torch.no_grad():
        for name, value in _state(run).items():
            value.copy_(found["state"][name])
    restore_moments(run.optimizer, found["moments"])
    run.history += [EpochRecord(**record) for record in description["history"]]
    return identity


def _state(run: Run) -> Mapping[str, Tensor]:
    """Return everything that training changes, by name; the tensors themselves."""
    return dict(run.objective.model.state_dict()) | dict(run.parameters())


def _identity(run: Run) -> str:
    """Return the hash of what a fit begins with."""
    parts = {
        "start": tensors_hash(_state(run)),
        "settings": asdict(run.settings),
        "method": type(run.objective).__name__,
        "n_data": run.data.n_data,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
