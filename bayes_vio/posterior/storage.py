"""Posteriors on disk: one safetensors file, its sealed description as JSON in the metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayes_vio.choices import NumberFormat
from bayes_vio.curvature.layers import Layer, as_layer
from bayes_vio.curvature.recorder import Recorder, frozen_copy
from bayes_vio.models.likelihood import Categorical, Gaussian, Likelihood
from bayes_vio.posterior.block import CurvatureBlock
from bayes_vio.posterior.blockwise import BlockwiseCurvature
from bayes_vio.posterior.diagonal import DiagonalCurvature
from bayes_vio.posterior.ella import EllaCurvature
from bayes_vio.posterior.full import FullCurvature
from bayes_vio.posterior.information import InformationCurvature
from bayes_vio.posterior.kronecker import EfbCurvature, KfacCurvature
from bayes_vio.posterior.laplace import Posterior
from bayes_vio.posterior.network import NetworkCurvature
from bayes_vio.posterior.number_format import check_format, decode
from bayes_vio.posterior.report import CoveredLayer, PosteriorReport
from bayes_vio.posterior.stored_values import check_noise_cov, check_stored
from bayes_vio.posterior.subnetwork import SubnetworkCurvature
from bayes_vio.sealed import FormatError, pack, tensors_hash, unpack
from bayes_vio.whole_files import read_bounded, write_whole

FORMAT = "bayes_vio.posterior"
VERSION = 2
LARGEST_BYTES = 2**31
_NOISE = "likelihood/noise_cov"
_BLOCKS: dict[str, type[CurvatureBlock]] = {
    "diagonal": DiagonalCurvature,
    "kfac": KfacCurvature,
    "kflr": KfacCurvature,
    "kfra": KfacCurvature,
    "efb": EfbCurvature,
    "inf": InformationCurvature,
}


class PosteriorError(ValueError):
    """A posterior's file cannot be read, or belongs to another model."""


def model_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers: names, types, shapes, bits."""
    return tensors_hash(model.state_dict())


def save(posterior: Posterior, path: Path) -> None:
    """Write a posterior to ``path``: to a file beside it first, then renamed over it."""
    write_whole(path, to_bytes(posterior))


def load(path: Path, model: nn.Module) -> Posterior:
    """Read a posterior of exactly this model, onto its device.

    Raises PosteriorError where the file is missing, truncated, changed by a bit, of another format
    or version, was fitted to other weights, or holds numbers that no posterior has.
    """
    if not path.is_file():
        raise PosteriorError(f"{path} is no file: fit a posterior and save it there")
    try:
        content = read_bounded(path, LARGEST_BYTES)
    except ValueError as error:
        raise PosteriorError(str(error)) from error
    return from_bytes(content, model, str(path))


def to_bytes(posterior: Posterior) -> bytes:
    """Return the file's content: every stored tensor in its number format, the description."""
    stored = posterior.encoded()
    if isinstance(posterior.likelihood, Gaussian) and posterior.likelihood.noise_cov is not None:
        stored[_NOISE] = posterior.likelihood.noise_cov
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
    return pack(stored, description)


def from_bytes(content: bytes, model: nn.Module, source: str) -> Posterior:
    """Return the posterior of exactly this model that ``to_bytes`` wrote; ``source`` names it."""
    try:
        description, stored = unpack(content, FORMAT, VERSION)
    except FormatError as error:
        raise PosteriorError(f"{source} {error}") from error
    if description.get("model_hash") != model_hash(model):
        raise PosteriorError(f"{source} was fitted to another model: its weights' hash differs")
    try:
        return _assemble(description, stored, model)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise PosteriorError(f"{source} describes no posterior of this model: {error}") from error


def _assemble(
    description: dict[str, Any], stored: dict[str, Tensor], model: nn.Module
) -> Posterior:
    report = PosteriorReport.from_dict(description["report"])
    frozen = frozen_copy(model)
    layers = [_layer(frozen, covered) for covered in report.covered]
    prior_precision = description["prior_precision"]
    noise_cov = stored.pop(_NOISE, None)
    number_format = NumberFormat(report.number_format)
    check_format(number_format, report.structure)
    stored = decode(stored, number_format, next(frozen.parameters()).dtype)
    check_stored(report, stored, prior_precision, {c.name: c.shape for c in layers})
    check_noise_cov(noise_cov, report.n_outputs)
    device = next(frozen.parameters()).device
    stored = {name: tensor.to(device) for name, tensor in stored.items()}
    return Posterior(
        recorder=Recorder(frozen, layers, description["copied"]),
        curvature=_curvature(report, stored),
        likelihood=_likelihood(report, None if noise_cov is None else noise_cov.to(device)),
        prior_precision=prior_precision,
        log_likelihood=float(description["log_likelihood"]),
        can_batch=bool(description["can_batch"]),
        report=report,
    )


def _layer(model: nn.Module, covered: CoveredLayer) -> Layer:
    name = covered.name
    layer = as_layer(name, model.get_submodule(name))
    if isinstance(layer, str):
        raise PosteriorError(f"layer {name!r} of the model cannot be covered: {layer}")
    return replace(layer, batch_axis=covered.batch_axis)


def _curvature(report: PosteriorReport, stored: dict[str, Tensor]) -> NetworkCurvature:
    shapes = {c.name: (c.d_out, c.d_in) for c in report.covered}
    if report.structure == "full":
        return FullCurvature(stored["matrix"], shapes)
    if report.structure == "subnetwork":
        selection = {name: stored[f"{name}/index"] for name in shapes}
        return SubnetworkCurvature(stored["matrix"], selection, shapes)
    if report.structure == "ella":
        directions = {name: stored[f"{name}/directions"] for name in shapes}
        return EllaCurvature(stored["matrix"], directions)
    blocks = {}
    for covered in report.covered:
        prefix = f"{covered.name}/"
        own = {k.removeprefix(prefix): t for k, t in stored.items() if k.startswith(prefix)}
        blocks[covered.name] = _BLOCKS[covered.block](**own)
    return BlockwiseCurvature(blocks)


def _likelihood(report: PosteriorReport, noise_cov: Tensor | None) -> Likelihood:
    return Gaussian(noise_cov) if report.likelihood == "gaussian" else Categorical()
