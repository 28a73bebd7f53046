"""Does epistemic uncertainty fall with data, and grow where training has not been?

    python benchmarks/epistemic.py data --train BAG... --validation BAG... [--cache FOLDER]
    python benchmarks/epistemic.py domain --artifact FOLDER --label NAME --known BAG...
                                          --other NAME=BAG... [--real BAG...]

`data` fits small networks alike on the samples of 1, 2, 4, ... drives, and measures the epistemic
covariance that each has on held-out drives, and that of one network given so many. `domain` plays
recordings to the estimator, those of the kind that an artifact was trained on and others, and
tells by how much the epistemic covariance grows and how well it separates the two (AUROC), with
and without what `models/reliability.py` adds; on real recordings also the errors of an artifact
that saw none of them. Recordings under test are not to be named. Figures go to
results/epistemic.json, a picture beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from bad_days import shortened
from epistemic_picture import draw
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bayes_vio.artifact import MotionArtifact, read_description
from bayes_vio.conventions import AXES
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.data.samples import MotionInput
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation.calibration import in_region_95
from bayes_vio.evaluation.play import play
from bayes_vio.evaluation.run import Run
from bayes_vio.filters.consistency import nees
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior import GaussianPrediction, Posterior, fit_posterior
from bayes_vio.training.map_fit import MapFitSettings, fit_map
from bayes_vio.training.recordings import even_rows

RESULT = Path(__file__).parent / "results" / "epistemic.json"
# Small fits: samples of each drive, steps of gradient, and a prior that all have.
SAMPLES_OF_DRIVE, STEPS, BATCH, PRIOR_PRECISION = 100, 150, 64, 100.0
HELD_OUT = 120
MEASURED = ("epistemic_std_median", "rmse", "epistemic_over_noise", "nees_over_6")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class InMemory:
    """Motion samples x, target [n, 6], spread over ``stands_for`` of them, as training wants."""

    x: MotionInput
    target: Tensor
    stands_for: int

    def __len__(self) -> int:
        return len(self.target)

    def loader(self, batch_size: int, shuffle_seed: int | None = None) -> list:
        order = torch.arange(len(self))
        if shuffle_seed is not None:
            generator = torch.Generator().manual_seed(shuffle_seed)
            order = torch.randperm(len(self), generator=generator)
        return [
            (self.x.map(lambda t, rows=rows: t[rows]), self.target[rows])
            for rows in order.split(batch_size)
        ]

    @staticmethod
    def of(bags: Sequence[Path], cache: Path, samples: int) -> InMemory:
        """Return so many samples of every bag, spread evenly, image by image."""
        parts, stands_for = [], 0
        for bag in bags:
            dataset = MotionDataset([prepare(open_streams(bag), cache, workers=1)], (1,))
            parts.append(dataset.batch(even_rows(len(dataset), samples)))
            stands_for += len(dataset)
        x, target = zip(*parts, strict=True)
        return InMemory(MotionInput.stack(list(x)), torch.cat(target), stands_for)


def against_data(
    train: Sequence[Path], held_out: InMemory, cache: Path, orders: int
) -> list[dict]:
    """Return the epistemic covariance on held-out samples by number of training drives.

    Averaged (geometrically) over so many orders of the drives, each beginning with another one.
    """
    first = [len(train) * k // orders for k in range(orders)]
    found = [against_drives([*train[k:], *train[:k]], held_out, cache) for k in first]
    return [_averaged(rows) for rows in zip(*found, strict=True)]


def _averaged(rows: Sequence[dict]) -> dict:
    mean = {key: np.exp(np.mean(np.log([row[key] for row in rows]), axis=0)) for key in MEASURED}
    each = [row["epistemic_std_median"] for row in rows]
    return {
        **rows[0],
        **{key: value.tolist() for key, value in mean.items()},
        "orders": len(rows),
        "epistemic_std_median_of_each": each,
    }


def against_drives(train: Sequence[Path], held_out: InMemory, cache: Path) -> list[dict]:
    """Return the same for one order of the drives, one network and one posterior after another."""
    found = []
    for size in sizes_of(train):
        samples = InMemory.of(train[:size], cache, SAMPLES_OF_DRIVE)
        posterior = posterior_of(small_fit(samples, held_out), samples)
        found.append(told_of(posterior, size, samples, held_out))
    return found


def one_network(train: Sequence[Path], held_out: InMemory, cache: Path) -> list[dict]:
    """Return the same for one network trained on all drives: what the posterior does by itself."""
    model = small_fit(InMemory.of(train, cache, SAMPLES_OF_DRIVE), held_out)
    found = []
    for size in sizes_of(train):
        samples = InMemory.of(train[:size], cache, SAMPLES_OF_DRIVE)
        found.append(told_of(posterior_of(model, samples), size, samples, held_out))
    return found


def sizes_of(train: Sequence[Path]) -> list[int]:
    """Return 1, 2, 4, ... up to the number of drives."""
    return [2**k for k in range(len(train).bit_length()) if 2**k <= len(train)]


def told_of(posterior: Posterior, drives: int, samples: InMemory, held_out: InMemory) -> dict:
    """Return what a posterior says of held-out samples."""
    p = posterior.predict(held_out.x)
    assert isinstance(p, GaussianPrediction)
    E, N = p.epistemic_cov.double().numpy(), p.noise_cov.double().numpy()
    error = (held_out.target.double() - p.mean.double()).numpy()
    std = np.sqrt(np.diagonal(E, axis1=1, axis2=2))
    told = {
        "drives": drives,
        "samples": len(samples),
        "frames": samples.stands_for,
        "epistemic_std_median": np.median(std, axis=0).tolist(),
        "rmse": np.sqrt(np.mean(error**2, axis=0)).tolist(),
        "epistemic_over_noise": float(np.median(ratio_to_noise(E, N))),
        "nees_over_6": float(nees(error, E + N).mean() / 6),
    }
    print(json.dumps(told), flush=True)
    return told


def small_fit(samples: InMemory, held_out: InMemory) -> MotionModel:
    """Return a network trained from random weights for a number of steps."""
    epochs = -(-STEPS // -(-len(samples) // BATCH))
    settings = MapFitSettings(epochs=epochs, batch_size=BATCH, patience=epochs)
    few = replace(held_out, x=held_out.x.map(lambda t: t[::4]), target=held_out.target[::4])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.safetensors"
        estimate = fit_map(samples, few, settings, checkpoint, "small fit", torch.device("cpu"))
    return estimate.model


def posterior_of(model: MotionModel, samples: InMemory) -> Posterior:
    """Return the posterior given some of the samples, drawn from all drives alike."""
    return fit_posterior(
        model,
        samples.loader(32, shuffle_seed=0)[:10],
        likelihood="gaussian",
        prior_precision=PRIOR_PRECISION,
        n_data=samples.stands_for,
    )


def ratio_to_noise(epistemic_cov: Array, noise_cov: Array) -> Array:
    """Return tr(noise_cov^-1 epistemic_cov) / 6 [n]."""
    return np.trace(np.linalg.solve(noise_cov, epistemic_cov), axis1=1, axis2=2) / 6


def statistics(run: Run) -> dict[str, Array]:
    """Return what might tell an unknown domain, per increment [n]; larger is less known."""
    E, N = run.epistemic_cov, run.noise_cov
    var = np.diagonal(E, axis1=1, axis2=2)
    return {
        "ratio to noise": ratio_to_noise(E, N),
        "log determinant": np.linalg.slogdet(E)[1],
        **{f"variance of {name}": var[:, i] for i, name in enumerate(AXES)},
        "whole log determinant": np.linalg.slogdet(E + N)[1],
    }


def auroc(known: Array, other: Array) -> float:
    """Return how often a value of ``other`` exceeds one of ``known`` (Mann and Whitney, 1947)."""
    ranks = stats.rankdata(np.concatenate([known, other]))
    excess = ranks[len(known) :].sum() - len(other) * (len(other) + 1) / 2
    return float(excess / (len(known) * len(other)))


def played(
    artifact: MotionArtifact, bag: Path, seconds: float, time_offset_s: float | None
) -> Run:
    """Play the first seconds of a bag to the estimator."""
    streams = shortened(open_streams(bag), seconds)
    estimator = Estimator(
        artifact,
        camera=streams.camera,
        extrinsics=streams.extrinsics,
        time_offset_s=time_offset_s,
    )
    return play(estimator, streams)


def separated(known: Sequence[Run], other: Run) -> dict:
    """Return how the epistemic covariance of one recording stands to that of known ones."""
    base = [statistics(run) for run in known]
    pooled = {name: np.concatenate([s[name] for s in base]) for name in base[0]}
    told = statistics(other)
    usual = np.median(pooled["ratio to noise"])
    return {
        "increments": len(other),
        "auroc": {name: auroc(pooled[name], values) for name, values in told.items()},
        "epistemic_over_noise": float(np.median(told["ratio to noise"])),
        "epistemic_growth": float(np.median(told["ratio to noise"]) / usual),
    }


def zero_shot(run: Run) -> dict:
    """Return the errors on a recording that nothing was fitted on; x is forward."""
    errors = run.increment_errors()
    forward_m = run.true_increments()[:, 0, 3]
    std = np.sqrt(np.diagonal(errors.cov, axis1=1, axis2=2))
    squared = nees(errors.error, errors.cov)
    return {
        "increments": len(run),
        "forward_rmse_m": float(np.sqrt(np.mean(errors.error[:, 0] ** 2))),
        "forward_relative_rmse": float(
            np.sqrt(np.mean(errors.error[:, 0] ** 2) / np.mean(forward_m**2))
        ),
        "forward_bias_share": float(errors.error[:, 0].mean() / forward_m.mean()),
        "coverage_95_per_axis": (np.abs(errors.error) < 1.959964 * std).mean(0).tolist(),
        "rmse": np.sqrt(np.mean(errors.error**2, axis=0)).tolist(),
        "sigma_median": np.median(std, axis=0).tolist(),
        "nees_over_6": float(squared.mean() / 6),
        "region_95": float(in_region_95(squared).mean()),
        "states": {str(s): float((run.state == s).mean()) for s in np.unique(run.state)},
    }


def against_domain(arguments: argparse.Namespace) -> dict:
    """Return separation and growth with and without what inputs are judged by, and zero-shot."""
    artifact = MotionArtifact.load(arguments.artifact)
    others = dict(part.split("=", 1) for part in arguments.other)
    found: dict = {
        "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "artifact_sha256": read_description(arguments.artifact)["sha256"],
        "known": [bag.name for bag in arguments.known],
        "judged": {},
        "posterior_alone": {},
        "zero_shot": {},
    }
    for way, given in (
        ("judged", artifact),
        ("posterior_alone", replace(artifact, reliability=None)),
    ):
        known = [played(given, bag, arguments.seconds, None) for bag in arguments.known]
        for name, bag in others.items():
            found[way][name] = separated(known, played(given, Path(bag), arguments.seconds, None))
        for bag in arguments.real:
            run = played(given, bag, arguments.seconds, arguments.time_offset)
            found[way][bag.name] = separated(known, run)
            found["zero_shot"].setdefault(bag.name, {})[way] = zero_shot(run)
        print(f"{way}: done", flush=True)
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULT)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("--train", type=Path, nargs="+", required=True)
    data.add_argument("--validation", type=Path, nargs="+", required=True)
    data.add_argument("--orders", type=int, default=3, help="of the training drives")
    data.add_argument("--cache", type=Path, default=Path("out/epistemic/frames"))
    domain = commands.add_parser("domain")
    domain.add_argument("--artifact", type=Path, required=True)
    domain.add_argument("--label", required=True)
    domain.add_argument("--known", type=Path, nargs="+", required=True)
    domain.add_argument("--other", nargs="*", default=[], metavar="NAME=BAG")
    domain.add_argument("--real", type=Path, nargs="*", default=[])
    domain.add_argument("--time-offset", type=float, help="of the real ones (s)")
    domain.add_argument("--seconds", type=float, default=30.0, help="of each bag")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.command == "data":
        held_out = InMemory.of(
            arguments.validation, arguments.cache, -(-HELD_OUT // len(arguments.validation))
        )
        known["against_data"] = against_data(
            arguments.train, held_out, arguments.cache, arguments.orders
        )
        known["one_network"] = one_network(arguments.train, held_out, arguments.cache)
    else:
        known.setdefault("domains", {})[arguments.label] = against_domain(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n")
    draw(arguments.out.with_suffix(".png"), known)


if __name__ == "__main__":
    main()
