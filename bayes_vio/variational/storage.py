"""Variational posteriors on disk: one safetensors file, its sealed description in the metadata.

It holds all weights of the network, so that ``load`` needs a model of the same architecture only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayes_vio.models.likelihood import Categorical, Gaussian
from bayes_vio.posterior.stored_values import check_noise_cov
from bayes_vio.sealed import FormatError, pack, unpack
from bayes_vio.variational.layers import stored_state
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.preparation import fixed_copy
from bayes_vio.variational.report import VariationalReport
from bayes_vio.variational.sparse_tensors import decode, encode
from bayes_vio.variational.weights import DISTRIBUTIONS, Members
from bayes_vio.whole_files import read_bounded, write_whole

FORMAT, VERSION = "bayes_vio.variational", 1
LARGEST_BYTES = 2**31
_NOISE = "likelihood/noise_cov"


class VariationalError(ValueError):
    """A variational posterior's file cannot be read, or belongs to another architecture."""


def architecture_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's modules (names, types, settings) and tensors' shapes."""
    modules = [f"{n} {type(m).__name__}({m.extra_repr()})" for n, m in model.named_modules()]
    shapes = [f"{n} {t.dtype} {tuple(t.shape)}" for n, t in model.state_dict().items()]
    return hashlib.sha256("\n".join(modules + shapes).encode()).hexdigest()


def save(posterior: VariationalPosterior, path: Path) -> None:
    """Write a posterior to ``path``: to a file beside it first, then renamed over it."""
    write_whole(path, to_bytes(posterior))


def load(path: Path, model: nn.Module) -> VariationalPosterior:
    """Read a posterior onto the device of a model, which stays untouched.

    Raises VariationalError where the file is missing, truncated, changed by a bit, of another
    format or version, or of a model with another architecture.
    """
    try:
        content = read_bounded(path, LARGEST_BYTES)
    except FileNotFoundError as error:
        raise VariationalError(f"{path} is no file") from error
    except ValueError as error:
        raise VariationalError(str(error)) from error
    return from_bytes(content, model, str(path))


def stored_tensors(
    posterior: VariationalPosterior,
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return what a file holds, mostly-zero tensors as their values, and those ones' shapes."""
    weights, shared = posterior.weights.tensors(), isinstance(posterior.weights, Members)
    # An ensemble's members are all of its networks; the model is the first of them.
    network = {} if shared else stored_state(posterior.model)
    tensors = {f"network/{n}": t for n, t in network.items()}
    tensors |= {f"weights/{n}": t for n, t in weights.items()}
    likelihood = posterior.likelihood
    if isinstance(likelihood, Gaussian) and likelihood.noise_cov is not None:
        tensors[_NOISE] = likelihood.noise_cov
    return encode({name: t.detach().clone() for name, t in tensors.items()})


def to_bytes(posterior: VariationalPosterior) -> bytes:
    """Return the file's content."""
    tensors, shapes = stored_tensors(posterior)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": architecture_hash(posterior.model),
        "distribution": posterior.weights.kind,
        "sparse": shapes,
        "report": posterior.report.to_dict(),
    }
    return pack(tensors, description)


def from_bytes(content: bytes, model: nn.Module, source: str) -> VariationalPosterior:
    """Return the posterior that ``to_bytes`` wrote; ``source`` names it."""
    try:
        description, stored = unpack(content, FORMAT, VERSION)
    except FormatError as error:
        raise VariationalError(f"{source} {error}") from error
    if description.get("architecture") != architecture_hash(model):
        raise VariationalError(f"{source} was fitted to a model of another architecture")
    try:
        return _assemble(description, stored, model)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise VariationalError(
            f"{source} describes no posterior of this model: {error}"
        ) from error


def _assemble(
    description: dict[str, Any], stored: dict[str, Tensor], model: nn.Module
) -> VariationalPosterior:
    report = VariationalReport.from_dict(description["report"])
    fixed = fixed_copy(model)
    device = next(fixed.parameters()).device
    tensors = decode(stored, description["sparse"])
    noise_cov = tensors.pop(_NOISE, None)
    check_noise_cov(noise_cov, report.n_outputs)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    weights = DISTRIBUTIONS[description["distribution"]](_group(tensors, "weights/"))  # pyright: ignore
    network = _group(tensors, "network/")
    if isinstance(weights, Members):
        network = {name: values[0] for name, values in weights.tensors().items()}
    own = stored_state(fixed)
    if set(network) != set(own):
        raise ValueError("its tensors are not those of the network")
    fixed.load_state_dict(network, strict=False)
    weights.check(own)
    place = None if noise_cov is None else noise_cov.to(device)
    likelihood = Gaussian(place) if report.likelihood == "gaussian" else Categorical()
    return VariationalPosterior(fixed, weights, likelihood, report)


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
