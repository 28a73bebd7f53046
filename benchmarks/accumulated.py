"""Is the accumulated pose's covariance true? Three treatments of what frames have in common.

    python benchmarks/accumulated.py BAG... [--artifact FOLDER] [--exact N]

Compounds the increments of held-out bags over stretches of 100 m and 500 m, and over each whole
bag, with the epistemic error taken as independent in every frame ("white"), as a process of the
artifact's measured correlation time ("time"), and coherently, as the transported sum of features
("sum", as published). The same noise is in all. On the first N bags the sum over all weights is
carried as well, without a sketch: the dense truth E-A3, which each treatment's epistemic
covariance is held against.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from bayes_vio.artifact import MotionArtifact, default_artifact_path, read_description
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.evaluation.trajectory import right_error
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.filters.consistency import nees
from bayes_vio.filters.transported import TransportedSum
from bayes_vio.geometry import se3
from bayes_vio.models.noise import WHITE_NOISE
from bayes_vio.posterior.sketch import FeatureSketch, whitened_jacobian

Array = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "accumulated.json"
TREATMENTS = ("white", "time", "sum")
STRETCHES_M = {"100 m": 100.0, "500 m": 500.0}
END = "end"
_START_COV, _STD_BOUND = np.diag(np.full(6, 1e-14)), np.full(6, 1e9)


@dataclass(frozen=True)
class Frame:
    """One increment: estimate and truth [4, 4], covariances [6, 6], features [6, size], all of
    right perturbations; ``exact`` [6, weights], the features before their sketch, or None."""

    T: Array
    T_true: Array
    epistemic_cov: Array
    noise_cov: Array
    features: Array
    exact: Array | None
    dt_s: float


def frames(artifact: MotionArtifact, dataset: MotionDataset, exact: bool) -> Iterator[Frame]:
    """Yield a drive's increments in order of time."""
    sketch, dt_s = FeatureSketch(), dataset.dt_s
    for start in range(0, len(dataset), 8):
        rows = np.arange(start, min(start + 8, len(dataset)))
        x, target = dataset.batch(rows)
        p, Z = artifact.predict_features(x, sketch)
        J_r = se3.right_jacobian(p.mean)
        epistemic, noise = (J_r @ cov @ J_r.mT for cov in (p.epistemic_cov, p.noise_cov))
        T, T_true, Z = se3.exp(p.mean), se3.exp(target.double()), J_r @ Z
        Phi = whitened_jacobian(artifact.posterior, x) if exact else None
        for i, row in enumerate(rows):
            whole = None if Phi is None else (J_r[i] @ Phi[i]).numpy()
            yield Frame(
                T[i].numpy(),
                T_true[i].numpy(),
                epistemic[i].numpy(),
                noise[i].numpy(),
                Z[i].numpy(),
                whole,
                float(dt_s[row]),
            )


class Stretch:
    """The compound of consecutive increments under every treatment."""

    def __init__(self, artifact: MotionArtifact):
        tau_s, lasting = artifact.epistemic_correlation_s, artifact.noise_correlation
        times = {"white": 0.0, "time": tau_s, "sum": tau_s}
        self._whole = {k: Odometry(t, _START_COV, _STD_BOUND, lasting) for k, t in times.items()}
        self._epistemic = {
            k: Odometry(t, _START_COV, _STD_BOUND, WHITE_NOISE) for k, t in times.items()
        }
        self._exact, self._T_true = TransportedSum.empty(), np.eye(4)
        self.length_m, self.frames = 0.0, 0

    def add(self, frame: Frame) -> None:
        """Append an increment."""
        nothing = np.zeros((6, 6))
        for name in TREATMENTS:
            features = frame.features if name == "sum" else None
            T, E, dt_s = frame.T, frame.epistemic_cov, frame.dt_s
            self._whole[name].add(T, frame.noise_cov, E, dt_s, features)
            self._epistemic[name].add(T, nothing, E, dt_s, features)
        if frame.exact is not None:
            A = se3.adjoint(se3.inverse(torch.from_numpy(frame.T))).numpy()
            self._exact = self._exact.moved(A).plus(frame.exact)
        self._T_true = self._T_true @ frame.T_true
        self.length_m += float(np.linalg.norm(frame.T_true[:3, 3]))
        self.frames += 1

    def result(self) -> dict:
        """Return the error at the end, and every treatment's covariances."""
        T = self._whole["sum"].T_odom_base
        return {
            "error": right_error(T[None], self._T_true[None])[0],
            "cov": {k: o.cov for k, o in self._whole.items()},
            "epistemic_cov": {k: o.cov - _START_COV for k, o in self._epistemic.items()},
            "exact_cov": self._exact.cov if self._exact.value.size else None,
        }


