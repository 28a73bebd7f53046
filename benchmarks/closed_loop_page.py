"""One page on benchmarks/closed_loop.py: who collided, a street from above, a short animation."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, Polygon
from numpy.typing import NDArray

from bayes_vio.evaluation import markup
from bayes_vio.evaluation.canvas import WIDTH_IN, Ink, drawing, label
from bayes_vio.evaluation.markup import Cell
from bayes_vio.planning.closed_loop import Drive, Ending, Step
from bayes_vio.planning.course import Condition, Course
from bayes_vio.planning.vehicle import Vehicle

Array = NDArray[np.float64]
SIGMAS = 3.0
ELLIPSE_EVERY_S = 0.6
_SCALE = 12.0  # of the animation: units per metre
_SHOWN_LIMIT = 0.05
_NAMES = {"ours": "our covariance", "constant": "a constant one", "none": "none"}
_TOP_VIEW_NOTE = (
    f"Ellipses: {SIGMAS:g} sigma of the position, every {ELLIPSE_EVERY_S:g} s. Gray: the tunnel. "
    "Dashed: where the camera fails. Dotted: the finish. A localiser's fixes shrink the ellipses. "
    "The constant covariance shown is unscaled: the mean of all, on the same planner."
)
_PARTS = {
    "sampled": "Errors sampled from what the estimator says of them",
    "rendered": "Rendered camera, simulated IMU, the real estimator",
}


def page(told: dict[str, Any], drives: dict[str, Drive], course: Course, vehicle: Vehicle) -> str:
    """Return the page of results, with drives of one street by method ("ours", "none", ...)."""
    compared = told.get("compared", {})
    parts = [_part(name, told[name], compared.get(name, {})) for name in _PARTS if told.get(name)]
    body = [
        _header(told),
        *parts,
        "<h2>One street, from above</h2>",
        *(_top_view(name, drive, course) for name, drive in drives.items()),
        f'<p class="note">{_TOP_VIEW_NOTE}</p>',
        "<h2>The same street, driven</h2>",
        *(_animation(name, drive, course, vehicle) for name, drive in drives.items()),
        _reading(),
    ]
    return markup.document("The car in closed loop", "".join(body))


def _header(told: dict[str, Any]) -> str:
    part = next(name for name in _PARTS if told.get(name))
    shown = [
        (
            f"{100 * group['collided']['share']:.1f} %",
            f"collided, told {_spoken(name, group)}",
            f"{group['collided']['count']} of {group['runs']} drives, 95 %: "
            + _percent(group["collided"]["interval_95"]),
        )
        for name, group in _ordered(told[part])
        if group["limit"] == _SHOWN_LIMIT or name == "none"
    ]
    return (
        f'<header><p class="eyebrow">Closed loop · {escape(_PARTS[part])} · {told["date"]}</p>'
        "<h1>What an honest covariance buys a car</h1>"
        '<p class="headline">The same planner drives the same streets, told the estimator\'s own '
        "covariance, a constant one, or none. A constant one is scaled until it collides no more "
        "often than ours.</p>" + markup.tiles(shown) + "</header>"
    )


def _spoken(name: str, group: dict[str, Any]) -> str:
    """Return a method's name in words, with the limit of its plans where that matters."""
    told = _NAMES[group["method"]]
    if group["method"] == "none":
        return "no covariance"
    scale = escape(name.split(",")[0].removeprefix("constant ")) if "x" in name else ""
    return f"{told} {scale}, limit {group['limit']:.0%} a plan".replace(" ,", ",")


