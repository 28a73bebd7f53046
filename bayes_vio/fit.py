"""Fit an artifact from recorded bags: the way from recordings to posterior, a line a stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayes_vio.artifact import MotionArtifact, check_replaceable, read_description
from bayes_vio.choices import NumberFormat, Structure, check_structure
from bayes_vio.circumstances import measure_circumstances
from bayes_vio.conventions import ANGULAR
from bayes_vio.data.bags import Topics
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.image_quality import usable_bounds
from bayes_vio.data.samples import Extrinsics
from bayes_vio.distributed import Workers, current_workers, worker_device
from bayes_vio.evaluation.fit_report import describe_fit, validation_errors, write_fit_report
from bayes_vio.memory import available_bytes
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.fit import Request, check_fit
from bayes_vio.posterior.number_format import check_format
from bayes_vio.regime.fit import RegimeSettings, fit_regime
from bayes_vio.training.batch_memory import check_batch
from bayes_vio.training.calibration import Calibration, calibrate, score
from bayes_vio.training.correlation import correlations
from bayes_vio.training.crossover import choose_crossover, drive_answers
from bayes_vio.training.map_fit import MapEstimate, MapFitSettings, fit_map
from bayes_vio.training.recordings import (
    EvenSubset,
    FitObserver,
    Recordings,
    description,
    fingerprint,
    read_recordings,
)
from bayes_vio.training.reliability import measure_reliability
from bayes_vio.whole_files import sole_use

STRIDES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class FitSettings:
    """How to fit. Every choice that data makes (epoch, prior, noise) is made on validation, but
    training's errors may widen the noise.

    ``time_offset_s``: None estimates it from the training recordings. ``curvature_samples`` and
    ``calibration_samples`` bound the samples that posterior and calibration (of training and of
    validation each) read, spread evenly.
    ``start_from``: an artifact whose weights training begins with, as when a car's own recordings
    adapt the packaged one. ``device``: "auto", "cpu", "cuda" or "cuda:N".
    ``number_format``: what the posterior is rounded to and stored in, "native" being float32.
    ``fisher``: "probed" reads three times as many samples as "type2" in the same time, whose
    exactness on each of them is worth less (decision 33).
    ``regime``: whether to fit the classifier of images and ego-motion, too.
    """

    map: MapFitSettings = field(default_factory=MapFitSettings)
    structure: str = "inf"
    rank: int = 100
    fisher: str = "probed"
    number_format: str = "native"
    regime: bool = True
    prior_precisions: tuple[float, ...] = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    curvature_samples: int = 10_000
    calibration_samples: int = 400
    time_offset_s: float | None = None
    start_from: Path | None = None
    seed: int = 0
    device: str = "auto"


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

    ``OUT.report`` beside it tells what went in, what was chosen and what may be trusted.
    ``work_dir`` keeps decoded frames and the checkpoint, by default beside ``out``. Raises
    BagError, TimeOffsetError or ValueError with one sentence on what is wrong with the input.

    Under an initialised process group all of its workers call this alike and see the same folders:
    they share training and curvature, the first does the rest, and all return the artifact.
    """
    settings, workers = settings or FitSettings(), current_workers()
    observer = observer if observer and workers.is_first else FitObserver()
    work_dir = work_dir or out.parent / f"{out.name}.work"
    device = worker_device(settings.device)
    with workers.together():
        check_structure(settings.structure)
        check_format(NumberFormat(settings.number_format), settings.structure)
        check_replaceable(out)
        if settings.start_from is not None:
            read_description(settings.start_from)  # said now, not after all bags were read

    def read() -> Recordings:
        return read_recordings(
            train, validation, work_dir / "frames", topics, extrinsics,
            settings.time_offset_s, settings.seed, observer,
        )  # fmt: skip

    def finish() -> MotionArtifact:
        artifact = _assemble(estimate, posterior, calibration, recordings, settings, observer)
        if settings.regime:
            artifact = with_regime(artifact, recordings, settings.seed, observer)
        artifact.save(out)
        observer.note(f"wrote {out}")
        report_on(
            artifact, recordings, out, settings.calibration_samples, settings.map.epochs, observer
        )
        return artifact

    with _sole_use(work_dir, workers):
        observer.stage("Reading recordings")
        recordings = workers.first_then_others(read)
        _check_memory(recordings, settings, device)
        estimate = _fit_map(recordings, work_dir, settings, device, observer)
        posterior, calibration = fit_calibrated_posterior(
            estimate.model, recordings, settings, device, observer
        )
        return workers.first_then_others(finish, lambda: MotionArtifact.load(out))


