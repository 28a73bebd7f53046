"""Fit the regime classifier to a fit's own recordings: nominal images, and the same spoiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.classification import BayesianClassifier, TrainingSettings
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.recording import PreparedRecording
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.backbone import ImageEncoder
from bayes_vio.models.motion import MotionModel
from bayes_vio.regime.classes import (
    EGO_MOTION_CLASSES,
    IMAGE_CLASSES,
    ImageRegime,
    ego_motion_of,
)
from bayes_vio.regime.classifier import ClassHead, EgoMotionHead, RegimeClassifier, Thresholds
from bayes_vio.regime.features import FEATURE_GROUPS, ego_motion_features
from bayes_vio.regime.frame_pairs import labelled_features, read_pairs
from bayes_vio.regime.network import LEAST_SCALE, Groups, RegimeNetwork
from bayes_vio.regime.outliers import outliers
from bayes_vio.training.augmentation import mirrored, without_imu
from bayes_vio.training.recordings import EvenSubset

_NOMINAL = IMAGE_CLASSES.index(ImageRegime.NOMINAL)
# However sure the classifier is on validation, less than this is no reason to doubt an image, nor
# to leave it out.
_LEAST_FAULT, _LEAST_INFORMATION, _LEAST_UNUSABLE = 0.2, 0.02, 0.99
# Outliers per nominal image.
_OUTLIERS = 2
# Every n-th sample of ego-motion is shown once more as a camera alone has it.
_CAMERA_ALONE = 4


@dataclass(frozen=True)
class RegimeSettings:
    """How to fit. ``pairs``: of training images, each shown once in every regime, and the samples
    of ego-motion; ``false_alarms``: share of nominal validation images that may be doubted."""

    pairs: int = 1500
    validation_pairs: int = 1000
    hidden: int = 48
    epochs: int = 20
    prior_precision: float = 1.0
    false_alarms: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class RegimeScores:
    """What the classifier is worth on validation, its images spoiled as in training.

    Accuracies by class name, None for what does not occur there. ``nominal_kept``: share of
    nominal images that no threshold doubts, ``nominal_used`` that are not left out;
    ``spoiled_noticed``: of the others, doubted or left out.
    """

    image_accuracy: float
    image_accuracy_by_class: dict[str, float | None]
    ego_motion_accuracy: float | None
    ego_motion_accuracy_by_class: dict[str, float | None]
    nominal_kept: float
    nominal_used: float
    spoiled_noticed: float

    def describe(self) -> str:
        """Return one line for a log."""
        moves = self.ego_motion_accuracy
        motion = "one kind of ego-motion" if moves is None else f"ego-motion {100 * moves:.1f} %"
        return (
            f"regimes on validation: image {100 * self.image_accuracy:.1f} % right, {motion}; "
            f"{100 * self.nominal_kept:.1f} % of nominal images count as such, "
            f"{100 * self.spoiled_noticed:.1f} % of spoiled ones do not"
        )


@dataclass(frozen=True)
class _Labelled:
    """Features [n, d] and class indices [n]."""

    x: Tensor
    y: Tensor


def fit_regime(
    model: MotionModel,
    train: Sequence[PreparedRecording],
    validation: Sequence[PreparedRecording],
    settings: RegimeSettings | None = None,
) -> tuple[RegimeClassifier, RegimeScores]:
    """Return a classifier fitted on training recordings, its thresholds set on validation ones.

    ``model``: whose image backbone, copied, ego-motion is read from; recordings of one kind of
    motion alone give no head for it. The same seed gives the same classifier. Raises ValueError
    where the recordings have no pair of images.
    """
    settings = settings or RegimeSettings()
    images = _images(train, settings.pairs, settings.seed)
    held_out = _images(validation, settings.validation_pairs, settings.seed + 1)
    known = _with_outliers(images, settings.seed)
    image = _fit_head(known, held_out, len(IMAGE_CLASSES), settings, FEATURE_GROUPS)
    encoder = copy.deepcopy(model.image_encoder).cpu().eval().requires_grad_(False)
    motions = _ego_motions(encoder, train, 2 * settings.pairs, augmented=True)
    motions_held_out = _ego_motions(encoder, validation, settings.validation_pairs)
    ego_motion = None
    if len(motions.y.unique()) > 1:
        head = _fit_head(motions, motions_held_out, len(EGO_MOTION_CLASSES), settings)
        ego_motion = EgoMotionHead(head, encoder)
    thresholds = _thresholds(image, held_out, settings.false_alarms)
    classifier = RegimeClassifier(image, thresholds, ego_motion)
    return classifier, _scores(classifier, held_out, motions_held_out)


def _images(recordings: Sequence[PreparedRecording], count: int, seed: int) -> _Labelled:
    pairs = read_pairs(recordings, count)
    if not len(pairs):
        raise ValueError("a regime classifier needs pairs of consecutive images: there is none")
    x, y = labelled_features(pairs, np.random.default_rng(seed))
    return _Labelled(torch.from_numpy(x), torch.from_numpy(y))


def _with_outliers(images: _Labelled, seed: int) -> _Labelled:
    """Return the images with outliers around the nominal ones, labelled with each fault alike."""
    nominal = images.x[images.y == _NOMINAL]
    count, rng = _OUTLIERS * len(nominal), np.random.default_rng([seed, 1])
    scale = images.x.std(0).clamp(min=LEAST_SCALE)
    far = outliers(nominal, scale, FEATURE_GROUPS, count, rng)
    faults = [i for i in range(len(IMAGE_CLASSES)) if i != _NOMINAL]
    label = torch.from_numpy(rng.choice(faults, count))
    return _Labelled(torch.cat([images.x, far]), torch.cat([images.y, label]))


def _ego_motions(
    encoder: ImageEncoder,
    recordings: Sequence[PreparedRecording],
    count: int,
    augmented: bool = False,
) -> _Labelled:
    features, labels = [], []
    for batch in EvenSubset(MotionDataset(recordings, (1, 2, 3)), count):
        for x, target in shown_motions(*batch) if augmented else [batch]:
            features.append(ego_motion_features(encoder, x))
            labels.append(ego_motion_of(target.numpy(), x.dt.numpy()))
    return _Labelled(torch.cat(features), torch.from_numpy(np.concatenate(labels)))


def shown_motions(x: MotionInput, target: Tensor) -> Iterator[tuple[MotionInput, Tensor]]:
    """Yield a batch as it is, in a mirror, and some of both as a camera alone has them.

    Some drives turn left more often than right, which says nothing of the next one; and a gyro
    that tells every turn would leave nothing to be learned from the image.
    """
    everywhere = torch.ones(len(x), dtype=torch.bool)
    for view, moved in ((x, target), mirrored(x, target, everywhere)):
        yield view, moved
        few = view.map(lambda t: t[::_CAMERA_ALONE])
        yield without_imu(few, everywhere[::_CAMERA_ALONE]), moved[::_CAMERA_ALONE]


def _fit_head(
    train: _Labelled,
    validation: _Labelled,
    n_classes: int,
    settings: RegimeSettings,
    groups: Groups = (),
) -> ClassHead:
    """Return a trained head; ``groups``: of features whose distance from class 0's counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = RegimeNetwork.for_groups(train.x.shape[1], settings.hidden, n_classes, groups)
    network.standardise(train.x, train.x[train.y == 0], groups)
    classifier = BayesianClassifier(
        network,
        "last_layer",
        train=True,
        prior_precision=settings.prior_precision,
        training=TrainingSettings(
            epochs=settings.epochs, prior_precision=settings.prior_precision
        ),
        seed=settings.seed,
    )
    classifier.fit((train.x, train.y), (validation.x, validation.y))
    return ClassHead(classifier.posterior)


