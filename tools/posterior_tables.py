"""The README's tables on the posterior: its storage, accuracy and speed."""

from __future__ import annotations

from typing import Any


def storage(r: dict[str, Any]) -> list[str]:
    """Return what INF stores of image nets, and the trace it keeps."""
    lines = [
        "**Storage of whole nets** (`python benchmarks/storage.py`): fp32 MiB with all diagonals, "
        "norms included, and the share of the trace that the low ranks keep (network / mean of "
        f"layers), by the published rule at rank {r['rank']} and by ours, grids of at most "
        f"{r['largest_grid']}. Random weights; images of CIFAR-10.",
        "",
        "| net (images, pixels) | diagonal | EFB | published rule | ours, same size "
        "| ours, poster's INF |",
        "|---|---|---|---|---|---|",
    ]
    for name, net in r["nets"].items():
        label = f"{name} ({net['n_images']}, {net['image_size']})"
        cells = [f"{net['diagonal_mib_fp32']:.1f}", f"{net['efb_mib_fp32']:.1f}"]
        for key in ("published_rule", "ours_same_numbers", "ours_poster"):
            c = net.get(key)
            shares = c and f"{100 * c['kept_of_network']:.0f} / {100 * c['kept_of_layers']:.0f} %"
            cells.append(f"{c['mib_fp32']:.2f}: {shares}" if c else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


_EQUAL_ROWS = {
    "diagonal": "diagonal",
    "published": "published rank rule",
    "inf": "INF",
    "efb": "EFB",
}


def equal_storage(r: dict[str, Any]) -> list[str]:
    """Return INF beside diagonal and published rule, against dense truth."""
    rank = r["ranks"][-1]
    nets = {name: net["mean"]["equal_storage"] for name, net in r["nets"].items()}
    lines = [
        "**At equal storage** (`python benchmarks/equal_storage.py`): distance to the dense GGN "
        "(relative, Frobenius) and to its predictive covariance at unseen inputs (root mean "
        f"square log ratio), means of {len(r['seeds'])} seeds; of logits also without their "
        "common shift, which the likelihood does not see. INF has the numbers of the "
        f"published rule at rank {rank}; the diagonal stores less.",
        "",
        f"| | {' | '.join(f'{name}: numbers, GGN, predictive' for name in nets)} |",
        f"|---|{'---|' * len(nets)}",
    ]
    for key, label in _EQUAL_ROWS.items():
        rows = [net.get(key) or net[f"{key}_{rank}"] for net in nets.values()]
        cells = [f"{c['numbers']:.0f}, {c['ggn']:.2f}, {_predictive(c)}" for c in rows]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _predictive(cell: dict[str, Any]) -> str:
    """Return the distance of the predictive covariance, and of its part that is seen."""
    whole, visible = (f"{cell[key]:.2f}" for key in ("log_distance", "visible"))
    return whole if whole == visible else f"{whole} (seen: {visible})"


_TREATMENTS = {
    "zero": "zero, as published",
    "shrunk": "`Lam_L` shrunk, then zero",
    "dropped": "columns dropped, then zero",
    "rest": "what is not kept (ours)",
    "rest_at_least": "at least what is not kept, everywhere",
    "proportional": "the share not kept, of the exact diagonal",
    "proportional_at_least": "at least that, everywhere",
}


def negative_corrections(r: dict[str, Any]) -> list[str]:
    """Return what each treatment of negative corrections loses."""
    rank = r["ranks"][-1]
    nets = {name: net["mean"]["negative_corrections"] for name, net in r["nets"].items()}
    shares = ", ".join(
        f"{name} {100 * n[f'clamped_{rank}']['share']:.0f} % of the entries with "
        f"{100 * n[f'clamped_{rank}']['mass']:.1f} % of the trace"
        for name, n in nets.items()
    )
    lines = [
        "**Negative corrections** (`python benchmarks/equal_storage.py`): distance to the dense "
        f"GGN and to its predictive covariance, as above. Negative: {shares}.",
        "",
        f"| they become | {' | '.join(f'{name}: GGN, predictive' for name in nets)} |",
        f"|---|{'---|' * len(nets)}",
    ]
    for key, label in _TREATMENTS.items():
        rows = [net[f"{key}_{rank}"] for net in nets.values()]
        cells = [f"{c['ggn']:.2f}, {_predictive(c)}" for c in rows]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def number_formats(r: dict[str, Any]) -> list[str]:
    """Return what formats cost in predictive covariance."""
    lines = [
        "**Number formats** (`python benchmarks/number_formats.py`): what INF of rank 100 takes "
        "on disk, and by storing it so the largest relative changes of the predictive covariance "
        "and of one output's epistemic sigma.",
        "",
        "| net | float32 | bfloat16 | float8 | U in float8 too (not offered) |",
        "|---|---|---|---|---|",
    ]
    for name, net in r["nets"].items():
        cells = [f"{net['native']['bytes'] / 1024:.0f} KiB"]
        for key in ("bfloat16", "float8", "everything_float8"):
            size = net[key].get("bytes")
            own = net[key]["own"]
            worst = f"{100 * own['cov_max']:.2f} %, {100 * own['std_max']:.2f} %"
            cells.append(f"{size / 1024:.0f} KiB, {worst}" if size else worst)
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def peers(r: dict[str, Any]) -> list[str]:
    """Return every library's times at every network, and what each could not do."""
    versions = ", ".join(f"{name} {v}" for name, v in r["versions"].items())
    limits = r["limits"]
    lines = [
        "**Beside peers** (`python benchmarks/peers.py`): one "
        f"thread of {r['device']}, clock: {r['clock']}; {versions}; whole nets "
        "unless it says otherwise, exact Fisher, 6 outputs; fitted on 64 data, 16 at the ResNet "
        "and 8 at the DenseNets. A library's process may take "
        f"{limits['time_s']:.0f} s and {limits['memory_gib']:.0f} GiB.",
        "",
        "| net | library | fit | covariance / forward | a weight draw | peak memory | stored |",
        "|---|---|---|---|---|---|---|",
    ]
    failures = []
    for case, found in r["cases"].items():
        for name, row in found["peers"].items():
            net = case.replace("_", " ")
            failures += [f"- {net}, {name}, {text}" for text in _peer_errors(row)]
            if row["scope"]:
                lines.append(f"| {net} | {name} {_peer_cells(row)}")
    turns = {
        c: f["in_turns"]
        for c, f in r["cases"].items()
        if "slower_than_inf" in f.get("in_turns", {})
    }
    for case, found in turns.items():
        slower = found["slower_than_inf"]
        lines += [
            "",
            f"In turns at the {case.replace('_', ' ')}: INF's covariance takes "
            f"{found['inf_over_forward']:.1f} forward passes, "
            + ", ".join(f"{name} {x:.1f} times as long" for name, x in slower.items())
            + ".",
        ]
    summary = "<details><summary>What a library could not do, in its own words</summary>"
    return [*lines, "", summary, "", *failures, "", "</details>"]


def _peer_errors(row: dict[str, Any]) -> list[str]:
    """Return what a library said of what it could not do, each error once."""
    scopes: dict[str, list[str]] = {}
    for scope, error in row.get("errors", {}).items():
        scopes.setdefault(error, []).append(scope)
    return [f"{', '.join(names)}: `{error}`" for error, names in scopes.items()]


def _peer_cells(row: dict[str, Any]) -> str:
    """Return a row's cells after the library's name."""
    scope = "" if row["scope"] == "all weights" else f" ({row['scope']} alone)"
    ratio = f"{row['ratio']:.1f}" if "ratio" in row else "not offered"
    draw = f"{row['draw_ms']:.1f} ms" if "draw_ms" in row else "not offered"
    return (
        f"{scope} | {row['fit_s']:.1f} s | {ratio} | {draw} | {row['peak_bytes'] / 2**20:.0f} MiB "
        f"| {row['stored_bytes'] / 2**20:.1f} MiB |"
    )


def sampling(r: dict[str, Any]) -> list[str]:
    """Return how much networks side by side save."""
    motion = r["motion_model"]
    return [
        f"**Weight samples** (`python benchmarks/sampling.py`): {r['samples']} networks drawn and "
        f"run side by side take {motion['side_by_side_ms']:.0f} ms for the motion model, "
        f"{motion['swaps_over']:.1f} times less than one after the other; their random numbers "
        f"alone take {motion['random_numbers_ms']:.0f} ms.",
    ]


def curvature_pass(r: dict[str, Any]) -> list[str]:
    """Return what the curvature pass takes beside training, by either Fisher."""
    epochs = r["epochs_per_pass"]
    return [
        f"**The curvature pass** (`python benchmarks/curvature_pass.py`): on one thread "
        f"{r['wanted']} motion samples take as long as {epochs['probed']:.1f} training epochs "
        "on as many with the probed Fisher (what `bayes-vio fit` uses), "
        f"{epochs['type2']:.1f} with the "
        "exact one.",
    ]
