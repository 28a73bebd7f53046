"""Stochastic optimisation of the evidence lower bound: seeded, resumable, one for all methods.

The objective per datum is the negative log-likelihood under the method's noise plus
kl_weight * divergence / n_data; its one scaling is written here.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.curvature.recorder import recording_gradients, run, split_output
from bayes_vio.models.likelihood import Categorical, Likelihood
from bayes_vio.training.objective import gaussian_nll
from bayes_vio.variational.data import FitData


@dataclass(frozen=True)
class TrainingSettings:
    """How to optimise: Adam, the rate falling linearly to nothing.

    ``kl_warmup``: the share of the epochs in which the divergence's weight rises from 0 to 1
    (Sonderby et al. 2016); ``gradient_clip``: the largest norm of a gradient, None for any.
    """

    epochs: int
    learning_rate: float = 1e-3
    kl_warmup: float = 0.0
    gradient_clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0.0 < self.learning_rate < math.inf:
            raise ValueError(
                f"epochs ({self.epochs}) must not be negative, and learning_rate "
                f"({self.learning_rate}) must be positive"
            )
        if not 0.0 <= self.kl_warmup <= 1.0:
            raise ValueError(f"kl_warmup is a share of the epochs, in [0, 1]: {self.kl_warmup}")


@dataclass(frozen=True)
class EpochRecord:
    """An epoch (from 1): mean negative log-likelihood per datum (nats), divergence (nats, of all
    weights) with its weight at the end, and how long it took."""

    epoch: int
    nll: float
    divergence: float
    kl_weight: float
    duration_s: float


class Objective(ABC):
    """A network with the parameters of a method's distribution, as it is trained."""

    model: nn.Module
    # The learning rate of ``own_parameters`` over that of the model's.
    own_rate: float = 1.0

    @abstractmethod
    def divergence(self) -> Tensor:
        """Return the divergence of the weights from their prior (nats), a scalar."""

    def own_parameters(self) -> Mapping[str, nn.Parameter]:
        """Return what is trained besides the model's parameters."""
        return {}

    def noise(self) -> AbstractContextManager[Any]:
        """Return a context in which ``forward`` is noisy."""
        return nullcontext()

    def forward(self, x: Any) -> Any:
        """Return the model's output under one draw of the noise."""
        return run(self.model, x)

    def nll(self, x: Any, target: Tensor, likelihood: Likelihood) -> Tensor:
        """Return the mean negative log-likelihood per datum under one draw, a scalar."""
        return negative_log_likelihood(self.forward(x), target, likelihood).mean()


def negative_log_likelihood(output: Any, target: Tensor, likelihood: Likelihood) -> Tensor:
    """Return -log p(target | the model's output) per datum [batch], in nats, differentiable.

    The noise covariance is the likelihood's, or the model's own, which is then trained as well.
    """
    mean, noise_cholesky = split_output(output)
    if isinstance(likelihood, Categorical):
        return F.cross_entropy(mean, target, reduction="none")
    if likelihood.noise_cov is not None or noise_cholesky is None:
        noise_cholesky = likelihood.noise_cholesky(mean, noise_cholesky).to(mean.dtype)
    return gaussian_nll(mean, noise_cholesky, target.to(mean.dtype))


class Run:
    """An optimisation under way: its objective, its data, its optimizer, and what came of it."""

    def __init__(
        self,
        objective: Objective,
        data: FitData,
        likelihood: Likelihood,
        settings: TrainingSettings,
    ):
        self.objective, self.data = objective, data
        self.likelihood, self.settings = likelihood, settings
        self.history: list[EpochRecord] = []
        own = list(objective.own_parameters().values())
        groups = [(list(objective.model.parameters()), 1.0), (own, objective.own_rate)]
        self.optimizer = torch.optim.Adam(
            [{"params": params, "rate": rate} for params, rate in groups if params],
            lr=settings.learning_rate,
            fused=True,
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return everything that is trained, by name."""
        model = dict(self.objective.model.named_parameters())
        own = {f"own/{n}": p for n, p in self.objective.own_parameters().items()}
        return model | own

    def epochs(self) -> Iterator[EpochRecord]:
        """Train epoch by epoch, yielding after each; goes on after those in ``history``.

        An epoch's randomness depends on (seed, epoch) alone. Raises ValueError where the loss is
        not finite.
        """
        while len(self.history) < self.settings.epochs:
            self.history.append(self._epoch(len(self.history)))
            yield self.history[-1]

    def _epoch(self, epoch: int) -> EpochRecord:
        start, total, divergence = time.monotonic(), 0.0, 0.0
        self.objective.model.train()
        kl_weight = 1.0
        seed = self.settings.seed * 1_000_003 + epoch
        with seeded(seed, self.data.device), self.objective.noise():
            for step, (x, target) in enumerate(self.data.batches()):
                done = (epoch + step / self.data.n_batches) / self.settings.epochs
                kl_weight = self._kl_weight(done)
                with recording_gradients():
                    nll, kl = self._step(x, target, done, kl_weight)
                if not math.isfinite(nll + kl):
                    raise ValueError(
                        f"the loss of epoch {epoch + 1}, batch {step} is not finite ({nll}, "
                        f"divergence {kl}): lower learning_rate or set gradient_clip"
                    )
                total, divergence = total + nll * len(target), kl
        duration_s = time.monotonic() - start
        return EpochRecord(epoch + 1, total / self.data.n_data, divergence, kl_weight, duration_s)

    def _step(self, x: Any, target: Tensor, done: float, kl_weight: float) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.settings.learning_rate * (1 - min(done, 1.0))
        nll, kl = self.objective.nll(x, target, self.likelihood), self.objective.divergence()
        self.optimizer.zero_grad(set_to_none=True)
        (nll + kl_weight / self.data.n_data * kl).backward()
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(list(self.parameters().values()), self.settings.gradient_clip)
        self.optimizer.step()
        return float(nll.detach()), float(kl.detach())

    def _kl_weight(self, done: float) -> float:
        return min(1.0, done / self.settings.kl_warmup) if self.settings.kl_warmup else 1.0


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random number generators, and give them back as they were."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
