"""Posteriors on disk: one safetensors file, its description as JSON in the file's metadata."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from bayes_vio.curvature.layers import Layer, as_layer
from bayes_vio.curvature.recorder import Recorder, frozen_copy
from bayes_vio.models.likelihood import Categorical, Gaussian, Likelihood
from bayes_vio.posterior.block import CurvatureBlock
from bayes_vio.posterior.blockwise import BlockwiseCurvature
from bayes_vio.posterior.diagonal import DiagonalCurvature
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.information import InformationCurvature
from bayes_vio.posterior.kronecker import EfbCurvature, KfacCurvature
from bayes_vio.posterior.laplace import Posterior
from bayes_vio.posterior.report import PosteriorReport

FORMAT = "bayes_vio.posterior"
VERSION = 1
_NOISE = "likelihood/noise_cov"
_BLOCKS: dict[str, type[CurvatureBlock]] = {
    "diagonal": DiagonalCurvature,
    "kfac": KfacCurvature,
    "efb": EfbCurvature,
    "inf": InformationCurvature,
}


class PosteriorError(ValueError):
    """A posterior's file cannot be read, or belongs to another model."""


def model_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers: names, types, shapes, bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save(posterior: Posterior, path: Path) -> None:
    """Write a posterior to ``path``: to a file beside it first, then renamed over it."""
    stored = dict(posterior.curvature.tensors())
    if isinstance(posterior.likelihood, Gaussian) and posterior.likelihood.noise_cov is not None:
        stored[_NOISE] = posterior.likelihood.noise_cov
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in stored.items()}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "model_hash": model_hash(posterior.model),
        "prior_precision": dict(posterior.prior_precision),
        "log_likelihood": posterior.log_likelihood,
        "can_batch": posterior.can_batch,
        "copied": sorted(posterior.recorder.copied),
        "report": posterior.report.to_dict(),
    }
    _write(path, to_bytes(stored, metadata={"posterior": json.dumps(description)}))


def load(path: Path, model: nn.Module) -> Posterior:
    """Read a posterior of exactly this model, onto its device.

    Raises PosteriorError where the file is missing, truncated, of another format or version, or
    was fitted to other weights.
    """
    description, stored = _read(path)
    if description["model_hash"] != model_hash(model):
        raise PosteriorError(f"{path} was fitted to another model: its weights' hash differs")
    report = PosteriorReport.from_dict(description["report"])
    frozen = frozen_copy(model)
    device = next(frozen.parameters()).device
    stored = {name: tensor.to(device) for name, tensor in stored.items()}
    layers = [_layer(frozen, covered.name) for covered in report.covered]
    return Posterior(
        recorder=Recorder(frozen, layers, description["copied"]),
        curvature=_curvature(report, stored),
        likelihood=_likelihood(report, stored),
        prior_precision=description["prior_precision"],
        log_likelihood=description["log_likelihood"],
        can_batch=description["can_batch"],
        report=report,
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise PosteriorError(f"{path} is no file: fit a posterior and save it there")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("posterior")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PosteriorError(f"{path} is truncated or no safetensors file ({error})") from error
    try:
        description = json.loads(text or "")
    except json.JSONDecodeError as error:
        raise PosteriorError(f"{path} holds no posterior: its metadata lacks one") from error
    if description.get("format") != FORMAT or description.get("version") != VERSION:
        raise PosteriorError(
            f"{path} has format {description.get('format')!r} version "
            f"{description.get('version')!r}, this package reads {FORMAT!r} version {VERSION}"
        )
    return description, stored


def _write(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _layer(model: nn.Module, name: str) -> Layer:
    layer = as_layer(name, model.get_submodule(name))
    if isinstance(layer, str):
        raise PosteriorError(f"layer {name!r} of the model cannot be covered: {layer}")
    return layer


def _curvature(
    report: PosteriorReport, stored: dict[str, Tensor]
) -> BlockwiseCurvature | FullCurvature:
    if report.structure == "full":
        shapes = {c.name: (c.d_out, c.d_in) for c in report.covered}
        return FullCurvature(stored["matrix"], shapes)
    blocks = {}
    for covered in report.covered:
        prefix = f"{covered.name}/"
        own = {k.removeprefix(prefix): t for k, t in stored.items() if k.startswith(prefix)}
        blocks[covered.name] = _BLOCKS[covered.block](**own)
    return BlockwiseCurvature(blocks)


def _likelihood(report: PosteriorReport, stored: dict[str, Tensor]) -> Likelihood:
    return Gaussian(stored.get(_NOISE)) if report.likelihood == "gaussian" else Categorical()
