"""Fit an artifact from recorded bags: the way from recordings to posterior, a line a stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.data.bags import Topics, open_streams
from bayes_vio.data.dataset import MotionDataset, PreparedRecording, prepare
from bayes_vio.data.image_quality import usable_bounds
from bayes_vio.data.samples import Extrinsics, MotionInput, TimeOffset
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.training.calibration import Calibration, calibrate, score
from bayes_vio.training.checkpoint import Progress
from bayes_vio.training.correlation import epistemic_correlation_s, noise_correlation
from bayes_vio.training.map_fit import (
    MapEstimate,
    MapFitSettings,
    fit_map,
    standardised_residuals,
)

STRIDES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class FitSettings:
    """How to fit. Every choice that data makes (epoch, prior, noise) is made on validation.

    ``time_offset_s``: None estimates it from the training recordings. ``curvature_samples`` and
    ``calibration_samples`` bound the samples that posterior and calibration read, spread evenly.
    ``start_from``: an artifact whose weights training begins with, as when a car's own recordings
    adapt the packaged one. ``device``: "auto", "cpu", "cuda" or "cuda:N".
    """

    map: MapFitSettings = field(default_factory=MapFitSettings)
    structure: str = "inf"
    rank: int = 100
    prior_precisions: tuple[float, ...] = (0.1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
    curvature_samples: int = 3000
    calibration_samples: int = 400
    time_offset_s: float | None = None
    start_from: Path | None = None
    seed: int = 0
    device: str = "auto"


class FitObserver:
    """What a fit tells while it runs; override what you want to show."""

    def stage(self, text: str) -> None:
        """Tell that a stage begins."""

    def frames(self, recording: str, done: int, total: int) -> None:
        """Tell how many frames of a recording are decoded."""

    def epoch(self, progress: Progress, epochs: int) -> None:
        """Tell the losses after an epoch."""

    def note(self, text: str) -> None:
        """Tell a finding: an offset, a count of what was dropped, a chosen value."""


@dataclass(frozen=True)
class Recordings:
    """Prepared recordings by their use."""

    train: list[PreparedRecording]
    validation: list[PreparedRecording]


def fit(
    train: list[Path],
    validation: list[Path],
    out: Path,
    settings: FitSettings | None = None,
    topics: Topics | None = None,
    extrinsics: Extrinsics | None = None,
    work_dir: Path | None = None,
    observer: FitObserver | None = None,
) -> MotionArtifact:
    """Fit an artifact from bags and write it to ``out``; a killed fit continues where it was.

    ``work_dir`` keeps decoded frames and the checkpoint, by default beside ``out``. Raises
    BagError, TimeOffsetError or ValueError with one sentence on what is wrong with the input.
    """
    settings, observer = settings or FitSettings(), observer or FitObserver()
    work_dir = work_dir or out.parent / f"{out.name}.work"
    device = choose_device(settings.device)
    _check_split(train, validation)
    recordings = _prepare_all(train, validation, work_dir, topics, extrinsics, settings, observer)
    estimate = _fit_map(recordings, work_dir, settings, device, observer)
    posterior, calibration = _fit_posterior(estimate, recordings, settings, device, observer)
    artifact = _assemble(estimate, posterior, calibration, recordings, settings, observer)
    artifact.save(out)
    observer.note(f"wrote {out}")
    return artifact


def choose_device(name: str) -> torch.device:
    """Return the device asked for: "auto" is CUDA where there is one, else the CPU.

    Raises ValueError where a device is asked for by name and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} is not here ({torch.cuda.device_count()} CUDA devices found); "
            f"use device=auto or cpu"
        )
    return device


def _check_split(train: list[Path], validation: list[Path]) -> None:
    shared = {p.resolve() for p in train} & {p.resolve() for p in validation}
    if shared:
        names = ", ".join(sorted(str(p) for p in shared))
        raise ValueError(f"{names}: in training and in validation; a recording has one use")
    if not train or not validation:
        raise ValueError("a fit needs at least one training and one validation recording")


