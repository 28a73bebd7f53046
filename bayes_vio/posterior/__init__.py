"""Posteriors over weights: fit one, predict with it, store it."""

from bayes_vio.posterior.fit import fit_posterior
from bayes_vio.posterior.laplace import Posterior
from bayes_vio.posterior.predictive import (
    ClassPrediction,
    GaussianPrediction,
    Link,
    LinkSettings,
)
from bayes_vio.posterior.storage import PosteriorError

__all__ = [
    "ClassPrediction",
    "GaussianPrediction",
    "Link",
    "LinkSettings",
    "Posterior",
    "PosteriorError",
    "fit_posterior",
]
