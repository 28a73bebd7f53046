"""Move the mean to what new data say, with a posterior as the prior (E20)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.curvature.recorder import Recorder, ordinary
from bayes_vio.distributed import Workers
from bayes_vio.posterior.functional import at_map, bare_model, evaluate, plain_operations
from bayes_vio.posterior.refit_state import RefitFile

if TYPE_CHECKING:
    from bayes_vio.posterior.laplace import Posterior

# The mean is found where no more than this can be gained.
_CONVERGED_NATS = 1e-3


@dataclass(frozen=True)
class Refit:
    """The network at its new mean, and how it got there: ``history`` as ``RefitWatch`` is told.

    ``kept_round``: the index in the history of the round whose mean this is; ``converged``: that
    round is the last, and the minimum.
    """

    recorder: Recorder
    distance: float
    prior_change: float
    loss_before: float
    loss_after: float
    converged: bool
    history: tuple[tuple[float, float], ...] = ()
    kept_round: int = 0


@dataclass(frozen=True)
class RefitWatch:
    """How a long refit is watched: kept in a file, looked at and ended between rounds of steps.

    ``measure``: a number told of the model after each round, such as a validation loss. The mean
    of the round where it is smallest is kept, the start being one and the last among equals.
    ``told``: called with the history so far, (objective per datum, measure) per round, the start
    being the first. ``file``: where it is kept, to be gone on with; None keeps nothing. A refit
    ends with the round after which less than ``_CONVERGED_NATS`` can be gained.
    """

    measure: Callable[[nn.Module], float]
    told: Callable[[list[tuple[float, float]]], None]
    file: RefitFile | None = None
    steps_per_round: int = 5


def refit_mean(
    posterior: Posterior,
    loader: Iterable,
    max_iterations: int,
    n_data: float | None = None,
    watch: RefitWatch | None = None,
    workers: Workers | None = None,
) -> Refit:
    """Minimise -log p(new data | w) + 1/2 (w - map)^T P (w - map) over the covered weights (E20).

    By L-BFGS in coordinates z in which the prior is N(0, 1), w = map + P^-1/2 z. The noise keeps
    the values that the model gave it at the old mean. n_data: how many the loader's data stand
    for, None for their own number. ``workers`` have a part of them each; None: this process has
    all. Unwatched it goes to the minimum as far as rounding lets it.
    Raises RefitStateError where the watch's file is of another refit.
    """
    with torch.inference_mode(False):
        objective = _Objective(posterior, loader, n_data, workers or Workers())
        descent = _Descent(posterior, objective, max_iterations, watch)
        with torch.enable_grad():
            descent.run(max_iterations)
        return descent.result()


def best_round(history: Sequence[tuple[float, float]]) -> int:
    """Return the index of the smallest measure in a history, the last among equals."""
    measures = [math.inf if math.isnan(measured) else measured for _, measured in history]
    return len(measures) - 1 - measures[::-1].index(min(measures))


class _Descent:
    """L-BFGS on the objective, in rounds where it is watched."""

    def __init__(
        self,
        posterior: Posterior,
        objective: _Objective,
        max_iterations: int,
        watch: RefitWatch | None,
    ):
        self._posterior, self._objective, self._watch = posterior, objective, watch
        steps = min(watch.steps_per_round, max_iterations) if watch else max_iterations
        size = sum(layer.matrix().numel() for layer in posterior.layers.values())
        z = torch.zeros(size, dtype=torch.float64, device=posterior.device)
        self._z, self._kept_z = z.requires_grad_(), z.detach().clone()
        self._optimizer = torch.optim.LBFGS(
            [self._z],
            max_iter=steps,
            max_eval=2 * steps,
            history_size=20,
            tolerance_grad=1e-9,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )
        self._value, self._gradient = torch.tensor(math.inf), torch.full_like(z, math.inf)
        self.history: list[tuple[float, float]] = []

    def run(self, max_iterations: int) -> None:
        """Take steps until the minimum is reached, or so many are taken."""
        if self._watch and self._watch.file:
            self.history = self._watch.file.restore(self._optimizer, self._z, self._kept_z)
        self._evaluate()
        if not self.history:
            self._look()
        while not self._is_done(max_iterations):
            before = self._steps
            self._optimizer.step(self._closure)  # pyright: ignore
            self._evaluate()
            self._look()
            if self._watch and self._watch.file:
                self._watch.file.save(self._optimizer, self._z, self._kept_z, self.history)
            if not self._watch or self._steps == before:
                return

    def result(self) -> Refit:
        """Return the network at the mean that is kept."""
        kept = best_round(self.history)
        reached = self._left_nats < _CONVERGED_NATS and math.isfinite(float(self._value))
        moved, change = _moved(self._posterior, self._objective.change(self._kept_z))
        return Refit(
            recorder=moved,
            distance=float(self._kept_z.norm()),
            prior_change=change,
            loss_before=self.history[0][0],
            loss_after=self.history[kept][0],
            converged=reached and kept == len(self.history) - 1,
            history=tuple(self.history),
            kept_round=kept,
        )

    @property
    def _steps(self) -> int:
        return int(self._optimizer.state[self._z].get("n_iter", 0))

    @property
    def _left_nats(self) -> float:
        """Return what is left to gain at most: the objective curves with at least 1 in z (E20)."""
        return 0.5 * float(self._gradient.square().sum())

    def _is_done(self, max_iterations: int) -> bool:
        reached = self._watch is not None and self._left_nats < _CONVERGED_NATS
        return reached or self._steps >= max_iterations

    def _closure(self) -> Tensor:
        self._evaluate()
        return self._value

    def _evaluate(self) -> None:
        self._value, self._gradient = self._objective(self._z.detach())
        self._z.grad = self._gradient

    def _look(self) -> None:
        loss, measured = float(self._value) / self._objective.n_data, 0.0
        if self._watch:
            with torch.no_grad():
                change = self._objective.change(self._z.detach())
                measured = self._watch.measure(_moved(self._posterior, change)[0].model)
        self.history.append((loss, measured))
        if best_round(self.history) == len(self.history) - 1:
            self._kept_z.copy_(self._z.detach())
        if self._watch:
            self._watch.told(self.history)


class _Objective:
    """The negative log posterior of the new data as a function of z [p], with its gradient."""

    def __init__(
        self, posterior: Posterior, loader: Iterable, n_data: float | None, workers: Workers
    ):
        self._posterior, self._loader = posterior, loader
        self._stands_for, self._workers = n_data, workers
        self._precision = posterior.curvature.precision(
            posterior.n_data, posterior.prior_precision
        )
        self._model, self._at_map = bare_model(posterior.recorder), at_map(posterior.recorder)
        self.n_data = 0.0

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient [p]; reads the data once."""
        z = z.clone().requires_grad_()
        weights = written(self._posterior, self.change(z))
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        totals = [torch.zeros_like(w) for w in leaves.values()]
        n_own, own_loss = 0, 0.0
        with self._workers.together():
            for x, target in self._loader:
                loss = self._loss(leaves, x, target)
                n_own, own_loss = n_own + len(target), own_loss + float(loss.detach())
                gradients = torch.autograd.grad(loss, list(leaves.values()))
                totals = [total + g for total, g in zip(totals, gradients, strict=True)]
        numbers = self._workers.sum_numbers([n_own, own_loss], self._posterior.device)
        self._workers.sum(totals)
        n_read, loss = int(numbers[0]), numbers[1]
        if n_read == 0:
            raise ValueError("the loader is empty")
        self.n_data = float(self._stands_for or n_read)
        weight = self.n_data / n_read
        (back,) = torch.autograd.grad(list(weights.values()), z, totals)
        value = weight * loss + 0.5 * float(z.detach().square().sum())
        return torch.tensor(value, dtype=torch.float64), weight * back + z.detach()

    def change(self, z: Tensor) -> dict[str, Tensor]:
        """Return P^-1/2 z by layer [d_out, d_in]."""
        shapes = {name: layer.shape for name, layer in self._posterior.layers.items()}
        parts = z.split([d_out * d_in for d_out, d_in in shapes.values()])
        noise = {
            name: part.reshape(shape).clone()
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