def compounds(artifact: MotionArtifact, bag: Path, cache: Path, exact: bool) -> dict[str, list]:
    """Return the results of a bag's stretches by length, in a row, and of the whole of it."""
    recording = prepare(open_streams(bag), cache).with_time_offset(artifact.time_offset_s)
    rows = np.flatnonzero(recording.samples.stride == 1)
    pairs = recording.frames.pairs[recording.samples.pair[rows]]
    if any(a[1] != b[0] for a, b in pairwise(pairs)):
        raise ValueError(f"{bag} misses frames: its increments make no chain")
    whole, found = Stretch(artifact), {horizon: [] for horizon in (*STRETCHES_M, END)}
    stretches = {horizon: Stretch(artifact) for horizon in STRETCHES_M}
    for frame in frames(artifact, MotionDataset([recording], (1,)), exact):
        whole.add(frame)
        for horizon, length_m in STRETCHES_M.items():
            stretches[horizon].add(frame)
            if stretches[horizon].length_m >= length_m:
                found[horizon].append(stretches[horizon].result())
                stretches[horizon] = Stretch(artifact)
    found[END].append(whole.result())
    print(f"{bag.name}: {whole.frames} frames, {whole.length_m:.0f} m", flush=True)
    return found


def judge(results: list[dict], name: str) -> dict:
    """Return how true one treatment's covariance is, over stretches."""
    error = np.stack([r["error"] for r in results])
    cov = np.stack([r["cov"][name] for r in results])
    squared = nees(error, cov)
    std = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    epistemic = np.stack([r["epistemic_cov"][name] for r in results])
    share = np.diagonal(epistemic, axis1=1, axis2=2) / std**2
    levels = {f"{p:g}": float((squared < stats.chi2.ppf(p, 6)).mean()) for p in (0.5, 0.9, 0.95)}
    return {
        "count": len(results),
        "nees_over_6": float(squared.mean() / 6),
        "median_nees_over_expected": float(np.median(squared) / stats.chi2.median(6)),
        "coverage": levels,
        "nees_per_axis": ((error / std) ** 2).mean(0).tolist(),
        "coverage_95_per_axis": (np.abs(error) < 1.959964 * std).mean(0).tolist(),
        "median_std": np.median(std, axis=0).tolist(),
        "epistemic_share": np.median(share, axis=0).tolist(),
    }


def against_exact(results: list[dict], name: str) -> dict:
    """Return how a treatment's epistemic covariance compares with the sum over all weights.

    ``expected_nees_over_6`` is what errors drawn from the posterior have under it: 1 is exact.
    """
    pairs = [(r["epistemic_cov"][name], r["exact_cov"]) for r in results]
    ratio = [np.trace(np.linalg.solve(C, truth)) / 6 for C, truth in pairs]
    std = [np.sqrt(np.diagonal(C) / np.diagonal(truth)) for C, truth in pairs]
    return {
        "expected_nees_over_6": float(np.mean(ratio)),
        "std_over_exact_per_axis": np.median(std, axis=0).tolist(),
        "std_over_exact_extremes": [float(np.min(std)), float(np.max(std))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("bags", nargs="+", type=Path)
    parser.add_argument("--artifact", type=Path, default=default_artifact_path())
    parser.add_argument("--work", type=Path, default=Path("out/accumulated"))
    parser.add_argument("--exact", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    artifact = MotionArtifact.load(arguments.artifact)
    results: dict[str, list] = {horizon: [] for horizon in (*STRETCHES_M, END)}
    for number, bag in enumerate(arguments.bags):
        found = compounds(artifact, bag, arguments.work, number < arguments.exact)
        for horizon, parts in found.items():
            results[horizon] += parts
    report = {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bags": [bag.name for bag in arguments.bags],
        "artifact_sha256": read_description(arguments.artifact)["sha256"],
        "epistemic_correlation_s": artifact.epistemic_correlation_s,
        "horizons": {
            horizon: {name: judge(parts, name) for name in TREATMENTS}
            for horizon, parts in results.items()
            if parts
        },
        "epistemic_against_exact_sum": {
            horizon: {name: against_exact(known, name) for name in TREATMENTS}
            for horizon, parts in results.items()
            if (known := [r for r in parts if r["exact_cov"] is not None])
        },
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
