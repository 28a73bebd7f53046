"""What the loader of a fit is looked at for, beside other workers' loaders, before it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from bayes_vio.curvature.inputs import batch_size, map_tensors, tensors
from bayes_vio.distributed import Workers
from bayes_vio.sealed import tensors_hash

# Data that are looked at: enough to see what a network does with a batch.
_N_FIRST = 8


def check_alike(workers: Workers, model: nn.Module, settings: Any) -> None:
    """Raise ValueError where workers were given other weights, or told other settings."""
    if workers.size == 1:
        return
    told = workers.gather((tensors_hash(model.state_dict()), repr(settings)))
    first, *others = told
    for rank, (weights, values) in enumerate(others, 1):
        if weights != first[0]:
            raise ValueError(
                f"worker {rank} has another model than worker 0: broadcast its weights first"
            )
        if values != first[1]:
            raise ValueError(
                f"worker {rank} was told {values}, worker 0 {first[1]}: give all the same"
            )


def first_data(loader: Iterable, workers: Workers) -> tuple[Any, int]:
    """Return the first few inputs of the first worker that has any, and the own batches' size.

    Raises ValueError for a loader that cannot be read twice, that repeats data to fill a shard, or
    that has the same data as another worker's.
    """
    with workers.together():
        _check_twice(loader)
        if workers.size > 1:
            _check_sampler(loader)
        batch = next(iter(loader), None)
        first = batch and map_tensors(tuple(batch), lambda t: t[:_N_FIRST])
    if workers.size > 1:
        first = _of_all(first, workers)
    if first is None:
        raise ValueError("the loader is empty")
    return first[0], batch_size(batch[0]) if batch else 0


def _check_twice(loader: Iterable) -> None:
    # A DataLoader may keep its workers, and so its iterator, which then starts anew.
    if not isinstance(loader, DataLoader) and iter(loader) is iter(loader):
        raise ValueError("the loader is an iterator, but is read twice: give a DataLoader or list")


def _check_sampler(loader: Iterable) -> None:
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        n_repeated = sampler.total_size - len(sampler.dataset)  # pyright: ignore
        if n_repeated > 0:
            raise ValueError(
                f"the loader's DistributedSampler gives {n_repeated} data twice, so that shards "
                "are equally long: use bayes_vio.distributed.shard(dataset)"
            )


def _of_all(first: Any, workers: Workers) -> Any:
    """Return the first worker's data; raise ValueError where another has the very same."""
    everyone = workers.gather(first and map_tensors(first, lambda t: t.detach().cpu()))
    found = [(rank, data) for rank, data in enumerate(everyone) if data is not None]
    for i, (rank, data) in enumerate(found):
        for other, same in found[:i]:
            if _is_same(list(tensors(data)), list(tensors(same))):
                raise ValueError(
                    f"the loaders of workers {other} and {rank} begin with the same data: give "
                    "each worker its own part, as of bayes_vio.distributed.shard(dataset)"
                )
    return found[0][1] if found else None


def _is_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))
