"""How well the regime classifier tells images and ego-motion, on drives it has not seen.

Run ``python benchmarks/regime.py [--artifact FOLDER] [--series-alone]``. Simulates drives in
worlds of their own (seeds 30000 on), spoils their camera's images, not the classifier's grids, and
asks:
- accuracy, by class: the simulator's own faults (blur, darkness, dirt, freeze) of random strength;
- detection of degradations that training has not seen: fog, specks on the lens, salt noise, at
  several strengths, as the AUROC of mutual information, entropy and P(not nominal);
- detection of specks by the estimator's own doubt, from a series of images; --series-alone
  measures only this anew;
- what a frame takes, beside the motion model's prediction in the same process.
Writes benchmarks/results/regime.json and regime.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import speck_series
import torch
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.classification.detection import detection
from bayes_vio.classification.metrics import classification_metrics
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.frames import ViewProjector, to_grid_levels
from bayes_vio.data.recording import PreparedRecording, prepare
from bayes_vio.posterior import ClassPrediction
from bayes_vio.posterior.predictive import join
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.regime import (
    ClassBelief,
    EgoMotion,
    ImageRegime,
    ImageVerdict,
    RegimeClassifier,
)
from bayes_vio.regime.classes import EGO_MOTION_CLASSES, IMAGE_CLASSES, ego_motion_of
from bayes_vio.regime.features import ego_motion_features, image_features
from bayes_vio.simulation import CameraSettings, DriveSettings, SimulationSettings, simulate
from bayes_vio.simulation.faults import Fault, FaultKind, spoil

RESULTS = Path(__file__).parent / "results" / "regime.json"
SLOW = SimulationSettings(drive=DriveSettings(duration_s=60.0))
FAST = SimulationSettings(
    drive=DriveSettings(duration_s=20.0), camera=replace(CameraSettings(), rate_hz=30.0)
)
DRIVES = {f"slow_{i}": replace(SLOW, seed=30_000 + i) for i in range(4)}
DRIVES |= {"fast_0": replace(FAST, seed=30_010)}
# Strengths of the simulator's faults that a driver would notice.
STRENGTHS = {
    ImageRegime.BLURRED: (FaultKind.BLUR, 0.2, 1.0),
    ImageRegime.DARK: (FaultKind.DARKNESS, 0.6, 1.0),
    ImageRegime.OCCLUDED: (FaultKind.OCCLUSION, 0.15, 1.0),
}

Image = NDArray[np.uint8]
Spoiler = Callable[[Image, np.random.Generator], Image]


@dataclass(frozen=True)
class Pairs:
    """Consecutive raw images of a drive, with the IMU window between them."""

    recording: PreparedRecording
    projector: ViewProjector
    earlier: list[Image]
    later: list[Image]
    imu: NDArray[np.float32]
    imu_valid: NDArray[np.float32]

    def features(self, earlier: list[Image], later: list[Image]) -> torch.Tensor:
        """Return the classifier's features of such pairs."""
        before, after = (
            np.stack([to_grid_levels(self.projector.project(image)) for image in images])
            for images in (earlier, later)
        )
        return torch.from_numpy(image_features(before, after, self.imu, self.imu_valid))


def pairs_of(bag: Path, work: Path, every: int) -> Pairs:
    """Return every n-th pair of consecutive images of a drive."""
    streams = open_streams(bag)
    recording = prepare(streams, work / "frames")
    samples, frames = recording.samples, recording.frames
    rows = np.flatnonzero(samples.stride == 1)[::every]
    images = [gray for _, gray in streams.frames()]
    earlier, later = frames.pairs[samples.pair[rows]].T
    return Pairs(
        recording=recording,
        projector=ViewProjector(streams.camera, streams.extrinsics.T_base_camera[:3, :3]),
        earlier=[images[i] for i in earlier],
        later=[images[i] for i in later],
        imu=samples.imu[rows],
        imu_valid=samples.imu_valid[rows],
    )


def in_regime(pairs: Pairs, regime: ImageRegime, rng: np.random.Generator) -> torch.Tensor:
    """Return the features of pairs spoiled by the simulator's faults, half of them for long."""
    if regime is ImageRegime.NOMINAL:
        return pairs.features(pairs.earlier, pairs.later)
    if regime is ImageRegime.FROZEN:
        return pairs.features(pairs.earlier, pairs.earlier)
    kind, low, high = STRENGTHS[regime]
    earlier, later = [], []
    for before, after in zip(pairs.earlier, pairs.later, strict=True):
        faults = (Fault(kind, 0.0, 1.0, float(rng.uniform(low, high))),)
        seed, lasting = int(rng.integers(2**31)), rng.random() < 0.5
        earlier.append(spoil(before, 0.5, faults, seed) if lasting else before)
        later.append(spoil(after, 0.5, faults, seed))
    return pairs.features(earlier, later)


def fog(thickness: float) -> Spoiler:
    """Return fog that takes contrast, most at the horizon and above: white light instead."""

    def spoiled(image: Image, rng: np.random.Generator) -> Image:  # noqa: ARG001
        share = np.interp(np.linspace(0, 1, len(image)), [0, 0.5, 1], [1, 1, 0.4])[:, None]
        opacity = thickness * share
        return _levels(image * (1 - opacity) + 205 * opacity)

    return spoiled


