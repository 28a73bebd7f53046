"""Move the mean to what new data say, with a posterior as the prior (E20)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.curvature.recorder import Recorder, ordinary
from bayes_vio.posterior.functional import at_map, bare_model, evaluate, plain_operations

if TYPE_CHECKING:
    from bayes_vio.posterior.laplace import Posterior

# The mean is found where no more than this can be gained.
_CONVERGED_NATS = 1e-3


@dataclass(frozen=True)
class Refit:
    """The network at its new mean, and how it got there."""

    recorder: Recorder
    distance: float
    prior_change: float
    loss_before: float
    loss_after: float
    converged: bool


def refit_mean(posterior: Posterior, loader: Iterable, max_iterations: int) -> Refit:
    """Minimise -log p(new data | w) + 1/2 (w - map)^T P (w - map) over the covered weights (E20).

    By L-BFGS in coordinates z in which the prior is N(0, 1), w = map + P^-1/2 z. The noise keeps
    the values that the model gave it at the old mean.
    """
    with torch.inference_mode(False):
        return _refit(posterior, _Objective(posterior, loader), max_iterations)


def _refit(posterior: Posterior, objective: _Objective, max_iterations: int) -> Refit:
    z = torch.zeros(
        sum(layer.matrix().numel() for layer in posterior.layers.values()),
        dtype=torch.float64,
        device=posterior.device,
    )
    optimizer = torch.optim.LBFGS(
        [z.requires_grad_()],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, z.grad = objective(z.detach())
        return value

    with torch.enable_grad():
        before = float(closure())
        optimizer.step(closure)  # pyright: ignore
        after, gradient = objective(z.detach())
    z = z.detach()
    # The objective curves with at least 1 in z (E20), so what is left to gain is |g|^2 / 2 nats.
    converged = 0.5 * float(gradient.square().sum()) < _CONVERGED_NATS
    moved, change = _moved(posterior, objective.change(z))
    return Refit(
        recorder=moved,
        distance=float(z.norm()),
        prior_change=change,
        loss_before=before / objective.n_data,
        loss_after=float(after) / objective.n_data,
        converged=converged and math.isfinite(float(after)),
    )


class _Objective:
    """The negative log posterior of the new data as a function of z [p], with its gradient."""

    def __init__(self, posterior: Posterior, loader: Iterable):
        self._posterior, self._loader = posterior, loader
        self._precision = posterior.curvature.precision(
            posterior.n_data, posterior.prior_precision
        )
        self._model, self._at_map = bare_model(posterior.recorder), at_map(posterior.recorder)
        self.n_data = 0

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient [p]; reads the data once."""
        z = z.clone().requires_grad_()
        weights = written(self._posterior, self.change(z))
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        value = 0.5 * float(z.detach().square().sum())
        self.n_data = 0
        totals = [torch.zeros_like(w) for w in leaves.values()]
        for x, target in self._loader:
            self.n_data += len(target)
            loss = self._loss(leaves, x, target)
            value += float(loss.detach())
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            totals = [total + g for total, g in zip(totals, gradients, strict=True)]
        if self.n_data == 0:
            raise ValueError("the loader is empty")
        (back,) = torch.autograd.grad(list(weights.values()), z, totals)
        return torch.tensor(value, dtype=torch.float64), back + z.detach()

    def change(self, z: Tensor) -> dict[str, Tensor]:
        """Return P^-1/2 z by layer [d_out, d_in]."""
        shapes = {name: layer.shape for name, layer in self._posterior.layers.items()}
        parts = z.split([d_out * d_in for d_out, d_in in shapes.values()])
        noise = {
            name: part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        return self._precision.sample(noise)

    def _loss(self, weights: dict[str, Tensor], x: Any, target: Tensor) -> Tensor:
        place = self._posterior.device
        x = ordinary(map_tensors(x, lambda t: t.to(place)))
        likelihood = self._posterior.likelihood
        with plain_operations():
            mean, own = evaluate(self._model, self._at_map, x)
            noise = likelihood.noise_cholesky(mean, own).clone()
        mean, _ = evaluate(self._model, self._at_map | weights, x)
        return -likelihood.log_likelihood(mean, noise, target.to(place)).sum()


def written(posterior: Posterior, change: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters that changes {layer: [d_out, d_in]} touch, at MAP + change."""
    start = at_map(posterior.recorder)
    changed = dict(start)
    for name, part in change.items():
        layer = posterior.layers[name]
        matrix = layer.matrix()
        layer.write((matrix.double() + part).to(matrix.dtype), changed)
    return {name: value for name, value in changed.items() if value is not start[name]}


def _moved(posterior: Posterior, change: dict[str, Tensor]) -> tuple[Recorder, float]:
    """Return a recorder at the new mean, and how much w^T P_0 w / 2 has grown."""
    recorder = posterior.recorder.to(posterior.device)
    parameters = dict(recorder.model.named_parameters())
    with torch.no_grad():
        for name, value in written(posterior, change).items():
            parameters[name].copy_(value)
    return recorder, _prior_energy(posterior, recorder) - _prior_energy(
        posterior, posterior.recorder
    )


def _prior_energy(posterior: Posterior, recorder: Recorder) -> float:
    """Return w^T P_0 w / 2 of the covered weights in a recorder's model."""
    energy = 0.0
    for name, layer in recorder.layers.items():
        w = posterior.curvature.covered(name, layer.matrix()).double()
        energy += 0.5 * posterior.prior_precision[name] * float(w.square().sum())
    return energy
