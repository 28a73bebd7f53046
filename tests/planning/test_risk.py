"""Bounds on touching anything are above Monte Carlo, and near it."""

import numpy as np
import pytest
import torch
from planning_scenes import belief_at, box, modelled_drives, moment_of, random_cov, random_obstacle
from planning_scenes import street as random_street
from scipy.stats import norm

from bayes_vio.planning import Belief, Growth, Planner, Vehicle, reach
from bayes_vio.planning.belief import roll_out
from bayes_vio.planning.candidates import Start, candidates
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.risk import collision_bound
from bayes_vio.planning.stations import Stations, station_indices, stations_of
from tests.planning_cases import belief, diagonal, sampled

VEHICLE = Vehicle()
N = 20_000


def bound_at(cov: np.ndarray, *polygons: np.ndarray, pose=(0.0, 0.0, 0.0)) -> float:
    poses = torch.tensor([pose], dtype=torch.float64)
    stations = Stations.alone(poses, torch.from_numpy(cov)[None])
    return collision_bound(stations, VEHICLE, Obstacles.of(polygons)).item()


def share_at(cov: np.ndarray, *polygons: np.ndarray, n: int = N) -> float:
    return touches(sampled(cov, n), VEHICLE, Obstacles.of(polygons)).double().mean().item()


def deviation(p: float, n: int) -> float:
    return np.sqrt(max(p, 1 / n) / n)


def test_a_wall_beside_the_car_has_its_closed_form():
    # All that varies is the lateral position: both corners of the side reach the wall together.
    for gap in (0.1, 0.3):
        wall = box(0, VEHICLE.half_width_m + gap + 0.5, 60, 1)
        bound = bound_at(diagonal(0.1, 0.1, 1e-6), wall)
        assert bound == pytest.approx(norm.sf(gap / 0.1), rel=1e-3)


def test_heading_counts_with_the_corners_lever():
    wall = box(0, VEHICLE.half_width_m + 0.3 + 0.5, 60, 1)
    cov = diagonal(0.01, 0.01, 0.03)
    share = share_at(cov, wall, n=200_000)
    assert share > 1e-3
    assert share - 3 * deviation(share, 200_000) <= bound_at(cov, wall) <= 1.2 * share


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_and_is_tight_on_random_cases(seed):
    g = np.random.default_rng(seed)
    ratios = []
    while len(ratios) < 25:
        cov, polygon = random_cov(g), random_obstacle(g)
        bound = bound_at(cov, polygon)
        if not 1e-3 < bound < 0.9:
            continue
        share = share_at(cov, polygon)
        assert bound >= share - 4 * deviation(share, N)
        if 2e-3 < share < 0.3:
            ratios.append(bound / share)
    assert max(ratios) < 5
    assert np.median(ratios) < 1.7


def test_headings_parallel_to_walls_are_bounded():
    g = np.random.default_rng(4)
    for _ in range(30):
        cov, gap = random_cov(g), g.uniform(0.05, 1.0)
        walls = [box(0, s * (VEHICLE.half_width_m + gap + 0.5), 40, 1) for s in (-1, 1)]
        share, bound = share_at(cov, *walls), bound_at(cov, *walls)
        assert min(bound, 1) >= share - 4 * deviation(share, N)
        assert bound <= 2.5 * share + 5e-3


def path(speed: float, curvature: float, times: int = 41, dt_s: float = 0.1) -> torch.Tensor:
    t = dt_s * torch.arange(times, dtype=torch.float64)
    yaw = curvature * speed * t
    x, y = torch.sin(yaw) / curvature, (1 - torch.cos(yaw)) / curvature
    return torch.stack([x, y, yaw], -1)[None]