def _ordered(methods: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the methods by name, ours first, none last."""
    first = [*_NAMES]
    return sorted(methods.items(), key=lambda item: (first.index(item[1]["method"]), item[0]))


def _percent(interval: list[float]) -> str:
    return f"{100 * interval[0]:.1f}&ndash;{100 * interval[1]:.1f} %"


def _part(name: str, methods: dict[str, Any], compared: dict[str, Any]) -> str:
    heads = ("told, bound", "drives", "collided", "left lane", "arrived", "time (s)",
             "monitor", "error / sigma")  # fmt: skip
    rows = [_row(method, group) for method, group in _ordered(methods)]
    caption = (
        "Shares with Clopper-Pearson 95 % intervals. Time: to the finish, median of the drives "
        "that arrived. Monitor: share of the time in which Autoware's localization_error_monitor "
        "would warn (3 sigma above 0.25 m across the car) and err (0.3 m), on what was believed. "
        "Error over sigma is 1 where the covariance is true."
    )
    table = markup.table(heads, rows, caption)
    return f"<h2>{_PARTS[name]}</h2>" + table + _comparison(compared)


def _comparison(compared: dict[str, Any]) -> str:
    """Return how ours compares with each other method on the streets that both drove."""
    if not compared:
        return ""
    heads = ("ours / other, bound", "streets", "collisions", "times fewer", "arrived",
             "both arrived", "time, ours / other")  # fmt: skip
    rows = [_compared_row(name, pair) for name, pair in sorted(compared.items())]
    caption = (
        "On the same streets, with the same car and noise. Times fewer: with the lower end of the "
        "95 % interval. Time: mean to the finish, over the streets on which both arrived. "
    )
    return markup.table(heads, rows, caption + " ".join(map(_plainly, compared.items())))


def _compared_row(name: str, pair: dict[str, Any]) -> list[Cell]:
    fewer, ratio = pair["times_fewer"], pair["time_to_goal_ratio"]
    collisions, arrived = (" / ".join(map(str, pair[key])) for key in ("collisions", "arrived"))
    least = f" <small>at least {pair['times_fewer_at_least_95']:.1f}</small>"
    times = ("&infin;" if fewer is None else f"{fewer:.1f}") + least
    return [
        Cell(escape(name)),
        Cell(str(pair["streets"])),
        Cell(collisions),
        Cell(times if any(pair["collisions"]) else markup.DASH),
        Cell(arrived),
        Cell(str(pair["both_arrived"])),
        Cell(markup.DASH if ratio is None else f"{ratio:.2f}"),
    ]


def _plainly(item: tuple[str, dict[str, Any]]) -> str:
    """Say where a method that does not collide does not arrive either."""
    name, pair = item
    other, streets = pair["arrived"][1], pair["streets"]
    if "constant" not in name or other > 0.5 * streets:
        return ""
    return (
        f"<b>{escape(name.split(' / ')[1])}</b> mostly stands still: it arrives on {other} of "
        f"{streets} streets, ours on {pair['arrived'][0]}."
    )


def _row(method: str, group: dict[str, Any]) -> list[Cell]:
    median = group["time_to_goal_median_s"]
    ratio = group["error_over_sigma"]
    return [
        Cell(escape(method)),
        Cell(str(group["runs"])),
        _share_cell(group["collided"], group["limit"]),
        _share_cell(group["left_lane"]),
        _share_cell(group["arrived"]),
        Cell(markup.DASH if median is None else f"{median:.1f}"),
        Cell(f"{100 * group['monitor_warned']:.0f} / {100 * group['monitor_erred']:.0f} %"),
        Cell(f"{ratio:.2f}" if ratio < 100 else "&gt; 100"),
    ]


def _share_cell(share: dict[str, Any], limit: float | None = None) -> Cell:
    """Return a share with its interval, coloured by whether it is within a limit."""
    kind = ""
    if limit is not None:
        low, high = share["interval_95"]
        kind = "good" if high <= limit else "bad" if low > limit else "near"
    text = f"{100 * share['share']:.1f} % <small>{_percent(share['interval_95'])}</small>"
    return Cell(text, kind)


def _top_view(name: str, drive: Drive, course: Course) -> str:
    with drawing(WIDTH_IN, 2.3, f"street-{name}") as drawn:
        axes = drawn.figure.subplots()
        _street(axes, course)
        for step in drive.steps:
            if step.belief is not None and _is_marked(step):
                axes.add_patch(_ellipse(step))
        believed = np.array([s.belief.pose[:2] for s in drive.steps if s.belief is not None])
        axes.plot(*believed.T, color=Ink.ESTIMATE.value, lw=1.0, label="believed")
        axes.plot(*drive.poses[:, :2].T, color=Ink.TEXT.value, lw=1.6, label="true")
        crashed = drive.ending is Ending.COLLIDED
        end_ink = Ink.BAD if crashed else Ink.GOOD
        axes.plot(*drive.poses[-1, :2], "X" if crashed else "o", color=end_ink.value, ms=9)
        axes.set_aspect("equal")
        axes.set_xlim(-5, course.finish_m + 6)
        axes.set_ylim(-6.5, 6.5)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
        label(axes, "x (m)", "y (m)", f"Told {_NAMES[name]}: {_told(drive)}")
    return markup.figure(drawn.svg, "")


def _told(drive: Drive) -> str:
    return f"{drive.ending.value} after {drive.time_s:.1f} s"


def _street(axes: Axes, course: Course) -> None:
    axes.axvspan(*course.tunnel_m, color=Ink.REFERENCE.value, alpha=0.22, lw=0)
    axes.axvline(course.outage_m, color=Ink.WARN.value, lw=1, ls="--")
    axes.axvline(course.finish_m, color=Ink.GOOD.value, lw=1, ls=":")
    for number, polygon in enumerate(course.polygons):
        ink = Ink.MUTED if number < course.walls else Ink.BAD
        alpha = 0.35 if number < course.walls else 0.75
        axes.add_patch(Polygon(polygon, color=ink.value, alpha=alpha, lw=0))


def _is_marked(step: Step) -> bool:
    return abs(step.time_s / ELLIPSE_EVERY_S - round(step.time_s / ELLIPSE_EVERY_S)) < 0.05


def _axes_of(step: Step) -> tuple[float, float, float]:
    """Return the semi-axes (m) of the position's ellipse and its angle (deg)."""
    if step.belief is None:
        return 0.0, 0.0, 0.0
    variance, direction = np.linalg.eigh(step.belief.cov[:2, :2])
    long, short = SIGMAS * np.sqrt(variance[::-1])
    return float(long), float(short), float(np.rad2deg(np.arctan2(*direction[::-1, 1])))


def _ellipse(step: Step) -> Ellipse:
    assert step.belief is not None
    long, short, angle = _axes_of(step)
    x, y = step.belief.pose[:2]
    return Ellipse((x, y), 2 * long, 2 * short, angle=angle, color=Ink.BAND.value, alpha=0.3, lw=0)


# The animation: SVG that moves by itself (SMIL), seen from above, y up.


def _animation(name: str, drive: Drive, course: Course, vehicle: Vehicle) -> str:
    width, height = _SCALE * (course.finish_m + 10), _SCALE * 11
    static = "".join(_polygon(p, k < course.walls) for k, p in enumerate(course.polygons))
    tunnel = (
        f'<rect x="{course.tunnel_m[0]:.1f}" y="-5.5" height="11" fill="var(--reference)" '
        f'opacity=".22" width="{course.tunnel_m[1] - course.tunnel_m[0]:.1f}"/>'
    )
    world = f'<g transform="translate({5 * _SCALE} {height / 2}) scale({_SCALE} {-_SCALE})">'
    moving = _believed(drive) + _car(drive, vehicle)
    caption = (
        f"Told {_NAMES[name]}: {_told(drive)}. The car as it is, and the {SIGMAS:g}-sigma ellipse "
        "of where it believes to be. Real time, over and over."
    )
    svg = (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="Animation of the drive">{world}{tunnel}{static}{moving}</g></svg>'
    )
    return markup.figure(svg, caption)


def _polygon(polygon: Array, wall: bool) -> str:
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in polygon)
    ink, opacity = ("--muted", 0.35) if wall else ("--bad", 0.75)
    return f'<polygon points="{points}" fill="var({ink})" opacity="{opacity}"/>'


