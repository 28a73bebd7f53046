"""The fit report as one page that needs nothing else: verdict, data, alignment, training."""

from __future__ import annotations

from html import escape

from bayes_vio.evaluation import curves, fit_curves, fit_tables, tables
from bayes_vio.evaluation.fit_verdict import Trust
from bayes_vio.evaluation.markup import (
    document,
    facts,
    figure,
    folded,
    listing,
    number,
    tiles,
)
from bayes_vio.evaluation.verdict import grouped

_TRUST_CLASS = {Trust.GOOD: "good", Trust.CARE: "warn", Trust.NONE: "bad"}
_MIB = 1024 * 1024
_MINUS = "\u2212"


def render_fit(report: dict, name: str) -> str:
    """Return the page of a fit report (see `bayes_vio.evaluation.fit_report`)."""
    sections = (_summary(report, name), _recordings(report), _alignment(report))
    sections += (_training(report), _calibration(report), _regime(report))
    sections += (_posterior(report), _end(report))
    return document(f"Fit of {name}", "".join(sections))


def _parts(report: dict) -> list[tuple[str, dict]]:
    """Return (use, recording) of all recordings."""
    recordings = report["recordings"]
    return [(use, part) for use in ("train", "validation") for part in recordings[use]]


def _summary(report: dict, name: str) -> str:
    verdict = report["verdict"]
    kind = _TRUST_CLASS[Trust(verdict["trust"])]
    count = len(report["recordings"]["train"])
    trusted = "".join(f"<li>{escape(text)}</li>" for text in verdict["trusted"])
    limits = "".join(
        f'<li class="{"bad" if limit["grave"] else ""}">{escape(limit["text"])}</li>'
        for limit in verdict["limits"]
    )
    limits = limits or "<li>Nothing that this report looks for.</li>"
    return (
        f'<header><p class="eyebrow">Fit of {escape(name)} · {count} training recording'
        f"{'s' if count > 1 else ''} · {escape(report['created_utc'])}</p>"
        f"<h1>{escape(verdict['claim'])}</h1>"
        f'<p class="headline"><span class="badge {kind}">{escape(verdict["trust"])}</span> '
        f"{escape(verdict['reason'])}</p>"
        f"{_tiles(report)}"
        f'<div class="pair"><section class="list"><h3>What it was shown</h3><ul>{trusted}</ul>'
        f'</section><section class="list"><h3>What to be careful with</h3><ul>{limits}</ul>'
        "</section></div></header>"
    )


def _tiles(report: dict) -> str:
    seen, offset = report["seen"], report["time_offset"]
    joint = report["validation"]["measured"]["joint"]
    region, (low, high) = joint["region_95"], joint["sigma_factor_interval"]
    std = "given, not estimated" if offset["given"] else f"± {1e3 * offset['std_s']:.1f} ms"
    train, validation = (len(report["recordings"][use]) for use in ("train", "validation"))
    shown = [
        (
            number(seen["time_s"] / 60, 1, "min"),
            "of driving to learn from",
            f"{seen['distance_m'] / 1000:.1f} km, standing {100 * seen['standing_share']:.0f} %",
        ),
        (f"{train} + {validation}", "recordings", "to learn from + to choose by"),
        (
            number(100 * region["observed"], 1, "%"),
            "of validation errors inside the 95 % region",
            f"{grouped(report['validation']['measured']['count'])} increments",
        ),
        (
            number(joint["sigma_factor"]),
            "error &divide; predicted sigma, all axes",
            f"1 is true; 95 % interval {low:.2f} to {high:.2f}",
        ),
        (f"{_signed(1e3 * offset['offset_s'])} ms", "camera-IMU time offset", std),
        (
            number(report["posterior"]["nbytes"] / _MIB, 1, "MiB"),
            "stored posterior",
            f"covers {100 * report['posterior']['covered_share']:.0f} % of "
            f"{grouped(report['posterior']['parameters'])} weights",
        ),
    ]
    return tiles(shown)


def _recordings(report: dict) -> str:
    parts = _parts(report)
    drawn = [(use, part) for use, part in parts if part["driven"]]
    return (
        "<h2>What went in</h2>"
        + "<p>Weights are learned from the training recordings. Everything that is chosen (the "
        "epoch, the prior precision, the scale of the noise) is chosen on the validation ones. "
        "No recording serves for both.</p>"
        + fit_tables.recordings(parts)
        + figure(
            fit_curves.speeds(drawn, "speeds"),
            "Speeds and yaw rates of each recording: thin the whole range, thick 98 % of it, the "
            "tick the median; blue to learn from, orange to choose by. Whatever lies outside the "
            "blue is new to the artifact.",
        )
        + fit_tables.streams(parts)
        + fit_tables.references(parts)
        + fit_tables.dropped(parts)
    )


