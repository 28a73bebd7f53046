"""Members of an ensemble in training: one network, or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from bayes_vio.models.likelihood import Likelihood
from bayes_vio.variational.preparation import fixed_copy
from bayes_vio.variational.training import Objective, TrainingSettings, negative_log_likelihood


class MapObjective(Objective):
    """One network under the prior N(0, 1 / prior_precision) on all its parameters."""

    def __init__(self, model: nn.Module, prior_precision: float):
        self.model, self.prior_precision = model, prior_precision

    def divergence(self) -> Tensor:
        """Return the negative log prior density, up to a constant."""
        squares = [p.square().sum() for p in self.under_prior()]
        return 0.5 * self.prior_precision * torch.stack(squares).sum()

    def under_prior(self) -> list[nn.Parameter]:
        """Return what the prior is on."""
        return list(self.model.parameters())


class StackedObjective(MapObjective):
    """Several networks of one architecture side by side, each the same as if alone."""

    def __init__(self, members: Sequence[nn.Module], prior_precision: float):
        # The first member lends its structure; its own parameters are not trained.
        super().__init__(fixed_copy(members[0]), prior_precision)
        stacked, self.buffers = stack_module_state(list(members))
        self.stacked = {n: nn.Parameter(t.detach()) for n, t in stacked.items()}

    def own_parameters(self) -> Mapping[str, nn.Parameter]:
        return self.stacked

    def under_prior(self) -> list[nn.Parameter]:
        return list(self.stacked.values())

    def nll(self, x: Any, target: Tensor, likelihood: Likelihood) -> Tensor:
        """Return the sum over members of their mean negative log-likelihood per datum."""

        def member(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            output = functional_call(self.model, (parameters, buffers), (x,))
            return negative_log_likelihood(output, target, likelihood).mean()

        networks = torch.vmap(member, randomness="different")
        return networks(dict(self.stacked), dict(self.buffers)).sum()

    def members(self) -> dict[str, Tensor]:
        """Return parameters and buffers [members, ...] by name."""
        return {n: t.detach().clone() for n, t in (self.stacked | dict(self.buffers)).items()}


def refuse_coupled(model: nn.Module, settings: TrainingSettings) -> None:
    """Raise ValueError for what would make members that train side by side depend on each other
    or on one another's buffers."""
    if settings.gradient_clip is not None:
        raise ValueError("gradient_clip acts on all members at once: leave it, or side_by_side")
    if any(getattr(m, "track_running_stats", False) for m in model.modules()):
        raise ValueError(
            "networks with running statistics are trained one by one: side_by_side=False"
        )
