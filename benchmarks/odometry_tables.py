"""Figures of odometry methods, as JSON values and as a table on the console."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from odometry_setting import Result

from bayes_vio.conventions import AXES
from bayes_vio.evaluation import calibration, report
from bayes_vio.evaluation.calibration import Errors, concatenate
from bayes_vio.evaluation.horizons import accumulated_errors, distance_windows
from bayes_vio.evaluation.recordings import finite
from bayes_vio.evaluation.run import Run

DISTANCES_M = (100.0, 500.0)
STEP_FRAMES = 50  # between the beginnings of stretches
END = "end"


def figures(result: Result) -> dict:
    """Return a method's figures, pooled over its recordings and per recording."""
    described = report.describe(
        result.runs, {}, result.correlation_s, noise_correlation=result.noise_correlation
    )
    summary = described["summary"]
    states: dict[str, float] = {}
    for run in result.runs:
        for name in run.state:
            states[str(name)] = states.get(str(name), 0.0) + 1 / summary["frames"]
    return {
        "frames": summary["frames"],
        "path_length_m": summary["path_length_m"],
        "drift": summary["drift"],
        "drift_per_recording": {
            r["name"]: {k: r["drift"][k] for k in ("t_rel_percent", "r_rel_deg_per_100m")}
            for r in described["recordings"]
        },
        "states": states,
        "horizons": {k: horizon(v) for k, v in summary["horizons"].items() if v},
        "chosen": result.chosen,
        "predictive_ms": result.predictive_ms,
        "frame_ms_p50": float(1e3 * np.median(np.concatenate([r.compute_s for r in result.runs]))),
    }


def horizon(measured: dict) -> dict:
    """Return what is told of a horizon (see ``evaluation.report`` for the measures' keys)."""
    joint = measured["joint"]
    return {
        "windows": measured["count"],
        "nll": measured["nll"],
        "nees_over_6": joint["nees_mean"] / 6,
        "nees_over_6_band": [b / 6 for b in joint["nees_band"]],
        "region_95": joint["region_95"]["observed"],
        "epistemic_share": measured["epistemic_share"],
        "axes": {
            a["axis"]: {
                "unit": a["unit"],
                "rmse": a["rmse"],
                "sharpness": a["sharpness"],
                "nees": a["nees_mean"],
                "nees_band": a["nees_band"],
                "coverage": [c["observed"] for c in a["coverage"]],
                "nll": a["nll"],
            }
            for a in measured["axes"]
        },
    }


def over_distance(result: Result, distances_m: Sequence[float] = DISTANCES_M) -> dict:
    """Return how true the accumulated covariance is, by treatment of the epistemic error.

    "coherent": as published, features where a run has them; "white": as if independent from frame
    to frame. The noise is the same in both.
    """
    treatments = {"coherent": (result.runs, result.correlation_s)}
    if any(run.epistemic_cov.any() for run in result.runs):
        treatments["white"] = ([replace(run, features=None) for run in result.runs], 0.0)
    return {
        name: {
            label: told
            for label, length_m in [*((f"{d:.0f} m", d) for d in distances_m), (END, None)]
            if (told := _stretches(runs, length_m, tau_s, result))
        }
        for name, (runs, tau_s) in treatments.items()
    }


def _stretches(
    runs: Sequence[Run], length_m: float | None, tau_s: float, result: Result
) -> dict | None:
    parts: list[Errors] = []
    for run in runs:
        windows = [range(len(run))]
        if length_m is not None:
            windows = distance_windows(run, length_m, STEP_FRAMES)
        if windows:
            parts.append(accumulated_errors(run, windows, tau_s, result.noise_correlation))
    if not parts:
        return None
    errors = concatenate(parts)
    measured = calibration.measure(errors)
    told = horizon(measured)
    told["effective_count"] = measured["joint"]["effective_count"]
    told["epistemic_share_of_variance"] = {
        axis["axis"]: finite(axis["epistemic_share"]) for axis in measured["axes"]
    }
    return told


def table(methods: dict[str, dict]) -> list[str]:
    """Return the lines that the console shows."""
    lines = [
        f"{'method':22s} {'t_rel':>6s} {'r_rel':>6s} | "
        "NEES/6 (1 is true) and NLL at 1, 10, 100 frames      | "
        "95 % region holds  | tracking   ms"
    ]
    for name, told in methods.items():
        parts = told["horizons"].values()
        lines.append(
            f"{name:22s} {told['drift']['t_rel_percent']:5.2f}% "
            f"{told['drift']['r_rel_deg_per_100m']:6.3f} | "
            + "  ".join(f"{h['nees_over_6']:7.2f} {h['nll']:8.2f}" for h in parts)
            + " | "
            + " ".join(f"{100 * h['region_95']:4.0f}%" for h in parts)
            + f" | {100 * told['states'].get('tracking', 0.0):6.0f}%"
            + (f" {told['predictive_ms']:6.1f}" if told["predictive_ms"] else "      -")
        )
    return [*lines, "", *_axis_table(methods)]


def _axis_table(methods: dict[str, dict]) -> list[str]:
    """Return RMS error, sharpness and coverage at 2 sigma of every axis, one frame."""
    lines = [
        "one frame, per axis: RMS error (m, rad) / median sigma over it / within 2 sigma",
        f"{'':22s} " + " ".join(f"{axis:>21s}" for axis in AXES),
    ]
    for name, told in methods.items():
        axes = told["horizons"]["1"]["axes"].values()
        lines.append(
            f"{name:22s} "
            + " ".join(
                f"{a['rmse']:9.1e} {a['sharpness']:5.2f} {100 * a['coverage'][1]:4.0f}%"
                for a in axes
            )
        )
    return lines


def distance_table(methods: dict[str, dict]) -> list[str]:
    """Return the lines on accumulated covariances."""
    lines = [
        "odometry over distance: NEES/6 (its 95 % band) and share in the 95 % region",
        f"{'method':22s} {'epistemic':10s}",
    ]
    for name, told in methods.items():
        for treatment, stretches in told.get("over_distance", {}).items():
            parts = [
                f"{label}: {s['nees_over_6']:6.2f} ({s['nees_over_6_band'][0]:.2f}-"
                f"{s['nees_over_6_band'][1]:.2f}) {100 * s['region_95']:3.0f}%"
                for label, s in stretches.items()
            ]
            lines.append(f"{name:22s} {treatment:10s} " + "   ".join(parts))
    return lines
