"""Evaluate an artifact on recordings: open, play, measure, report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.choices import Predictive
from bayes_vio.data.bag_files import check_distinct, distinct_names
from bayes_vio.data.bags import Topics, open_streams
from bayes_vio.data.samples import Extrinsics, Streams
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation import report
from bayes_vio.evaluation.play import play
from bayes_vio.evaluation.run import Run
from bayes_vio.predictive_choice import PredictiveChoice, choose_predictive

Progress = Callable[[str, int, int], None]


def evaluate(
    artifact_path: Path,
    bag_paths: Sequence[Path],
    out_dir: Path,
    topics: Topics | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    extrinsics: Extrinsics | None = None,
    predictive: Predictive = Predictive.AUTO,
    latency_budget_s: float | None = None,
) -> dict:
    """Play each bag through the estimator, write report.json and report.html, return the report.

    progress is called with (recording, images fed, images in all); extrinsics replace those of
    the recordings; predictive and latency_budget_s are those of `predictive_choice`. The report's
    keys stand in `bayes_vio.evaluation.report`. Raises
    ArtifactError, BagError or ValueError, each with a sentence that says what is at fault.
    """
    if not bag_paths:
        raise ValueError("There is no recording to evaluate on: name at least one bag.")
    bag_paths = [Path(path) for path in bag_paths]
    check_distinct(bag_paths)
    with _one_thread():
        whole = MotionArtifact.load(Path(artifact_path), device)
        choice = choose_predictive(whole, predictive, latency_budget_s)
    artifact = choice.artifact
    runs: list[Run] = []
    sources: list[dict] = []
    for path, name in zip(bag_paths, distinct_names(bag_paths), strict=True):
        streams = replace(open_streams(path, topics, extrinsics), name=name)
        runs.append(_run(artifact, streams, progress))
        sources.append(_source(path, streams))
    facts = artifact_facts(Path(artifact_path), choice, device)
    described = report.describe(
        runs, facts, artifact.epistemic_correlation_s, sources, artifact.noise_correlation
    )
    report.write(Path(out_dir), described, runs)
    return described


def _run(artifact: MotionArtifact, streams: Streams, progress: Progress | None) -> Run:
    estimator = Estimator(artifact, camera=streams.camera, extrinsics=streams.extrinsics)
    with _one_thread():
        if progress is None:
            return play(estimator, streams)
        return play(estimator, streams, lambda done, total: progress(streams.name, done, total))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch on one thread, as the node does, so that latencies are the node's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def artifact_facts(path: Path, choice: PredictiveChoice, device: str) -> dict:
    """Return what the report tells of an artifact, as JSON values."""
    described, artifact = read_description(path), choice.artifact
    return {
        "path": path.name,
        "sha256": described["sha256"],
        "device": device,
        "time_offset_s": artifact.time_offset_s,
        "epistemic_correlation_s": finite(artifact.epistemic_correlation_s),
        "noise_correlation": {
            "time_s": list(artifact.noise_correlation.time_s),
            "share": list(artifact.noise_correlation.share),
        },
        "dt_range_s": list(artifact.dt_range_s),
        "extrinsics": described["extrinsics"],
        "posterior": json_value(artifact.posterior.report),
        "predictive": {
            "name": choice.predictive.value,
            "layers": choice.n_layers,
            "layers_in_all": choice.n_all,
            "kept_variance_share": choice.kept_variance_share,
            "duration_s": choice.duration_s,
            "latency_budget_s": choice.budget_s,
        },
        "metadata": artifact.metadata,
    }


def _source(path: Path, streams: Streams) -> dict:
    camera, reference = streams.camera, streams.reference
    return {
        "path": path.name,
        "sha256": _sha256(path),
        "images": len(streams.image_stamp_ns),
        "imu_samples": 0 if streams.imu is None else len(streams.imu.stamp_ns),
        "reference_poses": 0 if reference is None else len(reference.stamp_ns),
        "camera": f"{camera.width} x {camera.height}, {camera.distortion}",
        "extrinsics": streams.extrinsics.source,
    }


def _sha256(path: Path) -> str:
    """Return the hash of a bag: of its file, or of all files of its folder in order of names."""
    digest = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def finite(value: float) -> float | None:
    """Return a number, or None where JSON has no word for it."""
    return float(value) if np.isfinite(value) else None


def json_value(value: Any) -> Any:
    """Return a value made of dataclasses, enums, arrays and paths as one made of JSON's types."""
    if is_dataclass(value) and not isinstance(value, type):
        return json_value(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_value(v) for v in value]
    if isinstance(value, np.ndarray):
        return json_value(value.tolist())
    if isinstance(value, Enum):
        return json_value(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return finite(float(value)) if isinstance(value, (float, np.floating)) else str(value)