def _thresholds(image: ClassHead, held_out: _Labelled, false_alarms: float) -> Thresholds:
    """Return thresholds that doubt at most a share of nominal images, half of it for each reason.

    An image is left out where its odds of a fault are ten times those that make it doubtful, and
    larger than any nominal image's.
    """
    p = image.predict(held_out.x[held_out.y == _NOMINAL])
    fault = (1 - p.probs[:, _NOMINAL]).numpy()
    information = p.mutual_information.numpy()
    quantile = 1 - 0.5 * false_alarms
    doubtful = max(float(np.quantile(fault, quantile)), _LEAST_FAULT)
    return Thresholds(
        doubtful_fault=doubtful,
        doubtful_information=max(float(np.quantile(information, quantile)), _LEAST_INFORMATION),
        unusable_fault=max(float(fault.max()), _ten_times_the_odds(doubtful), _LEAST_UNUSABLE),
    )


def _ten_times_the_odds(probability: float) -> float:
    return 10 * probability / (1 + 9 * probability)


def _scores(classifier: RegimeClassifier, images: _Labelled, motions: _Labelled) -> RegimeScores:
    p, limits = classifier.image.predict(images.x), classifier.thresholds
    label, fault = images.y.numpy(), 1 - p.probs[:, _NOMINAL].numpy()
    right = p.probs.argmax(1).numpy() == label
    noticed = fault > limits.doubtful_fault
    noticed |= p.mutual_information.numpy() > limits.doubtful_information
    nominal = label == _NOMINAL
    moved: NDArray[np.bool_] | None = None
    if classifier.ego_motion is not None:
        found = classifier.ego_motion.head.predict(motions.x).probs.argmax(1)
        moved = (found == motions.y).numpy()
    return RegimeScores(
        image_accuracy=float(right.mean()),
        image_accuracy_by_class=_by_class(right, label, IMAGE_CLASSES),
        ego_motion_accuracy=None if moved is None else float(moved.mean()),
        ego_motion_accuracy_by_class=(
            {} if moved is None else _by_class(moved, motions.y.numpy(), EGO_MOTION_CLASSES)
        ),
        nominal_kept=float(1 - noticed[nominal].mean()),
        nominal_used=float((fault[nominal] <= limits.unusable_fault).mean()),
        spoiled_noticed=float(noticed[~nominal].mean()),
    )


def _by_class(
    right: NDArray[np.bool_], label: NDArray[np.int64], classes: Sequence[Enum]
) -> dict[str, float | None]:
    """Return accuracies by class; None for one that does not occur."""
    own = {c.value: right[label == i] for i, c in enumerate(classes)}
    return {name: float(part.mean()) if part.size else None for name, part in own.items()}
