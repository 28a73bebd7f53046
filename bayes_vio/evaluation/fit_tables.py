"""Tables of the fit report, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bayes_vio.evaluation.markup import DASH, Cell, number, table
from bayes_vio.evaluation.verdict import grouped

Parts = Sequence[tuple[str, dict]]
_USES = {"train": "learn", "validation": "choose"}
_MIB = 1024 * 1024


def recordings(parts: Parts) -> str:
    """Return what each recording is and holds."""
    heads = ["recording", "used to", "length", "driven", "median speed", "brightness", "samples"]
    return table(
        heads,
        [_recording_row(use, part) for use, part in parts],
        "Samples are pairs of images with a reference, 1 to 5 images apart; brightness is the "
        "mean gray level, 1st to 99th percentile of the images.",
    )


def _recording_row(use: str, part: dict) -> list[Cell]:
    driven, light = part["driven"], part["brightness"]
    distance = number(driven["distance_m"], 0, "m") if driven else DASH
    speed = number(driven["speed_m_s"]["median"], 1, "m/s") if driven else DASH
    return [
        Cell(escape(part["name"])),
        Cell(_USES[use]),
        Cell(number(part["duration_s"], 0, "s")),
        Cell(distance),
        Cell(speed),
        Cell(f"{light['p1']:.0f}&ndash;{light['p99']:.0f}"),
        Cell(grouped(part["samples"])),
    ]


def streams(parts: Parts) -> str:
    """Return rate, jitter and gaps of each recording's images and IMU."""
    heads = ["stream", "images", "rate", "jitter", "gaps", "longest"]
    heads += ["IMU", "rate", "jitter", "holes", "longest"]
    rows = [
        [
            Cell(escape(part["name"])),
            *_timing(part["images"], "gaps"),
            *(_timing(part["imu"], "holes") if part["imu"] else [Cell("none")] + 4 * [Cell(DASH)]),
        ]
        for _, part in parts
    ]
    return table(
        heads,
        rows,
        "Jitter: robust standard deviation of the intervals. A gap is an interval of one and a "
        "half usual ones or more; a hole is one too long to interpolate the IMU across.",
    )


def _timing(timing: dict, gaps: str) -> list[Cell]:
    return [
        Cell(grouped(timing["count"])),
        Cell(number(timing["rate_hz"], 1, "Hz")),
        Cell(number(timing["jitter_ms"], 1, "ms")),
        Cell(grouped(timing[gaps]), "bad" if timing[gaps] else ""),
        Cell(number(timing["longest_gap_s"], 2, "s")),
    ]


def references(parts: Parts) -> str:
    """Return how good each recording's reference is."""
    heads = ["reference", "rate", "gaps", "longest", "position<br>noise", "rotation<br>noise"]
    heads += ["off the<br>gyro", "yaw<br>correlation", "gyro<br>bias"]
    return table(
        heads,
        [_reference_row(part) for _, part in parts if part["reference"]],
        "Noise of one pose, at most: from second differences of its increments. Off the gyro: RMS "
        "over the axes, per image interval, after the time offset and a constant bias.",
    )


def _reference_row(part: dict) -> list[Cell]:
    reference, gyro = part["reference"], part["reference"]["gyro"]
    agreement = [Cell(DASH)] * 3
    if gyro:
        off = sum(value**2 for value in gyro["rms_deg"]) ** 0.5
        bias = sum(value**2 for value in gyro["bias_deg_s"]) ** 0.5
        agreement = [
            Cell(number(off, 3, "deg")),
            Cell(number(gyro["yaw_correlation"], 4)),
            Cell(number(bias, 3, "deg/s")),
        ]
    millimetres = reference["position_noise_m"]
    return [
        Cell(escape(part["name"])),
        Cell(number(reference["rate_hz"], 1, "Hz")),
        Cell(grouped(reference["gaps"]), "bad" if reference["gaps"] else ""),
        Cell(number(reference["longest_gap_s"], 2, "s")),
        Cell(number(None if millimetres is None else 1e3 * millimetres, 1, "mm")),
        Cell(number(reference["rotation_noise_deg"], 4, "deg")),
        *agreement,
    ]


def dropped(parts: Parts) -> str:
    """Return what was left out, and why, of the recordings where something was."""
    rows = [
        [Cell(escape(part["name"])), Cell(_left_out(part))]
        for _, part in parts
        if part["dropped"] or part["note"]
    ]
    if not rows:
        return '<p class="note">Nothing was left out of any recording.</p>'
    return table(["left out", "count and cause"], rows, "What a recording held but did not serve.")


def _left_out(part: dict) -> str:
    told = [
        f"{grouped(count)} &times; {escape(cause)}" for cause, count in part["dropped"].items()
    ]
    return f'<span class="wrap">{"; ".join([*told, *filter(None, [escape(part["note"])])])}</span>'


def storage(posterior: dict) -> str:
    """Return what each structure would store, and which this posterior has."""
    diagonal = posterior["storage"]["diagonal"]
    rows = [
        [
            Cell(f"{escape(name)}{' (this one)' if name == posterior['structure'] else ''}"),
            Cell(grouped(count)),
            Cell(number(4 * count / _MIB, 2, "MiB")),
            Cell(f"{count / diagonal:.1f} &times; diagonal"),
        ]
        for name, count in posterior["storage"].items()
    ]
    outside = [part for part in posterior["uncovered"] if part["n_parameters"]]
    kept = "; ".join(
        f"{escape(part['name'] or ', '.join(part['parameters']))} "
        f"({grouped(part['n_parameters'])}: {escape(part['reason'])})"
        for part in outside
    )
    return table(
        ["structure", "numbers stored", "in 32 bits", "beside a diagonal"],
        rows,
        f"Of {grouped(posterior['parameters'])} weights "
        f"{100 * posterior['covered_share']:.0f} % carry uncertainty. "
        + (f"Kept at their best values, without any: {kept}." if kept else "None is left out."),
    )


def regime(scores: dict) -> str:
    """Return what the regime classifier is worth on validation, and where it draws the line."""
    rows = [
        [
            Cell(what),
            Cell(_share(scores[f"{name}_accuracy"])),
            Cell(", ".join(f"{c} {_share(s)}" for c, s in by_class.items()) or DASH),
        ]
        for name, what in (("image", "state of an image"), ("ego_motion", "what the car does"))
        for by_class in [scores[f"{name}_accuracy_by_class"]]
    ]
    limits = scores["thresholds"]
    return table(
        ["told apart", "right", "by class"],
        rows,
        f"On validation images, spoiled as in training. An image is doubted where it is not "
        f"nominal with a probability above {limits['doubtful_fault']:.2f}, or its mutual "
        f"information exceeds {limits['doubtful_information']:.3f} nats: so are "
        f"{_share(scores['spoiled_noticed'])} of spoiled images and "
        f"{_share(1 - scores['nominal_kept'])} of nominal ones. Above "
        f"{limits['unusable_fault']:.3f} it is left out.",
    )


def _share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f} %"
