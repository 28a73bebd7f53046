"""Classifiers on disk: a folder of classifier.json, weights.safetensors and, under Laplace,
posterior.safetensors; a variational one has its weights in variational.safetensors. The JSON is
sealed and holds the hashes of the other files."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.classification.classifier import BayesianClassifier
from bayes_vio.classification.fits import Fit, LaplaceFit, PointFit, SampledFit
from bayes_vio.posterior import storage as posterior_storage
from bayes_vio.sealed import FormatError, check_seal, check_version, pack, parse, sealed, unpack
from bayes_vio.variational import storage as variational_storage
from bayes_vio.whole_files import partial_folder, read_bounded, write_whole

FORMAT, WEIGHTS_FORMAT = "bayes_vio.classifier", "bayes_vio.classifier.weights"
VERSION = 1
_JSON, _WEIGHTS = "classifier.json", "weights.safetensors"
_POSTERIOR, _VARIATIONAL = "posterior.safetensors", "variational.safetensors"
_LARGEST_JSON_BYTES, _LARGEST_WEIGHTS_BYTES = 2**20, 2**31


class ClassifierError(ValueError):
    """A classifier's folder cannot be read, or belongs to another network."""


def save(classifier: BayesianClassifier, path: Path) -> None:
    """Write the folder, whole or not at all; an earlier classifier there is replaced.

    Raises ValueError for a classifier that is not fitted, ClassifierError where ``path`` holds
    something else.
    """
    if path.exists() and not (path / _JSON).is_file():
        raise ClassifierError(f"{path} is there and no classifier: choose another path")
    contents = _contents(classifier.fitted)
    description = sealed(
        {
            "format": FORMAT,
            "version": VERSION,
            "sha256": {name: _sha256(content) for name, content in contents.items()},
            **classifier.describe(),
        }
    )
    contents[_JSON] = (json.dumps(description, indent=1) + "\n").encode()
    with partial_folder(path) as partial:
        for name, content in contents.items():
            write_whole(partial / name, content)


def load(path: Path, model: nn.Module) -> BayesianClassifier:
    """Read a classifier onto the model's device; the model itself stays as it is.

    Raises ClassifierError where a file is missing, damaged or of another version, or the network
    is another.
    """
    try:
        description = parse(_read(path, _JSON, _LARGEST_JSON_BYTES))
        check_version(description, FORMAT, VERSION)
        check_seal(description)
    except FormatError as error:
        raise ClassifierError(f"{path / _JSON} {error}") from error
    hashes = description["sha256"]
    contents = {name: _read_checked(path, name, digest) for name, digest in hashes.items()}
    try:
        fit = _fit(contents, description, model, str(path))
        return BayesianClassifier.restored(fit, description)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ClassifierError(f"{path} holds no classifier of this network: {error}") from error


def _contents(fit: Fit) -> dict[str, bytes]:
    if isinstance(fit, SampledFit):
        return {_VARIATIONAL: variational_storage.to_bytes(fit.posterior)}
    weights = pack(fit.network().state_dict(), {"format": WEIGHTS_FORMAT, "version": VERSION})
    contents = {_WEIGHTS: weights}
    if isinstance(fit, LaplaceFit):
        contents[_POSTERIOR] = posterior_storage.to_bytes(fit.posterior)
    return contents


def _network(content: bytes, model: nn.Module) -> nn.Module:
    """Return a copy of the model with the stored weights; raise ValueError unless they fit."""
    _, stored = unpack(content, WEIGHTS_FORMAT, VERSION)
    network = copy.deepcopy(model).eval()
    _check_weights(network.state_dict(), stored)
    network.load_state_dict(stored)
    return network


def _check_weights(own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    if set(own) != set(stored):
        raise ValueError(f"its weights are {sorted(stored)}, the network's {sorted(own)}")
    for name, tensor in stored.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(f"weight {name!r} is {list(tensor.shape)} {tensor.dtype} there")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"weight {name!r} is not finite")


def _fit(
    contents: dict[str, bytes], description: dict[str, Any], model: nn.Module, source: str
) -> Fit:
    if _VARIATIONAL in contents:
        stored = variational_storage.from_bytes(contents[_VARIATIONAL], model, source)
        return SampledFit(stored)
    network = _network(contents[_WEIGHTS], model)
    if _POSTERIOR in contents:
        return LaplaceFit(posterior_storage.from_bytes(contents[_POSTERIOR], network, source))
    return PointFit(network, description["temperature"])


def _read_checked(path: Path, name: str, digest: str) -> bytes:
    if name not in (_WEIGHTS, _POSTERIOR, _VARIATIONAL):
        raise ClassifierError(f"{path / _JSON} names {name!r}, which is no part of a classifier")
    content = _read(path, name, _LARGEST_WEIGHTS_BYTES)
    if _sha256(content) != digest:
        raise ClassifierError(f"{path / name} is damaged: it is not what was written")
    return content


def _read(path: Path, name: str, largest_bytes: int) -> bytes:
    try:
        return read_bounded(path / name, largest_bytes)
    except (ValueError, OSError) as error:
        raise ClassifierError(f"{path} is no whole classifier: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
