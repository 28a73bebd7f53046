"""Continue a fit: yesterday's artifact is the prior of today's recordings (E20, E21).

The weights are refitted under N(map, P^-1) of the parent's posterior, without the parent's data;
kept is the round that is best on today's validation recordings, be it yesterday's weights. The
noise is calibrated on those recordings, and the information of today's training recordings is
added under it. The prior precision, the time offset and the eigenbasis are the parent's, camera
and extrinsics the recordings'. The new artifact records where it comes from.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bayes_vio.ancestry import check_uses, with_ancestor
from bayes_vio.artifact import MotionArtifact, check_replaceable, read_description
from bayes_vio.data.bags import Topics
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.image_quality import ImageStatistics
from bayes_vio.data.samples import Extrinsics
from bayes_vio.device import choose_device
from bayes_vio.fit import measured_artifact, report_on
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.reliability import Reliability, widened
from bayes_vio.posterior import Posterior
from bayes_vio.posterior.refit import Refit, RefitWatch, best_round, refit_mean
from bayes_vio.posterior.refit_state import RefitFile
from bayes_vio.posterior.update import check_updatable, with_information
from bayes_vio.training.calibration import calibrate_noise
from bayes_vio.training.checkpoint import Progress
from bayes_vio.training.map_fit import validation_nll
from bayes_vio.training.recordings import (
    EvenSubset,
    FitObserver,
    Recordings,
    fingerprint,
    read_recordings,
)
from bayes_vio.whole_files import sole_use

_BATCH = 64
# Offsets that differ by more standard deviations than this are told.
_UNLIKELY = 3.0


@dataclass(frozen=True)
class ContinueSettings:
    """How to continue a fit.

    ``epochs``: the largest number of L-BFGS steps, each of which reads the new data once or twice.
    ``curvature_samples`` and ``calibration_samples`` bound the samples that refit and curvature,
    and calibration, read, spread evenly. ``time_offset_s``: None keeps the parent's.
    """

    epochs: int = 60
    curvature_samples: int = 3000
    calibration_samples: int = 400
    time_offset_s: float | None = None
    seed: int = 0
    device: str = "auto"


def continue_fit(
    parent_path: Path,
    train: list[Path],
    validation: list[Path],
    out: Path,
    settings: ContinueSettings | None = None,
    topics: Topics | None = None,
    extrinsics: Extrinsics | None = None,
    work_dir: Path | None = None,
    observer: FitObserver | None = None,
) -> MotionArtifact:
    """Write to ``out`` the parent's artifact after new bags; a killed run continues where it was.

    Raises ArtifactError, BagError or ValueError with one sentence where the parent cannot be
    continued, would be overwritten, or a recording was already used for something that its use
    now would make worthless.
    """
    settings, observer = settings or ContinueSettings(), observer or FitObserver()
    work_dir = work_dir or out.parent / f"{out.name}.work"
    check_replaceable(out)
    if out.resolve() == parent_path.resolve():
        raise ValueError(f"{out} is the artifact to continue: write the new one elsewhere")
    description = read_description(parent_path)
    parent = MotionArtifact.load(parent_path, choose_device(settings.device))
    check_updatable(parent.posterior)
    offset_s = settings.time_offset_s
    with sole_use(work_dir, "fit", cache=work_dir / "frames"):
        observer.stage("Reading recordings")
        recordings = read_recordings(
            train, validation, work_dir / "frames", topics, extrinsics,
            parent.time_offset_s if offset_s is None else offset_s, settings.seed, observer,
        )  # fmt: skip
        ancestry = with_ancestor(description)
        check_uses(recordings, ancestry)
        _tell_differences(parent, recordings, observer)
        file = RefitFile(
            work_dir / "refit.safetensors",
            _fingerprint(recordings, description["seal_sha256"], settings),
        )
        refit = _refit(parent, recordings, settings, file, observer)
        posterior, nll = _with_information(parent.posterior, refit, recordings, settings, observer)
        chosen = {
            **_prior(parent, nll),
            "curves": asdict(_progress(refit.history)),
            "settings": json.loads(json.dumps(asdict(settings), default=str)),
            "ancestry": ancestry,
            **{key: parent.metadata[key] for key in ("regime",) if key in parent.metadata},
            "update": asdict(posterior.report.updates[-1]),
        }
        artifact = _assemble(parent, posterior, recordings, settings, chosen, observer)
        artifact.save(out)
        observer.note(f"wrote {out}")
        report_on(
            artifact, recordings, out, settings.calibration_samples, settings.epochs, observer
        )
        return artifact


def _tell_differences(
    parent: MotionArtifact, recordings: Recordings, observer: FitObserver
) -> None:
    for recording in recordings.train:
        ours, theirs = parent.extrinsics, recording.extrinsics
        alike = np.allclose(ours.T_base_imu, theirs.T_base_imu, atol=1e-6)
        if not (alike and np.allclose(ours.T_base_camera, theirs.T_base_camera, atol=1e-6)):
            observer.note(
                f"{recording.name} has other extrinsics than the artifact: the new one has those "
                f"of {recordings.train[0].name}"
            )
        found, used_s = recording.time_offset, recordings.time_offset.offset_s
        if found and abs(found.offset_s - used_s) > _UNLIKELY * found.std_s:
            observer.note(
                f"WARNING: {recording.name} shows a camera-IMU offset of "
                f"{1e3 * found.offset_s:+.1f} +- {1e3 * found.std_s:.1f} ms, "
                f"{1e3 * used_s:+.1f} ms is used: give --time-offset if the clocks have changed"
            )


def _fingerprint(recordings: Recordings, parent_seal: str, settings: ContinueSettings) -> str:
    parts = [fingerprint(recordings, parent_seal), settings.curvature_samples]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _new_data(recordings: Recordings, settings: ContinueSettings) -> tuple[EvenSubset, int]:
    """Return the samples that are read, and how many they stand for."""
    train = MotionDataset(recordings.train, (1,))
    return EvenSubset(train, settings.curvature_samples), len(train)


def _refit(
    parent: MotionArtifact,
    recordings: Recordings,
    settings: ContinueSettings,
    file: RefitFile,
    observer: FitObserver,
) -> Refit:
    data, n_data = _new_data(recordings, settings)
    validation = MotionDataset(recordings.validation, (1,))
    observer.stage(
        f"Refitting the weights on {len(data)} samples, yesterday's posterior the prior"
    )

    def nll(model: nn.Module) -> float:
        assert isinstance(model, MotionModel)
        return validation_nll(model, validation, _BATCH, parent.posterior.device)

    def tell(history: list[tuple[float, float]]) -> None:
        observer.epoch(_progress(history), 1 + -(-settings.epochs // watch.steps_per_round))

    watch = RefitWatch(nll, tell, file)
    refit = refit_mean(parent.posterior, data, settings.epochs, n_data, watch)
    _tell_kept(refit, observer)
    return refit


def _tell_kept(refit: Refit, observer: FitObserver) -> None:
    """Tell which round was kept, and what that leaves to be wished."""
    nlls, kept = [nll for _, nll in refit.history], refit.kept_round
    last = len(nlls) - 1
    if kept == 0 and last > 0:
        observer.note(
            f"WARNING: every round made the validation NLL worse ({nlls[0]:.3f} before, "
            f"{min(nlls[1:]):.3f} at best): yesterday's weights are kept, the new data add their "
            "information alone"
        )
        return
    observer.note(
        f"kept is round {kept} of {last}: the weights moved by {refit.distance:.1f} of "
        f"yesterday's sigmas in all; validation NLL {nlls[0]:.3f} before, {nlls[kept]:.3f} after"
    )
    if kept < last:
        observer.note(f"the rounds after it were worse on validation, {nlls[-1]:.3f} at the end")
    elif not refit.converged:
        observer.note("WARNING: the refit has not converged: allow more --epochs")


def _progress(history: Sequence[tuple[float, float]]) -> Progress:
    """Return a refit's rounds as epochs, the start being the first."""
    losses, nlls = (list(column) for column in zip(*history, strict=True))
    kept = best_round(history)
    return Progress(len(nlls), nlls[kept], kept + 1, losses, nlls)