@contextmanager
def _sole_use(work_dir: Path, workers: Workers) -> Iterator[None]:
    """Keep other fits out of a folder: the first worker's lock stands for all."""
    with ExitStack() as held:
        with workers.together():
            if workers.is_first:
                held.enter_context(sole_use(work_dir, "fit", cache=work_dir / "frames"))
        yield


def _check_memory(recordings: Recordings, settings: FitSettings, device: torch.device) -> None:
    """Raise InsufficientMemoryError for what training or posterior would need, before either."""
    start, workers = settings.start_from, current_workers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = MotionArtifact.load(start).model if start else MotionModel()
    train = MotionDataset(recordings.train, STRIDES)
    with workers.together():
        limit = available_bytes(device)
        check_batch(model, train, settings.map.batch_size, limit, workers.size)
    subset = MotionDataset(recordings.train, (1,))
    request = Request(
        structure=settings.structure,
        rank=settings.rank,
        fisher=settings.fisher,
        seed=settings.seed,
    )
    loader = EvenSubset(subset, settings.curvature_samples, workers=workers)
    check_fit(model, loader, request, device)


def _fit_map(
    recordings: Recordings,
    work_dir: Path,
    settings: FitSettings,
    device: torch.device,
    observer: FitObserver,
) -> MapEstimate:
    train = MotionDataset(recordings.train, STRIDES)
    validation = MotionDataset(recordings.validation, (1,))
    start = settings.start_from
    observer.stage(
        f"Fitting weights on {len(train)} samples, validating on {len(validation)}, on {device}"
    )
    estimate = fit_map(
        train,
        validation,
        settings.map,
        checkpoint=work_dir / "checkpoint.safetensors",
        data_fingerprint=fingerprint(recordings, start and read_description(start)["sha256"]),
        device=device,
        on_epoch=lambda progress: observer.epoch(progress, settings.map.epochs),
        start=MotionArtifact.load(start).model if start else None,
    )
    if estimate.resumed_from_epoch:
        observer.note(f"continued after epoch {estimate.resumed_from_epoch}")
    return estimate


def fit_calibrated_posterior(
    model: MotionModel,
    recordings: Recordings,
    settings: FitSettings,
    device: torch.device,
    observer: FitObserver,
) -> tuple[Posterior, Calibration]:
    """Fit the posterior, calibrate, fit again under the calibrated noise, and calibrate that.

    Curvature is inverse to the noise, so the first prior precision is not the second's. The
    model's noise_scale becomes the calibrated one.
    """
    workers = current_workers()
    train = MotionDataset(recordings.train, (1,))
    unseen = EvenSubset(MotionDataset(recordings.validation, (1,)), settings.calibration_samples)
    seen = EvenSubset(train, settings.calibration_samples)
    loader = EvenSubset(train, settings.curvature_samples, workers=workers)

    def posterior_under_noise(prior_precision: float) -> Posterior:
        return fit_posterior(
            model,
            loader,
            likelihood="gaussian",
            structure=settings.structure,
            rank=settings.rank,
            fisher=settings.fisher,
            prior_precision=prior_precision,
            n_data=len(train),
            seed=settings.seed,
            device=device,
        )

    def calibrated(posterior: Posterior) -> Calibration:
        observer.stage("Choosing prior precision and noise scale on validation")
        found = workers.from_first(
            lambda: calibrate(posterior, unseen, seen, settings.prior_precisions)
        )
        for one in (model, posterior.model):
            assert isinstance(one, MotionModel)
            one.noise_scale.mul_(found.noise_scale.to(one.noise_scale))
        observer.note(
            f"prior precision {found.prior_precision:g}; noise scale "
            + " ".join(f"{s:.2f}" for s in model.noise_scale.tolist())
        )
        return found

    observer.stage(f"Fitting the posterior ({settings.structure}) on {len(loader)} samples")
    first = calibrated(posterior_under_noise(1.0))
    observer.stage("Fitting the posterior under the calibrated noise")
    posterior = posterior_under_noise(first.prior_precision)
    final = calibrated(posterior)
    posterior = posterior.with_prior_precision(final.prior_precision)
    return posterior.with_number_format(settings.number_format), final


def _assemble(
    estimate: MapEstimate,
    posterior: Posterior,
    calibration: Calibration,
    recordings: Recordings,
    settings: FitSettings,
    observer: FitObserver,
) -> MotionArtifact:
    return measured_artifact(
        estimate.model,
        posterior,
        recordings,
        settings.calibration_samples,
        {
            "prior_precision": calibration.prior_precision,
            "prior_search": [list(pair) for pair in calibration.search],
            "curves": asdict(estimate.progress),
            "settings": json.loads(json.dumps(asdict(settings), default=str)),
        },
        observer,
    )


