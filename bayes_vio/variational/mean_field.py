"""Mean field: an independent Gaussian per weight, fitted to the evidence lower bound.

Sources: Graves (2011); Blundell et al. (2015); Kingma et al. (2015) for the local noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bayes_vio.variational.divergence import gaussian_divergence
from bayes_vio.variational.gaussian import GaussianObjective
from bayes_vio.variational.layers import weighted
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.preparation import OnEpoch, fixed_copy, prepare, settings_of, train
from bayes_vio.variational.reparametrisation import Reparametrisation
from bayes_vio.variational.report import Method, describe_layers
from bayes_vio.variational.training import EpochRecord, TrainingSettings
from bayes_vio.variational.weights import GaussianWeights


class MeanFieldObjective(GaussianObjective):
    """Gaussians whose prior is N(0, 1 / prior_precision)."""

    prior_precision: float = 1.0

    def divergence(self) -> Tensor:
        terms = [
            gaussian_divergence(mean, self.log_variances[name], self.prior_precision)
            for name, mean in self.means().items()
        ]
        return torch.stack(terms).sum()


def fit_mean_field(
    model: nn.Module,
    loader: Iterable,
    likelihood: str = "gaussian",
    epochs: int = 50,
    *,
    noise_cov: float | Tensor | None = None,
    layers: str | Sequence[str] | None = None,
    prior_precision: float = 1.0,
    log_variance: float = -10.0,
    reparametrisation: str | Reparametrisation = "local",
    learning_rate: float = 1e-3,
    variance_rate: float = 5.0,
    kl_warmup: float = 0.3,
    gradient_clip: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> VariationalPosterior:
    """Fit independent Gaussians to weights and biases of Linear, Conv1d and Conv2d layers.

    Training begins with the model's weights as means; the model itself stays untouched.
    model(x) returns its mean [batch, outputs] (logits of classes) or (mean, noise_cholesky);
    loader is re-iterable and yields (x, target). likelihood: "gaussian" or "categorical".
    noise_cov: a variance, [outputs], [outputs, outputs], or None: the model's own noise, which is
    trained as well. layers: None for all that can be stochastic, "last", or names and patterns.
    log_variance: where the variances begin. reparametrisation: "local", "weights" or "mixed".
    variance_rate: the learning rate of log variances over that of the means. checkpoint: a file
    that lets a killed fit go on. on_epoch(record, posterior) is called after every epoch.

    Raises ValueError where arguments contradict each other, the data hold what cannot be learned
    from, or the loss is not finite.
    """
    if not 0.0 < prior_precision < float("inf"):
        raise ValueError(f"prior_precision must be positive, it is {prior_precision}")
    settings = TrainingSettings(epochs, learning_rate, kl_warmup, gradient_clip, seed)
    prepared = prepare(model, loader, likelihood, noise_cov, layers, device)
    chosen = Reparametrisation(reparametrisation)
    parameters = {
        name: tuple(n for n, _ in weighted(prepared.model, name).named_parameters(recurse=False))
        for name in prepared.layers.stochastic
    }
    objective = MeanFieldObjective(prepared.model, parameters, log_variance, chosen, variance_rate)
    objective.prior_precision = prior_precision

    def finish(history: tuple[EpochRecord, ...]) -> VariationalPosterior:
        std = {n: (0.5 * v.detach()).exp() for n, v in objective.log_variances.items()}
        own = settings_of(
            settings,
            prior_precision=prior_precision,
            log_variance=log_variance,
            reparametrisation=chosen.value,
            variance_rate=variance_rate,
        )
        stochastic = describe_layers(prepared.model, parameters)
        report = prepared.report(Method.MEAN_FIELD, stochastic, own, history)
        fixed = fixed_copy(prepared.model)
        return VariationalPosterior(fixed, GaussianWeights(std), prepared.likelihood, report)

    return train(objective, prepared, settings, finish, checkpoint, on_epoch)
