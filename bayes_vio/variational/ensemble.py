"""Deep ensembles: several networks, each begun and trained by itself.

Source: Lakshminarayanan et al. (2017), "Simple and scalable predictive uncertainty estimation".
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.models.likelihood import Likelihood, make_likelihood
from bayes_vio.variational.data import first_inputs
from bayes_vio.variational.layers import Layers, find_layers, stored_state
from bayes_vio.variational.member import MapObjective, StackedObjective, refuse_coupled
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.preparation import (
    OnEpoch,
    Preparation,
    fixed_copy,
    prepare,
    settings_of,
    train,
    trainable_copy,
)
from bayes_vio.variational.report import Method, VariationalReport, describe_layers
from bayes_vio.variational.training import (
    EpochRecord,
    TrainingSettings,
    seeded,
)
from bayes_vio.variational.weights import Members


def fit_ensemble(
    model: nn.Module,
    loader: Iterable,
    likelihood: str = "gaussian",
    epochs: int = 50,
    *,
    members: int = 5,
    fresh: bool = True,
    side_by_side: bool = False,
    noise_cov: float | Tensor | None = None,
    prior_precision: float = 0.0,
    learning_rate: float = 1e-3,
    gradient_clip: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> VariationalPosterior:
    """Train several networks of the model's architecture; the model itself stays untouched.

    fresh: whether every member begins with weights of its own, by the modules' own
    ``reset_parameters``; parameters that no module resets begin as the model's, and so does
    everything where ``fresh`` is false. The order of the data differs between members where the
    loader shuffles. side_by_side: train all members in one vectorised call, on the same batches:
    faster for small networks on a CPU and on GPUs. The other arguments and errors are those of
    ``fit_mean_field``; ``checkpoint`` is written per member.
    """
    if members < 1:
        raise ValueError(f"an ensemble has at least one member, not {members}")
    if not 0.0 <= prior_precision < float("inf"):
        raise ValueError(f"prior_precision must not be negative, it is {prior_precision}")
    settings = TrainingSettings(epochs, learning_rate, 0.0, gradient_clip, seed)
    if side_by_side:
        refuse_coupled(model, settings)
    prepared = prepare(model, loader, likelihood, noise_cov, None, device)
    starts = [_start(prepared.model, seed, i, fresh) for i in range(members)]
    own = {"members": members, "fresh": fresh, "side_by_side": side_by_side}
    plan = _Plan(prepared, settings, prior_precision, own)
    if side_by_side:
        return plan.train_together(starts, checkpoint, on_epoch)
    return join([plan.train_one(m, i, checkpoint, on_epoch) for i, m in enumerate(starts)])


def ensemble_of(
    models: Sequence[nn.Module],
    loader: Iterable,
    likelihood: str = "gaussian",
    *,
    noise_cov: float | Tensor | None = None,
) -> VariationalPosterior:
    """Return the ensemble of networks that are trained already, of one architecture and device.

    loader: anything that yields (x, target); its first inputs are looked at.
    """
    if not models:
        raise ValueError("an ensemble has at least one member, not 0")
    posteriors = []
    for model in models:
        copied = trainable_copy(model, None)
        place = next(copied.parameters()).device
        found = find_layers(copied, first_inputs(loader, place))
        chosen = make_likelihood(likelihood, noise_cov, found.n_outputs, place)
        report = _report(copied, found, chosen, 0, {"members": 1}, ())
        posteriors.append(_alone(copied, chosen, report))
    return join(posteriors)


def join(ensembles: Sequence[VariationalPosterior]) -> VariationalPosterior:
    """Return the ensemble of all members of ensembles of one architecture and likelihood.

    Raises ValueError where their networks differ in a shape.
    """
    tensors = [e.weights.tensors() for e in ensembles]
    shapes = [{n: t.shape[1:] for n, t in ts.items()} for ts in tensors]
    if any(s != shapes[0] for s in shapes):
        raise ValueError("the members of an ensemble must have one architecture")
    stacked = {name: torch.cat([ts[name] for ts in tensors]) for name in tensors[0]}
    first = ensembles[0]
    histories = tuple(h for e in ensembles for h in e.report.histories)
    settings = dict(first.report.settings) | {"members": len(next(iter(stacked.values())))}
    report = replace(first.report, settings=settings, histories=histories)
    return replace(first, weights=Members(stacked), report=report)


@dataclass(frozen=True)
class _Plan:
    """How the members of one ensemble are trained; ``own``: its settings, for the report."""

    prepared: Preparation
    settings: TrainingSettings
    prior_precision: float
    own: Mapping[str, Any]

    def train_one(
        self, start: nn.Module, i: int, checkpoint: Path | str | None, on_epoch: OnEpoch | None
    ) -> VariationalPosterior:
        """Return the ensemble of member i alone."""

        def finish(history: tuple[EpochRecord, ...]) -> VariationalPosterior:
            return _alone(start, self.prepared.likelihood, self.report((history,)))

        settings = replace(self.settings, seed=_member_seed(self.settings.seed, i))
        path = None if checkpoint is None else Path(f"{checkpoint}.{i}")
        objective = MapObjective(start, self.prior_precision)
        return train(objective, self.prepared, settings, finish, path, on_epoch)

    def train_together(
        self,
        starts: Sequence[nn.Module],
        checkpoint: Path | str | None,
        on_epoch: OnEpoch | None,
    ) -> VariationalPosterior:
        """Return the ensemble of all members; its one history sums their losses."""
        objective = StackedObjective(starts, self.prior_precision)

        def finish(history: tuple[EpochRecord, ...]) -> VariationalPosterior:
            stacked = objective.members()
            first = fixed_copy(starts[0])
            first.load_state_dict({n: t[0] for n, t in stacked.items()}, strict=False)
            report = self.report((history,))
            return VariationalPosterior(first, Members(stacked), self.prepared.likelihood, report)

        return train(objective, self.prepared, self.settings, finish, checkpoint, on_epoch)

    def report(self, histories: tuple[tuple[EpochRecord, ...], ...]) -> VariationalReport:
        """Return the report of a fit with these histories."""
        settings = settings_of(self.settings, prior_precision=self.prior_precision, **self.own)
        prepared = self.prepared
        n_data = prepared.data.n_data
        return _report(
            prepared.model, prepared.layers, prepared.likelihood, n_data, settings, histories
        )


def _report(
    model: nn.Module,
    layers: Layers,
    likelihood: Likelihood,
    n_data: int,
    settings: Mapping[str, Any],
    histories: tuple[tuple[EpochRecord, ...], ...],
) -> VariationalReport:
    """Return a report in which every parameter differs between members: none is deterministic."""
    parameters = {
        name: tuple(n for n, _ in model.get_submodule(name).named_parameters(recurse=False))
        for name in layers.stochastic
    }
    return VariationalReport(
        method=Method.ENSEMBLE,
        likelihood=likelihood.name,
        n_data=n_data,
        n_outputs=layers.n_outputs,
        numbers_per_datum=layers.numbers_per_datum,
        stochastic=describe_layers(model, parameters),
        deterministic=(),
        settings=settings,
        histories=histories,
    )


def _alone(
    model: nn.Module, likelihood: Likelihood, report: VariationalReport
) -> VariationalPosterior:
    fixed = fixed_copy(model)
    stacked = {name: t.detach().clone()[None] for name, t in stored_state(fixed).items()}
    return VariationalPosterior(fixed, Members(stacked), likelihood, report)


def _start(model: nn.Module, seed: int, i: int, fresh: bool) -> nn.Module:
    """Return a copy of the model, with weights drawn anew if it is to begin fresh."""
    member = copy.deepcopy(model)
    if not fresh:
        return member
    with seeded(_member_seed(seed, i), next(model.parameters()).device):
        for module in member.modules():
            reset = getattr(module, "reset_parameters", None)
            reset = reset or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    return member


def _member_seed(seed: int, i: int) -> int:
    return seed * 1_009 + i
