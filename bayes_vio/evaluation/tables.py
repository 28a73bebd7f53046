"""Tables and tiles of the report, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from bayes_vio.evaluation import markup
from bayes_vio.evaluation.markup import (
    DASH,
    Cell,
    badge,
    coverage_class,
    number,
    scale_cell,
    table,
    verdict_class,
)
from bayes_vio.evaluation.verdict import grouped


def tiles(part: dict, latency_p99_ms: float | None = None) -> str:
    """Return the key figures of a recording, or of all."""
    frame, drift = part["horizons"]["1"], part["drift"]
    joint = frame["joint"]
    region = joint["region_95"]
    low, high = joint["sigma_factor_interval"]
    sharp = [number(frame["axes"][axis]["sharpness"]) for axis in (0, 5)]
    shown = [
        (
            number(100 * region["observed"], 1, "%"),
            "of errors inside the 95 % region",
            f"95 % interval {100 * region['low']:.1f} to {100 * region['high']:.1f} %",
        ),
        (
            number(joint["sigma_factor"]),
            "error &divide; predicted sigma, all axes",
            f"1 is true; 95 % interval {low:.2f} to {high:.2f}",
        ),
        (
            " · ".join(sharp),
            "sharpness of x · yaw",
            "median sigma over RMS error; near 1 is sharp",
        ),
        (number(drift["t_rel_percent"], 2, "%"), "drift t_rel", f"{drift['segments']} segments"),
        (number(drift["r_rel_deg_per_100m"], 2), "drift r_rel", "deg per 100 m"),
        (
            number(100 * part["tracking_share"], 1, "%"),
            "of frames tracking",
            "the rest: degraded, lost",
        ),
        (
            number(part["path_length_m"] / 1000, 2, "km"),
            "driven",
            f"{grouped(part['frames'])} frames",
        ),
    ]
    if latency_p99_ms is not None:
        shown.append((number(latency_p99_ms, 1, "ms"), "latency, 99 %", "wall time per estimate"))
    return markup.tiles(shown)


def coverage(measured: dict) -> str:
    """Return coverage at 1, 2, 3 sigma, sharpness and scale per axis."""
    expected = [c["expected"] for c in measured["axes"][0]["coverage"]]
    heads = ["axis", "RMS error", "median &sigma;", "sharpness", "error &divide; &sigma;"]
    heads += [
        f"within {k} &sigma;<br><small>{100 * p:.1f} %</small>" for k, p in enumerate(expected, 1)
    ]
    heads += ["rank corr.", "epistemic"]
    rows = [_coverage_row(axis, measured["judgement"]["parts"]) for axis in measured["axes"]]
    return table(
        heads,
        rows,
        "Look for coverage near the expected figures with a sharpness near 1. Green: the expected "
        "value lies in the 95 % interval of what was seen. Grey: off, by less than 20 % in sigma. "
        "Orange: too few errors inside (overconfident). Blue: too many (too cautious).",
    )


def _coverage_row(axis: dict, parts: dict) -> list[Cell]:
    factor, unit = (100.0, "cm") if axis["unit"] == "m" else (float(np.rad2deg(1)), "deg")
    digits = 2 if unit == "cm" else 4
    return [
        Cell(axis["axis"]),
        Cell(number(factor * axis["rmse"], digits, unit)),
        Cell(number(factor * axis["sigma_median"], digits, unit)),
        Cell(number(axis["sharpness"])),
        scale_cell(axis, verdict_class(parts[axis["axis"]])),
        *(Cell(f"{100 * c['observed']:.1f} %", coverage_class(c)) for c in axis["coverage"]),
        Cell(number(axis["rank_correlation"])),
        Cell(f"{100 * axis['epistemic_share']:.0f} %"),
    ]


def horizons(by_horizon: dict) -> str:
    """Return the same judgement over windows of 1, 10 and 100 frames."""
    heads = [
        "window",
        "95 % region",
        "error &divide; &sigma;",
        "RMS<br>x · yaw",
        "sharpness<br>x · yaw",
    ]
    heads += ["epistemic", "NLL <small>(constant)</small>", "verdict"]
    rows = [_horizon_row(frames, measured) for frames, measured in by_horizon.items() if measured]
    return table(
        heads,
        rows,
        "Increments composed over windows, beside the covariance the odometry accumulates over "
        "each. Look for a scale that stays near 1 as windows grow: errors that are coherent in "
        "time but taken for independent would push it up. NLL in nats, lower is better, in "
        "brackets that of a constant covariance chosen in hindsight.",
    )


def _horizon_row(frames: str, measured: dict) -> list[Cell]:
    joint, axes = measured["joint"], measured["axes"]
    count, constant = grouped(measured["count"]), number(measured["nll_constant_cov"])
    return [
        Cell(f"{frames} frame{'s' if frames != '1' else ''} <small>&times; {count}</small>"),
        Cell(f"{100 * joint['region_95']['observed']:.1f} %", coverage_class(joint["region_95"])),
        scale_cell(joint, verdict_class(measured["judgement"]["verdict"])),
        Cell(f"{number(axes[0]['rmse'], 3, 'm')} · {np.rad2deg(axes[5]['rmse']):.3f}&deg;"),
        Cell(f"{number(axes[0]['sharpness'])} · {number(axes[5]['sharpness'])}"),
        Cell(f"{100 * measured['epistemic_share']:.0f} %"),
        Cell(f"{number(measured['nll'])} <small>({constant})</small>"),
        Cell(badge(measured["judgement"])),
    ]


def recordings(parts: Sequence[dict]) -> str:
    """Return one row per recording."""
    heads = [
        "recording",
        "path",
        "verdict",
        "95 % region",
        "error &divide; &sigma;",
        "t_rel",
        "r_rel",
    ]
    heads += ["end error", "tracking", "latency 99 %"]
    return table(
        heads,
        [_recording_row(part) for part in parts],
        "One line per recording; r_rel in deg per 100 m; end error is the last pose's, with the "
        "first aligned.",
    )


def _recording_row(part: dict) -> list[Cell]:
    joint, drift = part["horizons"]["1"]["joint"], part["drift"]
    return [
        Cell(escape(part["name"])),
        Cell(number(part["path_length_m"], 0, "m")),
        Cell(badge(part["judgement"])),
        Cell(f"{100 * joint['region_95']['observed']:.1f} %", coverage_class(joint["region_95"])),
        Cell(number(joint["sigma_factor"])),
        Cell(number(drift["t_rel_percent"], 2, "%")),
        Cell(number(drift["r_rel_deg_per_100m"])),
        Cell(number(part["absolute_error"]["translation_final_m"], 1, "m")),
        Cell(f"{100 * part['tracking_share']:.1f} %"),
        Cell(number(part["latency"]["compute_p99_ms"], 1, "ms")),
    ]


def drift(measured: dict) -> str:
    """Return t_rel and r_rel per segment length."""
    rows = [
        [
            Cell(f"{row['length_m']:.0f} m"),
            Cell(grouped(row["segments"])),
            Cell(number(row["t_rel_percent"], 2, "%")),
            Cell(number(row["r_rel_deg_per_100m"], 3)),
        ]
        for row in [*measured["lengths"]]
    ]
    rows.append(
        [
            Cell("all segments"),
            Cell(grouped(measured["segments"])),
            Cell(f"<b>{number(measured['t_rel_percent'], 2, '%')}</b>"),
            Cell(f"<b>{number(measured['r_rel_deg_per_100m'], 3)}</b>"),
        ]
    )
    note = f" {measured['note']}" if measured["note"] else ""
    return table(
        ["segment", "segments", "t_rel", "r_rel (deg / 100 m)"],
        rows,
        "Drift as KITTI's development kit defines it, on base_link poses: error of the end pose "
        f"over segments starting every tenth frame.{note}",
    )


def states(part: dict) -> str:
    """Return how many frames each state had, and whether it kept its word."""
    rows = [
        [
            Cell(escape(state)),
            Cell(grouped(measured["count"])),
            Cell(f"{100 * measured['share']:.1f} %"),
            Cell(f"{100 * measured['region_95_observed']:.1f} %"),
            Cell(number(measured["sigma_factor"])),
        ]
        for state, measured in part["states"].items()
    ]
    return table(
        ["state", "frames", "share", "inside 95 % region", "error &divide; &sigma;"],
        rows,
        "A covariance must hold in every state, and most frames should be tracking: calling "
        "everything lost is no way to be right.",
    )


def posterior(report: dict) -> str:
    """Return what a posterior covers, layer by layer, and what stays at the MAP."""
    heads = ["layer", "kind", "block", "shape", "weight sharing", "trace kept", "clamped"]
    rows = [_layer_row(layer) for layer in report["covered"]]
    rows += [
        [Cell(escape(part["name"] or "top level")), Cell(escape(part["kind"])), *[Cell(DASH)] * 5]
        for part in ({"kind": "at the MAP", **u} for u in report["uncovered"])
    ]
    told = [escape(report[key]) for key in ("structure", "fisher")]
    return table(
        heads,
        rows,
        f"Structure {told[0]}, Fisher {told[1]}, {report['n_data']:g} data. Trace kept: share of "
        "the curvature that the low-rank part holds; clamped: share of negative entries of the "
        "diagonal correction set to zero. Parameters at the MAP carry no epistemic uncertainty.",
    )


def _layer_row(layer: dict) -> list[Cell]:
    sparse = layer["sparsification"]
    shares = [DASH, DASH]
    if sparse:
        shares = [f"{100 * sparse[k]:.1f} %" for k in ("kept_trace_share", "clamped_share")]
    return [
        Cell(escape(layer["name"])),
        Cell(escape(layer["kind"])),
        Cell(escape(layer["block"])),
        Cell(f"{layer['d_out']} &times; {layer['d_in']}"),
        Cell(escape(layer["sharing"]) if layer["sharing"] else DASH),
        *map(Cell, shares),
    ]