def _with_information(
    yesterday: Posterior,
    refit: Refit,
    recordings: Recordings,
    settings: ContinueSettings,
    observer: FitObserver,
) -> tuple[Posterior, float]:
    """Calibrate the noise at the new mean, and add the new information under it.

    Returns the posterior, and the validation NLL (nats) under the noise scale chosen.
    """
    data, n_data = _new_data(recordings, settings)
    seen, unseen = (
        EvenSubset(MotionDataset(part, (1,)), settings.calibration_samples)
        for part in (recordings.train, recordings.validation)
    )
    observer.stage(f"Adding the information of {n_data} samples")
    first = with_information(yesterday, refit, data, settings.seed, n_data)
    observer.stage("Choosing the noise scale on validation")
    noise_scale, nll = calibrate_noise(first, unseen, seen)
    model = refit.recorder.model
    assert isinstance(model, MotionModel)
    with torch.no_grad():
        model.noise_scale.mul_(noise_scale.to(model.noise_scale))
    observer.note("noise scale " + " ".join(f"{s:.2f}" for s in model.noise_scale.tolist()))
    observer.stage("Adding the information under the calibrated noise")
    posterior = with_information(yesterday, refit, data, settings.seed, n_data)
    misfit = posterior.report.updates[-1].misfit
    if misfit:
        worst = max(misfit, key=lambda name: misfit[name])
        observer.note(
            "outside yesterday's eigenbasis lies "
            f"{100 * np.mean(list(misfit.values())):.0f} % of the new curvature's trace, "
            f"{100 * misfit[worst]:.0f} % at most ({worst}); it is kept as a diagonal"
        )
    return posterior, nll


