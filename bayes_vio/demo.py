"""Show the whole way on a machine with nothing: simulate, fit, run the node, judge it."""

from __future__ import annotations

import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import AXES, AXIS_UNITS
from bayes_vio.data.bags import open_streams
from bayes_vio.data.samples import ReferenceStream
from bayes_vio.data.sync import increments_between
from bayes_vio.evaluation import evaluate
from bayes_vio.filters.consistency import nees
from bayes_vio.fit import FitSettings, fit
from bayes_vio.geometry import se3
from bayes_vio.progress import FitDisplay
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from bayes_vio.training.map_fit import MapFitSettings


@dataclass(frozen=True)
class DemoSettings:
    """How much of everything: drives and their length (s), epochs, seconds played live."""

    train_drives: int = 6
    drive_s: float = 60.0
    held_out_s: float = 60.0
    epochs: int = 10
    curvature_samples: int = 500
    live_s: float = 45.0
    seed: int = 0


def demo(
    out: Path = Path("out/demo"),
    settings: DemoSettings | None = None,
    console: Console | None = None,
) -> Path:
    """Run the demonstration in a folder and return the path of its report page.

    Without rclpy the live part is left out, which the output says.
    """
    settings, console = settings or DemoSettings(), console or Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    train, validation, held_out = _simulate(out / "bags", settings, console)
    artifact = out / "artifact"
    _fit(train, validation, artifact, settings, console)
    if importlib.util.find_spec("rclpy") is None:
        console.print("rclpy is not installed: the live part is left out (`bayes-vio doctor`)")
    else:
        console.print(_live(held_out, artifact, out, settings, console))
    report = evaluate(artifact, [held_out], out / "report")
    console.print(report["summary"]["headline"], markup=False)
    page = (out / "report" / "report.html").resolve()
    console.print(f"Report: {page}", markup=False, soft_wrap=True)
    return page


def _simulate(
    folder: Path, settings: DemoSettings, console: Console
) -> tuple[list[Path], list[Path], Path]:
    """Write the drives, each in a world of its own; drives that are there already are kept."""
    n = settings.train_drives
    names = [f"train_{i}" for i in range(n)] + ["validation", "held_out"]
    lengths_s = [settings.drive_s] * (n + 1) + [settings.held_out_s]
    jobs = [
        (
            folder / name,
            SimulationSettings(
                drive=DriveSettings(duration_s=length_s), seed=settings.seed * 1000 + i
            ),
        )
        for i, (name, length_s) in enumerate(zip(names, lengths_s, strict=True))
        if not (folder / name).exists()
    ]
    console.print(f"Simulating {len(jobs)} drives, {sum(lengths_s) / 60:.0f} minutes")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=spawn) as pool:
        for done in [pool.submit(simulate, path, drive) for path, drive in jobs]:
            done.result()
    paths = [folder / name for name in names]
    return paths[:n], [paths[n]], paths[n + 1]


def _fit(
    train: list[Path],
    validation: list[Path],
    artifact: Path,
    settings: DemoSettings,
    console: Console,
) -> MotionArtifact:
    fit_settings = FitSettings(
        map=MapFitSettings(epochs=settings.epochs, seed=settings.seed),
        curvature_samples=settings.curvature_samples,
        seed=settings.seed,
    )
    with FitDisplay(console) as display:
        return fit(train, validation, artifact, fit_settings, observer=display)


def _live(bag: Path, artifact: Path, out: Path, settings: DemoSettings, console: Console) -> Table:
    """Play the held-out drive to the real node over DDS and judge what it published."""
    from bayes_vio.ros.player import PlaySettings
    from bayes_vio.ros.replay import latency_s, replay

    console.print(f"Playing {settings.live_s:.0f} s of {bag.name} to the node over DDS")
    played = PlaySettings(
        remap={"/ground_truth/odometry": "reference"}, duration_s=settings.live_s, wait_s=10.0
    )
    parameters = {"artifact": str(artifact.resolve())}
    result = replay(bag, parameters, out / "node.log", played)
    np.savez_compressed(out / "published.npz", **result.arrays)  # pyright: ignore[reportArgumentType]
    reference = open_streams(bag).reference
    assert reference is not None  # a simulated drive has one
    error, cov = published_errors(result.arrays, reference, result.played.stamp_shift_ns)
    latency_ms = 1e3 * latency_s(result.arrays)
    sent = result.played.counts.get("/image", 0)
    title = (
        f"As published: {len(latency_ms)} odometry messages for {sent} images, latency "
        f"{np.median(latency_ms):.0f} ms (p99 {np.percentile(latency_ms, 99):.0f} ms), "
        f"NEES/6 {nees(error, cov).mean() / 6:.2f}"
    )
    return _table(title, error, cov)


def published_errors(
    arrays: dict[str, np.ndarray], reference: ReferenceStream, stamp_shift_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return errors [n, 6] of published relative poses (right perturbation) and covs [n, 6, 6]."""
    start_ns = arrays["relative_pose_earlier_stamp_ns"] - stamp_shift_ns
    end_ns = arrays["relative_pose_stamp_ns"] - stamp_shift_ns
    truth, known = increments_between(reference, start_ns, end_ns)
    T_estimated = torch.from_numpy(arrays["relative_pose_T"][known])
    T_true = se3.exp(torch.from_numpy(truth[known]))
    return se3.log(se3.inverse(T_estimated) @ T_true).numpy(), arrays["relative_pose_cov"][known]


def _table(title: str, error: np.ndarray, cov: np.ndarray) -> Table:
    std = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    table = Table(title=title, title_justify="left")
    table.add_column("per increment")
    for column in ("RMS error", "median sigma", "within 2 sigma"):
        table.add_column(column, justify="right")
    for i, (axis, unit) in enumerate(zip(AXES, AXIS_UNITS, strict=True)):
        rms = np.sqrt(np.mean(error[:, i] ** 2))
        held = np.mean(np.abs(error[:, i]) < 2 * std[:, i])
        table.add_row(
            axis, f"{rms:.1e} {unit}", f"{np.median(std[:, i]):.1e} {unit}", f"{100 * held:.0f} %"
        )
    return table