def _car(drive: Drive, vehicle: Vehicle) -> str:
    """Return the footprint, moving along the true poses."""
    place = ";".join(f"{x:.2f} {y:.2f}" for x, y, _ in drive.poses)
    turn = ";".join(f"{np.rad2deg(yaw):.1f}" for _, _, yaw in drive.poses)
    box = (
        f'<rect x="{-vehicle.rear_m}" y="{-vehicle.half_width_m}" rx=".3" '
        f'width="{vehicle.front_m + vehicle.rear_m}" height="{2 * vehicle.half_width_m}" '
        'fill="var(--text)"/>'
    )
    return _moved(_turned(box, turn, drive), place, drive)


def _believed(drive: Drive) -> str:
    """Return the ellipse of the belief, moving."""
    shown = [(s, *_axes_of(s)) for s in drive.steps]
    beliefs = [s.belief.pose[:2] if s.belief is not None else s.pose[:2] for s in drive.steps]
    place = ";".join(f"{x:.2f} {y:.2f}" for x, y in beliefs)
    turn = ";".join(f"{angle:.1f}" for *_, angle in shown)
    sizes = {
        "rx": ";".join(f"{max(long, 0.1):.2f}" for _, long, _, _ in shown),
        "ry": ";".join(f"{max(short, 0.1):.2f}" for _, _, short, _ in shown),
    }
    grown = "".join(_animated("animate", values, drive, n) for n, values in sizes.items())
    ellipse = f'<ellipse fill="var(--band)" opacity=".5">{grown}</ellipse>'
    return _moved(_turned(ellipse, turn, drive), place, drive)


def _moved(content: str, values: str, drive: Drive) -> str:
    move = _animated("animateTransform", values, drive, "transform", "translate")
    return f"<g>{move}{content}</g>"


def _turned(content: str, values: str, drive: Drive) -> str:
    turn = _animated("animateTransform", values, drive, "transform", "rotate")
    return f"<g>{turn}{content}</g>"


def _animated(tag: str, values: str, drive: Drive, attribute: str, kind: str = "") -> str:
    kind = f'type="{kind}" ' if kind else ""
    return (
        f'<{tag} attributeName="{attribute}" {kind}dur="{drive.time_s:.1f}s" calcMode="discrete" '
        f'repeatCount="indefinite" values="{values}"/>'
    )


def _reading() -> str:
    return f"""<h2>How to read this page</h2>
<p>Every street has a gate, a parked car in a dark tunnel, a camera that fails for a moment, and
another gate. The planner knows the map exactly, and its own place only by the estimator, whose
odometry drifts until a localiser finds the car: every 3 s in the light, every 6 s in the dark.
States of the estimator: {", ".join(c.value for c in Condition)} give tracking, degraded, lost.</p>
<p>The bound is on each plan of the planner, ten a second; the share of drives that collided is of
whole drives, past all obstacles. <b>Constant</b>: the root mean square of all cars' errors, times
a scale; it knows no state. <b>None</b>: the odometry counts as exact.</p>"""
