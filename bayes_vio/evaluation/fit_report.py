"""Report on a fit: what went in, what was chosen and why, what the artifact may be trusted for.

Written beside the artifact FOLDER into ``FOLDER.report`` as ``fit_report.json`` and one page,
``fit_report.html``; the artifact itself stays as it is. The JSON is strict and keeps its keys
while ``schema_version`` is 1. Lengths in m, times in s, angles in deg where a key says so.

    schema_version, created_utc, package_version
    verdict       trust, claim, reason, trusted [sentences], limits [{text, grave}]
    recordings    train, validation: one each, see `recording_quality.describe_recording`
    seen          of the training recordings together: time_s, distance_m, standing_share,
                  speed_m_s, yaw_rate_deg_s, brightness, sharpness (each min, p1, median, p99,
                  max), interval_s [min, max]
    time_offset   offset_s, std_s (null where it was given), recordings, given
    extrinsics    T_base_imu, T_base_camera, source
    camera_rotation   all recordings together: roll, pitch, yaw {deg, std_deg, observable,
                  contradicts}, cov_rad2, pairs; null where none tells it
    training      train_loss, validation_nll [per epoch], best_epoch (from 1), epochs_allowed,
                  continued: epochs are rounds of a refit, the first being yesterday's weights
    prior_search  [{prior_precision, nll}], and prior_precision, the one chosen
    validation    recordings, time_s, speed_m_s, noise_scale {axis: factor}, judgement, measured
                  (as in `report`'s docstring, frame by frame)
    regime        scores and thresholds of the regime classifier, null without one
    posterior     the posterior's own report; storage {structure: numbers}, nbytes, parameters,
                  covered_share
    artifact      time_offset_s, dt_range_s, epistemic_correlation_s, sha256
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bayes_vio import __version__
from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.conventions import AXES
from bayes_vio.data.camera_rotation import combine_rotations
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.recording import PreparedRecording
from bayes_vio.data.samples import MotionInput
from bayes_vio.evaluation import calibration, verdict
from bayes_vio.evaluation.calibration import Errors
from bayes_vio.evaluation.fit_verdict import judge_fit
from bayes_vio.evaluation.recording_quality import (
    describe_recording,
    describe_rotation,
    driven,
    speeds,
    value_range,
)
from bayes_vio.evaluation.recordings import finite, json_value
from bayes_vio.training.recordings import EvenSubset, Recordings, even_rows
from bayes_vio.whole_files import write_whole

SCHEMA_VERSION = 1


def validation_errors(
    artifact: MotionArtifact, recordings: list[PreparedRecording], count: int
) -> Errors:
    """Return the artifact's errors on at most ``count`` increments, evenly spread."""
    dataset = MotionDataset(recordings, (1,))
    sizes = [len(MotionDataset([r], (1,))) for r in recordings]
    sequence = np.repeat(np.arange(len(sizes)), sizes)[even_rows(len(dataset), count)]
    batches: Iterable[tuple[MotionInput, Tensor]] = EvenSubset(dataset, count)
    parts = []
    for x, target in batches:
        p = artifact.predict(x.map(lambda t: t.to(artifact.posterior.device)))
        parts.append((target.double() - p.mean.cpu(), p.epistemic_cov.cpu(), p.noise_cov.cpu()))
    error, epistemic_cov, noise_cov = (
        torch.cat(column).numpy() for column in zip(*parts, strict=True)
    )
    return Errors(error, epistemic_cov, noise_cov, sequence)


