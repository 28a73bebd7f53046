"""Tables of how true covariances are on bad days, over distance, and off training's domain."""

from __future__ import annotations

from typing import Any


def bad_days(r: dict[str, Any]) -> list[str]:
    """Return region and sharpness of every fault and strength."""
    lines = [
        "**Bad days** (`python benchmarks/bad_days.py`, picture in benchmarks/results): share of "
        "the errors not called lost in the 95 % region, and median sigma over RMS error of "
        "translation / rotation, at three strengths each, on validation recordings.",
        "",
        "| recordings | fault | weak | medium | strong |",
        "|---|---|---|---|---|",
    ]
    for label, figures in r.items():
        if figures["no_fault"]:
            lines.append(f"| {label} | none | {_cell(figures['no_fault'])} | | |")
        for row in figures["faults"]:
            cells = " | ".join(_cell(cell) for cell in row["cells"])
            lines.append(f"| {label} | {row['fault']} | {cells} |")
    missed = [
        f"{label}, {row['fault']} at {cell['strength']:g}: {'; '.join(cell['missed'])}"
        for label, figures in r.items()
        for row in figures["faults"]
        for cell in row["cells"]
        if cell["missed"]
    ]
    asked = "Asked of every cell: at least 85 % in the region, sigma at most twice the error."
    return [*lines, "", asked + (f" Missed: {'. '.join(missed)}." if missed else "")]


def _cell(cell: dict[str, Any]) -> str:
    share = cell["coverage_95_told"]
    region = "all lost" if share is None else f"{100 * share:.0f} %"
    sharpness = " / ".join(f"{cell[p]['sharpness']:.1f}" for p in ("translation", "rotation"))
    return f"{region}, {sharpness}"


def epistemic(r: dict[str, Any]) -> list[str]:
    """Return how epistemic covariance grows off the domain, and zero-shot errors."""
    lines = [
        "**Unknown recordings** (`python benchmarks/epistemic.py`): epistemic over noise, as a "
        "multiple of that on recordings of the kind trained on, and AUROC between the two; by "
        "the weights' posterior alone, and with the inputs judged.",
        "",
        "| trained on | recording | posterior alone: growth, AUROC | judged: growth, AUROC |",
        "|---|---|---|---|",
    ]
    for label, found in r["domains"].items():
        for name, judged in found["judged"].items():
            alone = found["posterior_alone"][name]
            lines.append(f"| {label} | {name} | {_growth(alone)} | {_growth(judged)} |")
    lines += [
        "",
        "| trained on | real recording | forward RMS error | in its 95 % interval | NEES / 6 |",
        "|---|---|---|---|---|",
    ]
    for label, found in r["domains"].items():
        for name, ways in found["zero_shot"].items():
            f = ways["judged"]
            lines.append(
                f"| {label} | {name} | {100 * f['forward_relative_rmse']:.0f} % | "
                f"{100 * f['coverage_95_per_axis'][0]:.0f} % | {f['nees_over_6']:.2f} |"
            )
    return lines


def _growth(f: dict[str, Any]) -> str:
    return f"{f['epistemic_growth']:.1f}, {f['auroc']['ratio to noise']:.2f}"


def accumulated(r: dict[str, Any]) -> list[str]:
    """Return how true the accumulated covariance is, by treatment of the epistemic part."""
    names = {"sum": "coherent (published)", "time": "its correlation time", "white": "white"}
    horizons = r["horizons"]
    lines = [
        f"**Over distance** (`python benchmarks/accumulated.py`): {len(r['bags'])} simulated "
        "drives that nothing was fitted on; NEES / 6 of the accumulated pose and the share in its "
        "95 % region.",
        "",
        "| epistemic part | "
        + " | ".join(f"{h} ({_count(f)})" for h, f in horizons.items())
        + " |",
        "|---" * (1 + len(horizons)) + "|",
    ]
    for name, text in names.items():
        cells = [
            f"{f[name]['nees_over_6']:.2f}, {100 * f[name]['coverage']['0.95']:.0f} %"
            for f in horizons.values()
        ]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return lines


def _count(figures: dict[str, Any]) -> int:
    return figures["sum"]["count"]


def smoother(r: dict[str, Any]) -> list[str]:
    """Return what the covariance is worth to a smoother in outages, beside what bounds it."""
    part, drives = _evaluated(r)
    return [
        "**Through GPS outages** (`python benchmarks/smoother.py`): fixed-lag smoother of 10 s, "
        f"outages of 10, 30 and 60 s, semi-synthetic {drives}; errors (RMSE) of the newest pose "
        "and of the oldest one in the window, and the share in their 95 % region. No estimator "
        "has the oracle covariance (how large true errors are around every increment) or true "
        "increments.",
        "",
        *_smoothed(part["treatments"]),
    ]


def smoother_bad_days(r: dict[str, Any]) -> list[str]:
    """Return the same where camera and GPS fail together."""
    part, drives = _evaluated(r)
    return [
        "**Camera and GPS fail together** (`python benchmarks/smoother_bad_days.py`): the same on "
        f"{drives}, images dark, covered or frozen from 5 s before every outage to its half. The "
        "newest pose is what increments add up to; over a window longer than the outage a "
        "smoother puts the gap where the covariance says that they were worst.",
        *(
            line
            for name, window in part["windows"].items()
            for line in ("", f"{name.capitalize()}:", "", *_smoothed(window["treatments"]))
        ),
    ]


def _evaluated(r: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the figures of the test drives, or of validation where there are none; and names."""
    part = r["test"] if "test" in r else r["validation"]
    return part, ", ".join(part["evaluated_on"])


def _smoothed(treatments: dict[str, Any]) -> list[str]:
    lines = [
        "| increments' covariance | error: newest, oldest | sigma | in the 95 % region |",
        "|---|---|---|---|",
    ]
    for name, lengths in treatments.items():
        newest, lagged = (lengths["all outages"][end] for end in ("newest", "lagged"))
        lines.append(
            f"| {name} | {newest['ate_m']:.1f}, {lagged['ate_m']:.1f} m "
            f"| {newest['median_sigma_m']:.1f}, {lagged['median_sigma_m']:.1f} m "
            f"| {100 * newest['region_95']:.0f}, {100 * lagged['region_95']:.0f} % |"
        )
    return lines
