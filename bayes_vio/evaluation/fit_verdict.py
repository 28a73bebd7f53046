"""Say in plain words what a fitted artifact may be trusted for, and what not."""

from __future__ import annotations

from enum import Enum

from bayes_vio.evaluation.verdict import Verdict, grouped

# Below these a fit has seen too little to be relied on elsewhere.
_LITTLE_TIME_MIN = 10.0
_LITTLE_DISTANCE_KM = 3.0
_LITTLE_VALIDATION_MIN = 2.0
_FEW_RECORDINGS = 3
_NARROW_BRIGHTNESS = 30.0  # gray levels between the 1st and the 99th percentile
_UNSURE_OFFSET_S = 0.005
_NOISE_SCALE = 1.5
_REFERENCE_SHARE = 0.5
_SPEED_SHARE = 0.8


class Trust(str, Enum):
    """How far an artifact may be trusted where its training data holds."""

    GOOD = "fit to be tried"
    CARE = "to be used with care"
    NONE = "not to be relied on"


CLAIMS = {
    Trust.GOOD: "This artifact is fit to be tried on drives like those it has seen.",
    Trust.CARE: "This artifact may be tried, with care.",
    Trust.NONE: "This artifact is not to be relied on.",
}
_NEXT = "Now judge it on recordings that had no part in the fit: `bayes-vio evaluate`."


def judge_fit(report: dict) -> dict:
    """Return how far a fit may be trusted: trust, claim, reason, trusted, limits.

    ``trusted`` are sentences, ``limits`` {"text", "grave"}. report: as
    `fit_report.describe_fit` makes it, without its verdict.
    """
    limits = [limit for check in _CHECKS for limit in check(report)]
    graves = sum(limit["grave"] for limit in limits)
    trust = Trust.NONE if graves else Trust.CARE if limits else Trust.GOOD
    limits.sort(key=lambda limit: not limit["grave"])
    return {
        "trust": trust.value,
        "claim": CLAIMS[trust],
        "reason": limits[0]["text"] if limits else _NEXT,
        "trusted": _trusted(report),
        "limits": limits,
    }


def _limit(text: str, grave: bool = False) -> dict:
    return {"text": text, "grave": grave}


def _trusted(report: dict) -> list[str]:
    seen, validation = report["seen"], report["validation"]
    region = validation["measured"]["joint"]["region_95"]
    speed, yaw_rate = seen["speed_m_s"], seen["yaw_rate_deg_s"]
    low, high = seen["interval_s"]
    return [
        f"Speeds from {speed['min']:.0f} to {speed['max']:.0f} m/s and yaw rates from "
        f"{yaw_rate['min']:.0f} to {yaw_rate['max']:.0f} deg/s: it has seen no others.",
        f"Images {1e3 * low:.0f} to {1e3 * high:.0f} ms apart, of mean brightness "
        f"{seen['brightness']['min']:.0f} to {seen['brightness']['max']:.0f} of 255.",
        f"Its 95 % regions held {100 * region['observed']:.0f} % of "
        f"{grouped(validation['measured']['count'])} validation errors, on the recordings that "
        "its noise scale was set on; judge it on others with `bayes-vio evaluate`.",
    ]


def _covariance(report: dict) -> list[dict]:
    judgement = report["validation"]["judgement"]
    found = Verdict(judgement["verdict"])
    if found in (Verdict.CONSISTENT, Verdict.NEAR):
        return []
    grave = found in (Verdict.OVERCONFIDENT, Verdict.MIXED)
    text = f"{judgement['claim'].replace(' here.', ' on validation.')} {judgement['evidence']}"
    return [_limit(text, grave)]


def _amount(report: dict) -> list[dict]:
    train, validation = report["seen"], report["validation"]
    minutes, km = train["time_s"] / 60, train["distance_m"] / 1000
    told = []
    if minutes < _LITTLE_TIME_MIN or km < _LITTLE_DISTANCE_KM:
        told.append(
            _limit(
                f"It was trained on {minutes:.1f} minutes and {km:.1f} km: too little data to "
                f"carry over to other roads (at least {_LITTLE_TIME_MIN:.0f} minutes and "
                f"{_LITTLE_DISTANCE_KM:.0f} km are advised).",
                grave=minutes < _LITTLE_TIME_MIN / 3,
            )
        )
    if validation["time_s"] / 60 < _LITTLE_VALIDATION_MIN:
        told.append(
            _limit(
                f"Only {validation['time_s']:.0f} s of driving were there to validate on: "
                "coverage and noise scale may be off."
            )
        )
    return told


def _variety(report: dict) -> list[dict]:
    count, brightness = len(report["recordings"]["train"]), report["seen"]["brightness"]
    told = []
    if count < _FEW_RECORDINGS:
        recordings = "one recording" if count == 1 else f"{count} recordings"
        told.append(
            _limit(
                f"It has seen {recordings}, which may be one environment: another town, season "
                "or camera height is new to it."
            )
        )
    if brightness["p99"] - brightness["p1"] < _NARROW_BRIGHTNESS:
        told.append(
            _limit(
                f"All training images are about equally bright ({brightness['p1']:.0f} to "
                f"{brightness['p99']:.0f} of 255): dusk, night and glare are new to it."
            )
        )
    return told


