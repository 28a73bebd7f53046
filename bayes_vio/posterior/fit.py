"""Fit a Laplace posterior: two readings of the data, one block per layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bayes_vio.choices import Structure
from bayes_vio.curvature.coverage import Coverage, cover
from bayes_vio.curvature.passes import Pass, data_before, onto
from bayes_vio.curvature.recorder import Recorder, frozen_copy
from bayes_vio.distributed import Workers, current_workers
from bayes_vio.models.likelihood import Fisher, make_likelihood
from bayes_vio.posterior.laplace import Posterior, per_layer
from bayes_vio.posterior.network import NetworkCurvature
from bayes_vio.posterior.report import PosteriorReport
from bayes_vio.posterior.shards import check_alike, first_data
from bayes_vio.posterior.structures import StructureSettings, fit_structure

# Above this many outputs one backward pass per output is dearer than drawing labels.
MAX_TYPE2_OUTPUTS = 10


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
) -> Posterior:
    """Fit a Laplace posterior around a trained model, which stays untouched.

    model(x) returns its mean [batch, outputs] or (mean, noise_cholesky); x is a tensor or a frozen
    dataclass, tuple or dict of tensors with a batch axis. loader is re-iterable and yields
    (x, target) without augmentation, in any order. structure: "inf", "diagonal", "kfac", "efb",
    "full", "subnetwork", "ella", or BackPACK's "kflr" and "kfra". layers: None for all that can be
    covered, "last", or names and fnmatch patterns. fisher: "type2", "mc", "empirical", or None:
    type2 up to 10 outputs, mc above. rank bounds L, the low rank's size, under "inf": the report
    says what each layer has of it. max_bytes bounds what "inf" stores of all layers together: what
    the diagonals leave of it goes where it keeps most trace, in grids of at most rank entries.
    subset_size: how many weights "subnetwork" takes of all layers; of layers chosen by layers= it
    takes every weight. n_points, n_eigen: "ella" looks at the kernel in so many pairs of a datum
    and an output, and keeps so many directions. noise_cov: a variance, [outputs],
    [outputs, outputs], or None: the model's own. n_data: what multiplies the curvature, None for
    the loader's count. seed: labels drawn under "mc", points under "ella". device: where to work,
    None for the model's; data come there from the CPU.

    workers: processes that fit together, None for all of the initialised process group (see
    ``bayes_vio.distributed``); ``Workers()`` is this one alone. Each has its own part of the data
    in its loader, of any length, and gets the posterior that one process with all of the parts in
    a row would.

    Under "mc" labels are drawn datum by datum, and under "ella" points, so the result depends on
    the data's order; otherwise it depends on neither order nor batch size.

    Raises ValueError where arguments contradict each other, the loader cannot be read twice,
    nothing can be covered, or workers have other models, settings or all the same data, and
    WorkerError where another one fails.
    """
    kind = _structure(structure)
    if rank < 0:
        raise ValueError(f"rank is {rank}: use 0, which is the diagonal, or more")
    workers = current_workers() if workers is None else workers
    frozen = frozen_copy(model, device)
    place = next(frozen.parameters()).device
    if max_bytes is not None and kind is not Structure.INF:
        raise ValueError(f"max_bytes chooses the grids of 'inf': leave it out of {structure!r}")
    check_alike(
        workers, frozen, likelihood, structure, layers, fisher, rank, subset_size, n_points,
        n_eigen, prior_precision, noise_cov, n_data, seed, max_bytes,
    )  # fmt: skip
    coverage = cover(frozen, onto(first_data(loader, workers), place), layers)
    chosen = make_likelihood(likelihood, noise_cov, coverage.n_outputs, place)
    recorder = Recorder(frozen, coverage.layers, coverage.copied)
    prior = per_layer(prior_precision, recorder.layers)
    exact = kind in (Structure.KFLR, Structure.KFRA) and fisher is None
    second_moment = Fisher.TYPE2 if exact else _fisher(fisher, coverage.n_outputs)
    is_ordered = second_moment is Fisher.MC or kind is Structure.ELLA
    data = Pass(
        recorder=recorder,
        loader=loader,
        likelihood=chosen,
        fisher=second_moment,
        seed=seed,
        device=place,
        workers=workers,
        start=data_before(loader, workers) if is_ordered else 0,
    )
    settings = StructureSettings(
        prior_precision=prior,
        n_outputs=coverage.n_outputs,
        n_data=n_data,
        rank=rank,
        max_bytes=max_bytes,
        subset_size=subset_size if layers is None else None,
        n_points=n_points,
        n_eigen=n_eigen,
    )
    fitted = fit_structure(data, kind, settings)
    fitted.curvature.check_prior(prior)
    report = PosteriorReport(
        structure=kind.value,
        likelihood=chosen.name,
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
        likelihood=chosen,
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
