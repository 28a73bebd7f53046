"""The report as one page that needs nothing else: inline styles, inline SVG, no scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from bayes_vio.evaluation import curves, figures, markup, tables
from bayes_vio.evaluation.markup import figure
from bayes_vio.evaluation.run import Run
from bayes_vio.filters import consistency


def render(report: dict, runs: Sequence[Run]) -> str:
    """Return the page of a report (see `bayes_vio.evaluation.report`) and the runs it is on."""
    parts = report["recordings"]
    body = [_summary(report)]
    for number, (part, run) in enumerate(zip(parts, runs, strict=True)):
        body.append(_recording(part, run, f"r{number}", alone=len(parts) == 1))
    body += [_reading(), _provenance(report)]
    title = f"Evaluation of {report['artifact'].get('path', 'an artifact')}"
    return markup.document(title, "".join(body))


def _summary(report: dict) -> str:
    summary, parts = report["summary"], report["recordings"]
    count = len(parts)
    claim = summary["judgement"]["claim"]
    latency = max(part["latency"]["compute_p99_ms"] for part in parts)
    heads = [
        f'<p class="eyebrow">Held-out evaluation · {escape(report["artifact"].get("path", ""))} · '
        f"{count} recording{'s' if count > 1 else ''} · {escape(report['created_utc'])}</p>",
        f"<h1>{escape(claim)}</h1>",
        _headline(summary["judgement"], summary["headline"].removeprefix(claim).strip()),
        *_notes(summary["judgement"]),
        tables.tiles(summary, latency),
    ]
    if count > 1:
        names = [part["name"] for part in parts]
        heads += [
            tables.recordings(parts),
            _scale_figure(summary, "all"),
            figure(
                curves.drift_by_length([part["drift"] for part in parts], names, "drift-all"),
                "Drift over the length of the segment: look for lines that fall or stay level.",
            ),
        ]
    return "<header>" + "".join(heads) + "</header>"


def _headline(judgement: dict, text: str) -> str:
    return f'<p class="headline">{markup.badge(judgement)} {escape(text)}</p>'


def _notes(judgement: dict) -> list[str]:
    return [f'<p class="note">{escape(note)}</p>' for note in judgement["notes"]]


def _scale_figure(part: dict, name: str) -> str:
    measured = {int(k): m for k, m in part["horizons"].items() if m}
    return figure(
        curves.sigma_factors(measured, f"{name}-scale"),
        "How much larger errors are than predicted, per axis: 1 is true, with 95 % intervals; the "
        "green band is ±20 %. Look for marks that stay in it at every horizon.",
    )


def _recording(part: dict, run: Run, name: str, alone: bool) -> str:
    heads = [f"<h2>{escape(part['name'])}</h2>"]
    if not alone:
        heads.append(_headline(part["judgement"], part["headline"]))
        heads += _notes(part["judgement"])
    sections = (_path, _calibration, _time, _curves, _odometry, _drift, _running)
    return f"<section>{''.join(heads)}{''.join(s(part, run, name) for s in sections)}</section>"


def _path(part: dict, run: Run, name: str) -> str:
    error = part["absolute_error"]
    return figure(
        figures.top_view(run, f"{name}-path"),
        "The path from above, odometry only, first pose aligned. The reference should stay within "
        f"the 3-sigma ellipses. RMS distance {error['translation_rmse_m']:.1f} m, at the end "
        f"{error['translation_final_m']:.1f} m after {part['path_length_m']:.0f} m.",
    )


def _calibration(part: dict, run: Run, name: str) -> str:
    del run
    return (
        "<h3>Is the covariance true, axis by axis?</h3>"
        + tables.coverage(part["horizons"]["1"])
        + _scale_figure(part, name)
        + tables.horizons(part["horizons"])
    )


def _time(part: dict, run: Run, name: str) -> str:
    del part
    errors = run.increment_errors()
    squared = consistency.nees(errors.error, errors.cov)
    return (
        "<h3>Frame by frame</h3>"
        + figure(
            figures.errors_over_time(
                run, errors.error, errors.cov, errors.epistemic_cov, "cm", f"{name}-errors"
            ),
            "Error of each increment inside the ±2&sigma; it predicted (lines; dashed: the "
            "epistemic part alone). Look for errors that fill the band, wide where it is wide. "
            "Shaded: not tracking.",
        )
        + figure(
            figures.nees_over_time(run, squared, f"{name}-nees"),
            "Squared error over covariance, all six axes together. Look for the thick line near "
            "the dashed one; long stretches above it are overconfident.",
        )
    )


def _curves(part: dict, run: Run, name: str) -> str:
    del run
    measured = part["horizons"]["1"]
    left = figure(
        curves.reliability(measured, f"{name}-reliability"),
        "Observed against expected coverage at every level. Look for the diagonal; below it is "
        "overconfident.",
    )
    shares = [measured["sparsification"][k]["ause_relative"] for k in ("translation", "rotation")]
    told = " and ".join(markup.number(share) for share in shares)
    right = figure(
        curves.sparsification(measured, f"{name}-sparsification"),
        "Error left when the frames it was least sure of are dropped. Look for the thick line "
        f"near the oracle's; area lost {told} (0 perfect, 1 blind).",
    )
    return f'<div class="pair">{left}{right}</div>'


def _odometry(part: dict, run: Run, name: str) -> str:
    end = part["odometry"]
    return "<h3>Accumulated odometry</h3>" + figure(
        figures.errors_over_time(
            run, run.odometry_errors(), run.odom_cov, None, "m", f"{name}-odometry"
        ),
        "Error of the accumulated pose in body axes, inside the ±2&sigma; it publishes. It is one "
        "random walk: look for one that stays inside most of the time. At the end "
        f"{end['final_position_error_m']:.1f} m off where sigma is "
        f"{end['final_position_std_m']:.1f} m, and {end['final_heading_error_deg']:.2f} deg where "
        f"it is {end['final_heading_std_deg']:.2f} deg.",
    )


def _drift(part: dict, run: Run, name: str) -> str:
    del run
    drawn = ""
    if len(part["drift"]["lengths"]) > 1:
        drawn = figure(
            curves.drift_by_length([part["drift"]], [part["name"]], f"{name}-drift"),
            "Drift over the length of the segment: look for lines that fall or stay level.",
        )
    return "<h3>Drift</h3>" + drawn + tables.drift(part["drift"])


def _running(part: dict, run: Run, name: str) -> str:
    timing = part["latency"]
    counted = ", ".join(f"{escape(k)}: {v}" for k, v in part["counters"].items()) or "nothing"
    return (
        "<h3>Running</h3>"
        + tables.states(part)
        + figure(
            curves.latency(run, f"{name}-latency"),
            "Wall time spent on each estimate, its image included; look for a tail well below the "
            f"frame interval. Before that, estimates waited {timing['wait_mean_ms']:.0f} ms of "
            "the stream's time for the IMU samples that belong to the image.",
        )
        + f'<p class="note">Counted: {counted}. Estimates without a reference, left out: '
        f"{part['unreferenced']}.</p>"
    )


def _reading() -> str:
    return """<h2>How to read this page</h2>
