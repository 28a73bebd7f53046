"""The fitted artifact: a folder of artifact.json, model.safetensors, posterior.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bayes_vio import __version__
from bayes_vio.conventions import AXES, AXIS_UNITS
from bayes_vio.data.image_quality import ImageStatistics, image_statistics_of
from bayes_vio.data.samples import (
    GRID_HEIGHT,
    GRID_WIDTH,
    IMU_BINS,
    VIEW_FOCAL_PX,
    VIEW_HEIGHT,
    VIEW_WIDTH,
    CameraModel,
    Extrinsics,
    MotionInput,
)
from bayes_vio.models.motion import MotionModel, MotionModelSettings
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.posterior import GaussianPrediction, Posterior

__all__ = ["ArtifactError", "ImageStatistics", "MotionArtifact", "image_statistics_of"]

FORMAT_VERSION = 1
_JSON, _MODEL, _POSTERIOR = "artifact.json", "model.safetensors", "posterior.safetensors"
# artifact.json is a few kilobytes; a larger one is no artifact and is not read into memory.
_LARGEST_JSON_BYTES = 4 * 1024 * 1024


class ArtifactError(ValueError):
    """An artifact that is missing, damaged or of another format version."""


@dataclass(frozen=True)
class MotionArtifact:
    """A motion model, its posterior and what must be known to run them on a car.

    ``time_offset_s``: see conventions. ``epistemic_correlation_s``: correlation time of the
    epistemic error along a drive. ``noise_correlation``: how much of the noise lasts.
    ``dt_range_s``: intervals seen in training. ``metadata``: fit metrics, hashes of the bags, what
    the posterior covers; JSON values only.
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

    def predict(self, x: MotionInput) -> GaussianPrediction:
        """Return mean [batch, 6] in Log coordinates, epistemic_cov and noise_cov [batch, 6, 6].

        In float64, on the model's device, in m and rad about Log(T_earlier_later) of base_link.
        """
        p = self.posterior.predict(x)
        if not isinstance(p, GaussianPrediction):
            raise TypeError("a motion artifact's posterior is Gaussian; this one is of classes")
        return replace(
            p,
            mean=p.mean.double(),
            epistemic_cov=p.epistemic_cov.double(),
            noise_cov=p.noise_cov.double(),
        )

    def save(self, path: Path) -> None:
        """Write the folder whole or not at all; replaces an artifact that is already there."""
        path = Path(path)
        _refuse_foreign_folder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            self._write(partial)
            _swap_in(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        weights = {n: t.detach().cpu().contiguous() for n, t in self.model.state_dict().items()}
        save_file(weights, folder / _MODEL)
        self.posterior.save(folder / _POSTERIOR)
        text = json.dumps(self._description(folder), indent=1, allow_nan=False)
        (folder / _JSON).write_text(text + "\n")
        for file in folder.iterdir():
            file.chmod(0o644)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        folder.chmod(0o755)

    def _description(self, folder: Path) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "input": _input_shapes(),
            "output": {"axes": list(AXES), "units": list(AXIS_UNITS), "frame": "base_link"},
            "model": asdict(self.model.settings),
            "sha256": {name: _sha256(folder / name) for name in (_MODEL, _POSTERIOR)},
            "camera": _camera_to_json(self.camera),
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
            "metadata": self.metadata,
        }

    @staticmethod
    def load(path: Path, device: str | torch.device = "cpu") -> MotionArtifact:
        """Read an artifact folder onto a device.

        Raises ArtifactError, in one sentence, for a folder that is missing, truncated, changed
        after it was written, or of another format version.
        """
        path = Path(path)
        description = read_description(path)
        _check_hashes(path, description["sha256"])
        try:
            model = MotionModel(MotionModelSettings(**description["model"]))
            model.load_state_dict(load_file(path / _MODEL))
            model.to(device).eval().requires_grad_(False)
            posterior = Posterior.load(path / _POSTERIOR, model)
            return _assemble(description, model, posterior)
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"artifact {path} does not fit this version: {error}") from error


def read_description(path: Path) -> dict[str, Any]:
    """Return artifact.json of a folder, checked for format version and input shapes."""
    file = Path(path) / _JSON
    if not file.is_file():
        raise ArtifactError(
            f"no artifact at {path}: {_JSON} is missing; run `bayes-vio fit` first"
        )
    if file.stat().st_size > _LARGEST_JSON_BYTES:
        raise ArtifactError(f"{file} is larger than an artifact's description can be")
    try:
        description = json.loads(file.read_text())
    except ValueError as error:
        raise ArtifactError(
            f"{file} is not valid JSON ({error}); copy the artifact anew"
        ) from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"artifact {path} has format version {version}, this package reads {FORMAT_VERSION}; "
            f"fit it again"
        )
    if description.get("input") != _input_shapes():
        raise ArtifactError(f"artifact {path} is for inputs of another shape; fit it again")
    return description


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
        camera=_camera_from_json(description["camera"]),
        extrinsics=Extrinsics(
            np.array(extrinsics["T_base_imu"], dtype=np.float64),
            np.array(extrinsics["T_base_camera"], dtype=np.float64),
            extrinsics["source"],
        ),
        time_offset_s=float(description["time_offset_s"]),
        epistemic_correlation_s=float(description["epistemic_correlation_s"]),
        noise_correlation=_noise_correlation(description["noise_correlation"]),
        image_statistics=ImageStatistics(**description["image_statistics"]),
        dt_range_s=(float(low), float(high)),
        metadata=description["metadata"],
    )


def _noise_correlation(value: dict[str, Any]) -> NoiseCorrelation:
    return NoiseCorrelation(*(tuple(float(v) for v in value[key]) for key in ("time_s", "share")))


def _input_shapes() -> dict[str, Any]:
    return {
        "view": [VIEW_HEIGHT, VIEW_WIDTH],
        "view_focal_px": VIEW_FOCAL_PX,
        "grid": [GRID_HEIGHT, GRID_WIDTH],
        "imu_bins": IMU_BINS,
    }


def _camera_to_json(camera: CameraModel) -> dict[str, Any]:
    return {
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "distortion": camera.distortion,
        "coefficients": np.asarray(camera.coefficients).tolist(),
    }


def _camera_from_json(value: dict[str, Any]) -> CameraModel:
    return CameraModel(
        width=int(value["width"]),
        height=int(value["height"]),
        K=np.array(value["K"], dtype=np.float64),
        distortion=value["distortion"],
        coefficients=np.array(value["coefficients"], dtype=np.float64),
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_hashes(path: Path, expected: dict[str, str]) -> None:
    for name in (_MODEL, _POSTERIOR):
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"artifact {path} is incomplete: {name} is missing")
        if _sha256(file) != expected.get(name):
            raise ArtifactError(
                f"artifact {path} is damaged: {name} is not the file that was written with "
                f"{_JSON}; copy the artifact anew"
            )


def _refuse_foreign_folder(path: Path) -> None:
    if path.exists() and not (path / _JSON).is_file() and (path.is_file() or any(path.iterdir())):
        raise ArtifactError(f"{path} exists and is no artifact; choose another path")


def _swap_in(partial: Path, path: Path) -> None:
    """Put a finished folder in place of an earlier artifact, which stays until then."""
    if not path.exists():
        partial.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.rename(old / "artifact")
    partial.rename(path)
    shutil.rmtree(old)
