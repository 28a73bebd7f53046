"""Choose hyper-parameters by Bayesian optimisation of a cost on held-out data.

Source: Humt, Lee, Triebel (2020), "Bayesian optimization meets Laplace approximation for robotic
introspection"; the search is Optuna's Gaussian process (extra ``search``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.posterior.hyperparameters import (
    LOG10_BOUNDS,
    maximize_marginal_likelihood,
    mean_nll,
)
from bayes_vio.posterior.laplace import Posterior
from bayes_vio.posterior.predictive import ClassPrediction, LinkSettings
from bayes_vio.posterior.trials import OnTrial, Trial

# Bounds of log10 of what the number of data is multiplied with.
LOG10_SCALE_BOUNDS = (-4.0, 4.0)


class Objective(Enum):
    """What is minimised: a proper score, or the paper's validation error % + ECE %."""

    NLL = "held-out NLL (nats)"
    ERROR_PLUS_ECE = "error + ECE (%)"


class Sampler(Enum):
    """Where the next trial is: a Gaussian process of the costs so far says, or chance alone."""

    GAUSSIAN_PROCESS = "gaussian process"
    RANDOM = "random"


def optimize_bayesian(
    posterior: Posterior,
    loader: Iterable,
    objective: Objective = Objective.NLL,
    per_layer: bool = False,
    scale_data: bool = False,
    n_trials: int = 30,
    log10_bounds: tuple[float, float] = LOG10_BOUNDS,
    link: LinkSettings | None = None,
    seed: int = 0,
    on_trial: OnTrial | None = None,
    sampler: Sampler = Sampler.GAUSSIAN_PROCESS,
) -> Posterior:
    """Return the posterior with the lowest cost on held-out data among ``n_trials``.

    Over log10 prior precision, one or per layer, and with ``scale_data`` over the number of data
    that multiplies the curvature. The first trial is the choice of the marginal likelihood. loader
    yields (x, target) and is read once per trial. sampler: RANDOM is what the search is to be
    better than. Raises ValueError without Optuna, and for ERROR_PLUS_ECE where there are no
    classes.
    """
    optuna = _optuna()
    if objective is Objective.ERROR_PLUS_ECE and posterior.likelihood.name != "categorical":
        raise ValueError("error and ECE belong to classes: use Objective.NLL")
    space = _Space(posterior, per_layer, scale_data, log10_bounds)
    study = _study(optuna, sampler, seed)
    study.enqueue_trial(space.start())
    best, best_cost = posterior, math.inf
    for _ in range(n_trials):
        trial = study.ask(space.distributions(optuna))
        candidate = space.candidate(trial.params)
        cost = _cost(candidate, loader, objective, link)
        failed = optuna.trial.TrialState.FAIL if math.isinf(cost) else None
        study.tell(trial, None if failed else cost, state=failed)
        if on_trial:
            prior = dict(candidate.prior_precision)
            on_trial(Trial(prior, candidate.n_data, cost, objective.value))
        if cost < best_cost:
            best, best_cost = candidate, cost
    if math.isinf(best_cost):
        raise ValueError("no trial gave a finite cost: narrow log10_bounds")
    return best


def error_plus_ece(posterior: Posterior, loader: Iterable, link: LinkSettings | None) -> float:
    """Return classification error plus expected calibration error on held-out data, in %."""
    probs, targets = [], []
    for x, target in loader:
        prediction = posterior.predict(map_tensors(x, lambda t: t.to(posterior.device)), link)
        assert isinstance(prediction, ClassPrediction)
        probs.append(prediction.probs)
        targets.append(target.to(posterior.device))
    if not probs:
        raise ValueError("the loader is empty")
    p, y = torch.cat(probs), torch.cat(targets)
    wrong = float((p.argmax(-1) != y).double().mean())
    return 100 * (wrong + expected_calibration_error(p, y))


def expected_calibration_error(probs: Tensor, target: Tensor, n_bins: int = 15) -> float:
    """Return the mean gap of accuracy and confidence over bins of equal width of confidence.

    probs [n, classes], target [n]. Source: Guo et al. (2017), equation 3.
    """
    confidence, choice = probs.double().max(-1)
    right = (choice == target).double()
    bins = (confidence * n_bins).ceil().long().clamp(1, n_bins) - 1
    gaps = torch.zeros(n_bins, dtype=torch.float64, device=probs.device)
    gaps.index_add_(0, bins, right - confidence)
    return float(gaps.abs().sum()) / len(target)


class _Space:
    """The parameters of a search and the posterior that they stand for."""

    def __init__(
        self,
        posterior: Posterior,
        per_layer: bool,
        scale_data: bool,
        bounds: tuple[float, float],
    ):
        self._posterior, self._bounds, self._scale_data = posterior, bounds, scale_data
        self._per_layer = per_layer

    def distributions(self, optuna: ModuleType) -> dict[str, Any]:
        """Return the range of every parameter: log10 of a precision, or of the data's scale."""
        uniform = optuna.distributions.FloatDistribution
        found = {name: uniform(*self._bounds) for name in self._names()}
        if self._scale_data:
            found["/scale"] = uniform(*LOG10_SCALE_BOUNDS)
        return found

    def start(self) -> dict[str, float]:
        """Return the choice of the marginal likelihood, within the bounds."""
        warm = maximize_marginal_likelihood(self._posterior, self._per_layer).prior_precision
        values = warm if self._per_layer else {"/prior": next(iter(warm.values()))}
        low, high = self._bounds
        found = {name: min(max(math.log10(v), low), high) for name, v in values.items()}
        return found | ({"/scale": 0.0} if self._scale_data else {})

    def candidate(self, parameters: dict[str, float]) -> Posterior:
        """Return the posterior under parameters."""
        prior = {name: 10.0 ** parameters[name] for name in self._names()}
        value = prior if self._per_layer else prior["/prior"]
        candidate = self._posterior.with_prior_precision(value)
        scale = 10.0 ** parameters["/scale"] if self._scale_data else 1.0
        return candidate.with_n_data(scale * candidate.n_data) if self._scale_data else candidate

    def _names(self) -> list[str]:
        return list(self._posterior.layers) if self._per_layer else ["/prior"]


def _cost(
    posterior: Posterior, loader: Iterable, objective: Objective, link: LinkSettings | None
) -> float:
    """Return the cost, or inf where a covariance is not positive definite any more."""
    try:
        if objective is Objective.NLL:
            cost = mean_nll([posterior], loader, link)[0]
        else:
            cost = error_plus_ece(posterior, loader, link)
    except torch.linalg.LinAlgError:  # pyright: ignore
        return math.inf
    return cost if math.isfinite(cost) else math.inf


def _study(optuna: ModuleType, kind: Sampler, seed: int) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if kind is Sampler.RANDOM:
        return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)
    return optuna.create_study(sampler=sampler)


def _optuna() -> ModuleType:
    try:
        import optuna  # pyright: ignore
    except ImportError as error:
        raise ValueError(
            "Bayesian optimisation needs Optuna: pip install 'bayes_vio[search]'"
        ) from error
    return optuna