def salt(share: float) -> Spoiler:
    """Return white pixels, anew in every image."""

    def spoiled(image: Image, rng: np.random.Generator) -> Image:
        return np.where(rng.random(image.shape) < share, np.uint8(255), image)

    return spoiled


def specks(count: int, opacity: float = 0.7) -> Spoiler:
    """Return soft, half-transparent specks on the lens, the same in every image."""

    def spoiled(image: Image, rng: np.random.Generator) -> Image:  # noqa: ARG001
        fixed, cover = np.random.default_rng(count), np.zeros(image.shape, np.float32)
        for _ in range(count):
            centre = int(fixed.integers(image.shape[1])), int(fixed.integers(image.shape[0]))
            radius = max(1, round(image.shape[1] * fixed.uniform(0.012, 0.035)))
            cv2.circle(cover, centre, radius, 1.0, -1)
        cover = opacity * cv2.GaussianBlur(cover, (0, 0), image.shape[1] / 128)
        return _levels(image * (1 - cover) + 60 * cover)

    return spoiled


UNSEEN: dict[str, Spoiler] = {
    **{f"fog {t:.0%}": fog(t) for t in (0.4, 0.6, 0.8)},
    **{f"specks {n}": specks(n) for n in (15, 30, 60)},
    **{f"salt {s:.0%}": salt(s) for s in (0.02, 0.05, 0.10)},
}


def _levels(values: NDArray) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def scores(p: ClassPrediction) -> dict[str, NDArray[np.float64]]:
    """Return what may tell an image that is not nominal, larger where it is not."""
    return {
        "mutual_information": p.mutual_information.numpy(),
        "entropy": p.entropy.numpy(),
        "not_nominal": 1 - p.probs[:, 0].numpy(),
    }


def noticed(classifier: RegimeClassifier, p: ClassPrediction) -> NDArray[np.bool_]:
    """Return which images the thresholds doubt or leave out."""
    return verdicts(classifier, p) != ImageVerdict.NOMINAL


def verdicts(classifier: RegimeClassifier, p: ClassPrediction) -> NDArray[np.object_]:
    """Return the verdict on every image."""
    rows = zip(p.probs.numpy(), p.entropy.tolist(), p.mutual_information.tolist(), strict=True)
    return np.array([classifier.thresholds.verdict(ClassBelief(*row)) for row in rows])


def images(classifier: RegimeClassifier, drives: list[Pairs]) -> dict[str, Any]:
    """Return accuracies on the simulator's faults, and the detection of unseen degradations."""
    rng = np.random.default_rng(0)
    found = {
        regime: joined([classifier.image.predict(in_regime(d, regime, rng)) for d in drives])
        for regime in IMAGE_CLASSES
    }
    whole = joined(list(found.values()))
    label = np.repeat(np.arange(len(IMAGE_CLASSES)), [len(p.probs) for p in found.values()])
    nominal = found[ImageRegime.NOMINAL]
    return {
        "images": len(label),
        "metrics": asdict(classification_metrics(whole.probs, torch.from_numpy(label))),
        "accuracy": by_class(whole.probs.argmax(1).numpy(), label, IMAGE_CLASSES),
        "nominal_tracking": 1 - float(noticed(classifier, nominal).mean()),
        "seen": {
            regime.value: told_apart(classifier, p, nominal)
            for regime, p in found.items()
            if regime is not ImageRegime.NOMINAL
        },
        "unseen": {
            name: told_apart(classifier, _asked(classifier, drives, spoiler), nominal)
            for name, spoiler in UNSEEN.items()
        },
    }


def _asked(classifier: RegimeClassifier, drives: list[Pairs], spoiler: Spoiler) -> ClassPrediction:
    rng, parts = np.random.default_rng(1), []
    for drive in drives:
        earlier, later = (
            [spoiler(image, rng) for image in own] for own in (drive.earlier, drive.later)
        )
        parts.append(classifier.image.predict(drive.features(earlier, later)))
    return joined(parts)


def joined(parts: list[ClassPrediction]) -> ClassPrediction:
    """Return the predictions of several drives as one."""
    whole = join(parts)
    assert isinstance(whole, ClassPrediction)
    return whole


def told_apart(
    classifier: RegimeClassifier, p: ClassPrediction, nominal: ClassPrediction
) -> dict[str, float]:
    """Return each score's AUROC against nominal images, and the share that is noticed."""
    own, usual = scores(p), scores(nominal)
    ranks = {name: detection(usual[name], own[name]).auroc for name in own}
    told = verdicts(classifier, p)
    return {
        **ranks,
        "noticed": float((told != ImageVerdict.NOMINAL).mean()),
        "left_out": float((told == ImageVerdict.UNUSABLE).mean()),
    }


def by_class(found: NDArray, label: NDArray, classes: Any) -> dict[str, float | None]:
    """Return accuracies by class; None for one that does not occur."""
    rows = {c.value: found[label == i] == i for i, c in enumerate(classes)}
    return {name: float(right.mean()) if right.size else None for name, right in rows.items()}


