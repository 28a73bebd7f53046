"""Factorised Gaussians over weights in training: means in the network, variances beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_vio.variational.layers import weighted
from bayes_vio.variational.reparametrisation import Reparametrisation, drawn, local_noise
from bayes_vio.variational.training import Objective


class GaussianObjective(Objective):
    """Noise on chosen layers; ``log_variances`` by parameter name are trained with the means."""

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Sequence[str]],
        log_variance: float,
        reparametrisation: Reparametrisation,
        variance_rate: float,
    ):
        self.model, self.own_rate = model, variance_rate
        means = dict(model.named_parameters())
        self.log_variances: dict[str, nn.Parameter] = {}
        self._local: dict[str, nn.Parameter] = {}
        self._drawn: dict[str, nn.Parameter] = {}
        for layer, own in parameters.items():
            is_local = reparametrisation.is_local(weighted(model, layer))
            for name in (f"{layer}.{p}" if layer else p for p in own):
                value = nn.Parameter(torch.full_like(means[name].detach(), log_variance))
                self.log_variances[name] = value
                (self._local if is_local else self._drawn)[name] = value

    def own_parameters(self) -> Mapping[str, nn.Parameter]:
        return self.log_variances

    def noise(self) -> AbstractContextManager[Any]:
        return local_noise(self.model, self._local)

    def forward(self, x: Any) -> Any:
        if not self._drawn:
            return super().forward(x)
        weights = drawn(self.means(), self._drawn)
        return functional_call(self.model, weights, (x,), tie_weights=False)

    def means(self) -> dict[str, Tensor]:
        """Return the means of everything that has a variance, by parameter name."""
        return {n: p for n, p in self.model.named_parameters() if n in self.log_variances}
