"""Fit a Laplace posterior: two readings of the data, one block per layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bayes_vio.choices import Fisher, Structure
from bayes_vio.curvature.coverage import Coverage, cover
from bayes_vio.curvature.passes import Pass, data_before, onto
from bayes_vio.curvature.recorder import Recorder, frozen_copy
from bayes_vio.distributed import Workers, current_workers
from bayes_vio.memory import share_of_memory
from bayes_vio.models.likelihood import make_likelihood
from bayes_vio.posterior.laplace import Posterior, per_layer
from bayes_vio.posterior.memory import check_memory, network_size
from bayes_vio.posterior.network import NetworkCurvature
from bayes_vio.posterior.report import PosteriorReport
from bayes_vio.posterior.shards import check_alike, first_data
from bayes_vio.posterior.structures import StructureSettings, fit_structure

# Above this many outputs one backward pass per output is dearer than drawing labels.
MAX_TYPE2_OUTPUTS = 10


@dataclass(frozen=True)
class Request:
    """What ``fit_posterior`` is asked for, beside model, data and machine; see there."""

    likelihood: str = "gaussian"
    structure: str = "inf"
    layers: str | Sequence[str] | None = None
    fisher: str | Fisher | None = None
    rank: int = 100
    subset_size: int = 1000
    n_points: int = 2000
    n_eigen: int = 20
    prior_precision: float | Mapping[str, float] = 1.0
    noise_cov: float | Tensor | None = None
    n_data: float | None = None
    seed: int = 0
    max_bytes: int | None = None


def fit_posterior(
    model: nn.Module,
    loader: Iterable,
    likelihood: str = "gaussian",
    structure: str = "inf",
    layers: str | Sequence[str] | None = None,
    fisher: str | Fisher | None = None,
    rank: int = 100,
    subset_size: int = 1000,
    n_points: int = 2000,
    n_eigen: int = 20,
    prior_precision: float | Mapping[str, float] = 1.0,
    noise_cov: float | Tensor | None = None,
    n_data: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    max_bytes: int | None = None,
    workers: Workers | None = None,
    memory_limit: float | None = None,
) -> Posterior:
    """Fit a Laplace posterior around a trained model, which stays untouched.

    model(x) returns its mean [batch, outputs] or (mean, noise_cholesky); x is a tensor or a frozen
    dataclass, tuple or dict of tensors with a batch axis. loader is re-iterable and yields
    (x, target) without augmentation, in any order. structure: "inf", "diagonal", "kfac", "efb",
    "full", "subnetwork", "ella", or BackPACK's "kflr" and "kfra". layers: None for all that can be
    covered, "last", or names and fnmatch patterns. fisher: "type2", "probed", "mc", "empirical",
    or None: type2 up to 10 outputs, mc above; "probed" is unbiased and as quick as "mc". rank
    bounds L, the low rank's size, under "inf": the report says what each layer has of it.
    max_bytes bounds what "inf" stores of all layers together: what the diagonals leave of it goes
    where it keeps most trace, in grids of at most rank entries. subset_size: how many weights
    "subnetwork" takes of all layers; of layers chosen by layers= it takes every weight. n_points,
    n_eigen: "ella" looks at the kernel in so many pairs of a datum and an output, and keeps so
    many directions. noise_cov: a variance, [outputs], [outputs, outputs], or None: the model's
    own. n_data: what multiplies the curvature, None for the loader's count. seed: what "mc" and
    "probed" draw, points under "ella". device: where to work, None for the model's; data
    come there from the CPU.

    workers: processes that fit together, None for all of the initialised process group (see
    ``bayes_vio.distributed``); ``Workers()`` is this one alone. Each has its own part of the data
    in its loader, of any length, and gets the posterior that one process with all of the parts in
    a row would. memory_limit: bytes that the fit may take, None for what is free, infinity for no
    limit (see ``bayes_vio.posterior.memory``).

    Under "mc" and "probed" numbers are drawn datum by datum, and under "ella" points, so the
    result depends on the data's order; otherwise it depends on neither order nor batch size.

    Raises ValueError where arguments contradict each other, the loader cannot be read twice,
    nothing can be covered, or workers have other models, settings or all the same data;
    InsufficientMemoryError, before anything large is allocated, and WorkerError where another
    worker fails.
    """
    request = Request(
        likelihood, structure, layers, fisher, rank, subset_size, n_points, n_eigen,
        prior_precision, noise_cov, n_data, seed, max_bytes,
    )  # fmt: skip
    return _fitted(*_prepared(model, loader, request, device, workers, memory_limit))


def check_fit(
    model: nn.Module,
    loader: Iterable,
    request: Request,
    device: torch.device | str | None = None,
    workers: Workers | None = None,
    memory_limit: float | None = None,
) -> None:
    """Raise what ``fit_posterior`` would before it reads the data, InsufficientMemoryError too.

    The model need not be trained yet.
    """
    _prepared(model, loader, request, device, workers, memory_limit)


def _prepared(
    model: nn.Module,
    loader: Iterable,
    request: Request,
    device: torch.device | str | None,
    workers: Workers | None,
    memory_limit: float | None,
) -> tuple[Pass, Structure, StructureSettings, Coverage]:
    kind = _structure(request.structure)
    if request.rank < 0:
        raise ValueError(f"rank is {request.rank}: use 0, which is the diagonal, or more")
    if request.max_bytes is not None and kind is not Structure.INF:
        raise ValueError(
            f"max_bytes chooses the grids of 'inf': leave it out of {request.structure!r}"
        )
    workers = current_workers() if workers is None else workers
    frozen = frozen_copy(model, device)
    place = next(frozen.parameters()).device
    check_alike(workers, frozen, request)
    first, n_batch = first_data(loader, workers)
    first = onto(first, place)
    coverage = cover(frozen, first, request.layers)
    chosen = make_likelihood(request.likelihood, request.noise_cov, coverage.n_outputs, place)
    recorder = Recorder(frozen, coverage.layers, coverage.copied)
    exact = kind in (Structure.KFLR, Structure.KFRA) and request.fisher is None
    fisher = Fisher.TYPE2 if exact else _fisher(request.fisher, coverage.n_outputs)
    data = Pass(
        recorder, loader, chosen, fisher, request.seed, place, workers,
        can_batch=coverage.can_batch,
    )  # fmt: skip
    settings = StructureSettings(
        prior_precision=per_layer(request.prior_precision, recorder.layers),
        n_outputs=coverage.n_outputs,
        n_data=request.n_data,
        rank=request.rank,
        max_bytes=request.max_bytes,
        subset_size=request.subset_size if request.layers is None else None,
        n_points=request.n_points,
        n_eigen=request.n_eigen,
    )
    size = network_size(data, first, max(1, n_batch))
    limit = share_of_memory(place, workers) if memory_limit is None else memory_limit
    with workers.together():
        check_memory(size, kind, settings, limit)
    return data, kind, settings, coverage


def _fitted(
    data: Pass, kind: Structure, settings: StructureSettings, coverage: Coverage
) -> Posterior:
    if data.fisher.is_drawn or kind is Structure.ELLA:
        data = replace(data, start=data_before(data.loader, data.workers))
    fitted = fit_structure(data, kind, settings)
    prior, n_data = settings.prior_precision, settings.n_data
    fitted.curvature.check_prior(prior)
    report = PosteriorReport(
        structure=kind.value,
        likelihood=data.likelihood.name,
        fisher=data.fisher.value,
        n_data=float(fitted.tally.n_data if n_data is None else n_data),
        n_outputs=coverage.n_outputs,
        covered=fitted.covered,
        uncovered=coverage.uncovered + fitted.uncovered,
        details=dict(fitted.details),
    )
    return Posterior(
        recorder=fitted.recorder,
        curvature=_checked(fitted.curvature, coverage),
        likelihood=data.likelihood,
        prior_precision={name: prior[name] for name in fitted.recorder.layers},
        log_likelihood=fitted.tally.log_likelihood * report.n_data / fitted.tally.n_data,
        can_batch=coverage.can_batch,
        report=report,
    )


def _structure(name: str) -> Structure:
    try:
        return Structure(name)
    except ValueError:
        available = ", ".join(s.value for s in Structure)
        raise ValueError(f"structure {name!r} is not available; these are: {available}") from None


def _fisher(fisher: str | Fisher | None, n_outputs: int) -> Fisher:
    if fisher is None:
        return Fisher.TYPE2 if n_outputs <= MAX_TYPE2_OUTPUTS else Fisher.MC
    return Fisher(fisher)


def _checked(curvature: NetworkCurvature, coverage: Coverage) -> NetworkCurvature:
    """Return the curvature in the network's dtype, or raise ValueError where it is not finite."""
    for name, tensor in curvature.tensors().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the curvature of {name!r} is not finite: look for NaN in the data")
    dtype = coverage.layers[0].matrix().dtype
    # Ordinary tensors, also inside a caller's inference_mode: an update differentiates with them.
    with torch.inference_mode(False):
        return curvature.map(lambda t: t.to(dtype, copy=True))
