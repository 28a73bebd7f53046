"""Stations are spaced in metres, and with what they sweep they miss nothing between them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_scenes import box

from bayes_vio.planning import Belief, Growth, Vehicle
from bayes_vio.planning.belief import roll_out
from bayes_vio.planning.half_planes import offsets_of
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.risk import collision_bound
from bayes_vio.planning.stations import Stations, station_indices, stations_of, swept_m
from tests.planning_cases import belief, diagonal

VEHICLE = Vehicle()


def arc(speed: float, curvature: float, times: int = 41, dt_s: float = 0.15) -> torch.Tensor:
    t = dt_s * torch.arange(times, dtype=torch.float64)
    yaw = curvature * speed * t
    x, y = torch.sin(yaw) / curvature, (1 - torch.cos(yaw)) / curvature
    return torch.stack([x, y, yaw], -1)[None]


def out_by(points: torch.Tensor, pose: torch.Tensor, grown_m: torch.Tensor) -> torch.Tensor:
    """Return how far points [n, 2] are out of the footprint at a pose [3], grown by [4]."""
    c, s = torch.cos(pose[2]), torch.sin(pose[2])
    ahead, left = ((points - pose[:2]) @ torch.tensor([[c, -s], [s, c]])).unbind(-1)
    x, y = VEHICLE.grown(grown_m).unbind(-1)
    out = [ahead - x.max(), x.min() - ahead, left - y.max(), y.min() - left]
    return torch.stack(out).amax(0)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 10), st.floats(1e-3, 0.2), st.sampled_from([-1, 1]), st.floats(0.5, 2.5))
def test_what_lies_between_stations_is_within_the_grown_footprints(speed, bend, side, spacing_m):
    poses = arc(speed, side * bend)
    index = station_indices(poses, spacing_m)
    swept = swept_m(poses, index, VEHICLE)[0]
    rim = torch.linspace(-1, 1, 21, dtype=torch.float64)
    corners, _ = offsets_of(poses[0, :, 2], VEHICLE.corners)
    corners = corners + poses[0, :, None, :2]
    middle, half = 0.5 * (corners + corners.roll(-1, 1)), 0.5 * (corners.roll(-1, 1) - corners)
    points = (middle[:, :, None] + rim[:, None] * half[:, :, None]).flatten(1, 2)
    held = torch.stack(
        [
            torch.stack([out_by(points[t], poses[0, i], swept[s]) for t in range(41)])
            for s, i in enumerate(index[0])
        ]
    )
    assert held.amin(0).max() < 1e-9


def test_nothing_is_swept_on_a_straight_line():
    poses = arc(6.0, 1e-9)
    assert swept_m(poses, station_indices(poses, 0.9), VEHICLE).max() < 1e-6


@pytest.mark.parametrize("side", [1, -1])
def test_a_bend_sweeps_on_its_outside(side):
    poses = arc(6.0, side * 0.05)
    index = station_indices(poses, 0.9)
    # The front swings out by the angle at which it moves, over half the way to a station.
    front, left, rear, right = swept_m(poses, index, VEHICLE)[0].amax(0).tolist()
    inside, outside = (left, right) if side > 0 else (right, left)
    half_way = 0.5 * poses[0, index[0], :2].diff(dim=0).norm(dim=-1).amax().item()
    assert outside == pytest.approx(half_way * 0.05 * VEHICLE.front_m, rel=0.15)
    assert inside < 0.2 * outside
    assert max(front, rear) < 0.1 * outside


def test_an_obstacle_that_is_touched_between_two_stations_only_counts():
    # Hardly any error; on the bend the front's outer corner passes a post that no station touches.
    poses = arc(4.0, 0.15)
    sure = Belief(
        np.zeros(3), diagonal(1e-3, 1e-3, 1e-4), np.array([4.0, 0, 0.6]),
        diagonal(1e-5, 1e-5, 1e-6), diagonal(1e-5, 1e-5, 1e-6),
    )  # fmt: skip
    growth = Growth(position_tracking_std_m=1e-3, yaw_tracking_std_rad=1e-4)
    rolled = roll_out(sure, poses, 0.15, growth)
    index = station_indices(poses, 2.0)
    between = next(t for t in range(20, 41) if t not in index[0].tolist())
    corners, _ = offsets_of(poses[0, between, 2], VEHICLE.corners)
    outer = (corners[3] + poses[0, between, :2]).numpy()
    yaw = poses[0, between, 2].item()
    outward = np.array([np.sin(yaw), -np.cos(yaw)])
    post = Obstacles.of([box(*(outer + 0.03 * outward), 0.1, 0.1)])
    assert touches(poses[0], VEHICLE, post)[between]
    assert not touches(poses[0, index[0]], VEHICLE, post).any()
    assert collision_bound(stations_of(rolled, index, VEHICLE), VEHICLE, post).item() > 0.5


@pytest.mark.parametrize("speed", [2.0, 9.0])
def test_steps_longer_than_the_spacing_make_one_station_each(speed):
    poses = arc(speed, 1e-3)
    index = station_indices(poses, 0.4)[0].tolist()
    kept = index[: index.index(40) + 1]
    assert kept == sorted(set(kept))
    assert set(index[len(kept) :]) <= {40}
    if speed == 9.0:
        assert kept == list(range(41))


def test_a_spacing_below_the_step_keeps_the_chain_of_a_wall_whole():
    poses, wall = arc(9.0, 1e-6), Obstacles.of([box(25, 0.9 + 0.4 + 0.5, 120, 1)])
    rolled = roll_out(belief(), poses, 0.15, Growth())
    bounds = [
        collision_bound(stations_of(rolled, station_indices(poses, m), VEHICLE), VEHICLE, wall)
        for m in (0.3, 1.35)
    ]
    assert bounds[0].item() == pytest.approx(bounds[1].item(), rel=1e-2)


def test_the_errors_at_two_stations_are_those_of_the_path():
    poses = torch.cat([arc(6.0, 0.03), arc(3.0, 0.03)])
    rolled = roll_out(belief(), poses, 0.15, Growth())
    index = station_indices(poses, 0.9)
    stations = stations_of(rolled, index, VEHICLE)
    later, earlier = torch.tensor([[4, 9]]), torch.tensor([[4, 2]])
    found = stations.cov_between(torch.tensor([1]), later, earlier)[0]
    torch.testing.assert_close(found[0], stations.covs[1, 4])
    there = rolled.only(torch.tensor([1])).cov_between(index[1:, 9:10], index[1:, 2:3])
    torch.testing.assert_close(found[1], there[0, 0])
    alone = Stations.alone(poses[:, 0], rolled.cov[:, 0])
    with pytest.raises(ValueError, match="of no path"):
        alone.cov_between(torch.tensor([1]), later, earlier)
