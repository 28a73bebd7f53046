"""Binary dropout as inference: masks on input channels, in training and in prediction.

Dropping a layer's input channels is drawing its weights from q(W) = M diag(mask).
Source: Gal and Ghahramani (2016), "Dropout as a Bayesian approximation".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bayes_vio.curvature.coverage import Uncovered
from bayes_vio.variational.layers import Layers, Weighted, weighted
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.preparation import OnEpoch, fixed_copy, prepare, settings_of, train
from bayes_vio.variational.report import Method, describe_layers
from bayes_vio.variational.training import EpochRecord, Objective, TrainingSettings
from bayes_vio.variational.weights import BernoulliWeights


class DropoutObjective(Objective):
    """Dropout on the inputs of layers; the divergence is the weight decay that it implies."""

    def __init__(self, model: nn.Module, layers: Sequence[str], rate: float, prior: float):
        self.model, self.layers, self.rate, self.prior_precision = model, layers, rate, prior

    def noise(self) -> AbstractContextManager[Any]:
        return input_dropout(self.model, self.layers, self.rate)

    def divergence(self) -> Tensor:
        """Return KL(q || N(0, 1 / prior_precision)) up to a constant.

        Source: Gal (2016), "Uncertainty in deep learning", section 3.2.3; the network's weights
        are those of q divided by the chance to stay.
        """
        weights = [weighted(self.model, name) for name in self.layers]
        terms = [layer.weight.square().sum() / (1 - self.rate) for layer in weights]
        terms += [layer.bias.square().sum() for layer in weights if layer.bias is not None]
        return 0.5 * self.prior_precision * torch.stack(terms).sum()


@contextmanager
def input_dropout(model: nn.Module, layers: Sequence[str], rate: float) -> Iterator[None]:
    """Drop input channels of layers, datum by datum, by the global random number generator."""
    with ExitStack() as stack:
        for name in layers:
            stack.callback(_drop_inputs(weighted(model, name), rate).remove)
        yield


def _drop_inputs(layer: Weighted, rate: float) -> RemovableHandle:
    axis = -1 if isinstance(layer, nn.Linear) else -len(layer.kernel_size) - 1

    def dropped(_module: nn.Module, args: tuple, kwargs: Mapping[str, Tensor]) -> Any:
        x = args[0] if args else kwargs["input"]
        # One mask per datum: positions, which share weights, share it, too.
        shape = [1] * x.dim()
        shape[0], shape[axis] = x.shape[0], x.shape[axis]
        stays = torch.rand(shape, device=x.device) >= rate
        return (x * stays / (1 - rate),), {}

    return layer.register_forward_pre_hook(dropped, with_kwargs=True)


def fit_mc_dropout(
    model: nn.Module,
    loader: Iterable,
    likelihood: str = "gaussian",
    epochs: int = 50,
    *,
    rate: float = 0.1,
    drop_data: bool = False,
    noise_cov: float | Tensor | None = None,
    layers: str | Sequence[str] | None = None,
    prior_precision: float = 1e-2,
    learning_rate: float = 1e-3,
    gradient_clip: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> VariationalPosterior:
    """Train with dropout of ``rate`` on the inputs of layers, and keep it for predictions.

    Layers that read the data directly are left out unless ``drop_data``: their masks would drop
    measurements. Dropout modules of the model's own act in training alone. The other arguments
    and errors are those of ``fit_mean_field``.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"rate is the chance to be dropped, above 0 and below 1: {rate}")
    if not 0.0 <= prior_precision < float("inf"):
        raise ValueError(f"prior_precision must not be negative, it is {prior_precision}")
    settings = TrainingSettings(epochs, learning_rate, 0.0, gradient_clip, seed)
    prepared = prepare(model, loader, likelihood, noise_cov, layers, device)
    dropped, spared = _dropped(prepared.model, prepared.layers, drop_data)
    objective = DropoutObjective(prepared.model, dropped, rate, prior_precision)

    def finish(history: tuple[EpochRecord, ...]) -> VariationalPosterior:
        fixed = fixed_copy(prepared.model)
        own = settings_of(
            settings, rate=rate, drop_data=drop_data, prior_precision=prior_precision
        )
        stochastic = describe_layers(fixed, dict.fromkeys(dropped, ("weight",)))
        report = prepared.report(Method.MC_DROPOUT, stochastic, own, history, spared)
        rates = {
            f"{n}.weight" if n else "weight": _rates(weighted(fixed, n), rate) for n in dropped
        }
        return VariationalPosterior(fixed, BernoulliWeights(rates), prepared.likelihood, report)

    return train(objective, prepared, settings, finish, checkpoint, on_epoch)


def _dropped(
    model: nn.Module, layers: Layers, drop_data: bool
) -> tuple[tuple[str, ...], tuple[Uncovered, ...]]:
    """Return the layers whose inputs are dropped, and those spared since they read the data."""
    dropped = tuple(n for n in layers.stochastic if drop_data or n not in layers.first)
    if not dropped:
        raise ValueError("every layer reads the data directly: set drop_data=True to drop those")
    reason = "it reads the data, and dropping measurements was not asked for (drop_data)"
    spared = []
    for name in layers.stochastic:
        if name not in dropped:
            own = dict(weighted(model, name).named_parameters(recurse=False))
            names = tuple(f"{name}.{n}" if name else n for n in own)
            n_parameters = sum(p.numel() for p in own.values())
            spared.append(Uncovered(name, reason, names, n_parameters))
    return dropped, tuple(spared)


def _rates(layer: Weighted, rate: float) -> Tensor:
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return layer.weight.new_full((layer.weight.shape[1] * groups,), rate)