<p>The estimator says for every pair of images how the car moved, and how sure it is: a 6x6
covariance. The reference says how it really moved. A covariance is <b>true</b> when errors are as
large as it says: 95 % of them inside its 95 % region, and the mean of the squared error over
covariance (NEES) equal to the number of axes.</p>
<p><b>Error &divide; &sigma;</b> is the root of that mean over the number of axes: above 1 the
covariance is overconfident, below 1 too cautious. <b>Sharpness</b> is the median predicted sigma
over the RMS error: a covariance that is true but far wider than the errors it meets tells little.
<b>Epistemic</b> is the share of the variance that comes from not knowing the network's
weights well enough; it is coherent over many frames, noise is not. Intervals count correlated
frames as fewer independent ones. The verdict allows 20 % in sigma, judges all six axes and all
together, and holds false alarms at 5 %.</p>"""


def _provenance(report: dict) -> str:
    artifact = report["artifact"]
    facts = {
        "artifact": artifact.get("path"),
        **{f"sha256 of {name}": value for name, value in artifact.get("sha256", {}).items()},
        "device": artifact.get("device"),
        "time offset of the IMU": _with_unit(artifact.get("time_offset_s"), "s"),
        "epistemic correlation": _with_unit(artifact.get("epistemic_correlation_s"), "s"),
        "intervals seen in training": artifact.get("dt_range_s"),
        "extrinsics": _mounting(artifact.get("extrinsics")),
        "package": f"bayes_vio {report['package_version']}",
    }
    for part in report["recordings"]:
        facts[part["name"]] = part["source"] or None
    told = {name: None if value is None else _told(value) for name, value in facts.items()}
    return (
        f"<h2>What was evaluated</h2>{markup.facts(told)}"
        + markup.folded("What the posterior covers", _posterior(artifact.get("posterior")))
        + markup.folded("How the artifact was fitted", markup.listing(artifact.get("metadata")))
        + "<footer>Every figure of this page is in report.json beside it.</footer>"
    )


def _with_unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:g} {unit}"


def _mounting(extrinsics: dict | None) -> str | None:
    if not extrinsics:
        return None
    places = [
        f"{name} at ({', '.join(f'{row[3]:.3f}' for row in extrinsics[key][:3])}) m"
        for name, key in (("camera", "T_base_camera"), ("IMU", "T_base_imu"))
    ]
    return f"{places[0]}, {places[1]} in base_link; from {extrinsics['source']}"


def _told(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_told(v)}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _posterior(report: dict | None) -> str:
    if not report:
        return ""
    return tables.posterior(report) if "covered" in report else markup.listing(report)
