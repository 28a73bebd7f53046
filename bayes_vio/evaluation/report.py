"""Evaluate an artifact on held-out recordings: `report.json` and one page, `report.html`.

The JSON is strict (no NaN; what cannot be told is null) and keeps its keys while
``schema_version`` is 1. Lengths in m, angles in rad unless a key names another unit; times in s.

    schema_version, created_utc, package_version
    artifact      path, sha256, time_offset_s, epistemic_correlation_s, dt_range_s, extrinsics,
                  posterior (what it covers), predictive (what of it was used: name, layers,
                  layers_in_all, kept_variance_share, duration_s, latency_budget_s),
                  metadata (of the fit)
    summary       headline, judgement (a fault on one recording is not pooled away),
                  tracking_share, recordings, frames, path_length_m, horizons, drift
                  (t_rel_percent, r_rel_deg_per_100m, segments: the mean over all segments)
    recordings    one each: name, headline, judgement, tracking_share, frames, unreferenced,
                  duration_s, path_length_m, horizons, drift, absolute_error, odometry, states,
                  latency, counters, source

    judgement     verdict (see `verdict.Verdict`), claim, evidence, notes, parts {joint and each
                  axis: a verdict}
    horizons      {"1", "10", "100"}: null where the recording is too short, else measures over
                  windows of so many frames:
      count, nll, nll_constant_cov, epistemic_share, judgement
      joint       scale; nees_median, nees_median_expected, sample_band (95 % of one error's NEES),
                  share_in_sample_band, region_95 (a share), beyond_999, beyond_999_rescaled
      axes        per axis: axis, unit, rmse, bias, sigma_median, sharpness (sigma_median / rmse),
                  scale, coverage [a share at each of 1, 2, 3 sigmas], nll, epistemic_share,
                  rank_correlation (Spearman's, of |error| and sigma)
      (a scale)   nees_mean, nees_expected, nees_band (95 %, for the mean), effective_count,
                  sigma_factor (by which sigmas would have to grow to be true),
                  sigma_factor_interval (95 %)
      (a share)   expected, observed, low, high (Wilson, 95 %)
      reliability expected levels and observed coverage: joint, axes
      sparsification  translation, rotation: dropped, rmse, rmse_oracle, ause_relative
    drift         t_rel_percent, r_rel_deg_per_100m, segments, lengths [...], note
    states        {state: share, count, region_95_observed, sigma_factor}
    latency       compute_{mean,p50,p99,max}_ms (wall), wait_mean_ms (stream time)
    odometry      the last pose, in numbers: final_nees, final_position_error_m,
                  final_position_std_m, final_heading_error_deg, final_heading_std_deg
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_vio import __version__
from bayes_vio.conventions import ROT_Z
from bayes_vio.evaluation import calibration, trajectory, verdict
from bayes_vio.evaluation.calibration import Errors
from bayes_vio.evaluation.horizons import HORIZONS_FRAMES, window_errors
from bayes_vio.evaluation.run import REFERENCE_JUMPS, Run
from bayes_vio.filters import consistency
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation
from bayes_vio.whole_files import write_whole

SCHEMA_VERSION = 1


def describe(
    runs: Sequence[Run],
    artifact: dict,
    correlation_s: float,
    sources: Sequence[dict] | None = None,
    noise_correlation: NoiseCorrelation = WHITE_NOISE,
) -> dict:
    """Return the report on runs of one artifact, as written to `report.json`.

    artifact: its facts, with JSON values; correlation_s: its epistemic correlation time (s);
    noise_correlation: how much of its noise lasts;
    sources: facts about each recording. Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("There is no recording to report on: name at least one.")
    errors = [_horizon_errors(run, correlation_s, noise_correlation) for run in runs]
    given = sources or [{} for _ in runs]
    recordings = [
        {**_recording(run, by_horizon), "source": source}
        for run, by_horizon, source in zip(runs, errors, given, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "package_version": __version__,
        "artifact": artifact,
        "summary": _summary(recordings, errors),
        "recordings": recordings,
    }


def _horizon_errors(
    run: Run, correlation_s: float, noise_correlation: NoiseCorrelation
) -> dict[str, Errors]:
    return {
        str(frames): window_errors(run, frames, correlation_s, noise_correlation)
        for frames in HORIZONS_FRAMES
    }


def _recording(run: Run, by_horizon: dict[str, Errors]) -> dict:
    estimated, true = run.path()
    recording = {
        "name": run.name,
        "frames": len(run),
        "unreferenced": run.unreferenced,
        "duration_s": float(run.time_s[-1]),
        "path_length_m": float(trajectory.path_length(true)[-1]),
        "horizons": {key: _measures(errors) for key, errors in by_horizon.items()},
        "drift": _drift(run, estimated, true),
        "absolute_error": trajectory.absolute_error(estimated, true),
        "odometry": _odometry(run),
        "states": _states(run, by_horizon["1"]),
        "latency": _latency(run),
        "counters": dict(sorted(run.counters.items())),
    }
    tracking = recording["states"].get("tracking", {}).get("share", 0.0)
    return _headed(recording, recording["horizons"]["1"]["judgement"], tracking)


def _drift(run: Run, estimated: NDArray[np.float64], true: NDArray[np.float64]) -> dict:
    drift, jumped = trajectory.drift(estimated, true), run.counters.get(REFERENCE_JUMPS)
    if not jumped:
        return drift
    told = f"The reference jumps ({jumped} intervals): drift and absolute error hold its jumps."
    return drift | {"note": f"{drift['note']} {told}".strip()}


def _headed(part: dict, judgement: dict, tracking_share: float) -> dict:
    """Return a part of the report with its headline and its judgement in front."""
    headline = verdict.headline(judgement, part["horizons"], part["drift"], tracking_share)
    return {"headline": headline, "judgement": judgement, "tracking_share": tracking_share, **part}


def _measures(errors: Errors) -> dict | None:
    if len(errors) == 0:
        return None
    measured = calibration.measure(errors)
    return {**measured, "judgement": verdict.judge(measured)}


def _summary(recordings: Sequence[dict], errors: Sequence[dict[str, Errors]]) -> dict:
    frames = [r["frames"] for r in recordings]
    tracking = np.average([r["tracking_share"] for r in recordings], weights=frames)
    summary = {
        "recordings": len(recordings),
        "frames": sum(frames),
        "path_length_m": sum(r["path_length_m"] for r in recordings),
        "horizons": {
            key: _measures(calibration.concatenate([by_horizon[key] for by_horizon in errors]))
            for key in errors[0]
        },
        "drift": _pooled_drift([r["drift"] for r in recordings]),
    }
    by_recording = {r["name"]: r["judgement"] for r in recordings}
    judgement = verdict.combine(summary["horizons"]["1"]["judgement"], by_recording)
    return _headed(summary, judgement, float(tracking))


def _pooled_drift(drifts: Sequence[dict]) -> dict:
    weights = [drift["segments"] for drift in drifts]
    pooled: dict = {"segments": sum(weights)}
    for key in ("t_rel_percent", "r_rel_deg_per_100m"):
        total = sum(d[key] * w for d, w in zip(drifts, weights, strict=True) if w)
        pooled[key] = total / sum(weights) if sum(weights) else None
    return pooled


def _states(run: Run, errors: Errors) -> dict:
    squared = consistency.nees(errors.error, errors.cov)
    return {str(state): _state(squared, run.state == state) for state in np.unique(run.state)}


def _state(squared: NDArray[np.float64], here: NDArray[np.bool_]) -> dict:
    return {
        "count": int(here.sum()),
        "share": float(here.mean()),
        "region_95_observed": float(np.mean(calibration.in_region_95(squared[here]))),
        "sigma_factor": float(np.sqrt(squared[here].mean() / 6)),
    }


def _latency(run: Run) -> dict:
    milliseconds = 1e3 * run.compute_s
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {
        "compute_mean_ms": float(milliseconds.mean()),
        "compute_p50_ms": float(p50),
        "compute_p99_ms": float(p99),
        "compute_max_ms": float(milliseconds.max()),
        "wait_mean_ms": float(1e3 * run.wait_s.mean()),
    }


def _odometry(run: Run) -> dict:
    error, cov = run.odometry_errors()[-1:], run.odom_cov[-1:]
    variance = np.diagonal(cov[0])
    return {
        "final_nees": float(consistency.nees(error, cov)[0]),
        "final_position_error_m": float(np.linalg.norm(error[0, :3])),
        "final_position_std_m": float(np.sqrt(variance[:3].sum())),
        "final_heading_error_deg": float(np.rad2deg(abs(error[0, ROT_Z]))),
        "final_heading_std_deg": float(np.rad2deg(np.sqrt(variance[ROT_Z]))),
    }


def write(out_dir: Path, report: dict, runs: Sequence[Run]) -> None:
    """Write report.json and report.html into a folder, each whole or not at all."""
    from bayes_vio.evaluation.page import render  # matplotlib loads only where a page is drawn

    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    for name, content in (("report.json", text), ("report.html", render(report, runs))):
        write_whole(out_dir / name, content.encode())
