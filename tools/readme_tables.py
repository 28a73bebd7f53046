"""Write the README's tables from the JSON that the benchmarks left: figures have one source.

    python tools/readme_tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a file of
benchmarks/results, or has one in SOURCES. With --check nothing is written, and a difference is an
error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibration_tables import (
    accumulated,
    bad_days,
    epistemic,
    smoother,
    smoother_bad_days,
)
from classifier_tables import cifar_ood, ella_vit, mnist_ood, prior_search, sparse_dropout
from glance_table import glance
from node_tables import held_up, node, soak
from posterior_tables import (
    curvature_pass,
    equal_storage,
    negative_corrections,
    number_formats,
    peers,
    sampling,
    storage,
)
from use_tables import closed_loop, planning, regime

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


CHOSEN = {
    "adapted": "Training began with weights that benchmarks/odometry.py fits on rendered drives "
    "(chosen on validation against random ones).",
    "from_scratch": "Training began with random weights (chosen on validation).",
}


def real_car(r: dict[str, Any]) -> list[str]:
    """Return the first figures on a real car."""
    f = r["test_figures"]
    lines = [
        "**A real car** (`python benchmarks/real_car.py --start-from FITTED --test --live`): "
        "KITTI as bags, "
        f"trained on {', '.join(r['train'])}, validated on {', '.join(r['validation'])}, tested "
        f"on {r['test']} (frames 0-299, {f['path_length_m']:.0f} m). {CHOSEN[r['chosen']]} First "
        f"figures, from 62 s of driving with camera and IMU: read them as a baseline.",
        "",
        "| axis | RMS error per frame | median sigma | errors in their 95 % interval |",
        "|---|---|---|---|",
    ]
    for name, axis in f["axes"].items():
        unit = "rad" if name.startswith("rot") else "m"
        lines.append(
            f"| {name} | {axis['rmse']:.1e} {unit} | {axis['sigma_median']:.1e} {unit} "
            f"| {100 * axis['in_95_percent_interval']:.0f} % |"
        )
    live, zero_shot = r["live"], r["judged_on_test"]["zero_shot"][r["test"]]
    inside = zero_shot["axes"]["x"]["in_95_percent_interval"]
    lines += [
        "",
        f"Speed is wrong by {f['speed_rms_percent']:.1f} % (RMS), yaw by {f['yaw_rms_deg']:.3f} "
        f"deg a frame; drift {f['t_rel_percent']:.1f} % and {f['r_rel_deg_per_100m']:.2f} deg per "
        f"100 m; NEES / 6 = {f['nees_over_6']:.2f} (1 is true). Without any frame of a real "
        "camera seen (zero-shot) speed is wrong by "
        f"{zero_shot['speed_rms_percent']:.1f} %, in its 95 % interval in {100 * inside:.0f} % of "
        "the frames. Over DDS the real node published "
        f"{live['odometry_received']} odometry messages for {live['images_played']} images, "
        f"latency {live['latency_p50_ms']:.0f} ms (p99 {live['latency_p99_ms']:.0f} ms), of which "
        "64 ms are the lag of the IMU's stamps.",
    ]
    return lines


def fit_memory(r: dict[str, Any]) -> list[str]:
    """Return the memory of a fit."""
    return [
        f"**Fitting** (`python benchmarks/fit_memory.py`): a bag of {r['bag_minutes']:.0f} "
        f"minutes takes {r['peak_resident_gib']:.2f} GiB at most.",
    ]


def posterior_latency(r: dict[str, Any]) -> list[str]:
    """Return the predictive's times beside one forward pass."""
    lines = [
        "**The predictive** (`python benchmarks/posterior_latency.py`): all weights, INF of rank "
        f"{r['rank']}, full 6x6 covariance, batch 1, {r['threads']} thread of {r['device']}. "
        "Recorded: replayed from a tape, as the node does it.",
        "",
        "| net | parameters | forward | with covariance | recorded (p99) | 30 weight samples |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("motion_model", "reference_cnn"):
        net, inf = r[name], r[name]["inf"]
        lines.append(
            f"| {name.replace('_', ' ')} | {net['parameters'] / 1e3:.0f} k "
            f"| {inf['forward_ms']:.2f} ms | {inf['predictive_ms']:.1f} ms "
            f"| {inf['captured_ms']:.1f} ms ({inf['captured_p99_ms']:.1f}) "
            f"| {inf['thirty_samples_ms']:.0f} ms |"
        )
    return lines


def reading(r: dict[str, Any]) -> list[str]:
    """Return how fast recordings are read."""
    return [
        f"**Reading** (`python benchmarks/reading.py`): decoding and flow run at "
        f"{r['first_pass_frames_per_s']:.0f} frames/s (fastest pass "
        f"{r['first_pass_fastest_frames_per_s']:.0f}) with {r['workers']} workers on {r['cores']} "
        f"cores, two flows an image, {r['first_pass_cpu_ms_per_frame']:.1f} ms of CPU per "
        f"frame. "
        f"Once they are cached, opening, aligning and cutting {r['frames']} frames into samples "
        f"takes {r['open_align_and_cut_s']:.2f} s.",
    ]


def odometry(r: dict[str, Any]) -> list[str]:
    """Return every method's drift and calibration on the semi-synthetic test drives."""
    v = r["test"]
    lines = [
        "**Odometry beside its peers** (`python benchmarks/odometry.py --samples 400 --members "
        "ARTIFACT... --test`; `make bench-odometry` on validation): semi-synthetic drives, that "
        "is a real car's trajectory and IMU with rendered frames; test "
        f"{', '.join(v['evaluated_on'])}, all calibrated by one rule on "
        f"{', '.join(v['calibrated_on'])} and training.",
        "",
        "| method | t_rel | r_rel per 100 m | NEES / 6 at 1, 10, 100 frames | NLL at 1, 10, 100 |",
        "|---|---|---|---|---|",
    ]
    for name, m in v["methods"].items():
        horizons = [m["horizons"][h] for h in ("1", "10", "100")]
        nees = ", ".join(f"{h['nees_over_6']:.2f}" for h in horizons)
        nll = ", ".join(f"{h['nll']:.2f}" for h in horizons)
        drift = m["drift"]
        lines.append(
            f"| {name} | {drift['t_rel_percent']:.1f} % | {drift['r_rel_deg_per_100m']:.2f} deg "
            f"| {nees} | {nll} |"
        )
    return [*lines, "", _best_likelihood(v["methods"])]


def _best_likelihood(methods: dict[str, Any]) -> str:
    """Say whose likelihood of a single frame is best, and what doubt about inputs costs."""
    nll = {name: m["horizons"]["1"]["nll"] for name, m in methods.items()}
    told = "Best likelihood of a frame: " + ", then ".join(sorted(nll, key=nll.__getitem__)[:3])
    published, alone = nll["INF (as published)"], nll.get("INF alone")
    if alone is None:
        return f"{told}."
    cost = f"{published - alone:.2f} nats"
    return f"{told}. Published are also doubts about unusual inputs, which cost {cost} here."


# Where a table is not named after the file of results that it shows.
SOURCES = {"negative_corrections": "equal_storage", "glance": "odometry", "soak": "soak_hour"}


TABLES = {
    t.__name__: t
    for t in (
        glance,
        real_car,
        node,
        soak,
        held_up,
        posterior_latency,
        reading,
        fit_memory,
        storage,
        equal_storage,
        negative_corrections,
        number_formats,
        peers,
        sampling,
        curvature_pass,
        mnist_ood,
        cifar_ood,
        ella_vit,
        prior_search,
        sparse_dropout,
        odometry,
        planning,
        closed_loop,
        regime,
        bad_days,
        epistemic,
        accumulated,
        smoother,
        smoother_bad_days,
    )
}


def rewritten(text: str, tables: dict[str, Callable[[dict[str, Any]], list[str]]]) -> str:
    """Return the README's text with every marked table made anew from its JSON."""

    def table(match: re.Match[str]) -> str:
        name = match[2]
        result = json.loads((RESULTS / f"{SOURCES.get(name, name)}.json").read_text())
        return match[1] + "\n".join(tables[name](result)) + "\n" + match[3]

    return MARKED.sub(table, text)


def main() -> int:
    """Write the tables, or with --check return 1 where they are not what the JSON says."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    new = rewritten(text, TABLES)
    if "--check" in sys.argv:
        return int(new != text)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
