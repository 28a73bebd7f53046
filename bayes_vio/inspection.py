"""Show what an artifact is: its numbers as tables for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bayes_vio.artifact import ArtifactError, MotionArtifact, read_description
from bayes_vio.conventions import AXES, AXIS_UNITS, ROT_Z, X

_MIB = 1024 * 1024


def inspect_artifact(path: Path, console: Console | None = None) -> None:
    """Print an artifact's origin, fit metrics, regimes, posterior, storage and layers' shares.

    Raises ArtifactError where the folder is no whole artifact of this version, or its metadata is
    not what a fit writes.
    """
    console = console or Console(markup=False)  # names in a file are no markup
    description = read_description(path)
    artifact = MotionArtifact.load(path)
    try:
        tables = (
            _origin(path, description),
            _accuracy(artifact.metadata),
            _regime(artifact),
            _storage(artifact),
            _layers(artifact),
            _uncovered(artifact),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"artifact {path} holds metadata that no fit writes ({error}); it may still be run"
        ) from error
    for table in tables:
        if table is not None:
            console.print(table)


def _origin(path: Path, description: dict[str, Any]) -> Table:
    metadata = description["metadata"]
    table = _table(f"Artifact {path}", "what", "value")
    camera = description["camera"]
    low, high = description["dt_range_s"]
    rows = {
        "written by": f"bayes_vio {description['package_version']}",
        "format version": description["format_version"],
        "trained on": ", ".join(
            r["name"] for r in metadata.get("recordings", {}).get("train", [])
        ),
        "validated on": ", ".join(
            r["name"] for r in metadata.get("recordings", {}).get("validation", [])
        ),
        "parameters": metadata.get("parameters", "not recorded"),
        "camera": f"{camera['width']} x {camera['height']} px, {camera['distortion']}",
        "camera-IMU time offset": f"{1e3 * description['time_offset_s']:+.1f} ms",
        "intervals seen in training": f"{1e3 * low:.0f} to {1e3 * high:.0f} ms",
        "epistemic correlation time": f"{description['epistemic_correlation_s']:.1f} s",
        "noise that lasts": _lasting_noise(description["noise_correlation"]),
        "rotation by the gyro beyond": _crossover(description.get("crossover_s")),
        "noise where no camera sees": _factors(description, "imu_alone_scale"),
        "noise where no IMU tells": _factors(description, "camera_alone_scale"),
        "noise once the gyro's bias is known": _factors(description, "bias_known_scale"),
        "prior precision": f"{metadata.get('prior_precision', float('nan')):.3g}",
        **_continued(metadata),
    }
    for name, value in rows.items():
        table.add_row(name, _printable(str(value)))
    return table


def _continued(metadata: dict[str, Any]) -> dict[str, str]:
    """Return what an artifact tells of those that it continues, the youngest first."""
    rows = {}
    for age, ancestor in enumerate(reversed(metadata.get("ancestry", [])), 1):
        names = ", ".join(r["name"] for r in ancestor["recordings"]["train"]) or "not recorded"
        seal = ancestor["seal_sha256"][:12]
        rows["continues" if age == 1 else f"and that one, {age} back"] = f"{seal}, on {names}"
    if rows and "curves" in metadata:
        kept, rounds = metadata["curves"]["best_epoch"], metadata["curves"]["epochs"]
        rows["kept of the refit"] = (
            f"round {kept - 1} of {rounds - 1}, 0 being yesterday's weights"
        )
    misfit = metadata.get("update", {}).get("misfit", {})
    if misfit:
        share = 100 * sum(misfit.values()) / len(misfit)
        rows["new curvature outside its basis"] = f"{share:.0f} % of the trace, mean of layers"
    return rows


def _printable(text: str) -> str:
    """Return a file's text without what would command a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _lasting_noise(correlation: dict[str, Any]) -> str:
    triples = zip(AXES, correlation["share"], correlation["time_s"], strict=True)
    return ", ".join(f"{axis} {100 * share:.0f} % {tau:.1f} s" for axis, share, tau in triples)


def _crossover(times_s: list[float | None] | None) -> str:
    told = zip(AXES[3:], times_s or [None] * 3, strict=True)
    return ", ".join(f"{axis} never" if t is None else f"{axis} {t:.1f} s" for axis, t in told)


