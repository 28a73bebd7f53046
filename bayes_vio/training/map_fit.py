"""Maximum a posteriori fit of the motion model: seeded, resumable, stopped early on validation."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.conventions import X
from bayes_vio.data.samples import MotionInput
from bayes_vio.distributed import Workers, current_workers
from bayes_vio.models.backbone import RoadReader, Stabiliser
from bayes_vio.models.motion import MotionModel, MotionModelSettings
from bayes_vio.training.augmentation import AugmentationSettings, augment
from bayes_vio.training.checkpoint import (
    Progress,
    load_checkpoint,
    optimizer_moments,
    restore_moments,
    save_checkpoint,
)
from bayes_vio.training.objective import gaussian_nll, log_weight, tempered_nll

# A road that hardly moves tells no height, and a few samples could be anything.
_LEAST_ROAD_SPEED_1_S = 0.5
_FEWEST_ROAD_SAMPLES = 10
# Standard deviations between the tenth and the ninetieth percentile of a normal distribution.
_PERCENTILES_APART = 2.5631


class MotionBatches(Iterable[tuple[MotionInput, Tensor]], Sized, Protocol):
    """A re-iterable of (input, target [batch, 6]) batches."""


class MotionSamples(Sized, Protocol):
    """Random access to motion samples, as in data.dataset.MotionDataset."""

    def loader(self, batch_size: int, shuffle_seed: int | None = None) -> MotionBatches:
        """Return batches, in order or shuffled by a seed."""
        ...


@dataclass(frozen=True)
class MapFitSettings:
    """How to train. ``beta`` tempers the NLL (objective.tempered_nll); rates are per step."""

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_fraction: float = 0.05
    patience: int = 20
    beta: float = 0.5
    gradient_clip: float = 5.0
    seed: int = 0
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)


@dataclass(frozen=True)
class MapEstimate:
    """The fitted model (best epoch, eval mode) and how the fit went."""

    model: MotionModel
    progress: Progress
    resumed_from_epoch: int


def fit_map(
    train: MotionSamples,
    validation: MotionSamples,
    settings: MapFitSettings,
    checkpoint: Path,
    data_fingerprint: str,
    device: torch.device,
    on_epoch: Callable[[Progress], None] | None = None,
    start: MotionModel | None = None,
    model_settings: MotionModelSettings | None = None,
) -> MapEstimate:
    """Fit the motion model; an existing checkpoint of the same fit is continued.

    ``start``: a fitted model to go on from, which stays as it is; None begins with random weights.
    Each epoch's randomness depends on (seed, epoch) alone, so a fit that was killed and resumed
    ends where an uninterrupted one does. The workers of an initialised process group (see
    bayes_vio.distributed) have the same samples and share every batch's work: their steps are one
    process's up to rounding. The first alone reads and writes the checkpoint. Raises ValueError
    where a set is empty or a loss is not finite.
    """
    if not len(train) or not len(validation):
        raise ValueError(
            f"nothing to fit: {len(train)} training and {len(validation)} validation samples"
        )
    workers = current_workers()
    model = copy.deepcopy(start) if start else _fresh(train, settings, model_settings)
    model.requires_grad_(True).to(device)
    model.noise_scale.fill_(1.0)  # calibration comes after training
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    progress, best = Progress(0, None, 0, [], []), copy.deepcopy(model.state_dict())
    fingerprint = _fingerprint(settings, model.settings, data_fingerprint)
    saved = workers.from_first(
        lambda: load_checkpoint(checkpoint, fingerprint) if checkpoint.exists() else None
    )
    if saved is not None:
        progress, groups = saved
        model.load_state_dict(groups["weights"])
        restore_moments(optimizer, groups["moments"])
        best = groups["best"]
    resumed = progress.epochs
    while progress.epochs < settings.epochs and not _stalled(progress, settings):
        # Workers on unlike machines may round differently: they begin every epoch with one state.
        workers.copy([*model.state_dict().values(), *optimizer_moments(optimizer).values()])
        loss = _train_epoch(model, optimizer, train, settings, progress.epochs, device, workers)
        nll = validation_nll(model, validation, settings.batch_size, device, workers)
        if progress.best_nll is None or nll < progress.best_nll:
            best = copy.deepcopy(model.state_dict())
        progress = _advance(progress, loss, nll)
        if workers.is_first:
            save_checkpoint(
                checkpoint,
                fingerprint,
                progress,
                model.state_dict(),
                best,
                optimizer_moments(optimizer),
            )
        if on_epoch is not None:
            on_epoch(progress)
    model.load_state_dict(best)
    return MapEstimate(model.eval(), progress, resumed)


@torch.no_grad()
def validation_nll(
    model: MotionModel,
    samples: MotionSamples,
    batch_size: int,
    device: torch.device,
    workers: Workers | None = None,
) -> float:
    """Return the mean NLL (nats per sample) of the model's mean and noise.

    ``workers`` take batches in turn, and all have the mean over all of them.
    """
    workers = workers or Workers()
    model.eval()
    total, count = 0.0, 0
    for i, (x, target) in enumerate(samples.loader(batch_size)):
        count += len(target)
        if workers.owns(i):
            mean, noise_cholesky = model(x.map(lambda t: t.to(device)))
            total += float(gaussian_nll(mean, noise_cholesky, target.to(device)).sum())
    (total,) = workers.sum_numbers([total], device)
    if not math.isfinite(total):
        raise ValueError(
            "the validation loss is not finite; look at the validation recording's data"
        )
    return total / count


@torch.no_grad()
def standardised_residuals(
    model: MotionModel, samples: MotionSamples, batch_size: int = 64
) -> NDArray[np.float64]:
    """Return the errors over their predicted noise sigma [n, 6], in the samples' order."""
    device = model.twist_scale.device
    parts = []
    for x, target in samples.loader(batch_size):
        mean, noise_cholesky = model(x.map(lambda t: t.to(device)))
        std = noise_cholesky.square().sum(-1).sqrt()
        parts.append(((target.to(device) - mean) / std).double().cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def twist_statistics(
    samples: MotionSamples, model: MotionModel, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Return median and scale [6] of target / dt less what the model knows without its network.

    The scale is what would be the standard deviation of a normal variable with the same tenth and
    ninetieth percentiles: where another car hides the road, what it tells may be off by anything.
    """
    residuals = [
        target / x.dt[:, None] - (model.prior_twist(x) - model.twist_offset)
        for x, target in samples.loader(batch_size)
    ]
    twist = torch.cat(residuals).double()
    # A recording that never moves in an axis must not scale that axis to nothing.
    least = torch.tensor([0.1, 0.01, 0.01, 0.002, 0.002, 0.002], dtype=torch.float64)
    low, middle, high = (twist.kthvalue(_rank(len(twist), q), 0).values for q in (0.1, 0.5, 0.9))
    return middle.float(), torch.maximum((high - low) / _PERCENTILES_APART, least).float()


def _rank(n: int, share: float) -> int:
    return min(n, 1 + int(share * n))


@torch.no_grad()
def road_statistics(samples: MotionSamples, batch_size: int = 256) -> tuple[float, float]:
    """Return the camera's height above the road (m) and the mean road speed (1/s).

    The height is the median of forward speed over road speed; 0, so that the road tells nothing,
    where too few samples show one.
    """
    stabiliser, reader, speeds, targets = Stabiliser(), RoadReader(), [], []
    for x, target in samples.loader(batch_size):
        speeds.append(reader(stabiliser(x).way, x.dt)[:, 0])
        targets.append(target[:, X] / x.dt)
    road, forward = torch.cat(speeds).double(), torch.cat(targets).double()
    moving = road > _LEAST_ROAD_SPEED_1_S
    if int(moving.sum()) < _FEWEST_ROAD_SAMPLES:
        return 0.0, 0.0
    return float((forward[moving] / road[moving]).median()), float(road.mean())


def _fresh(
    train: MotionSamples, settings: MapFitSettings, model_settings: MotionModelSettings | None
) -> MotionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = MotionModel(model_settings)
    model.set_road(*road_statistics(train))
    model.set_twist_statistics(*twist_statistics(train, model))
    return model


def _train_epoch(
    model: MotionModel,
    optimizer: torch.optim.Optimizer,
    train: MotionSamples,
    settings: MapFitSettings,
    epoch: int,
    device: torch.device,
    workers: Workers,
) -> float:
    """Make one pass over the training batches and return the mean loss."""
    model.train()
    epoch_seed = settings.seed * 1_000_003 + epoch
    generator = torch.Generator().manual_seed(epoch_seed)
    loader = train.loader(settings.batch_size, shuffle_seed=epoch_seed)
    total, count = 0.0, 0
    for step, (x, target) in enumerate(loader):
        x, target = augment(x, target, settings.augmentation, generator)
        _set_rate(optimizer, settings, (epoch + step / len(loader)) / settings.epochs)
        optimizer.zero_grad(set_to_none=True)
        loss = _add_gradients(model, x, target, settings.beta, device, workers)
        torch.nn.utils.clip_grad_norm_(
            model.parameters(), settings.gradient_clip, error_if_nonfinite=True
        )
        optimizer.step()
        total += loss * len(target)
        count += len(target)
    return total / count


def _add_gradients(
    model: MotionModel,
    x: MotionInput,
    target: Tensor,
    beta: float,
    device: torch.device,
    workers: Workers,
) -> float:
    """Return the mean loss of a batch and leave its gradients; workers take some rows each."""
    rows = workers.part(len(target))
    mean, noise_cholesky = model(x.map(lambda t: t[rows].to(device)))
    level = log_weight(noise_cholesky, beta).sum() / len(target)
    workers.sum([level])
    own = tempered_nll(mean, noise_cholesky, target[rows].to(device), beta, level)
    loss = own.sum() / len(target)
    loss.backward()
    if workers.size == 1:
        return float(loss.detach())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([loss.detach()[None], *(g.flatten() for g in gradients)])
    workers.sum([together])
    (total,), *sums = together.split([1, *(g.numel() for g in gradients)])
    for gradient, whole in zip(gradients, sums, strict=True):
        gradient.copy_(whole.view_as(gradient))
    return float(total)


def _set_rate(optimizer: torch.optim.Optimizer, settings: MapFitSettings, fraction: float) -> None:
    """Set the learning rate: linear warm-up, then a cosine to nothing (Loshchilov 2017)."""
    warm = min(1.0, fraction / settings.warmup_fraction) if settings.warmup_fraction else 1.0
    rate = settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _advance(progress: Progress, loss: float, nll: float) -> Progress:
    improved = progress.best_nll is None or nll < progress.best_nll
    return Progress(
        epochs=progress.epochs + 1,
        best_nll=nll if improved else progress.best_nll,
        best_epoch=progress.epochs + 1 if improved else progress.best_epoch,
        train_loss=[*progress.train_loss, loss],
        validation_nll=[*progress.validation_nll, nll],
    )


def _stalled(progress: Progress, settings: MapFitSettings) -> bool:
    return progress.epochs - progress.best_epoch >= settings.patience and progress.epochs > 0


def _fingerprint(
    settings: MapFitSettings, model_settings: MotionModelSettings, data_fingerprint: str
) -> str:
    parts = {"fit": asdict(settings), "model": asdict(model_settings), "data": data_fingerprint}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
