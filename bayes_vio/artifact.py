"""The fitted artifact: a folder of artifact.json, model.safetensors, posterior.safetensors.

An artifact with a regime classifier has its files, too (``regime.storage``). artifact.json is
sealed (see ``sealed``) and holds the hashes of all other files, so that a changed bit anywhere is
found before a number is used. Only these names are ever opened, as regular files: links are not
followed, and sizes are bounded before anything is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from bayes_vio import __version__
from bayes_vio.artifact_checks import (
    build_model,
    check_prediction,
    check_values,
    model_settings,
    resting_input,
)
from bayes_vio.artifact_json import (
    camera_from_json,
    camera_to_json,
    circumstances_from_json,
    crossover_from_json,
    input_shapes,
    noise_correlation_from_json,
    reliability_from_json,
)
from bayes_vio.conventions import AXES, AXIS_UNITS
from bayes_vio.data.image_quality import ImageStatistics, image_statistics_of
from bayes_vio.data.samples import (
    CameraModel,
    Extrinsics,
    MotionInput,
)
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.noise import AS_IN_TRAINING, Circumstances, NoiseCorrelation
from bayes_vio.models.reliability import Reliability
from bayes_vio.posterior import GaussianPrediction, Posterior
from bayes_vio.posterior import storage as posterior_storage
from bayes_vio.posterior.captured import CapturedPredictive
from bayes_vio.posterior.predictive import Prediction
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.regime import RegimeClassifier
from bayes_vio.regime import storage as regime_storage
from bayes_vio.sealed import FormatError, check_seal, parse, sealed
from bayes_vio.whole_files import partial_folder, read_bounded, write_whole

__all__ = ["ArtifactError", "ImageStatistics", "MotionArtifact", "image_statistics_of"]

FORMAT_VERSION = 3
_JSON, _MODEL, _POSTERIOR = "artifact.json", "model.safetensors", "posterior.safetensors"
_FILES = (_JSON, _MODEL, _POSTERIOR, *regime_storage.FILES)
# artifact.json is a few kilobytes; a larger one is no artifact and is not read into memory.
_LARGEST_JSON_BYTES = 4 * 1024 * 1024
_LARGEST_BYTES = {_MODEL: 2**30, _POSTERIOR: posterior_storage.LARGEST_BYTES}


class ArtifactError(ValueError):
    """An artifact that is missing, damaged or of another format version."""


@dataclass(frozen=True)
class MotionArtifact:
    """A motion model, its posterior and what must be known to run them on a car.

    ``time_offset_s``: see conventions. ``epistemic_correlation_s``: correlation time of the
    epistemic error along a drive. ``noise_correlation``: how much of the noise lasts.
    ``dt_range_s``: intervals seen in training. ``metadata``: fit metrics, hashes of the bags, what
    the posterior covers; JSON values only. ``reliability``: what is usual for the inputs; None
    where that was not measured: then nothing is doubted. ``regime``: judges images and ego-motion,
    always on the CPU; None where it was not fitted. ``crossover``: how rotations are fused with
    the gyro's. ``circumstances``: the noise where they are not those of training. ``captured``:
    predictions from single inputs, recorded (see ``streaming``). Raises ArtifactError for values
    that no car has.
    """

    model: MotionModel
    posterior: Posterior
    camera: CameraModel
    extrinsics: Extrinsics
    time_offset_s: float
    epistemic_correlation_s: float
    noise_correlation: NoiseCorrelation
    image_statistics: ImageStatistics
    dt_range_s: tuple[float, float]
    metadata: dict[str, Any]
    reliability: Reliability | None = None
    regime: RegimeClassifier | None = None
    crossover: Crossover = NETWORK_ALONE
    circumstances: Circumstances = AS_IN_TRAINING
    captured: CapturedPredictive | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.captured is not None and self.captured.posterior is not self.posterior:
            raise ValueError("the captured prediction is of another posterior: capture it anew")
        try:
            check_values(self)
        except ValueError as error:
            raise ArtifactError(f"these values make no artifact: {error}") from error

    def predict(self, x: MotionInput) -> GaussianPrediction:
        """Return mean [batch, 6] in Log coordinates, epistemic_cov and noise_cov [batch, 6, 6].

        In float64, on the model's device, in m and rad about Log(T_earlier_later) of base_link.
        """
        return _in_float64(self.posterior.predict(x))

    def predict_features(
        self, x: MotionInput, sketch: FeatureSketch
    ) -> tuple[GaussianPrediction, Tensor]:
        """Return ``predict(x)`` and features [batch, 6, sketch.size] of the epistemic error.

        They tell what errors of different increments have in common: see ``posterior.sketch``.
        """
        captured = self.captured
        if captured is not None and captured.sketch == sketch and len(x) == 1:
            p, features = captured(x)
        else:
            p, features = self.posterior.predict_features(x, sketch)
        return _in_float64(p), features

    def streaming(self, sketch: FeatureSketch) -> MotionArtifact:
        """Return the artifact with ``predict_features`` from single inputs recorded: faster.

        For one thread only. Raises ValueError where the posterior's prediction cannot be
        captured.
        """
        still = resting_input().map(lambda t: t.to(self.posterior.device))
        return replace(self, captured=CapturedPredictive(self.posterior, still, sketch))

    def save(self, path: Path) -> None:
        """Write the folder whole or not at all; replaces an artifact that is already there.

        Raises ArtifactError where ``path`` holds something else, or where what would be written
        could not be loaded.
        """
        path = Path(path)
        check_replaceable(path)
        contents = self._contents()
        with partial_folder(path) as partial:
            for name, content in contents.items():
                write_whole(partial / name, content)

    def _contents(self) -> dict[str, bytes]:
        try:
            check_prediction(self)
            weights = {n: t.detach().cpu() for n, t in self.model.state_dict().items()}
            tensors = {
                _MODEL: tensors_to_bytes({n: t.contiguous() for n, t in weights.items()}),
                _POSTERIOR: posterior_storage.to_bytes(self.posterior),
                **(regime_storage.to_files(self.regime) if self.regime else {}),
            }
            description = sealed(self._description(tensors))
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"this artifact cannot be written: {error}") from error
        return {**tensors, _JSON: (json.dumps(description, indent=1) + "\n").encode()}

    def _description(self, tensors: dict[str, bytes]) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "input": input_shapes(),
            "output": {"axes": list(AXES), "units": list(AXIS_UNITS), "frame": "base_link"},
            "model": asdict(self.model.settings),
            "sha256": {name: _sha256(content) for name, content in tensors.items()},
            "camera": camera_to_json(self.camera),
            "extrinsics": {
                "T_base_imu": self.extrinsics.T_base_imu.tolist(),
                "T_base_camera": self.extrinsics.T_base_camera.tolist(),
                "source": self.extrinsics.source,
            },
            "time_offset_s": self.time_offset_s,
            "epistemic_correlation_s": self.epistemic_correlation_s,
            "noise_correlation": asdict(self.noise_correlation),
            "image_statistics": asdict(self.image_statistics),
            "dt_range_s": list(self.dt_range_s),
            "reliability": asdict(self.reliability) if self.reliability else None,
            "crossover_s": [t if math.isfinite(t) else None for t in self.crossover.time_s],
            "circumstances": asdict(self.circumstances),
            "metadata": self.metadata,
            **({"regime": regime_storage.describe(self.regime)} if self.regime else {}),
        }

    @staticmethod
    def load(path: Path, device: str | torch.device = "cpu") -> MotionArtifact:
        """Read an artifact folder onto a device, and try it once.

        Raises ArtifactError, in one sentence, for a folder that is missing, truncated, changed
        after it was written, of another format version, or whose numbers make no prediction.
        """
        path = Path(path)
        description = read_description(path)
        weights, posterior = (_read(path, name, description) for name in (_MODEL, _POSTERIOR))
        try:
            model = build_model(model_settings(description["model"]), tensors_from_bytes(weights))
            model.to(device).eval().requires_grad_(False)
            source = str(path / _POSTERIOR)
            artifact = _assemble(
                description, model, posterior_storage.from_bytes(posterior, model, source)
            )
            artifact = replace(artifact, regime=_read_regime(path, description))
            check_prediction(artifact)
        except ArtifactError as error:
            raise ArtifactError(f"artifact {path} is of no use: {error}") from error
        except _UNFIT as error:
            raise ArtifactError(f"artifact {path} does not fit this version: {error}") from error
        return artifact


def _read_regime(path: Path, description: dict[str, Any]) -> RegimeClassifier | None:
    """Return the regime classifier that the description tells of, if it does."""
    told = description.get("regime")
    if told is None:
        return None
    if unknown := set(told["files"]).difference(regime_storage.FILES):
        raise ValueError(f"{sorted(unknown)[0]} is no file of a regime classifier")
    files = {name: _read(path, name, description) for name in told["files"]}
    return regime_storage.from_files(told, files, str(path))


def _in_float64(p: Prediction) -> GaussianPrediction:
    if not isinstance(p, GaussianPrediction):
        raise TypeError("a motion artifact's posterior is Gaussian; this one is of classes")
    return replace(
        p,
        mean=p.mean.double(),
        epistemic_cov=p.epistemic_cov.double(),
        noise_cov=p.noise_cov.double(),
    )


# What reading a description that is whole but of other content can raise.
_UNFIT = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)
_UNFIT += (SafetensorError,)


def read_description(path: Path) -> dict[str, Any]:
    """Return artifact.json of a folder, checked for damage, format version and input shapes."""
    file = Path(path) / _JSON
    if Path(path).is_file():
        raise ArtifactError(f"{path} is a file: an artifact is a folder with {_JSON} in it")
    if not file.is_file():
        raise ArtifactError(
            f"no artifact at {path}: {_JSON} is missing; run `bayes-vio fit` first"
        )
    try:
        description = parse(_read_file(file, _LARGEST_JSON_BYTES))
    except FormatError as error:
        raise ArtifactError(f"{file} {error}; copy the artifact anew") from error
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"artifact {path} has format version {version}, this package reads {FORMAT_VERSION}; "
            f"fit it again"
        )
    try:
        check_seal(description)
    except FormatError as error:
        raise ArtifactError(f"{file} {error}; copy the artifact anew") from error
    if description.get("input") != input_shapes():
        raise ArtifactError(f"artifact {path} is for inputs of another shape; fit it again")
    return description


def check_replaceable(path: Path) -> None:
    """Raise ArtifactError where an artifact written to ``path`` would destroy something else."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise ArtifactError(f"{path} is a link to nothing; remove it or choose another path")
    if not path.exists():
        return
    names = {file.name for file in path.iterdir()} if path.is_dir() else None
    if names is None or (names and _JSON not in names):
        raise ArtifactError(f"{path} exists and is no artifact; choose another path")
    if others := sorted(names.difference(_FILES)):
        raise ArtifactError(
            f"{path} holds {others[0]}, which is no part of an artifact and would be lost; "
            f"choose another path"
        )


