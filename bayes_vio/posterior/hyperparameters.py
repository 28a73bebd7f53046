"""Choose the prior precision: by the marginal likelihood of the training data, or by held-out NLL.

``on_trial`` is told every trial of a search, for ``plot_trials``. Bayesian optimisation is in
``bayes_vio.posterior.bayesian_search``. None refits: the stored curvature stays, only the prior
that is added to it changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.posterior.laplace import Posterior
from bayes_vio.posterior.predictive import LinkSettings, Prediction
from bayes_vio.posterior.trials import OnTrial, Trial

# Bounds of log10 prior precision.
LOG10_BOUNDS = (-10.0, 10.0)
# For predictions whose Gaussian alone is of interest.
_ONE_DRAW = LinkSettings(n_samples=1)


def maximize_marginal_likelihood(
    posterior: Posterior, per_layer: bool = False, on_trial: OnTrial | None = None
) -> Posterior:
    """Return the posterior whose prior precision maximises the Laplace evidence (E16).

    One number for all layers, or one per layer, by L-BFGS on its logarithm from the best of a
    coarse grid; the gradient is exact. Source: MacKay (1992); Immer et al. (2021).
    """
    names = list(posterior.layers)
    spread = np.eye(len(names)) if per_layer else np.ones((len(names), 1))
    n = spread.shape[1]

    def negative(log10_prior: NDArray) -> tuple[float, NDArray]:
        exponents = torch.tensor(spread @ log10_prior, requires_grad=True)
        prior = dict(zip(names, (10.0**exponents).to(posterior.device), strict=True))
        try:
            evidence = posterior.log_evidence(prior)
        # A joint curvature is indefinite by rounding: too weak a prior does not outweigh that.
        except torch.linalg.LinAlgError:  # pyright: ignore
            return math.inf, np.zeros(n)
        (gradient,) = torch.autograd.grad(evidence, exponents)
        if on_trial:
            values = dict(zip(names, (10.0**exponents).tolist(), strict=True))
            cost = -float(evidence.detach())
            on_trial(Trial(values, posterior.n_data, cost, "negative log evidence (nats)"))
        return -float(evidence.detach()), -(spread.T @ gradient.numpy())

    grid = np.arange(LOG10_BOUNDS[0], LOG10_BOUNDS[1] + 1)
    start = min(grid, key=lambda g: negative(np.full(n, g))[0])
    bounds = [LOG10_BOUNDS] * n
    found = minimize(negative, np.full(n, start), jac=True, method="L-BFGS-B", bounds=bounds)
    chosen = 10.0 ** (spread @ found.x)
    return posterior.with_prior_precision(dict(zip(names, chosen.tolist(), strict=True)))


def minimize_nll(
    posterior: Posterior,
    loader: Iterable,
    log10_bounds: tuple[float, float] = (-6.0, 8.0),
    n_grid: int = 8,
    n_rounds: int = 4,
    link: LinkSettings | None = None,
    on_trial: OnTrial | None = None,
) -> Posterior:
    """Return the posterior whose one prior precision predicts held-out data best.

    A grid over log10 prior precision, then finer ones around its best point; each round reads the
    data once and shares one linearisation among its candidates. loader yields (x, target).
    """
    low, high = log10_bounds
    best = low
    for _ in range(n_rounds):
        exponents = np.linspace(low, high, n_grid)
        candidates = [posterior.with_prior_precision(float(10.0**e)) for e in exponents]
        costs = mean_nll(candidates, loader, link)
        best = float(exponents[int(np.argmin(costs))])
        for candidate, cost in zip(candidates, costs, strict=True) if on_trial else ():
            prior = dict(candidate.prior_precision)
            on_trial(Trial(prior, candidate.n_data, cost, "held-out NLL (nats)"))  # pyright: ignore
        step = (high - low) / (n_grid - 1)
        low, high = max(log10_bounds[0], best - step), min(log10_bounds[1], best + step)
    return posterior.with_prior_precision(10.0**best)


def minimize_nll_jointly(
    posterior: Posterior,
    loader: Iterable,
    log10_bounds: tuple[float, float] = (-4.0, 6.0),
    log10_scale_bounds: tuple[float, float] = (-2.0, 5.0),
    n_grid: int = 11,
    link: LinkSettings | None = None,
    on_trial: OnTrial | None = None,
) -> Posterior:
    """Return the posterior whose prior precision and number of data predict held-out data well.

    The number of data that multiplies the curvature is chosen as a factor of the true one: many
    make sure what the data determine, while a weak prior leaves the rest open. For each of a grid
    of ratios of prior precision and that factor (log10_bounds) the factor of lowest NLL is found.
    Held-out data say little of the ratio: of those within one standard error of the best, the
    weakest prior is taken. loader yields (x, target) and is read once; its predictions under every
    ratio are held in memory. Sources: Ritter et al. (2018), section 4, and Lee et al. (2020),
    section 5, who choose both; Breiman et al. (1984), section 3.4.3, for the standard error.
    """
    ratios = np.linspace(*log10_bounds, n_grid)
    found = _best_scales(posterior, loader, ratios, log10_scale_bounds, link)
    losses = [loss for _, loss in found]
    for ratio, (scale, loss) in zip(ratios, found, strict=True) if on_trial else ():
        shown = _scaled(posterior, ratio, scale)
        prior = dict(shown.prior_precision)
        on_trial(Trial(prior, shown.n_data, float(loss.mean()), "held-out NLL (nats)"))  # pyright: ignore
    best = min(losses, key=lambda loss: float(loss.mean()))
    if not bool(torch.isfinite(best).all()):
        raise ValueError("no prior precision within log10_bounds gives finite predictions")
    chosen = next(i for i, loss in enumerate(losses) if _within_one_error(loss - best))
    return _scaled(posterior, ratios[chosen], found[chosen][0])


def _scaled(posterior: Posterior, log10_ratio: float, log10_scale: float) -> Posterior:
    """Return the posterior with scaled data, the prior precision being ratio * scale."""
    scaled = posterior.with_n_data(posterior.n_data * 10.0**log10_scale)
    return scaled.with_prior_precision(10.0 ** (log10_ratio + log10_scale))


def _best_scales(
    posterior: Posterior,
    loader: Iterable,
    log10_ratios: NDArray,
    log10_scale_bounds: tuple[float, float],
    link: LinkSettings | None,
) -> list[tuple[float, Tensor]]:
    """Return for every ratio the log10 scale of lowest mean NLL, and the losses [n] there.

    Losses are infinite where the posterior has no positive definite P.
    """
    candidates = [posterior.with_prior_precision(float(10.0**r)) for r in log10_ratios]
    parts: list[list[tuple[Prediction, Tensor]]] = [[] for _ in candidates]
    broken: set[int] = set()
    n_data = 0
    for x, target in loader:
        x = map_tensors(x, lambda t: t.to(posterior.device))
        for at, rows in posterior.linearisations(x):
            part = target[rows].to(posterior.device)
            n_data += len(part)
            for i, candidate in enumerate(candidates):
                try:
                    parts[i].append((candidate.prediction(at, _ONE_DRAW), part))
                except torch.linalg.LinAlgError:  # pyright: ignore
                    broken.add(i)
    if n_data == 0:
        raise ValueError("the loader is empty")
    infinite = torch.full((n_data,), math.inf, dtype=torch.float64)
    return [
        (0.0, infinite) if i in broken else _best_scale(found, log10_scale_bounds, link)
        for i, found in enumerate(parts)
    ]


def _best_scale(
    parts: Sequence[tuple[Prediction, Tensor]],
    log10_scale_bounds: tuple[float, float],
    link: LinkSettings | None,
) -> tuple[float, Tensor]:
    """Return the log10 scale, which divides a covariance, of lowest mean NLL; the losses [n]."""
    densities = [prediction.rescaled_log_density(target, link) for prediction, target in parts]

    def losses(log10_scale: float) -> Tensor:
        return -torch.cat([density(10.0**-log10_scale) for density in densities]).double().cpu()

    found: Any = minimize_scalar(
        lambda s: float(losses(s).mean()),
        bounds=log10_scale_bounds,
        method="bounded",
        options={"xatol": 0.03},
    )
    return float(found.x), losses(found.x)


def _within_one_error(difference: Tensor) -> bool:
    """Tell whether paired differences [n] to the best have a mean below its standard error."""
    mean = float(difference.mean())
    return mean <= float(difference.std(correction=0)) / math.sqrt(len(difference))


def mean_nll(
    posteriors: Sequence[Posterior], loader: Iterable, link: LinkSettings | None = None
) -> list[float]:
    """Return the mean negative log predictive density (nats) of each of some posteriors.

    They must differ in their prior precision alone: each batch is linearised once for all.
    """
    first = posteriors[0]
    totals, n_data = [0.0] * len(posteriors), 0
    for x, target in loader:
        x = map_tensors(x, lambda t: t.to(first.device))
        for at, rows in first.linearisations(x):
            part: Tensor = target[rows].to(first.device)
            n_data += len(part)
            for i, posterior in enumerate(posteriors):
                totals[i] -= float(_log_density(posterior, at, part, link))
    if n_data == 0:
        raise ValueError("the loader is empty")
    return [total / n_data for total in totals]


def _log_density(
    posterior: Posterior, at: Any, target: Tensor, link: LinkSettings | None
) -> Tensor:
    """Return the summed log density, -inf where the posterior has no positive definite P."""
    try:
        return posterior.prediction(at, link).log_density(target).sum()
    except torch.linalg.LinAlgError:  # pyright: ignore
        return torch.tensor(-math.inf)
