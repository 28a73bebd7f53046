"""The methods by name: what each is, which settings it takes, and how it is fitted."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from bayes_vio.classification.batches import Batches, shuffled
from bayes_vio.classification.fits import (
    Fit,
    LaplaceFit,
    PointFit,
    SampledFit,
    temperature_scaled,
)
from bayes_vio.classification.training import OnProgress, TrainingSettings
from bayes_vio.posterior import LinkSettings, Posterior, fit_posterior
from bayes_vio.posterior.hyperparameters import (
    maximize_marginal_likelihood,
    minimize_nll,
    minimize_nll_jointly,
)
from bayes_vio.variational import (
    VariationalPosterior,
    fit_ensemble,
    fit_mc_dropout,
    fit_mean_field,
    fit_sparse_dropout,
)


class Method(Enum):
    """How the uncertainty of a classifier comes about."""

    MAP = "map"
    TEMPERATURE = "temperature"
    DIAGONAL = "diagonal"
    KFAC = "kfac"
    EFB = "efb"
    INF = "inf"
    FULL = "full"
    SUBNETWORK = "subnetwork"
    LAST_LAYER = "last_layer"
    ELLA = "ella"
    MC_DROPOUT = "mc_dropout"
    MEAN_FIELD = "mean_field"
    SPARSE_DROPOUT = "sparse_dropout"
    ENSEMBLE = "ensemble"

    @property
    def is_laplace(self) -> bool:
        """Whether it is a Laplace posterior around given weights."""
        return self in _STRUCTURES

    @property
    def is_post_hoc(self) -> bool:
        """Whether it takes weights as they are."""
        return self in _STRUCTURES or self in (Method.MAP, Method.TEMPERATURE)


# The structure of ``fit_posterior`` that a method is.
_STRUCTURES = {
    Method.DIAGONAL: "diagonal",
    Method.KFAC: "kfac",
    Method.EFB: "efb",
    Method.INF: "inf",
    Method.FULL: "full",
    Method.SUBNETWORK: "subnetwork",
    Method.LAST_LAYER: "full",
    Method.ELLA: "ella",
}


_VARIATIONAL: dict[Method, Callable[..., VariationalPosterior]] = {
    Method.MC_DROPOUT: fit_mc_dropout,
    Method.MEAN_FIELD: fit_mean_field,
    Method.SPARSE_DROPOUT: fit_sparse_dropout,
    Method.ENSEMBLE: fit_ensemble,
}


class PriorChoice(Enum):
    """What chooses a Laplace posterior's prior precision; JOINT: and its number of data."""

    MARGINAL_LIKELIHOOD = "marginal_likelihood"
    VALIDATION_NLL = "validation_nll"
    VALIDATION_NLL_JOINT = "validation_nll_joint"


PriorPrecision = float | Mapping[str, float] | PriorChoice | None


@dataclass(frozen=True)
class FitRequest:
    """What a method is fitted with. ``options`` are the method's own settings by name.

    ``model`` has its final weights under a post-hoc method, and is the start of the others.
    """

    model: nn.Module
    method: Method
    train: Batches
    validation: Batches | None
    prior_precision: PriorPrecision
    link: LinkSettings
    training: TrainingSettings
    options: Mapping[str, Any]
    seed: int
    on_progress: OnProgress | None


def fit_method(request: FitRequest) -> Fit:
    """Return what the request's method makes of model and data."""
    if request.method is Method.MAP:
        return PointFit(request.model)
    if request.method is Method.TEMPERATURE:
        if request.validation is None:
            raise ValueError("method 'temperature' needs validation data to choose it on")
        return temperature_scaled(request.model, request.validation)
    if request.method.is_laplace:
        return LaplaceFit(_fit_laplace(request))
    return SampledFit(_fit_variational(request))


def named(kind: type[Enum], value: Any, what: str) -> Any:
    """Return an enum's member by its value; raise ValueError naming those that exist."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ValueError(f"{what} {value!r} is not available; these are: {known}") from None


def check_options(method: Method, options: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that a method does not take."""
    known = own_options(method)
    unknown = sorted(set(options) - set(known))
    if unknown:
        available = ", ".join(known) or "none of its own"
        raise ValueError(
            f"method {method.value!r} takes no setting {unknown}; it has: {available}"
        )


def own_options(method: Method) -> list[str]:
    """Return the names of a method's own settings."""
    if method in _VARIATIONAL:
        return [n for n in _parameters(_VARIATIONAL[method]) if n not in _FIXED]
    if not method.is_laplace:
        return []
    fixed = _FIXED | ({"layers"} if method is Method.LAST_LAYER else set())
    return [name for name in _parameters(fit_posterior) if name not in fixed]


# Parameters of fit functions that a classifier sets itself.
_FIXED = {"likelihood", "structure", "prior_precision", "noise_cov", "seed", "device"}
_FIXED |= {"epochs", "learning_rate", "on_epoch"}


def _parameters(function: Callable) -> list[str]:
    """Return the names of a fit function's parameters behind model and data."""
    return list(inspect.signature(function).parameters)[2:]


def _fit_variational(request: FitRequest) -> VariationalPosterior:
    """Train a distribution of networks; its Gaussian prior, if any, is that of the training."""
    fit, training = _VARIATIONAL[request.method], request.training
    generator = torch.Generator().manual_seed(request.seed)
    options = dict(request.options)
    if "prior_precision" in _parameters(fit):
        options["prior_precision"] = training.prior_precision
    total, done = training.epochs * options.get("members", 1), itertools.count(1)

    def on_epoch(*_: Any) -> None:
        if request.on_progress:
            request.on_progress("training", next(done), total)

    return fit(
        request.model,
        shuffled(request.train, training.batch_size, generator),
        likelihood="categorical",
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        seed=request.seed,
        on_epoch=on_epoch,
        **options,
    )


def _fit_laplace(request: FitRequest) -> Posterior:
    options = dict(request.options)
    if request.method is Method.LAST_LAYER:
        options["layers"] = "last"
    prior = request.prior_precision
    given = prior if isinstance(prior, int | float | Mapping) else 1.0
    _tell(request, "curvature", 0)
    posterior = fit_posterior(
        request.model,
        request.train,
        likelihood="categorical",
        structure=_STRUCTURES[request.method],
        prior_precision=given,
        seed=request.seed,
        **options,
    )
    _tell(request, "curvature", 1)
    return _with_chosen_prior(posterior, request)


def _with_chosen_prior(posterior: Posterior, request: FitRequest) -> Posterior:
    """Return the posterior under the prior precision asked for.

    None: by validation NLL where there are validation data, else by the marginal likelihood.
    """
    choice = request.prior_precision
    if isinstance(choice, int | float | Mapping):
        return posterior
    if choice is None:
        has_validation = request.validation is not None
        choice = PriorChoice.VALIDATION_NLL if has_validation else PriorChoice.MARGINAL_LIKELIHOOD
    _tell(request, "prior precision", 0)
    if choice is PriorChoice.MARGINAL_LIKELIHOOD:
        chosen = maximize_marginal_likelihood(posterior)
    elif request.validation is None:
        raise ValueError(f"prior_precision {choice.value!r} needs validation data")
    else:
        is_joint = choice is PriorChoice.VALIDATION_NLL_JOINT
        search = minimize_nll_jointly if is_joint else minimize_nll
        chosen = search(posterior, request.validation, link=request.link)
    _tell(request, "prior precision", 1)
    return chosen


def _tell(request: FitRequest, stage: str, done: int) -> None:
    if request.on_progress:
        request.on_progress(stage, done, 1)
