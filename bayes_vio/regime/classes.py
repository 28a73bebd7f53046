"""The classes that images and ego-motion fall into, and what is believed of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

# Where one kind of motion ends and the next begins: a car that creeps or drifts in its lane.
STILL_SPEED_M_S = 0.3
TURNING_RATE_RAD_S = 0.05


class ImageRegime(Enum):
    """What state an image is in."""

    NOMINAL = "nominal"
    BLURRED = "blurred"
    DARK = "dark"
    OCCLUDED = "occluded"
    FROZEN = "frozen"


class EgoMotion(Enum):
    """What the car does: left and right are turns of more than 0.05 rad/s, still below 0.3 m/s."""

    STILL = "still"
    STRAIGHT = "straight"
    LEFT = "left"
    RIGHT = "right"


class ImageVerdict(Enum):
    """What an image is good for."""

    NOMINAL = "nominal"
    DOUBTFUL = "doubtful"  # unlike nominal ones, or unlike anything seen: still used
    UNUSABLE = "unusable"  # surely of another class: as if there were none


IMAGE_CLASSES = tuple(ImageRegime)
EGO_MOTION_CLASSES = tuple(EgoMotion)


@dataclass(frozen=True)
class ClassBelief:
    """Probabilities [classes], their entropy and the mutual information of class and weights.

    Entropy and mutual information are in nats; the order of classes is that of their enum.
    """

    probs: NDArray[np.float64]
    entropy: float
    mutual_information: float

    @property
    def doubts(self) -> tuple[float, float]:
        """Return entropy and mutual information."""
        return self.entropy, self.mutual_information


@dataclass(frozen=True)
class Regime:
    """What is believed of an image and, where there is a pair of usable ones, of the motion."""

    image: ClassBelief
    verdict: ImageVerdict
    ego_motion: ClassBelief | None = None

    @property
    def image_class(self) -> ImageRegime:
        """Return the image's most probable class."""
        return IMAGE_CLASSES[int(self.image.probs.argmax())]

    @property
    def ego_motion_class(self) -> EgoMotion | None:
        """Return the most probable motion; None where none was judged."""
        if self.ego_motion is None:
            return None
        return EGO_MOTION_CLASSES[int(self.ego_motion.probs.argmax())]


def ego_motion_of(increment: NDArray[np.floating], dt_s: NDArray[np.floating]) -> NDArray:
    """Return the class indices [n] of increments [n, 6] (m, rad) over dt_s [n].

    A car that stands is still, however it may rock.
    """
    speed_m_s = np.linalg.norm(increment[:, :3], axis=1) / dt_s
    yaw_rate = increment[:, 5] / dt_s
    moving = np.select(
        [yaw_rate > TURNING_RATE_RAD_S, yaw_rate < -TURNING_RATE_RAD_S],
        [EGO_MOTION_CLASSES.index(EgoMotion.LEFT), EGO_MOTION_CLASSES.index(EgoMotion.RIGHT)],
        EGO_MOTION_CLASSES.index(EgoMotion.STRAIGHT),
    )
    still = EGO_MOTION_CLASSES.index(EgoMotion.STILL)
    return np.where(speed_m_s < STILL_SPEED_M_S, still, moving).astype(np.int64)