def over_series(artifact: MotionArtifact, drives: list[Path]) -> dict[str, Any]:
    """Return what is told of specks from all images of drives, where the artifact judges them."""
    usual, rng = artifact.reliability, np.random.default_rng(1)
    if usual is None or usual.least_change is None:
        return {}
    spoilers = {
        name: lambda image, spoiler=spoiler: spoiler(image, rng)
        for name, spoiler in UNSEEN.items()
        if name.startswith("specks")
    }
    return speck_series.measured(drives, spoilers, usual)


def ego_motions(classifier: RegimeClassifier, drives: list[Pairs]) -> dict[str, Any]:
    """Return accuracies of the ego-motion, and how many lie near a border between classes."""
    judge = classifier.ego_motion
    if judge is None:
        return {}
    probs, label = [], []
    for drive in drives:
        for x, target in MotionDataset([drive.recording], (1, 2, 3)).loader(64):
            probs.append(judge.head.predict(ego_motion_features(judge.encoder, x)).probs)
            label.append(ego_motion_of(target.numpy(), x.dt.numpy()))
    together, labels = torch.cat(probs), np.concatenate(label)
    return {
        "intervals": len(labels),
        "metrics": asdict(classification_metrics(together, torch.from_numpy(labels))),
        "accuracy": by_class(together.argmax(1).numpy(), labels, EGO_MOTION_CLASSES),
        "share": {m.value: float((labels == i).mean()) for i, m in enumerate(EgoMotion)},
    }


def cost(artifact: MotionArtifact, drive: Pairs, repeats: int = 200) -> dict[str, float]:
    """Return the lower deciles (ms) of judging an image, the motion, and of the prediction.

    Deciles, since a machine that others use, too, interrupts the longest call most.
    """
    classifier, sketch = artifact.regime, FeatureSketch()
    assert classifier is not None
    x, _ = MotionDataset([drive.recording], (1,)).batch([0])
    levels = [to_grid_levels(drive.projector.project(i)) for i in drive.later[:2]]
    imu, valid = drive.imu[0], drive.imu_valid[0]
    regime = classifier.judge_image(levels[0], levels[1], imu, valid)
    parts: dict[str, Callable[[], object]] = {
        "image_ms": lambda: classifier.judge_image(levels[0], levels[1], imu, valid),
        "ego_motion_ms": lambda: classifier.with_ego_motion(regime, x),
        "prediction_ms": lambda: artifact.predict_features(x, sketch),
    }
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, call in parts.items():
            started = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - started))
    low = {name: float(np.quantile(times, 0.1)) for name, times in taken.items()}
    added = low["image_ms"] + low["ego_motion_ms"]
    return {**low, "added_share_of_prediction": added / low["prediction_ms"]}


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw AUROC and noticed share of every degradation."""
    from matplotlib.figure import Figure

    rows = {**result["image"]["seen"], **result["image"]["unseen"]}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    markers = {"mutual_information": "o", "entropy": "s", "not_nominal": "^", "noticed": "x"}
    for name, marker in markers.items():
        label = "share noticed" if name == "noticed" else f"AUROC of {name.replace('_', ' ')}"
        axes.plot([row[name] for row in rows.values()], marker, label=label)
    axes.axvline(len(result["image"]["seen"]) - 0.5, color="gray", lw=0.8)
    axes.axhline(0.9, color="gray", lw=0.8, ls=":")
    axes.set_xticks(range(len(rows)), list(rows), rotation=30, ha="right")
    axes.set_ylim(0, 1.02)
    axes.set_title("Held-out drives: seen in training | unseen")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=90)


def bags(work: Path) -> Iterator[Path]:
    """Yield the drives' bags, simulated where they are missing."""
    for name, settings in DRIVES.items():
        bag = work / "bags" / name
        if not bag.exists():
            simulate(bag, settings)
        yield bag


def main() -> None:
    """Simulate what is missing, judge, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path, default=default_artifact_path())
    parser.add_argument("--work", type=Path, default=Path("out/regime"))
    parser.add_argument("--every", type=int, default=2, help="take every n-th pair of images")
    parser.add_argument("--series-alone", action="store_true", help="keep all other results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact)
    if artifact.regime is None:
        parser.error(f"{arguments.artifact} has no regime classifier: fit it without --no-regime")
    recorded = list(bags(arguments.work))
    if arguments.series_alone:
        result = json.loads(arguments.out.read_text())
        result["specks_over_series"] = over_series(artifact, recorded)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result["specks_over_series"], indent=1))
        return
    drives = [pairs_of(bag, arguments.work, arguments.every) for bag in recorded]
    result = {
        "date": date.today().isoformat(),
        "drives": {name: settings.seed for name, settings in DRIVES.items()},
        "thresholds": asdict(artifact.regime.thresholds),
        "image": images(artifact.regime, drives),
        "specks_over_series": over_series(artifact, recorded),
        "ego_motion": ego_motions(artifact.regime, drives),
        "cost": cost(artifact, drives[0]),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, arguments.out.with_suffix(".png"))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
