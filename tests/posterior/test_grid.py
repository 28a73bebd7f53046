"""Grids under a bound on what all layers store: within it, no worse than the simple rules."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.grid import Grid, choose_grid, choose_grids
from tests.cases import Case, attention, mlp, norms


def spectra(seed: int, n_layers: int = 3) -> dict[str, Tensor]:
    """Return eigenvalues that are nearly a product, of layers of different size and scale."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for i in range(n_layers):
        d_out, d_in = (int(torch.randint(1, 9, (), generator=g)) for _ in range(2))
        factors = [torch.rand(d, generator=g, dtype=torch.float64).pow(4) for d in (d_out, d_in)]
        noise = torch.rand(d_out, d_in, generator=g, dtype=torch.float64).pow(3)
        found[f"layer{i}"] = 10.0 ** (i - 1) * torch.outer(*factors) * (0.2 + noise)
    return found


def numbers(eigenvalues: Tensor, grid: Grid) -> int:
    (d_out, d_in), (r_g, r_a) = eigenvalues.shape, (len(grid.rows), len(grid.columns))
    return d_out * r_g + d_in * r_a + r_g * r_a


def trace(eigenvalues: Tensor, grid: Grid) -> float:
    return float(eigenvalues[grid.rows][:, grid.columns].sum())


def gain(lams: dict[str, Tensor], kept: dict[str, float]) -> float:
    """Return the network's share of trace plus the mean of the layers' shares."""
    traces = {name: float(lam.sum()) for name, lam in lams.items()}
    mean = sum(kept[name] / traces[name] for name in lams) / len(lams)
    return sum(kept.values()) / sum(traces.values()) + mean


def gain_of(lams: dict[str, Tensor], grids: dict[str, Grid]) -> float:
    return gain(lams, {name: trace(lam, grids[name]) for name, lam in lams.items()})


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), max_numbers=st.integers(0, 300), max_rank=st.integers(0, 40))
def test_both_bounds_hold_and_indices_are_distinct(seed, max_numbers, max_rank):
    lams = spectra(seed)
    grids = choose_grids(lams, max_rank, max_numbers)
    assert sum(numbers(lams[n], grids[n]) for n in lams) <= max_numbers
    for name, (rows, columns) in grids.items():
        assert len(rows) * len(columns) <= max_rank
        assert bool((len(rows) == 0) == (len(columns) == 0))
        for index, size in zip((rows, columns), lams[name].shape, strict=True):
            assert bool((index.diff() > 0).all())
            assert not len(index) or (int(index[0]) >= 0 and int(index[-1]) < size)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), max_rank=st.integers(1, 40))
def test_without_want_of_room_every_layer_has_its_own_largest_grid(seed, max_rank):
    lams = spectra(seed)
    grids = choose_grids(lams, max_rank, 10**9)
    for name, lam in lams.items():
        alone = choose_grid(lam, max_rank)
        assert torch.equal(grids[name].rows, alone.rows)
        assert torch.equal(grids[name].columns, alone.columns)


def best_of_all_grids(lams: dict[str, Tensor], max_numbers: int) -> float:
    """Return the largest gain of any grids that fit, trying every pair of subsets."""
    best = {0: 0.0}
    zero = dict.fromkeys(lams, 0.0)
    for name, lam in lams.items():
        options = {0: 0.0}
        for rows in _subsets(lam.shape[0]):
            for columns in _subsets(lam.shape[1]):
                grid = Grid(torch.tensor(rows), torch.tensor(columns))
                n = numbers(lam, grid)
                options[n] = max(options.get(n, 0.0), gain(lams, zero | {name: trace(lam, grid)}))
        both: dict[int, float] = {}
        for (m, kept), (n, more) in itertools.product(best.items(), options.items()):
            if m + n <= max_numbers:
                both[m + n] = max(both.get(m + n, 0.0), kept + more)
        best = both
    return max(best.values())


def _subsets(n: int) -> list[tuple[int, ...]]:
    sizes = range(1, n + 1)
    return [c for size in sizes for c in itertools.combinations(range(n), size)]


def test_the_greedy_choice_is_close_to_the_best_of_all():
    ratios = []
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        lams = {
            n: torch.rand(3, 4, generator=g, dtype=torch.float64).pow(4) * scale
            for n, scale in (("a", 1.0), ("b", 0.3))
        }
        for max_numbers in (8, 16, 24, 32):
            grids = choose_grids(lams, 100, max_numbers)
            ratios.append(gain_of(lams, grids) / best_of_all_grids(lams, max_numbers))
    assert max(ratios) <= 1 + 1e-12
    assert min(ratios) > 0.6
    assert sum(ratios) / len(ratios) > 0.9


def largest_entries(lams: dict[str, Tensor], rank: int) -> dict[str, Grid]:
    """Return the whole grids that the largest entries touch (Lee et al. 2020)."""
    tops = {name: lam.flatten().topk(min(rank, lam.numel())).indices for name, lam in lams.items()}
    return {
        name: Grid((top // lams[name].shape[1]).unique(), (top % lams[name].shape[1]).unique())
        for name, top in tops.items()
    }


@pytest.mark.parametrize("rank", [2, 4, 7])
def test_with_the_same_numbers_more_is_kept_than_by_the_largest_entries(rank):
    ours, theirs = 0.0, 0.0
    for seed in range(20):
        lams = spectra(seed, 4)
        other = largest_entries(lams, rank)
        n_numbers = sum(numbers(lams[n], other[n]) for n in lams)
        grids = choose_grids(lams, 10**6, n_numbers)
        assert sum(numbers(lams[n], grids[n]) for n in lams) <= n_numbers
        ours += gain_of(lams, grids)
        theirs += gain_of(lams, other)
    assert ours > 1.01 * theirs


def test_a_layer_without_curvature_keeps_nothing():
    lams = {"dead": torch.zeros(3, 4, dtype=torch.float64), **spectra(0, 1)}
    rows, columns = choose_grids(lams, 100, 10**6)["dead"]
    assert len(rows) * len(columns) <= 1


def fit(case: Case, **settings):
    return fit_posterior(
        case.model, case.loader(), case.likelihood, noise_cov=case.noise_cov, **settings
    )


@pytest.mark.parametrize("make", [mlp, attention, norms])
def test_a_posterior_stores_no_more_than_it_may(make):
    case = make()
    diagonal, whole = fit(case, structure="diagonal").nbytes, fit(case, rank=10**6).nbytes
    shares = []
    for max_bytes in (diagonal, (2 * diagonal + whole) // 3, (diagonal + whole) // 2, whole):
        posterior = fit(case, rank=10**6, max_bytes=max_bytes)
        assert posterior.nbytes <= max_bytes
        shares.append(posterior.report.details["kept_trace_share"])
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert diagonal < posterior.nbytes <= whole


def test_with_room_for_the_diagonals_alone_inf_is_diagonal():
    case = mlp()
    diagonal = fit(case, structure="diagonal")
    inf = fit(case, max_bytes=diagonal.nbytes + 7)
    found, truth = inf.functional_covariance(case.x), diagonal.functional_covariance(case.x)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=0)


def test_what_leaves_no_room_is_refused():
    case = mlp()
    with pytest.raises(ValueError, match="diagonals alone take"):
        fit(case, max_bytes=100)
    with pytest.raises(ValueError, match="leave it out of 'efb'"):
        fit(case, structure="efb", max_bytes=10**6)