def test_a_path_past_obstacles_is_bounded():
    g = np.random.default_rng(1)
    ratios = []
    while len(ratios) < 8:
        poses = path(g.uniform(3, 10), g.choice([-1, 1]) * g.uniform(0.001, 0.05))
        rolled = roll_out(belief(scale=g.uniform(0.5, 3)), poses, 0.1, Growth())
        place = poses[0, g.integers(41), :2].numpy() - [1.35, 0]
        obstacles = Obstacles.of([random_obstacle(g) + place for _ in range(2)])
        stations = stations_of(rolled, station_indices(poses, 1.5), VEHICLE)
        bound = collision_bound(stations, VEHICLE, obstacles).item()
        if not 5e-3 < bound < 0.7:
            continue
        motions = rolled.sample(0, 3000, torch.Generator().manual_seed(0))
        share = touches(motions, VEHICLE, obstacles).any(-1).double().mean().item()
        assert bound >= share - 4 * deviation(share, 3000)
        if 5e-3 < share < 0.3:
            ratios.append(bound / share)
    assert max(ratios) < 5


def test_passing_a_wall_is_one_event_however_many_stations_it_has():
    poses = path(8.0, 1e-6)
    lasting = Belief(
        np.zeros(3), diagonal(0.1, 0.1, 1e-4), np.array([8.0, 0, 0]),
        diagonal(1e-4, 1e-4, 1e-5), diagonal(1e-4, 1e-4, 1e-5),
    )  # fmt: skip
    growth = Growth(position_tracking_std_m=1e-3, yaw_tracking_std_rad=1e-4)
    rolled = roll_out(lasting, poses, 0.1, growth)
    wall = Obstacles.of([box(20, VEHICLE.half_width_m + 0.25 + 0.5, 100, 1)])
    truth = norm.sf(2.5)
    for spacing_m in (0.8, 2.0, 3.5):
        stations = stations_of(rolled, station_indices(poses, spacing_m), VEHICLE)
        bound = collision_bound(stations, VEHICLE, wall).item()
        assert truth * 0.98 <= bound <= 1.3 * truth


def sure_but_for(lateral_m: float, yaw_rad: float) -> tuple[Belief, Growth]:
    """Return a car at 8 m/s whose lateral position and heading alone err, the same all along."""
    start = Belief(
        np.zeros(3), diagonal(1e-3, lateral_m, yaw_rad), np.array([8.0, 0, 0]),
        diagonal(1e-4, 1e-4, 1e-5), diagonal(1e-4, 1e-4, 1e-5),
    )  # fmt: skip
    return start, Growth(position_tracking_std_m=1e-3, yaw_tracking_std_rad=1e-4)


def passed(poses, start, growth, *polygons):
    """Return the bound of a path, and the share of sampled motions that touch."""
    rolled, obstacles = roll_out(start, poses, 0.1, growth), Obstacles.of(polygons)
    stations = stations_of(rolled, station_indices(poses, 0.9), VEHICLE)
    motions = rolled.sample(0, 10_000, torch.Generator().manual_seed(0))
    share = touches(motions, VEHICLE, obstacles).any(-1).double().mean().item()
    return collision_bound(stations, VEHICLE, obstacles).item(), share


def test_passing_a_row_of_parked_cars_is_one_event_however_many_there_are():
    start, growth = sure_but_for(0.1, 1e-4)
    cars = [box(x, VEHICLE.half_width_m + 0.2 + 1.0, 4.5, 2.0) for x in (6, 12, 18, 24)]
    bound, _ = passed(path(8.0, 1e-6), start, growth, *cars)
    truth = norm.sf(2.0)
    assert truth * 0.98 <= bound <= 1.4 * truth


def test_obstacles_on_both_sides_are_two_events():
    start, growth = sure_but_for(0.1, 1e-4)
    cars = [box(x, s * (VEHICLE.half_width_m + 1.2), 4.5, 2.0) for x, s in ((8, 1), (20, -1))]
    bound, _ = passed(path(8.0, 1e-6), start, growth, *cars)
    truth = 2 * norm.sf(2.0)
    assert truth * 0.98 <= bound <= 1.2 * truth


@pytest.mark.parametrize("x", [4.0, 10.0])
def test_the_front_that_has_passed_a_post_does_not_count_as_beside_it(x):
    start, growth = sure_but_for(0.05, 0.04)
    beside = VEHICLE.half_width_m + 2.5 * np.hypot(0.05, 0.04 * x) + 0.15
    bound, share = passed(path(8.0, 1e-6), start, growth, box(x, beside, 0.3, 0.3))
    assert share - 4 * deviation(share, 10_000) <= bound <= 3 * share