def _factors(description: dict[str, Any], name: str) -> str:
    scale = (description.get("circumstances") or {}).get(name, [1.0] * len(AXES))
    told = zip(AXES, scale, strict=True)
    return ", ".join(f"{axis} x {factor:.2f}" for axis, factor in told)


def _accuracy(metadata: dict[str, Any]) -> Table | None:
    rows = metadata.get("validation")
    if not rows:
        return None
    table = _table(
        "On the validation recordings, per increment",
        "axis",
        "RMS error",
        "median sigma",
        "epistemic share",
        "within 95 %",
        "noise scale",
    )
    for i, (axis, unit) in enumerate(zip(AXES, AXIS_UNITS, strict=True)):
        table.add_row(
            axis,
            f"{rows['rmse'][i]:.2e} {unit}",
            f"{rows['median_std'][i]:.2e} {unit}",
            f"{100 * rows['epistemic_share'][i]:.1f} %",
            f"{100 * rows['coverage_95'][i]:.1f} %",
            f"{rows['noise_scale'][i]:.2f}",
        )
    return table


def _regime(artifact: MotionArtifact) -> Table | None:
    """Return what the regime classifier is worth; None for an artifact without one."""
    if artifact.regime is None:
        return None
    limits, scores = artifact.regime.thresholds, artifact.metadata.get("regime", {})
    table = _table(
        "The regime classifier, on the validation recordings", "of", "right", "by class"
    )
    for name in ("image", "ego_motion"):
        by_class = scores.get(f"{name}_accuracy_by_class", {})
        parts = ", ".join(f"{c} {_percent(share) or 'none'}" for c, share in by_class.items())
        table.add_row(name, _percent(scores.get(f"{name}_accuracy")), _printable(parts))
    doubted = (
        f"where P(not nominal) > {limits.doubtful_fault:.2f} or mutual information > "
        f"{limits.doubtful_information:.3f} nats; left out above {limits.unusable_fault:.3f}"
    )
    table.add_row("doubted", _percent(scores.get("spoiled_noticed")), doubted)
    return table


def _storage(artifact: MotionArtifact) -> Table:
    table = _table("Storage of the posterior (fp32)", "structure", "MiB", "times diagonal")
    storage = artifact.posterior.storage
    for structure, numbers in storage.items():
        mark = "  <- this artifact" if structure == artifact.posterior.report.structure else ""
        size, ratio = 4 * numbers / _MIB, numbers / storage["diagonal"]
        table.add_row(f"{structure}{mark}", f"{size:.2f}", f"{ratio:.2f}")
    table.add_row(
        f"on disk, {artifact.posterior.number_format.value}",
        f"{artifact.posterior.nbytes / _MIB:.2f}",
        f"{artifact.posterior.nbytes / (4 * storage['diagonal']):.2f}",
    )
    return table


def _layers(artifact: MotionArtifact) -> Table:
    shares = artifact.metadata.get("variance_share", {})
    columns = ("kind", "sharing", "block", "grid", "kept trace", "clamped mass")
    table = _table(
        "Where the epistemic variance comes from", "layer", *columns, "share x", "share rotZ"
    )
    for layer in artifact.posterior.report.covered:
        low_rank, share = layer.sparsification, shares.get(layer.name)
        table.add_row(
            layer.name,
            layer.kind,
            layer.sharing or "",
            f"{layer.d_out} x {layer.d_in}",
            f"{low_rank.rank_g} x {low_rank.rank_a}" if low_rank else "",
            _percent(low_rank.kept_trace_share if low_rank else None),
            _percent(low_rank.clamped_mass if low_rank else None),
            _percent(share[X] if share else None),
            _percent(share[ROT_Z] if share else None),
        )
    return table


def _uncovered(artifact: MotionArtifact) -> Table:
    table = _table("Kept at the MAP, outside the posterior", "module", "parameters", "why")
    for part in artifact.posterior.report.uncovered:
        name = part.name or ", ".join(part.parameters)
        table.add_row(name, str(part.n_parameters), part.reason)
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    first, *others = columns
    # Names are wrapped where the terminal is narrow: cut off, layers look alike.
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right", overflow="fold")
    return table
