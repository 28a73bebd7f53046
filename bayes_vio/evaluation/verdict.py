"""Say in plain words whether a covariance is true on what was measured."""

from __future__ import annotations

from enum import Enum

import numpy as np

from bayes_vio.filters import consistency

# How far sigmas may be off, as a factor, before the verdict calls it a fault; a deviation that is
# certain but smaller is told as such. 1.2 in sigma is 1.44 in variance.
SIGMA_TOLERANCE = 1.2
# Below this many effective samples a quantity inside its band proves little.
_FEW = 50
# Seven scales (joint and six axes) are judged at once: Bonferroni holds the false alarms at 5 %.
_CONFIDENCE = 1 - 0.05 / 7


class Verdict(Enum):
    """What the errors say of the covariance."""

    CONSISTENT = "consistent"
    NEAR = "nearly consistent"
    OVERCONFIDENT = "overconfident"
    CAUTIOUS = "too cautious"
    MIXED = "mixed"
    UNDECIDED = "undecided"


CLAIMS = {
    Verdict.CONSISTENT: "The covariance is true here.",
    Verdict.NEAR: "The covariance is nearly true here.",
    Verdict.OVERCONFIDENT: "The covariance is overconfident here.",
    Verdict.CAUTIOUS: "The covariance is too cautious here.",
    Verdict.MIXED: "The covariance is not true here.",
    Verdict.UNDECIDED: "Too few independent errors to judge the covariance.",
}
_FAULTS = {
    Verdict.OVERCONFIDENT: "overconfident",
    Verdict.CAUTIOUS: "too cautious",
    Verdict.MIXED: "overconfident in some axes and too cautious in others",
}


def judge_scale(measured: dict, degrees: int) -> Verdict:
    """Return the verdict on one mean NEES, as `calibration.scale` measured it."""
    count, factor = measured["effective_count"], measured["sigma_factor"]
    low, high = consistency.chi_square_band(degrees, count, _CONFIDENCE)
    if low <= measured["nees_mean"] <= high:
        return Verdict.UNDECIDED if count < _FEW else Verdict.CONSISTENT
    if factor > SIGMA_TOLERANCE:
        return Verdict.OVERCONFIDENT
    return Verdict.CAUTIOUS if factor < 1 / SIGMA_TOLERANCE else Verdict.NEAR


def judge(measures: dict) -> dict:
    """Return the verdict on `calibration.measure`'s result: overall, per axis, and in words."""
    parts = {"joint": judge_scale(measures["joint"], 6)}
    for axis in measures["axes"]:
        parts[axis["axis"]] = judge_scale(axis, 1)
    verdict = _overall(set(parts.values()))
    if verdict is Verdict.CAUTIOUS and parts["joint"] is not Verdict.CAUTIOUS:
        # An axis that is too wide misleads nobody where the whole is right; the evidence names it.
        verdict = Verdict.UNDECIDED if parts["joint"] is Verdict.UNDECIDED else Verdict.NEAR
    return {
        "verdict": verdict.value,
        "claim": CLAIMS[verdict],
        "evidence": _evidence(measures, parts),
        "notes": _notes(measures),
        "parts": {name: part.value for name, part in parts.items()},
    }


def _overall(parts: set[Verdict]) -> Verdict:
    if Verdict.MIXED in parts or {Verdict.OVERCONFIDENT, Verdict.CAUTIOUS} <= parts:
        return Verdict.MIXED
    gravest = (Verdict.OVERCONFIDENT, Verdict.CAUTIOUS, Verdict.UNDECIDED, Verdict.NEAR)
    return next((verdict for verdict in gravest if verdict in parts), Verdict.CONSISTENT)