def _ranges(report: dict) -> list[dict]:
    trained = report["seen"]["speed_m_s"]["p99"]
    validated = report["validation"]["speed_m_s"]
    if validated is None or validated["p99"] >= _SPEED_SHARE * trained:
        return []
    return [
        _limit(
            f"Validation drove at most {validated['p99']:.0f} m/s, training {trained:.0f} m/s: "
            "its covariance is unchecked at the higher speeds."
        )
    ]


def _sensors(report: dict) -> list[dict]:
    blind = [r["name"] for r in report["recordings"]["train"] if r["imu"] is None]
    if not blind:
        return []
    if len(blind) == len(report["recordings"]["train"]):
        return [_limit("It was trained on the camera alone: it makes no use of an IMU.")]
    return [_limit(f"Trained without an IMU on {', '.join(blind)}.")]


def _offset(report: dict) -> list[dict]:
    common, told = report["time_offset"], []
    offset_s, std_s = common["offset_s"], common["std_s"]
    if std_s is not None and std_s > _UNSURE_OFFSET_S:
        told.append(
            _limit(
                f"The camera-IMU time offset is uncertain: {1e3 * offset_s:+.0f} +- "
                f"{1e3 * std_s:.0f} ms. Drive with more turns, or give it by --time-offset.",
                grave=std_s > 4 * _UNSURE_OFFSET_S,
            )
        )
    for part in report["recordings"]["train"] + report["recordings"]["validation"]:
        own = part["time_offset"]
        if own is None:
            continue
        away = abs(own["offset_s"] - offset_s)
        if away > 3 * own["std_s"] + (std_s or 0.0) and away > 2 * _UNSURE_OFFSET_S:
            told.append(
                _limit(
                    f"{part['name']} shows a time offset of {1e3 * own['offset_s']:+.0f} +- "
                    f"{1e3 * own['std_s']:.0f} ms, but {1e3 * offset_s:+.0f} ms is used."
                )
            )
    return told


def _mounting(report: dict) -> list[dict]:
    rotation = report["camera_rotation"]
    if rotation is None:
        return []
    axes = [(name, rotation[name]) for name in ("roll", "pitch", "yaw")]
    told = [
        _limit(
            f"The images show the camera's {name} {axis['deg']:+.1f} +- {axis['std_deg']:.1f} deg "
            "from the extrinsics given: check them; nothing was corrected."
        )
        for name, axis in axes
        if axis["contradicts"]
    ]
    blind = [name for name, axis in axes if not axis["observable"]]
    if blind:
        told.append(
            _limit(
                f"The drives do not show whether the camera's {' and '.join(blind)} is as given: "
                "too few turns."
            )
        )
    return told


def _training(report: dict) -> list[dict]:
    curves, search, told = report["training"], report["prior_search"], []
    epochs = len(curves["validation_nll"])
    if curves["best_epoch"] == epochs and epochs == curves["epochs_allowed"]:
        told.append(
            _limit(f"Validation was still improving at the last of {epochs} epochs: train longer.")
        )
    if curves["continued"] and curves["best_epoch"] == 1 < epochs:
        told.append(
            _limit(
                "No round of the refit was better on validation than yesterday's weights, which "
                "are kept: training and validation differ."
            )
        )
    precisions = [point["prior_precision"] for point in search]
    if len(precisions) > 1 and report["prior_precision"] in (precisions[0], precisions[-1]):
        told.append(
            _limit(
                f"The best prior precision, {report['prior_precision']:g}, stands at the end of "
                "those tried: the epistemic part may be off."
            )
        )
    axes = report["validation"]["noise_scale"]
    off = [f"{a} {s:.1f}" for a, s in axes.items() if not 1 / _NOISE_SCALE < s < _NOISE_SCALE]
    if off:
        told.append(
            _limit(
                f"The noise learned in training had to be scaled ({', '.join(off)} times): "
                "training and validation differ."
            )
        )
    return told


def _reference(report: dict) -> list[dict]:
    told = []
    rmse = report["validation"]["measured"]["axes"][0]["rmse"]
    for part in report["recordings"]["train"] + report["recordings"]["validation"]:
        noise = (part["reference"] or {}).get("position_noise_m")
        if noise is not None and noise * 2**0.5 > _REFERENCE_SHARE * rmse:
            told.append(part["name"])
    if not told:
        return []
    named = ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")
    return [
        _limit(
            f"The reference's own noise on {named} is about as large as the errors: the "
            "covariance may be that of the reference rather than of the estimate."
        )
    ]


_CHECKS = (
    _covariance,
    _amount,
    _variety,
    _ranges,
    _sensors,
    _offset,
    _mounting,
    _training,
    _reference,
)
