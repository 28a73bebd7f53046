"""The README's tables on what the covariance is used for: the planner, regimes."""

from __future__ import annotations

from typing import Any

_PLANNERS = {"ours": "covariance of the moment", "constant": "constant", "none": "none"}


def planning(r: dict[str, Any]) -> list[str]:
    """Return collisions under both limits, and how tight the bound is."""
    runs, poses, paths = r["runs_modelled"], r["poses"], r["paths"]
    lines = [
        "**Planning** (`python benchmarks/planning.py`): share of the plans within the limit that "
        "collide on random streets (upper 95 % limit; number of streets), true errors drawn as "
        "stated. On paths the bound held in "
        f"{100 * paths['share_of_cases_bounded']:.1f} % of {paths['cases']} cases, "
        f"{paths['ratio_median']:.1f} times the Monte Carlo estimate at the median, "
        f"{paths['ratio_p99']:.1f} at p99 and {paths['ratio_max']:.1f} at most; at single poses "
        f"in {100 * poses['share_of_cases_bounded']:.1f} % of {poses['cases']}, "
        f"{poses['ratio_p99']:.1f} times at p99 and {poses['ratio_max']:.1f} at most.",
        "",
        "| covariance | limit 1 % | limit 5 % |",
        "|---|---|---|",
    ]
    for name, label in _PLANNERS.items():
        cells = [_collisions(runs[f"{name}, bound {limit}"]) for limit in ("0.01", "0.05")]
        lines.append(f"| {label} | {cells[0]} | {cells[1]} |")
    return lines


def _collisions(row: dict[str, float]) -> str:
    share, most = 100 * row["collisions_of_planned"], 100 * row["at_most_95"]
    return f"{share:.2f} % ({most:.1f} %; {row['runs']})"


def closed_loop(r: dict[str, Any]) -> list[str]:
    """Return what became of whole drives, by the covariance that the planner was told."""
    lines = [
        "**Closed loop** (`python benchmarks/closed_loop.py`): whole drives past gates, parked "
        "cars, a dark tunnel and an outage, the estimator's errors sampled or its camera "
        "rendered; with 95 % intervals.",
        "",
        "| errors | told, limit | drives | collided | arrived | median time |",
        "|---|---|---|---|---|---|",
    ]
    for errors in ("sampled", "rendered"):
        for name, row in r.get(errors, {}).items():
            low, high = (100 * share for share in row["collided"]["interval_95"])
            time_s = row["time_to_goal_median_s"]
            lines.append(
                f"| {errors} | {name} | {row['runs']} "
                f"| {row['collided']['count']} ({low:.1f} to {high:.1f} %) "
                f"| {row['arrived']['count']} | {_seconds(time_s)} |"
            )
    return [*lines, "", *_street_by_street(r["compared"])]


def _street_by_street(compared: dict[str, Any]) -> list[str]:
    """Return how ours compares with each other method on the streets that both drove."""
    lines = [
        "| errors | ours / other | streets | collided | times fewer, at least (95 %) | arrived "
        "| time, where both arrived |",
        "|---|---|---|---|---|---|---|",
    ]
    for errors, pairs in compared.items():
        for name, pair in sorted(pairs.items()):
            (ours, other), (came, other_came) = pair["collisions"], pair["arrived"]
            ratio = pair["time_to_goal_ratio"]
            lines.append(
                f"| {errors} | {name} | {pair['streets']} | {ours} / {other} "
                f"| {pair['times_fewer_at_least_95']:.1f} | {came} / {other_came} "
                f"| {'-' if ratio is None else f'{ratio:.2f}'} |"
            )
    return lines


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def regime(r: dict[str, Any]) -> list[str]:
    """Return accuracy on drives that nothing was fitted on, and what is told of unseen faults."""
    image, motion = r["image"], r["ego_motion"]
    lines = [
        f"**Regimes** (`python benchmarks/regime.py`): on {len(r['drives'])} held-out simulated "
        f"drives {100 * image['metrics']['accuracy']:.1f} % of {image['images']} images and "
        f"{100 * motion['metrics']['accuracy']:.1f} % of {motion['intervals']} motions are told "
        f"right (turning left {100 * motion['accuracy']['left']:.0f} %), "
        f"{100 * image['nominal_tracking']:.1f} % of nominal images count as such. Degradations "
        "that training never showed, AUROC by one pair of images, and by up to six "
        "seconds of them that move (in brackets the share that is told):",
        "",
        "| degradation | mutual information | entropy | noticed | over seconds |",
        "|---|---|---|---|---|",
    ]
    series = r.get("specks_over_series", {})
    for name, row in image["unseen"].items():
        lines.append(
            f"| {name} | {row['mutual_information']:.2f} | {row['entropy']:.2f} "
            f"| {100 * row['noticed']:.0f} % | {_told(series.get(name))} |"
        )
    if series:
        share = 100 * series["clean"]["told"]
        lines += ["", f"Behind a clean lens {share:.1f} % of the images are called speckled."]
    return lines


def _told(row: dict[str, float] | None) -> str:
    return "-" if row is None else f"{row['auroc']:.3f} ({100 * row['told']:.0f} %)"
