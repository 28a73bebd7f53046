"""A refit of the mean on disk: where L-BFGS stands, so that it goes on to the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayes_vio.sealed import FormatError, pack, unpack
from bayes_vio.whole_files import read_bounded, write_whole

_FORMAT, _VERSION = "bayes_vio.refit", 2
_LARGEST_BYTES = 2**32
_LISTS = ("old_dirs", "old_stps", "ro")
_TENSORS = ("d", "prev_flat_grad", "H_diag")
_NUMBERS = ("func_evals", "n_iter", "prev_loss", "t")


class RefitStateError(ValueError):
    """A stored refit that is of other data or settings, or cannot be read."""


@dataclass(frozen=True)
class RefitFile:
    """Where a refit is kept while it runs; the fingerprint tells what it is a refit of."""

    path: Path
    fingerprint: str

    def save(
        self,
        optimizer: torch.optim.LBFGS,
        z: Tensor,
        kept_z: Tensor,
        history: list[tuple[float, float]],
    ) -> None:
        """Write the state atomically; an interrupted write leaves the earlier one in place."""
        state = optimizer.state_dict()["state"][0]
        tensors = {"z": z.detach(), "kept_z": kept_z} | {
            k: torch.as_tensor(state[k]) for k in _TENSORS
        }
        for name in _LISTS:
            tensors |= {f"{name}.{i:03d}": t for i, t in enumerate(state[name])}
        description = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "numbers": {k: float(state[k]) for k in _NUMBERS},
            "history": [list(point) for point in history],
        }
        # Cloned: the format has no word for tensors that share memory.
        write_whole(self.path, pack({k: t.clone() for k, t in tensors.items()}, description))

    def restore(
        self, optimizer: torch.optim.LBFGS, z: Tensor, kept_z: Tensor
    ) -> list[tuple[float, float]]:
        """Put a stored state back, if there is one; return its history, empty without one.

        Raises RefitStateError where the file is damaged, or of a refit of something else.
        """
        if not self.path.exists():
            return []
        try:
            description, tensors = unpack(
                read_bounded(self.path, _LARGEST_BYTES), _FORMAT, _VERSION
            )
        except FormatError as error:
            raise RefitStateError(
                f"{self.path} {error}; remove it, and the refit begins anew"
            ) from error
        except ValueError as error:
            raise RefitStateError(str(error)) from error
        if description["fingerprint"] != self.fingerprint:
            raise RefitStateError(
                f"{self.path} is of a refit with other data or settings; remove it or use "
                "another folder"
            )
        with torch.no_grad():
            z.copy_(tensors["z"])
            kept_z.copy_(tensors["kept_z"])
        whole = optimizer.state_dict()
        state = _lbfgs_state(description["numbers"], tensors)
        optimizer.load_state_dict({"state": {0: state}, "param_groups": whole["param_groups"]})
        return [(float(a), float(b)) for a, b in description["history"]]


def _lbfgs_state(numbers: dict[str, float], tensors: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
    for name in _LISTS:
        state[name] = [tensors[k] for k in sorted(tensors) if k.startswith(f"{name}.")]
    counts = {name: int(numbers[name]) for name in ("func_evals", "n_iter")}
    return state | numbers | counts