def _alignment(report: dict) -> str:
    parts = [part for _, part in _parts(report)]
    told = "<h2>How the sensors fit together</h2>" + _offset_words(report)
    if any(part["time_offset"] for part in parts):
        told += figure(
            fit_curves.offsets(parts, report["time_offset"], "offsets"),
            "Time offset of each recording, ±2&sigma;, from turns that gyro and reference both "
            "see; the line is the one used, the band its ±2&sigma;. Look for marks that agree.",
        )
    told += "<h3>Where the sensors sit</h3>" + _mounting(report["extrinsics"])
    rotation = report["camera_rotation"]
    if rotation is None:
        return told + '<p class="note">No recording shows how the camera is turned.</p>'
    return told + figure(
        fit_curves.rotations(parts, rotation, "rotations"),
        "How the camera seems turned from the extrinsics given, ±2&sigma;: told by flow, gyro and "
        "reference, and not corrected. Green: within a degree. Grey: the drive does not show it "
        "(roll needs turns). "
        + ", ".join(
            f"{axis} {rotation[axis]['deg']:+.2f} ± {rotation[axis]['std_deg']:.2f}"
            for axis in ("roll", "pitch", "yaw")
        )
        + " deg together. Positive: roll to the right, pitch down, yaw left.",
    )


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else _MINUS}{abs(value):.1f}"


def _offset_words(report: dict) -> str:
    offset = report["time_offset"]
    value = 1e3 * offset["offset_s"]
    if offset["given"]:
        known = "It was given, not estimated."
    else:
        count = offset["recordings"]
        known = (
            f"It is known to ± {1e3 * offset['std_s']:.1f} ms (one standard deviation), from "
            f"{count} recording{'s' if count > 1 else ''}."
        )
    late = "later than" if value > 0 else "earlier than"
    return (
        "<p>An image stamped <i>t</i> shows the instant of the IMU sample stamped "
        f"<i>t</i> {_signed(value)} ms: the IMU stamps the same instant {abs(value):.1f} ms "
        f"{late} the camera does. {known}</p>"
    )


def _mounting(extrinsics: dict) -> str:
    def place(key: str) -> str:
        position = ", ".join(f"{row[3]:.3f}" for row in extrinsics[key][:3])
        return f"at ({position}) m in base_link"

    return facts(
        {
            "camera": place("T_base_camera"),
            "IMU": place("T_base_imu"),
            "from": extrinsics["source"],
        }
    )


def _training(report: dict) -> str:
    left = figure(
        fit_curves.training(report["training"], "training"),
        "Loss in training and negative log-likelihood on validation after each epoch; the weights "
        "kept are those of the dashed line.",
    )
    right = figure(
        fit_curves.prior_search(report["prior_search"], report["prior_precision"], "prior"),
        "Validation likelihood over the prior precisions tried, the noise scale at its best for "
        "each. Look for a least value that is not at an end.",
    )
    return f'<h2>How it learned</h2><div class="pair">{left}{right}</div>'


def _calibration(report: dict) -> str:
    validation = report["validation"]
    measured, judgement = validation["measured"], validation["judgement"]
    scale = ", ".join(f"{axis} {value:.2f}" for axis, value in validation["noise_scale"].items())
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in judgement["notes"])
    return (
        "<h2>Is its covariance true on validation?</h2>"
        f"<p>{escape(judgement['claim'])} {escape(judgement['evidence'])} The mean squared error "
        f"over covariance (NEES) is {measured['joint']['nees_mean']:.2f} for 6 axes, 6 being "
        "true. This is the data on which the noise was scaled, so it must look well here; only "
        "recordings that had no part in the fit can confirm it.</p>"
        + notes
        + tables.coverage(measured)
        + figure(
            curves.sigma_factors({1: measured}, "scale"),
            "How much larger errors are than predicted, per axis: 1 is true, with 95 % intervals; "
            "the green band is ±20 %.",
        )
        + f'<p class="note">The noise that training learned was scaled by: {scale}.</p>'
    )


def _regime(report: dict) -> str:
    if report["regime"] is None:
        return ""
    return "<h2>Which images it would doubt</h2>" + fit_tables.regime(report["regime"])


def _posterior(report: dict) -> str:
    posterior = report["posterior"]
    return (
        "<h2>What the posterior covers</h2>"
        + fit_tables.storage(posterior)
        + folded("Layer by layer", tables.posterior(posterior))
    )


def _end(report: dict) -> str:
    rest = {key: report[key] for key in ("artifact", "package_version", "camera_rotation")}
    return (
        folded("Fingerprints and further figures", listing(rest))
        + "<footer>Every figure of this page is in fit_report.json beside it.</footer>"
    )
