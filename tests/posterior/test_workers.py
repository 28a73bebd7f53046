"""Several real processes have the posterior of one; what fails in one ends all, and none hangs."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.distributed import Workers, current_workers, shard
from bayes_vio.posterior import Posterior, fit_posterior
from tests import workers
from tests.cases import CASES, Case, normal

STRUCTURES = ["inf", "diagonal", "kfac", "efb", "full", "subnetwork", "ella"]
# Where shards begin and end: unequal ones, and one without data.
SPLITS = {"two": [0, 7], "three": [0, 2, 3], "empty": [0, 0, 5]}


@dataclass(frozen=True)
class Figures:
    """What a posterior says of a few inputs."""

    covariance: Tensor
    evidence: float
    n_data: float
    tensors: dict[str, tuple[int, ...]]


def fitted(case: Case, loader: Any, structure: str, **options: Any) -> Posterior:
    return fit_posterior(
        case.model, loader, case.likelihood, structure, noise_cov=case.noise_cov,
        rank=6, subset_size=9, n_points=12, n_eigen=4, prior_precision=0.7, **options,
    )  # fmt: skip


def figures(case: Case, posterior: Posterior) -> Figures:
    x = map_tensors(case.x, lambda t: t[:5])
    shapes = {name: tuple(t.shape) for name, t in posterior.curvature.tensors().items()}
    covariance = posterior.functional_covariance(x)
    return Figures(covariance, posterior.log_marginal_likelihood(), posterior.n_data, shapes)


def part(case: Case, begin: int, end: int) -> Case:
    inputs = map_tensors(case.x, lambda t: t[begin:end])
    return Case(case.model, inputs, case.y[begin:end], case.noise_cov, case.likelihood)


def shard_loader(case: Case, begin: int, end: int) -> list:
    """Return batches of 3: other ones than one process has."""
    return part(case, begin, end).loader(3) if end > begin else []


def fit_shard(names: list[tuple[str, str, str | None]], split: list[int]) -> list[Figures]:
    rank, found = current_workers().rank, []
    for name, structure, fisher in names:
        case = CASES[name]()
        bounds = [*split, len(case.y)]
        loader = shard_loader(case, bounds[rank], bounds[rank + 1])
        found.append(figures(case, fitted(case, loader, structure, fisher=fisher)))
    return found


def assert_alike(got: Figures, expected: Figures, what: Any, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(
        got.covariance, expected.covariance, rtol=rtol, atol=1e-9, msg=lambda m: f"{what}: {m}"
    )
    assert got.evidence == pytest.approx(expected.evidence, rel=rtol), what
    assert got.n_data == expected.n_data, what
    assert got.tensors == expected.tensors, what


FEW = [("image_and_vector", structure, None) for structure in STRUCTURES]
FEW += [("classifier", "inf", "probed"), ("classifier", "ella", "mc"), ("two_heads", "kfac", "mc")]
MANY = [(name, structure, None) for name in CASES for structure in ("inf", "kfac")]
MANY += [("classifier", s, f) for s in STRUCTURES for f in ("type2", "mc", "empirical")]


@pytest.mark.parametrize("names", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", SPLITS)
def test_workers_have_the_posterior_of_one(split: str, names: list) -> None:
    starts = SPLITS[split]
    found = workers.values(fit_shard, [(names, starts)] * len(starts))
    for i, what in enumerate(names):
        name, structure, fisher = what
        case = CASES[name]()
        alone = figures(case, fitted(case, case.loader(4), structure, fisher=fisher))
        for own in found:
            assert_alike(own[i], alone, what)
        assert all(torch.equal(own[i].covariance, found[0][i].covariance) for own in found), what


def update_shard(structure: str) -> Figures:
    case = CASES["linear_chain"]()
    rank = current_workers().rank
    old, new = [(0, 3), (3, 5)][rank], [(5, 6), (6, len(case.y))][rank]
    posterior = fitted(case, shard_loader(case, *old), structure)
    return figures(case, posterior.update(shard_loader(case, *new)))


@pytest.mark.parametrize("structure", ["full", "inf"])
def test_workers_update_like_one(structure: str) -> None:
    case = CASES["linear_chain"]()
    posterior = fitted(case, part(case, 0, 5).loader(), structure)
    updated = posterior.update(part(case, 5, len(case.y)).loader())
    assert updated.report.updates[0].converged
    alone = figures(case, updated)
    for own in workers.values(update_shard, [(structure,)] * 2):
        # The mean is refitted until 1e-3 nats are left to gain, no further.
        assert_alike(own, alone, structure, rtol=1e-3)


def fit_own_dataset() -> Figures:
    case = CASES["mlp"]()
    loader = DataLoader(shard(TensorDataset(case.x, case.y)), batch_size=2)
    return figures(case, fitted(case, loader, "inf"))


def test_shards_of_a_dataset_hold_every_datum_once() -> None:
    case = CASES["mlp"]()
    alone = figures(case, fitted(case, case.loader(), "inf"))
    for own in workers.values(fit_own_dataset, [()] * 3):
        assert_alike(own, alone, "shard")


def fit_alone() -> Figures:
    case = CASES["mlp"]()
    return figures(case, fitted(case, case.loader(), "inf", workers=Workers()))


def test_a_worker_may_fit_alone() -> None:
    case = CASES["mlp"]()
    alone = figures(case, fitted(case, case.loader(), "inf"))
    for own in workers.values(fit_alone, [()] * 2):
        assert_alike(own, alone, "alone")


def broken_fit(what: str) -> None:
    case, rank = CASES["mlp"](), current_workers().rank
    loader: Any = shard_loader(case, *[(0, 4), (4, len(case.y))][rank])
    structure, options = "inf", {}
    if what == "nan" and rank == 1:
        loader[-1][0][0, 0] = float("nan")
    if what == "weights" and rank == 1:
        next(case.model.parameters()).data += 1e-9
    if what == "settings":
        options = {"seed": rank}
    if what == "same":
        loader = case.loader()
    if what == "nothing":
        loader = []
    if what == "backpack":
        structure = "kflr"
    if what == "sampler":
        data = TensorDataset(case.x[:7], case.y[:7])
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=False)
        loader = DataLoader(data, sampler=sampler)
    fitted(case, loader, structure, **options)


REFUSED = {
    "nan": "the loss of batch",
    "weights": "another model than worker 0",
    "settings": "give all the same",
    "same": "begin with the same data",
    "nothing": "the loader is empty",
    "backpack": "fitted by one process",
    "sampler": "gives 1 data twice",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_with_one_worker_is_told_by_all(what: str) -> None:
    first, second = workers.start(broken_fit, [(what,)] * 2).results()
    second.failed_with("ValueError", REFUSED[what])
    if what == "nan":
        first.failed_with("WorkerError", "worker 1 of 2 failed: ValueError: the loss of batch")
    else:
        first.failed_with("ValueError", REFUSED[what])


def end_in_the_middle(with_signal: int) -> None:
    """Let worker 1 be struck in the second reading of the data, before the sums."""
    case, rank = CASES["mlp"](), current_workers().rank

    class Loader(list):
        n_read = 0

        def __iter__(self):
            Loader.n_read += 1
            if rank == 1 and Loader.n_read == 4:
                os.kill(os.getpid(), with_signal)
            return super().__iter__()

    fitted(case, Loader(shard_loader(case, *[(0, 4), (4, len(case.y))][rank])), "inf")


def test_a_killed_worker_ends_the_others_at_once() -> None:
    group = workers.start(end_in_the_middle, [(signal.SIGKILL,)] * 2, timeout_s=600.0)
    group.result(0, 30.0).failed_with("WorkerError", "another worker was killed, failed or hung")
    assert group.result(1).code == -signal.SIGKILL


def test_a_worker_that_hangs_ends_the_others_after_the_timeout() -> None:
    begin = time.monotonic()
    group = workers.start(end_in_the_middle, [(signal.SIGSTOP,)] * 2, timeout_s=3.0)
    group.result(0, 30.0).failed_with("WorkerError", "another worker was killed, failed or hung")
    assert time.monotonic() - begin < 30.0
    group.processes[1].kill()


def exchange() -> tuple:
    team = current_workers()
    numbers = torch.full((2,), float(team.rank + 1))
    team.sum([numbers])
    copied = torch.full((2,), float(team.rank))
    team.copy([copied], source=1)
    return numbers, copied, team.gather(team.rank), team.from_first(lambda: os.getpid())


def test_exchanges() -> None:
    for numbers, copied, ranks, first in (found := workers.values(exchange, [()] * 3)):
        assert numbers.tolist() == [6.0, 6.0]
        assert copied.tolist() == [1.0, 1.0]
        assert ranks == [0, 1, 2]
        assert first == found[0][3]


def fit_beside(name: str) -> tuple[list[int], float, float]:
    """Fit while the other worker waits: it would not answer."""
    team, case = current_workers(), CASES[name]()
    first = team.from_first(lambda: figures(case, fitted(case, case.loader(4), "inf")).evidence)
    sizes = team.first_then_others(lambda: current_workers().size)
    together = figures(case, fitted(case, part_of(case, team), "inf")).evidence
    return [sizes, current_workers().size], first, together


def part_of(case: Case, team: Workers) -> list:
    rows = team.part(len(case.y))
    return shard_loader(case, rows.start, rows.stop)


def test_what_one_worker_fits_while_the_others_wait_is_its_own() -> None:
    case = CASES["mlp"]()
    alone = figures(case, fitted(case, case.loader(4), "inf")).evidence
    for sizes, first, together in workers.values(fit_beside, [("mlp",)] * 2):
        assert sizes == [1, 2]
        assert first == pytest.approx(alone)
        assert together == pytest.approx(alone)


@pytest.mark.parametrize(("count", "size"), [(0, 2), (1, 3), (10, 3), (7, 7), (1000, 6)])
def test_parts_are_even_and_whole(count: int, size: int) -> None:
    parts = [Workers(rank, size).part(count) for rank in range(size)]
    assert [i for p in parts for i in range(count)[p]] == list(range(count))
    lengths = [p.stop - p.start for p in parts]
    assert max(lengths) - min(lengths) <= 1
    assert normal(count)[parts[0]].shape == (lengths[0],)
