"""Sparse variational dropout: Gaussians under a log-uniform prior, which prunes what is noisy.

Source: Molchanov et al. (2017), "Variational dropout sparsifies deep neural networks".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bayes_vio.variational.divergence import log_alpha, log_uniform_divergence
from bayes_vio.variational.gaussian import GaussianObjective
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.preparation import OnEpoch, fixed_copy, prepare, settings_of, train
from bayes_vio.variational.reparametrisation import Reparametrisation
from bayes_vio.variational.report import Method, describe_layers
from bayes_vio.variational.training import EpochRecord, TrainingSettings
from bayes_vio.variational.weights import GaussianWeights

# A weight whose noise is e^1.5 times its mean carries nothing (Molchanov et al. 2017, section 5).
PRUNED_ABOVE = 3.0


class SparseObjective(GaussianObjective):
    """Gaussians over weights, biases being certain, whose prior is 1 / |w|."""

    def log_alphas(self) -> dict[str, Tensor]:
        """Return log(variance / mean^2) of every weight."""
        return {n: log_alpha(mean, self.log_variances[n]) for n, mean in self.means().items()}

    def divergence(self) -> Tensor:
        return torch.stack([log_uniform_divergence(a) for a in self.log_alphas().values()]).sum()


def fit_sparse_dropout(
    model: nn.Module,
    loader: Iterable,
    likelihood: str = "gaussian",
    epochs: int = 100,
    *,
    noise_cov: float | Tensor | None = None,
    layers: str | Sequence[str] | None = None,
    pruned_above: float = PRUNED_ABOVE,
    log_variance: float = -10.0,
    reparametrisation: str | Reparametrisation = "local",
    learning_rate: float = 1e-3,
    variance_rate: float = 1.0,
    kl_warmup: float = 0.3,
    gradient_clip: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> VariationalPosterior:
    """Fit weights with their noise, and prune those whose log alpha exceeds ``pruned_above``.

    Pruned weights are zero and certain; the others keep their Gaussians. ``at_mean()`` gives the
    sparse network alone; its file holds what is left. The other arguments and errors are those of
    ``fit_mean_field``.
    """
    settings = TrainingSettings(epochs, learning_rate, kl_warmup, gradient_clip, seed)
    prepared = prepare(model, loader, likelihood, noise_cov, layers, device)
    chosen = Reparametrisation(reparametrisation)
    parameters = dict.fromkeys(prepared.layers.stochastic, ("weight",))
    objective = SparseObjective(prepared.model, parameters, log_variance, chosen, variance_rate)

    def finish(history: tuple[EpochRecord, ...]) -> VariationalPosterior:
        fixed = fixed_copy(prepared.model)
        std, pruned = _prune(fixed, objective, pruned_above)
        own = settings_of(
            settings,
            pruned_above=pruned_above,
            log_variance=log_variance,
            reparametrisation=chosen.value,
            variance_rate=variance_rate,
        )
        stochastic = describe_layers(prepared.model, parameters, pruned)
        report = prepared.report(Method.SPARSE_DROPOUT, stochastic, own, history)
        return VariationalPosterior(fixed, GaussianWeights(std), prepared.likelihood, report)

    return train(objective, prepared, settings, finish, checkpoint, on_epoch)


@torch.no_grad()
def _prune(
    fixed: nn.Module, objective: SparseObjective, pruned_above: float
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Set pruned weights of a network to zero; return all stds, and the numbers by layer."""
    std, pruned = {}, {}
    weights = dict(fixed.named_parameters())
    for name, alpha in objective.log_alphas().items():
        gone = alpha > pruned_above
        weights[name].masked_fill_(gone, 0.0)
        std[name] = (0.5 * objective.log_variances[name]).exp().masked_fill(gone, 0.0).detach()
        pruned[name.rpartition(".")[0]] = int(gone.sum())
    return std, pruned