def describe_fit(
    artifact: MotionArtifact, recordings: Recordings, errors: Errors, epochs_allowed: int
) -> dict:
    """Return the report on a fit.

    errors: the artifact's on validation (`validation_errors`); epochs_allowed: the largest number
    of epochs that training could take.
    """
    metadata, rotations = artifact.metadata, recordings.camera_rotations
    report = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "package_version": __version__,
        "recordings": {
            use: [describe_recording(r, rotations.get(r.name)) for r in group]
            for use, group in (("train", recordings.train), ("validation", recordings.validation))
        },
        "seen": _seen(recordings.train, artifact.dt_range_s),
        "time_offset": {
            **asdict(recordings.time_offset),
            "given": recordings.time_offset.std_s is None,
        },
        "extrinsics": json_value(artifact.extrinsics),
        "camera_rotation": (
            describe_rotation(combine_rotations(list(rotations.values()))) if rotations else None
        ),
        "training": {
            **{k: metadata["curves"][k] for k in ("train_loss", "validation_nll", "best_epoch")},
            "epochs_allowed": epochs_allowed,
            "continued": bool(metadata.get("ancestry")),
        },
        "prior_precision": metadata["prior_precision"],
        "prior_search": [
            {"prior_precision": p, "nll": nll} for p, nll in metadata["prior_search"]
        ],
        "validation": _validation(artifact, recordings.validation, errors),
        "regime": _regime(artifact),
        "posterior": _posterior(artifact),
        "artifact": {
            "time_offset_s": artifact.time_offset_s,
            "dt_range_s": list(artifact.dt_range_s),
            "epistemic_correlation_s": finite(artifact.epistemic_correlation_s),
        },
    }
    return {"verdict": judge_fit(report), **report}


def _seen(train: list[PreparedRecording], interval_s: tuple[float, float]) -> dict:
    columns = [speeds(recording) for recording in train]
    speed, yaw_rate = (np.concatenate(column) for column in zip(*columns, strict=True))
    parts = [part for part in map(driven, train) if part is not None]
    time_s = sum(part["time_s"] for part in parts)
    return {
        "time_s": time_s,
        "distance_m": sum(part["distance_m"] for part in parts),
        "standing_share": sum(p["standing_share"] * p["time_s"] for p in parts) / time_s,
        "speed_m_s": value_range(speed),
        "yaw_rate_deg_s": value_range(yaw_rate),
        "brightness": value_range(np.concatenate([r.brightness for r in train])),
        "sharpness": value_range(np.concatenate([r.sharpness for r in train])),
        "interval_s": list(interval_s),
    }


def _validation(
    artifact: MotionArtifact, recordings: list[PreparedRecording], errors: Errors
) -> dict:
    measured = calibration.measure(errors)
    judgement = verdict.judge(measured)
    speed = np.concatenate([speeds(recording)[0] for recording in recordings])
    scale = artifact.metadata["validation"]["noise_scale"]
    parts = [part for part in map(driven, recordings) if part is not None]
    return {
        "recordings": len(recordings),
        "time_s": sum(part["time_s"] for part in parts),
        "speed_m_s": value_range(speed),
        "noise_scale": dict(zip(AXES, scale, strict=True)),
        "judgement": judgement,
        "measured": {**measured, "judgement": judgement},
    }


def _regime(artifact: MotionArtifact) -> dict | None:
    scores = artifact.metadata.get("regime")
    if artifact.regime is None or scores is None:
        return None
    return {**scores, "thresholds": asdict(artifact.regime.thresholds)}


def _posterior(artifact: MotionArtifact) -> dict:
    posterior = artifact.posterior
    report = json_value(posterior.report)
    total = sum(p.numel() for p in artifact.model.parameters())
    outside = sum(part["n_parameters"] for part in report["uncovered"])
    return {
        **report,
        "storage": posterior.storage,
        "nbytes": posterior.nbytes,
        "parameters": total,
        "covered_share": 1 - outside / total,
    }


def report_folder(artifact: Path) -> Path:
    """Return the folder beside an artifact's in which the report on its fit stands."""
    return artifact.parent / f"{artifact.name}.report"


def write_fit_report(artifact: Path, report: dict) -> Path:
    """Write fit_report.json and fit_report.html beside an artifact's folder; return the page."""
    from bayes_vio.evaluation.fit_page import render_fit  # matplotlib loads only here

    facts = {**report["artifact"], "sha256": read_description(artifact)["sha256"]}
    report = {**report, "artifact": facts}
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    folder = report_folder(artifact)
    page = folder / "fit_report.html"
    write_whole(folder / "fit_report.json", text.encode())
    write_whole(page, render_fit(report, artifact.name).encode())
    return page
