"""Building blocks of the report's HTML: badges, numbers, cells that colour themselves, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from scipy import stats

from bayes_vio.evaluation.style import CSS
from bayes_vio.evaluation.verdict import SIGMA_TOLERANCE, Verdict

DASH = "&ndash;"
_SMALL_UNITS = ("%", "km", "ms", "min", "MiB")
_CLASS = {
    Verdict.CONSISTENT: "good",
    Verdict.NEAR: "near",
    Verdict.OVERCONFIDENT: "bad",
    Verdict.MIXED: "bad",
    Verdict.CAUTIOUS: "cautious",
    Verdict.UNDECIDED: "unsure",
}


@dataclass(frozen=True)
class Cell:
    """One cell: HTML that is already safe, and the class that colours it."""

    html: str
    kind: str = ""


def document(title: str, body: str) -> str:
    """Return a whole page that needs nothing else."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f"<style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    )


def figure(svg: str, caption: str) -> str:
    """Return a figure with its caption (HTML that is already safe)."""
    return f"<figure><div>{svg}</div><figcaption>{caption}</figcaption></figure>"


def folded(title: str, content: str) -> str:
    """Return content behind a line that opens it; nothing where there is none."""
    if not content:
        return ""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def listing(value: object) -> str:
    """Return a value as indented JSON."""
    return f"<pre>{escape(json.dumps(value, indent=1))}</pre>" if value else ""


def facts(values: Mapping[str, str | None]) -> str:
    """Return names and values as a list, without those that are None."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in values.items()
        if value is not None
    )
    return f"<dl>{rows}</dl>"


def tiles(shown: Sequence[tuple[str, str, str]]) -> str:
    """Return key figures: value (a number and its unit), what it is, a detail."""
    wide = " wide" if len(shown) % 3 == 0 else ""  # three in a row leave none over
    return f'<div class="tiles{wide}">' + "".join(_tile(*tile) for tile in shown) + "</div>"


def _tile(value: str, text: str, detail: str) -> str:
    number, _, unit = value.partition(" ")
    small = f" <small>{unit}</small>" if unit in _SMALL_UNITS else f" {unit}" if unit else ""
    return f'<div class="tile"><b>{number}{small}</b><span>{text}</span><em>{detail}</em></div>'


def verdict_class(verdict: str) -> str:
    """Return the CSS class of a verdict's value."""
    return _CLASS[Verdict(verdict)]


def badge(judgement: dict) -> str:
    """Return a judgement's verdict as a badge."""
    verdict = judgement["verdict"]
    return f'<span class="badge {verdict_class(verdict)}">{escape(verdict)}</span>'


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """Return a number with so many decimals and its unit, or a dash for one that is unknown."""
    if value is None:
        return DASH
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    """Return a table; the first cell of each row is its heading."""
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    body = "".join(f"<tr>{_row(row)}</tr>" for row in rows)
    return (
        f'<div class="table"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Cell]) -> str:
    first, *others = row
    cells = [
        f'<td class="{c.kind}">{c.html}</td>' if c.kind else f"<td>{c.html}</td>" for c in others
    ]
    return f'<th scope="row">{first.html}</th>' + "".join(cells)


def scale_cell(scale: dict, kind: str) -> Cell:
    """Return a sigma factor with its interval."""
    low, high = scale["sigma_factor_interval"]
    text = f"{scale['sigma_factor']:.2f} <small>{low:.2f}&ndash;{high:.2f}</small>"
    return Cell(text, kind)


def coverage_class(cell: dict) -> str:
    """Return the CSS class of one coverage: inside its interval, near, too low, too high."""
    if cell["low"] <= cell["expected"] <= cell["high"]:
        return "good"
    sigmas = stats.norm.ppf(0.5 + cell["expected"] / 2)
    scaled = sigmas * np.array([1 / SIGMA_TOLERANCE, SIGMA_TOLERANCE])
    least, most = 2 * stats.norm.cdf(scaled) - 1
    if least <= cell["observed"] <= most:
        return "near"
    return "bad" if cell["observed"] < cell["expected"] else "cautious"
