"""Draw with matplotlib into inline SVG whose colours follow the page's light or dark theme.

Figures are drawn in sentinel colours, one per role; in the SVG's text each becomes a CSS variable
that the page defines for both themes. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


class Ink(str, Enum):
    """Roles of colour, as the sentinel hex that matplotlib draws with."""

    TEXT = "#010101"
    MUTED = "#020202"
    GRID = "#030303"
    PAPER = "#040404"
    REFERENCE = "#050505"
    ESTIMATE = "#060606"
    BAND = "#070707"
    EPISTEMIC = "#080808"
    GOOD = "#090909"
    WARN = "#0a0a0a"
    BAD = "#0b0b0b"
    SERIES_1 = "#0c0c0c"
    SERIES_2 = "#0d0d0d"
    SERIES_3 = "#0e0e0e"
    SERIES_4 = "#0f0f0f"
    SERIES_5 = "#101010"
    SERIES_6 = "#111111"

    @property
    def css(self) -> str:
        """The CSS variable of this role."""
        return "--" + self.name.lower().replace("_", "-")


SERIES = (
    Ink.SERIES_1,
    Ink.SERIES_2,
    Ink.SERIES_3,
    Ink.SERIES_4,
    Ink.SERIES_5,
    Ink.SERIES_6,
)

WIDTH_IN = 8.6  # of a figure as wide as the page

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": Ink.MUTED.value,
    "axes.labelcolor": Ink.MUTED.value,
    "axes.titlecolor": Ink.TEXT.value,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": Ink.GRID.value,
    "grid.linewidth": 0.7,
    "xtick.color": Ink.MUTED.value,
    "ytick.color": Ink.MUTED.value,
    "text.color": Ink.TEXT.value,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "round",
}
# Coordinates stand in tags, never in the text between; a hundredth of a point is enough for them.
_TAG, _DECIMALS = re.compile(r"<[^>]*>"), re.compile(r"(\d\.\d\d)\d+")
_SENTINEL = re.compile("|".join(ink.value for ink in Ink))
_ROLE = {ink.value: f"var({ink.css})" for ink in Ink}


@dataclass
class Drawing:
    """A figure being drawn; ``svg`` holds its markup once the drawing is finished."""

    figure: Figure
    svg: str = ""


@contextmanager
def drawing(width_in: float, height_in: float, name: str) -> Iterator[Drawing]:
    """Open a figure of a size (inches); on leaving, its SVG is in the drawing.

    name keeps the ids of this SVG apart from those of others in one page.
    """
    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": name}
    with rc_context(style):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        drawn = Drawing(figure)
        yield drawn
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        drawn.svg = _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Return SVG markup fit for a page: no prolog, scalable, themed, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = _TAG.sub(lambda tag: _DECIMALS.sub(r"\1", tag.group()), svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("'DejaVu Sans'", "var(--font)")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    return _SENTINEL.sub(lambda found: _ROLE[found.group()], svg)


def label(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Set an axes' labels and title."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)