def _prepare_all(
    train: list[Path],
    validation: list[Path],
    work_dir: Path,
    topics: Topics | None,
    extrinsics: Extrinsics | None,
    settings: FitSettings,
    observer: FitObserver,
) -> Recordings:
    observer.stage("Reading recordings")
    prepared = []
    for path in [*train, *validation]:
        streams = open_streams(path, topics or Topics(), extrinsics)
        recording = prepare(
            streams,
            cache_dir=work_dir / "frames",
            seed=settings.seed,
            progress=lambda done, total, name=streams.name: observer.frames(name, done, total),
        )
        prepared.append(recording)
    offset_s = settings.time_offset_s
    if offset_s is None:
        offset_s = _common_offset([r.time_offset for r in prepared[: len(train)]], observer)
    prepared = [r.with_time_offset(offset_s) for r in prepared]
    for recording in prepared:
        observer.note(recording.summary())
    return Recordings(prepared[: len(train)], prepared[len(train) :])


def _common_offset(offsets: list[TimeOffset | None], observer: FitObserver) -> float:
    """Return the mean of the recordings' offsets (s), weighted by their information."""
    known = [o for o in offsets if o is not None]
    if not known:
        raise ValueError(
            "no training recording tells the camera-IMU time offset (too little turning, or no "
            "IMU): give time_offset_s, 0 if the clocks agree"
        )
    weights = np.array([o.std_s**-2 for o in known])
    values = np.array([o.offset_s for o in known])
    mean = float(weights @ values / weights.sum())
    observer.note(
        f"camera-IMU time offset {1e3 * mean:+.1f} ms (IMU stamps "
        f"{'lag' if mean > 0 else 'lead'} the camera's), from {len(known)} recordings, "
        f"which range from {1e3 * values.min():+.1f} to {1e3 * values.max():+.1f} ms"
    )
    return mean


def _fit_map(
    recordings: Recordings,
    work_dir: Path,
    settings: FitSettings,
    device: torch.device,
    observer: FitObserver,
) -> MapEstimate:
    train = MotionDataset(recordings.train, STRIDES)
    validation = MotionDataset(recordings.validation, (1,))
    observer.stage(
        f"Fitting weights on {len(train)} samples, validating on {len(validation)}, on {device}"
    )
    estimate = fit_map(
        train,
        validation,
        settings.map,
        checkpoint=work_dir / "checkpoint.safetensors",
        data_fingerprint=_fingerprint(recordings, settings.start_from),
        device=device,
        on_epoch=lambda progress: observer.epoch(progress, settings.map.epochs),
        start=MotionArtifact.load(settings.start_from).model if settings.start_from else None,
    )
    if estimate.resumed_from_epoch:
        observer.note(f"continued after epoch {estimate.resumed_from_epoch}")
    return estimate


def _fit_posterior(
    estimate: MapEstimate,
    recordings: Recordings,
    settings: FitSettings,
    device: torch.device,
    observer: FitObserver,
) -> tuple[Posterior, Calibration]:
    """Fit the posterior, calibrate on validation, and fit again under the calibrated noise."""
    train = MotionDataset(recordings.train, (1,))
    loader = EvenSubset(train, settings.curvature_samples)
    validation = EvenSubset(
        MotionDataset(recordings.validation, (1,)), settings.calibration_samples
    )

    def posterior_under_noise(prior_precision: float) -> Posterior:
        return fit_posterior(
            estimate.model,
            loader,
            likelihood="gaussian",
            structure=settings.structure,
            rank=settings.rank,
            prior_precision=prior_precision,
            n_data=len(train),
            seed=settings.seed,
            device=device,
        )

    observer.stage(f"Fitting the posterior ({settings.structure}) on {len(loader)} samples")
    first = posterior_under_noise(1.0)
    observer.stage("Choosing prior precision and noise scale on validation")
    calibration = calibrate(first, validation, settings.prior_precisions)
    observer.note(
        f"prior precision {calibration.prior_precision:g}; noise scale "
        + " ".join(f"{s:.2f}" for s in calibration.noise_scale.tolist())
    )
    estimate.model.noise_scale.copy_(calibration.noise_scale)
    observer.stage("Fitting the posterior under the calibrated noise")
    return posterior_under_noise(calibration.prior_precision), calibration


