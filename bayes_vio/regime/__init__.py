"""The regime classifier: what state the images are in, and what the car does."""

from bayes_vio.regime.classes import ClassBelief, EgoMotion, ImageRegime, ImageVerdict, Regime
from bayes_vio.regime.classifier import RegimeClassifier, Thresholds

__all__ = [
    "ClassBelief",
    "EgoMotion",
    "ImageRegime",
    "ImageVerdict",
    "Regime",
    "RegimeClassifier",
    "Thresholds",
]
