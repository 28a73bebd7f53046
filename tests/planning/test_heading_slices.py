"""The bound by slices of heading is above the truth, and next to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_scenes import box, random_cov, random_obstacle
from scipy.stats import norm

from bayes_vio.planning import Vehicle
from bayes_vio.planning.heading_slices import sliced_bound
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.obstacles import Obstacles
from tests.planning_cases import diagonal, sampled

VEHICLE = Vehicle()
N = 40_000


def bound_of(cov: np.ndarray, polygon: np.ndarray, pose=(0.0, 0.0, 0.0), grown_m=0.0) -> float:
    return sliced_bound(
        torch.tensor([pose], dtype=torch.float64),
        torch.from_numpy(cov)[None],
        VEHICLE.grown(torch.full((1, 4), grown_m, dtype=torch.float64)),
        Obstacles.of([polygon]),
    ).item()


def share_of(cov: np.ndarray, polygon: np.ndarray, n: int = N) -> float:
    return touches(sampled(cov, n), VEHICLE, Obstacles.of([polygon])).double().mean().item()


@pytest.mark.parametrize("ahead", [0.2, 0.6, 1.5])
def test_with_a_known_heading_it_is_the_probability_of_a_rectangle(ahead):
    # Positions at which box and car overlap: the sum of both rectangles.
    std_x, std_y, left, length, width = 0.4, 0.3, 1.6, 1.0, 0.6
    x = VEHICLE.front_m + ahead + 0.5 * length
    low = norm.cdf((ahead, left - 0.5 * width - VEHICLE.half_width_m), scale=(std_x, std_y))
    high = norm.cdf(
        (ahead + length + VEHICLE.front_m + VEHICLE.rear_m, left + 0.5 * width + 0.9),
        scale=(std_x, std_y),
    )
    bound = bound_of(diagonal(std_x, std_y, 1e-7), box(x, left, length, width))
    assert bound == pytest.approx(np.prod(high - low), abs=2e-5)


@pytest.mark.parametrize("yaw_std", [0.03, 0.05, 0.1])
def test_a_post_beside_the_rear_axle_is_not_reached_by_the_front(yaw_std):
    # The heading is poor and the position good: the front swings, the rear axle stays.
    post, cov = box(0.0, 1.25, 0.3, 0.3), diagonal(0.02, 0.08, yaw_std)
    share = share_of(cov, post, 200_000)
    assert 1e-3 < share < 0.3
    assert share * 0.95 <= bound_of(cov, post) <= 2 * share


@pytest.mark.parametrize("seed", range(4))
def test_it_holds_and_is_within_twice_the_truth_on_random_cases(seed):
    g, ratios = np.random.default_rng(seed), []
    while len(ratios) < 25:
        cov, polygon = random_cov(g), random_obstacle(g)
        bound = bound_of(cov, polygon)
        if not 1e-3 < bound < 0.9:
            continue
        share = share_of(cov, polygon)
        assert bound >= share - 4 * np.sqrt(max(share, 1 / N) / N)
        if share > 2e-3:
            ratios.append(bound / share)
    assert max(ratios) < 2.5
    assert np.median(ratios) < 1.3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-np.pi, np.pi), st.floats(-1e3, 1e3))
def test_it_does_not_depend_on_the_frame(seed, turn, away):
    g = np.random.default_rng(seed)
    cov, polygon = random_cov(g), random_obstacle(g)
    c, s = np.cos(turn), np.sin(turn)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    there = polygon @ R[:2, :2].T + [away, -away]
    moved = bound_of(R @ cov @ R.T, there, (away, -away, turn))
    assert moved == pytest.approx(bound_of(cov, polygon), rel=1e-4, abs=1e-6)


def test_a_larger_footprint_is_more_probable_to_touch():
    cov, wall = diagonal(0.1, 0.1, 1e-6), box(0, 0.9 + 0.3 + 0.5, 60, 1)
    for grown_m in (0.0, 0.1, 0.2):
        bound = bound_of(cov, wall, grown_m=grown_m)
        assert bound == pytest.approx(norm.sf((0.3 - grown_m) / 0.1), rel=2e-2)


def test_many_rows_are_bounded_as_one_by_one():
    g = np.random.default_rng(9)
    covs = np.array([random_cov(g) for _ in range(12)])
    polygons = [random_obstacle(g) for _ in range(12)]
    together = sliced_bound(
        torch.zeros(12, 3, dtype=torch.float64),
        torch.from_numpy(covs),
        VEHICLE.corners.expand(12, 4, 2),
        Obstacles.of(polygons),
    )
    alone = [bound_of(cov, polygon) for cov, polygon in zip(covs, polygons, strict=True)]
    assert together.numpy() == pytest.approx(alone, rel=1e-9, abs=1e-12)