def read_error_correlation(path: Path) -> tuple[float, NoiseCorrelation]:
    """Return for how long an artifact's errors last: epistemic_correlation_s, and the noise.

    For programs that consume its outputs; the network is not loaded. Raises ArtifactError.
    """
    description = read_description(path)
    try:
        epistemic_s = float(description["epistemic_correlation_s"])
        return epistemic_s, noise_correlation_from_json(description["noise_correlation"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"artifact {path} does not say how long its errors last") from error


def default_artifact_path() -> Path:
    """Return the folder of the artifact that is installed with the package."""
    return Path(str(resources.files("bayes_vio") / "assets" / "default_artifact"))


def _assemble(
    description: dict[str, Any], model: MotionModel, posterior: Posterior
) -> MotionArtifact:
    extrinsics = description["extrinsics"]
    low, high = description["dt_range_s"]
    return MotionArtifact(
        model=model,
        posterior=posterior,
        camera=camera_from_json(description["camera"]),
        extrinsics=Extrinsics(
            np.array(extrinsics["T_base_imu"], dtype=np.float64),
            np.array(extrinsics["T_base_camera"], dtype=np.float64),
            extrinsics["source"],
        ),
        time_offset_s=float(description["time_offset_s"]),
        epistemic_correlation_s=float(description["epistemic_correlation_s"]),
        noise_correlation=noise_correlation_from_json(description["noise_correlation"]),
        image_statistics=ImageStatistics(**description["image_statistics"]),
        dt_range_s=(float(low), float(high)),
        metadata=description["metadata"],
        reliability=reliability_from_json(description.get("reliability")),
        crossover=crossover_from_json(description.get("crossover_s")),
        circumstances=circumstances_from_json(description.get("circumstances")),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path, name: str, description: dict[str, Any]) -> bytes:
    """Return a file's content, which must be what the description was written with."""
    file = path / name
    if not file.is_file():
        raise ArtifactError(f"artifact {path} is incomplete: {name} is missing")
    largest = _LARGEST_BYTES.get(name, regime_storage.LARGEST_BYTES)
    content, hashes = _read_file(file, largest), description.get("sha256")
    if not isinstance(hashes, dict) or hashes.get(name) != _sha256(content):
        raise ArtifactError(
            f"artifact {path} is damaged: {name} is not the file that was written with "
            f"{_JSON}; copy the artifact anew"
        )
    return content


def _read_file(file: Path, largest_bytes: int) -> bytes:
    try:
        return read_bounded(file, largest_bytes)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
