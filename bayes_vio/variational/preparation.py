"""What every fit does before and while it trains: a copy, a look, a survey; and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.models.likelihood import Gaussian, Likelihood, make_likelihood
from bayes_vio.variational.checkpoint import restore, store
from bayes_vio.variational.data import FitData, first_inputs, survey
from bayes_vio.variational.layers import Layers, find_layers
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.report import Method, StochasticLayer, VariationalReport
from bayes_vio.variational.training import EpochRecord, Objective, Run, TrainingSettings

# Called after every epoch; its second argument makes the posterior as it then stands.
OnEpoch = Callable[[EpochRecord, Callable[[], VariationalPosterior]], None]


@dataclass(frozen=True)
class Preparation:
    """A trainable copy of the model, what a look at it showed, the likelihood and the data."""

    model: nn.Module
    layers: Layers
    likelihood: Likelihood
    data: FitData

    def report(
        self,
        method: Method,
        stochastic: tuple[StochasticLayer, ...],
        settings: dict[str, Any],
        history: tuple[EpochRecord, ...],
        spared: tuple[Uncovered, ...] = (),
    ) -> VariationalReport:
        """Return the report on one network; spared: what its method left deterministic."""
        return VariationalReport(
            method=method,
            likelihood=self.likelihood.name,
            n_data=self.data.n_data,
            n_outputs=self.layers.n_outputs,
            numbers_per_datum=self.layers.numbers_per_datum,
            stochastic=stochastic,
            deterministic=self.layers.deterministic + spared,
            settings=settings,
            histories=(history,),
        )


def prepare(
    model: nn.Module,
    loader: Iterable,
    likelihood: str,
    noise_cov: float | Tensor | None,
    layers: str | Sequence[str] | None,
    device: torch.device | str | None,
) -> Preparation:
    """Copy the model, look at it at work and look through the data.

    Raises ValueError where arguments contradict each other or the data cannot be learned from.
    """
    trainable = trainable_copy(model, device)
    place = next(trainable.parameters()).device
    with torch.inference_mode(False):
        found = find_layers(trainable, first_inputs(loader, place), layers)
    chosen = make_likelihood(likelihood, noise_cov, found.n_outputs, place)
    if isinstance(chosen, Gaussian) and noise_cov is None and not found.has_noise:
        raise ValueError(
            "the model returns no noise_cholesky: give noise_cov (variance of the targets)"
        )
    data = survey(loader, place, chosen, found.n_outputs)
    return Preparation(trainable, found, chosen, data)


def train(
    objective: Objective,
    prepared: Preparation,
    settings: TrainingSettings,
    finish: Callable[[tuple[EpochRecord, ...]], VariationalPosterior],
    checkpoint: Path | str | None,
    on_epoch: OnEpoch | None,
) -> VariationalPosterior:
    """Train an objective to its end and return what ``finish`` makes of it.

    An existing checkpoint of the same fit is continued: a fit that was killed and started again
    ends where an uninterrupted one does.
    """
    run = Run(objective, prepared.data, prepared.likelihood, settings)
    path = None if checkpoint is None else Path(checkpoint)
    identity = restore(path, run) if path is not None else ""
    # A caller's inference_mode would make constants of what is trained.
    with torch.inference_mode(False):
        for record in run.epochs():
            if path is not None:
                store(path, run, identity)
            if on_epoch is not None:
                on_epoch(record, lambda: finish(tuple(run.history)))
        return finish(tuple(run.history))


def trainable_copy(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    """Return a deep copy whose parameters require gradients. Raises ValueError without any."""
    if not any(True for _ in model.parameters()):
        raise ValueError("the model has no parameters")
    with torch.inference_mode(False):
        return copy.deepcopy(model).to(device).requires_grad_(True)


def fixed_copy(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """Return a deep copy in eval mode whose parameters are constants."""
    with torch.inference_mode(False):
        return copy.deepcopy(model).to(device).eval().requires_grad_(False)


def settings_of(settings: TrainingSettings, **method: Any) -> dict[str, Any]:
    """Return the settings of a fit as plain values for its report."""
    return vars(settings) | method