def _assemble(
    estimate: MapEstimate,
    posterior: Posterior,
    calibration: Calibration,
    recordings: Recordings,
    settings: FitSettings,
    observer: FitObserver,
) -> MotionArtifact:
    observer.stage("Measuring the posterior on validation")
    every = MotionDataset(recordings.validation, (1,))
    result = score(posterior, EvenSubset(every, settings.calibration_samples))
    observer.note(
        f"validation: NEES/6 {result.nees:.2f}, 95 % intervals hold "
        + " ".join(f"{100 * c:.0f}" for c in result.coverage_95)
        + " % of errors (x y z rotX rotY rotZ)"
    )
    first = recordings.train[0]
    frames = [(r.brightness, r.sharpness) for r in recordings.train]
    brightness, sharpness = (np.concatenate(column) for column in zip(*frames, strict=True))
    intervals_s = MotionDataset(recordings.train, STRIDES).dt_s
    return MotionArtifact(
        model=estimate.model,
        posterior=posterior,
        camera=first.camera,
        extrinsics=first.extrinsics,
        time_offset_s=first.time_offset_s,
        epistemic_correlation_s=_correlation_s(estimate, posterior, recordings),
        noise_correlation=_noise_correlation(estimate, recordings),
        image_statistics=usable_bounds(brightness, sharpness),
        dt_range_s=(float(intervals_s.min()), float(intervals_s.max())),
        metadata={
            "parameters": sum(p.numel() for p in estimate.model.parameters()),
            "prior_precision": calibration.prior_precision,
            "prior_search": [list(pair) for pair in calibration.search],
            "validation": {
                **asdict(result),
                "noise_scale": calibration.noise_scale.tolist(),
            },
            "variance_share": _variance_share(posterior, every),
            "curves": asdict(estimate.progress),
            "recordings": {
                "train": [_description(r) for r in recordings.train],
                "validation": [_description(r) for r in recordings.validation],
            },
            "settings": json.loads(json.dumps(asdict(settings), default=str)),
        },
    )


def _correlation_s(
    estimate: MapEstimate, posterior: Posterior, recordings: Recordings, frames: int = 300
) -> float:
    """Return the epistemic correlation time on the longest validation drive's first frames."""
    longest = max(recordings.validation, key=lambda r: len(MotionDataset([r], (1,))))
    drive = MotionDataset([longest], (1,))
    rows = np.arange(min(len(drive), frames))
    device = next(estimate.model.parameters()).device
    batches = [
        drive.batch(part)[0].map(lambda t: t.to(device)) for part in np.array_split(rows, 10)
    ]
    dt_s = float(np.median(drive.dt_s))
    return epistemic_correlation_s(posterior, estimate.model, batches, dt_s)


def _noise_correlation(estimate: MapEstimate, recordings: Recordings) -> NoiseCorrelation:
    """Return how much of the noise lasts, over the validation drives."""
    drives = [MotionDataset([r], (1,)) for r in recordings.validation]
    dt_s = float(np.median(np.concatenate([drive.dt_s for drive in drives])))
    return noise_correlation([standardised_residuals(estimate.model, d) for d in drives], dt_s)


def _variance_share(posterior: Posterior, dataset: MotionDataset) -> dict[str, list[float]]:
    """Return each layer's mean share of the epistemic variance, per axis."""
    x, _ = dataset.batch(even_rows(len(dataset), 64))
    contributions = posterior.layer_contributions(x)
    total = torch.stack(list(contributions.values())).sum(0)
    return {name: (c / total).mean(0).tolist() for name, c in contributions.items()}


def _description(recording: PreparedRecording) -> dict[str, Any]:
    return {
        "name": recording.name,
        "sha256": recording.sha256,
        "frames": len(recording.frame_stamp_ns),
        "dropped": dict(recording.dropped),
        "time_offset": asdict(recording.time_offset) if recording.time_offset else None,
    }


def _fingerprint(recordings: Recordings, start_from: Path | None) -> str:
    """Return what the training result depends on besides its settings."""
    parts: list[Any] = [
        [(r.name, r.sha256, r.time_offset_s) for r in part]
        for part in (recordings.train, recordings.validation)
    ]
    if start_from is not None:
        parts.append(read_description(start_from)["sha256"])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def even_rows(total: int, count: int) -> np.ndarray:
    """Return at most ``count`` rows of ``total``, evenly spread and increasing."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


@dataclass(frozen=True)
class EvenSubset:
    """A re-iterable of batches over rows spread evenly over a dataset, in order."""

    dataset: MotionDataset
    count: int
    batch_size: int = 32

    def __len__(self) -> int:
        return min(self.count, len(self.dataset))

    def __iter__(self) -> Iterator[tuple[MotionInput, Tensor]]:
        rows = even_rows(len(self.dataset), self.count)
        for start in range(0, len(rows), self.batch_size):
            yield self.dataset.batch(rows[start : start + self.batch_size])
