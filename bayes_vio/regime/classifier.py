"""Judge an image and the motion: two small networks with last-layer Laplace posteriors.

A prediction is ``Posterior.predict``'s for a full last layer, with the covariance inverted once:
a frame costs tenths of a millisecond. It always runs on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.data.samples import MotionInput
from bayes_vio.models.backbone import ImageEncoder
from bayes_vio.posterior import ClassPrediction, LinkSettings, Posterior
from bayes_vio.posterior.predictive import class_prediction
from bayes_vio.posterior.tape import Tape
from bayes_vio.regime.classes import (
    EGO_MOTION_CLASSES,
    IMAGE_CLASSES,
    ClassBelief,
    ImageRegime,
    ImageVerdict,
    Regime,
)
from bayes_vio.regime.features import (
    IMAGE_FEATURES,
    ego_motion_features,
    image_features,
    n_ego_motion_features,
)
from bayes_vio.regime.network import RegimeNetwork

Array = NDArray[np.float32]
LINK = LinkSettings(n_samples=128)
_NOMINAL = IMAGE_CLASSES.index(ImageRegime.NOMINAL)
# Darkness leaves the flow whole as long as there is light; the bounds on a view tell when not.
_MISLEADING = [
    IMAGE_CLASSES.index(kind)
    for kind in (ImageRegime.BLURRED, ImageRegime.OCCLUDED, ImageRegime.FROZEN)
]


class ClassHead:
    """A network with the Laplace posterior of its last layer, ready to be asked one by one.

    posterior: of structure "full" over the layer ``head`` of a RegimeNetwork. Raises ValueError
    for another one.
    """

    def __init__(self, posterior: Posterior) -> None:
        network, layers = posterior.model, list(posterior.layers)
        if not isinstance(network, RegimeNetwork) or layers != ["head"]:
            raise ValueError("a regime is told by a RegimeNetwork with a posterior of its head")
        if posterior.report.structure != "full":
            raise ValueError(f"the head's posterior is {posterior.report.structure}, not full")
        self.posterior, self.network = posterior, network
        n_classes, n_hidden = network.head.weight.shape
        information = posterior.precision_dense("head").double()
        cov = torch.cholesky_inverse(torch.linalg.cholesky(information))
        # vec is row-major over [classes, hidden + bias]; axes become [k, l, i, j].
        shape = (n_classes, n_hidden + 1, n_classes, n_hidden + 1)
        self._weight_cov = cov.reshape(shape).permute(0, 2, 1, 3).contiguous()

    @cached_property
    def _single(self) -> Tape:
        """Return ``predict`` of a single row, recorded: it is asked for every image."""
        self.predict(self.network.offset[None])  # what is drawn once is there from now on
        return Tape(self.predict, self.network.offset[None])

    @torch.no_grad()
    def predict(self, features: Tensor, link: LinkSettings = LINK) -> ClassPrediction:
        """Return the prediction of features [batch, n_features]: probabilities and their doubt."""
        a = self.network.activations(features)
        mean = self.network.head(a)
        a = torch.cat([a, a.new_ones(len(a), 1)], 1).double()
        logits_cov = ((self._weight_cov @ a.T).permute(3, 0, 1, 2) @ a[:, None, :, None])[..., 0]
        return class_prediction(mean, (logits_cov + logits_cov.mT) / 2, link)

    def check_sizes(self, name: str, n_features: int, n_classes: int) -> None:
        """Raise ValueError, naming the head, where it maps other features or to other classes."""
        found = len(self.network.offset), self.network.head.out_features
        if found != (n_features, n_classes):
            raise ValueError(
                f"the {name} head maps {found[0]} features to {found[1]} classes, this version "
                f"has {n_features} and {n_classes}: fit it again"
            )

    def believe(self, features: Tensor) -> ClassBelief:
        """Return what is believed of one row of features [1, n_features]; for one thread only."""
        p = self._single(features)
        return ClassBelief(p.probs[0].numpy(), float(p.entropy[0]), float(p.mutual_information[0]))


@dataclass(frozen=True)
class Thresholds:
    """Where an image stops being nominal, as validation set it.

    An image is doubtful where the probability that it is not nominal exceeds ``doubtful_fault``,
    or the mutual information (nats) exceeds ``doubtful_information``; unusable where the
    probability of the classes in which flow misleads exceeds ``unusable_fault``. Raises ValueError
    for what is no probability or no information.
    """

    doubtful_fault: float
    doubtful_information: float
    unusable_fault: float

    def __post_init__(self) -> None:
        for name in ("doubtful_fault", "unusable_fault"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be a probability, it is {getattr(self, name)}")
        if not 0.0 <= self.doubtful_information < float("inf"):
            raise ValueError(f"doubtful_information is {self.doubtful_information}, not above 0")

    def verdict(self, image: ClassBelief) -> ImageVerdict:
        """Return what an image is good for."""
        if float(image.probs[_MISLEADING].sum()) > self.unusable_fault:
            return ImageVerdict.UNUSABLE
        unknown = image.mutual_information > self.doubtful_information
        if 1.0 - float(image.probs[_NOMINAL]) > self.doubtful_fault or unknown:
            return ImageVerdict.DOUBTFUL
        return ImageVerdict.NOMINAL


@dataclass(frozen=True)
class EgoMotionHead:
    """What tells the motion: a head, and the image backbone whose tokens it reads.

    ``encoder`` is a copy of the motion model's, so that the latter may learn on. Raises
    ValueError where the head is not for its features and classes.
    """

    head: ClassHead
    encoder: ImageEncoder

    def __post_init__(self) -> None:
        n_features = n_ego_motion_features(self.encoder.top.out_channels)
        self.head.check_sizes("ego-motion", n_features, len(EGO_MOTION_CLASSES))


@dataclass(frozen=True)
class RegimeClassifier:
    """The two heads, and the thresholds by which the image's counts.

    ``ego_motion`` is None where the recordings it would have learned from show one kind alone.
    Raises ValueError where the image's head is not for its features and classes.
    """

    image: ClassHead
    thresholds: Thresholds
    ego_motion: EgoMotionHead | None

    def __post_init__(self) -> None:
        self.image.check_sizes("image", IMAGE_FEATURES, len(IMAGE_CLASSES))

    def judge_image(
        self,
        earlier_levels: NDArray[np.uint8],
        later_levels: NDArray[np.uint8],
        imu: Array,
        imu_valid: Array,
    ) -> Regime:
        """Return what state the later image [40, 128] is in, which follows the earlier one.

        imu [20, 6] and imu_valid [20]: of the interval between them, see ``data.windows``.
        """
        features = image_features(
            earlier_levels[None], later_levels[None], imu[None], imu_valid[None]
        )
        belief = self.image.believe(torch.from_numpy(features))
        return Regime(belief, self.thresholds.verdict(belief))

    def with_ego_motion(self, regime: Regime, x: MotionInput) -> Regime:
        """Return the regime with what the motion model's input [1, ...] says of the motion.

        x is on the CPU. Without a head for it the regime stays as it is.
        """
        if self.ego_motion is None:
            return regime
        features = ego_motion_features(self.ego_motion.encoder, x)
        return replace(regime, ego_motion=self.ego_motion.head.believe(features))