def _evidence(measures: dict, parts: dict[str, Verdict]) -> str:
    """Return e.g. "Errors are 1.41 times what it predicts (1.39 to 1.42), in x 1.60 times."."""
    joint = measures["joint"]
    low, high = joint["sigma_factor_interval"]
    factors = {axis["axis"]: axis["sigma_factor"] for axis in measures["axes"]}
    faults = [name for name in factors if parts[name] in _FAULTS]
    faults.sort(key=lambda name: -abs(np.log(factors[name])))
    told = (
        f"Errors are {joint['sigma_factor']:.2f} times what it predicts ({low:.2f} to {high:.2f})"
    )
    if faults:
        told += (
            ", in " + ", ".join(f"{name} {factors[name]:.2f}" for name in faults[:3]) + " times"
        )
    elif parts["joint"] in _FAULTS:
        told += ", though each axis alone is right: its correlations are not"
    return told + "."


def combine(pooled: dict, by_recording: dict[str, dict]) -> dict:
    """Return the judgement on several recordings: pooled errors must not hide a faulty one.

    pooled: the judgement on all errors together; by_recording: each recording's own, by name.
    """
    found = {name: Verdict(one["verdict"]) for name, one in by_recording.items()}
    faults = {verdict for verdict in found.values() if verdict in _FAULTS}
    if not faults or len(found) == 1:
        return pooled
    verdict = _overall({Verdict(pooled["verdict"])} | faults)
    told = "; ".join(
        f"{_FAULTS[fault]} on {', '.join(name for name in found if found[name] is fault)}"
        for fault in _FAULTS
        if fault in faults
    )
    evidence = f"{pooled['evidence']} It is {told}."
    return {**pooled, "verdict": verdict.value, "claim": CLAIMS[verdict], "evidence": evidence}


def headline(judgement: dict, horizons: dict, drift: dict, tracking_share: float) -> str:
    """Return a judgement and the figures behind it, in a few sentences.

    horizons: measures with their judgement by number of frames, None where there are none.
    """
    frame = horizons["1"]
    observed = 100 * frame["joint"]["region_95"]["observed"]
    parts = [f"its 95 % regions held {observed:.1f} % of {grouped(frame['count'])} frame errors"]
    if drift["t_rel_percent"] is not None:
        parts.append(f"drift is {drift['t_rel_percent']:.2f} % of the distance")
    parts.append(f"it was tracking in {100 * tracking_share:.1f} % of the frames")
    figures = "; ".join(parts)
    told = [judgement["claim"], judgement["evidence"], f"{figures[0].upper()}{figures[1:]}."]
    return " ".join(told + _further(horizons))


def _further(horizons: dict) -> list[str]:
    """Return a sentence on longer windows where their verdict is worse than a frame's."""
    told = []
    for frames, measured in horizons.items():
        if frames == "1" or measured is None:
            continue
        found = Verdict(measured["judgement"]["verdict"])
        same = found.value == horizons["1"]["judgement"]["verdict"]
        if found in _FAULTS and not same:
            evidence = measured["judgement"]["evidence"]
            why = f"{evidence[0].lower()}{evidence[1:]}"
            told.append(f"Over {frames} frames it is {_FAULTS[found]}: {why}")
    return told


def grouped(count: int) -> str:
    """Return a count with thin spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def _notes(measures: dict) -> list[str]:
    joint, notes = measures["joint"], []
    beyond, count = joint["beyond_999_rescaled"], measures["count"]
    if beyond > 0.005 and beyond * count >= 5:
        notes.append(
            f"Tails are heavier than Gaussian: were its scale set to fit the median error, "
            f"{100 * beyond:.1f} % of the errors would lie beyond the 99.9 % region."
        )
    constant = measures["nll_constant_cov"]
    if constant is not None and measures["nll"] > constant:
        notes.append(
            "A constant covariance, chosen in hindsight, would score a better likelihood."
        )
    if joint["effective_count"] < 0.5 * count:
        notes.append(
            f"Errors are correlated in time: {grouped(count)} of them tell as much as "
            f"{grouped(round(joint['effective_count']))} independent ones; the bands allow for it."
        )
    return notes