def _prior(parent: MotionArtifact, nll: float) -> dict[str, Any]:
    """Return what the metadata tells of the prior precision: the parent's, nothing else tried."""
    values = list(parent.posterior.prior_precision.values())
    precision = parent.metadata.get("prior_precision", float(np.mean(values)))
    return {"prior_precision": precision, "prior_search": [[precision, nll]]}


def _assemble(
    parent: MotionArtifact,
    posterior: Posterior,
    recordings: Recordings,
    settings: ContinueSettings,
    chosen: dict[str, Any],
    observer: FitObserver,
) -> MotionArtifact:
    """Return the artifact: for the car of today, and all that it or its parent has seen."""
    model = copy.deepcopy(parent.model)
    model.load_state_dict(posterior.model.state_dict())
    own = measured_artifact(
        model, posterior, recordings, settings.calibration_samples, chosen, observer
    )
    low, high = zip(parent.dt_range_s, own.dt_range_s, strict=True)
    return replace(
        own,
        image_statistics=_widened(parent.image_statistics, own.image_statistics),
        reliability=_usual_for_either(parent.reliability, own.reliability),
        dt_range_s=(min(low), max(high)),
        regime=parent.regime,
    )


def _usual_for_either(a: Reliability | None, b: Reliability | None) -> Reliability | None:
    """Return what is usual where both tell it; where one does not, nothing can be called odd."""
    return None if a is None or b is None else widened(a, b)


def _widened(a: ImageStatistics, b: ImageStatistics) -> ImageStatistics:
    """Return bounds within which an image is usable by either."""
    return ImageStatistics(
        min(a.brightness_low, b.brightness_low),
        max(a.brightness_high, b.brightness_high),
        min(a.sharpness_low, b.sharpness_low),
    )