def with_regime(
    artifact: MotionArtifact, recordings: Recordings, seed: int, observer: FitObserver
) -> MotionArtifact:
    """Return the artifact with a regime classifier fitted on recordings, its scores in metadata.

    Its motion model and posterior stay as they are.
    """
    observer.stage("Fitting the regime classifier")
    regime, scores = fit_regime(
        artifact.model, recordings.train, recordings.validation, RegimeSettings(seed=seed)
    )
    observer.note(scores.describe())
    return replace(
        artifact, regime=regime, metadata={**artifact.metadata, "regime": asdict(scores)}
    )


def measured_artifact(
    model: MotionModel,
    posterior: Posterior,
    recordings: Recordings,
    calibration_samples: int,
    chosen: dict[str, Any],
    observer: FitObserver,
) -> MotionArtifact:
    """Return an artifact with what its recordings tell of it; ``chosen`` joins its metadata."""
    observer.stage("Measuring the posterior on validation")
    every = MotionDataset(recordings.validation, (1,))
    result = score(posterior, EvenSubset(every, calibration_samples))
    observer.note(
        f"validation: NEES/6 {result.nees:.2f}, 95 % intervals hold "
        + " ".join(f"{100 * c:.0f}" for c in result.coverage_95)
        + " % of errors (x y z rotX rotY rotZ)"
    )
    circumstances = measure_circumstances(posterior, recordings.train, recordings.validation)
    observer.note(
        "rotation's noise times "
        + " ".join(f"{f:.2f}" for f in circumstances.bias_known_scale[ANGULAR])
        + " once the car has stood and the gyro's bias is known"
    )
    first = recordings.train[0]
    frames = [(r.brightness, r.sharpness) for r in recordings.train]
    brightness, sharpness = (np.concatenate(column) for column in zip(*frames, strict=True))
    intervals_s = MotionDataset(recordings.train, STRIDES).dt_s
    drives = [MotionDataset([r], (1,)) for r in recordings.validation]
    answers = [drive_answers(model, drive) for drive in drives]
    crossover = choose_crossover(answers)
    observer.note(
        "rotations by the gyro beyond "
        + " ".join(f"{time_s:g}" for time_s in crossover.time_s)
        + " s, by the network below (roll pitch yaw; inf: the network alone)"
    )
    epistemic_s, noise = correlations(posterior, model, drives, crossover, answers)
    return MotionArtifact(
        model=model,
        posterior=posterior,
        camera=first.camera,
        extrinsics=first.extrinsics,
        time_offset_s=first.time_offset_s,
        epistemic_correlation_s=epistemic_s,
        noise_correlation=noise,
        image_statistics=usable_bounds(brightness, sharpness),
        dt_range_s=(float(intervals_s.min()), float(intervals_s.max())),
        reliability=measure_reliability(model, recordings.train, recordings.validation),
        crossover=crossover,
        circumstances=circumstances,
        metadata={
            "parameters": sum(p.numel() for p in model.parameters()),
            "time_offset_std_s": recordings.time_offset.std_s,
            "validation": {**asdict(result), "noise_scale": model.noise_scale.tolist()},
            "variance_share": _variance_share(posterior, EvenSubset(every, 64)),
            "recordings": {
                "train": [description(r) for r in recordings.train],
                "validation": [description(r) for r in recordings.validation],
            },
            **chosen,
        },
    )


def report_on(
    artifact: MotionArtifact,
    recordings: Recordings,
    out: Path,
    calibration_samples: int,
    epochs_allowed: int,
    observer: FitObserver,
) -> None:
    """Write the report on a fit beside its artifact, and tell what it claims."""
    errors = validation_errors(artifact, recordings.validation, calibration_samples)
    report = describe_fit(artifact, recordings, errors, epochs_allowed)
    observer.note(report["verdict"]["claim"])
    observer.note(f"wrote {write_fit_report(out, report)}")


def _variance_share(posterior: Posterior, subset: EvenSubset) -> dict[str, list[float]]:
    """Return each layer's share of the epistemic variance, per axis, averaged over samples.

    Empty under a structure that mixes layers.
    """
    if Structure(posterior.report.structure).mixes_layers:
        return {}
    shares: dict[str, list[torch.Tensor]] = {}
    for x, _ in subset:
        parts = posterior.layer_contributions(x.map(lambda t: t.to(posterior.device)))
        total = torch.stack(list(parts.values())).sum(0)
        for name, part in parts.items():
            shares.setdefault(name, []).append(part / total)
    return {name: torch.cat(rows).mean(0).tolist() for name, rows in shares.items()}
