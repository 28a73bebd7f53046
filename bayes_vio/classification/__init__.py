"""Classifiers that know what they do not know: one estimator over every method."""

from bayes_vio.classification.classifier import BayesianClassifier
from bayes_vio.classification.methods import Method, PriorChoice
from bayes_vio.classification.training import TrainingSettings
from bayes_vio.posterior import ClassPrediction, Link

__all__ = [
    "BayesianClassifier",
    "ClassPrediction",
    "Link",
    "Method",
    "PriorChoice",
    "TrainingSettings",
]