@pytest.mark.parametrize("side", [1, -1])
def test_what_a_bend_sweeps_outside_is_not_counted_inside(side):
    start, growth = sure_but_for(0.1, 1e-4)
    poses = path(5.0, 0.05)
    middle, yaw = poses[0, 20, :2].numpy(), poses[0, 20, 2].item()
    inside = np.array([-np.sin(yaw), np.cos(yaw)])
    post = box(*(middle + side * (VEHICLE.half_width_m + 0.25 + 0.15) * inside), 0.3, 0.3, yaw)
    bound, share = passed(poses, start, growth, post)
    assert share - 4 * deviation(share, 10_000) <= bound <= (2 if side > 0 else 4) * share


def test_stations_are_spaced_in_metres():
    poses = torch.cat([path(10.0, 1e-6), path(2.0, 1e-6)])
    index = station_indices(poses, 1.5)
    way = poses[torch.arange(2)[:, None], index][..., 0].diff(dim=-1)
    assert way.max() < 1.5 + 1.0 + 1e-9
    assert (index[:, 0] == 0).all()
    assert (index[:, -1] == 40).all()
    rolled = roll_out(belief(), poses, 0.1, Growth())
    counts = stations_of(rolled, index, VEHICLE).counts.sum(-1)
    assert counts[0] > 20
    assert counts[1] <= 8


def test_far_obstacles_add_nothing_and_an_obstacle_on_the_car_is_certain():
    cov = diagonal(0.2, 0.2, 0.02)
    assert bound_at(cov) == 0.0
    assert bound_at(cov, box(80, 0, 4, 4)) == 0.0
    assert bound_at(cov, box(1, 0, 2, 2)) == 1.0


def test_bounds_do_not_depend_on_where_the_frame_lies():
    cov, wall = diagonal(0.2, 0.1, 0.02), box(2, 1.8, 3, 1)
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    there = wall @ turned[:2, :2].T + [1e4, -3e3]
    moved = bound_at(turned @ cov @ turned.T, there, pose=(1e4, -3e3, np.pi / 2))
    assert moved == pytest.approx(bound_at(cov, wall), rel=1e-6)


def test_what_is_out_of_reach_adds_next_to_nothing(monkeypatch):
    g = np.random.default_rng(3)
    for _ in range(20):
        poses = path(g.uniform(3, 10), g.choice([-1, 1]) * g.uniform(0.001, 0.05))
        rolled = roll_out(belief(scale=g.uniform(0.5, 2)), poses, 0.1, Growth())
        place = poses[0, g.integers(41), :2].numpy() - [1.35, 0]
        obstacles = Obstacles.of([random_obstacle(g) + place for _ in range(3)])
        stations = stations_of(rolled, station_indices(poses, 0.9), VEHICLE)
        bound = collision_bound(stations, VEHICLE, obstacles).item()
        with monkeypatch.context() as patched:
            patched.setattr(reach, "OUT_OF_REACH", 1e3)
            every = collision_bound(stations, VEHICLE, obstacles).item()
        assert bound == pytest.approx(every, abs=1e-6)


def test_with_a_limit_the_same_candidates_are_within_it_and_none_is_bounded_lower():
    planner, drives = Planner(), modelled_drives(np.random.default_rng(7))
    decided, hopeless = 0, 0
    for seed in range(12):
        g = np.random.default_rng(seed)
        world, route, speed = random_street(g)
        start = belief_at(moment_of(drives, 6.0, g), speed, planner.growth)
        device, lattice = planner.device, planner.lattice
        moves = candidates(
            Start(start.pose, start.speed_m_s, 0.0), route, VEHICLE, lattice, device
        )
        rolled = roll_out(start, moves.poses, lattice.dt_s, planner.growth)
        stations = stations_of(rolled, station_indices(moves.poses, 0.9), VEHICLE)
        whole = collision_bound(stations, VEHICLE, world.obstacles)
        for limit in (0.01, 0.05):
            limited = collision_bound(stations, VEHICLE, world.obstacles, limit)
            assert ((limited <= limit) == (whole <= limit)).all()
            assert (limited >= whole - 1e-9).all()
            decided += int((whole <= limit).sum())
            hopeless += int((limited > whole + 1e-3).sum())
    assert decided > 100
    assert hopeless > 100
