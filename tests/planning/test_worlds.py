"""Occupancy grids become polygons that hold every cell; footprints overlap as polygons do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_scenes import box, random_obstacle

from bayes_vio.planning import Occupancy, Route, Vehicle, World
from bayes_vio.planning.lane import lane_borders
from bayes_vio.planning.monte_carlo import overlaps, touches
from bayes_vio.planning.obstacles import Obstacles, strips
from bayes_vio.planning.occupancy import _simplified

VEHICLE = Vehicle()


def inside(points: np.ndarray, obstacles: Obstacles) -> np.ndarray:
    """Return whether points [n, 2] lie in any polygon, its edge included."""
    x = torch.from_numpy(points)
    gap = (obstacles.normals[:, :, None] * x).sum(-1) - obstacles.offsets[..., None]
    return (gap >= -1e-6).all(1).any(0).numpy()


def street_map(generator: np.random.Generator) -> np.ndarray:
    occupied = np.zeros((60, 80), dtype=bool)
    yy, xx = np.mgrid[:60, :80]
    for _ in range(4):
        x, y, angle = generator.uniform(0, 80), generator.uniform(0, 60), generator.uniform(0, 3)
        along = (xx - x) * np.cos(angle) + (yy - y) * np.sin(angle)
        across = (yy - y) * np.cos(angle) - (xx - x) * np.sin(angle)
        occupied |= (np.abs(along) < generator.uniform(2, 40)) & (np.abs(across) < 2)
    return occupied


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_polygons_hold_every_occupied_cell_and_little_else(seed):
    generator = np.random.default_rng(seed)
    occupied = street_map(generator)
    origin = np.array([*generator.normal(size=2) * 100, generator.uniform(-3, 3)])
    grid = Occupancy(occupied, origin, 0.25)
    obstacles = Obstacles.of(grid.polygons())
    cells = np.argwhere(occupied)[:, ::-1].astype(float)
    for corner in ((0, 0), (1, 0), (0.5, 0.5), (1, 1), (0, 1)):
        assert inside(grid.to_frame(cells + corner), obstacles).all()
    y, x = np.argwhere(~occupied).T
    covered = inside(grid.to_frame(np.stack([x, y], 1) + 0.5), obstacles)
    near = np.stack([x, y], 1)[covered] + 0.5
    way = np.linalg.norm(near[:, None] - (cells + 0.5), axis=-1).min(-1)
    assert not way.size or way.max() <= 3.0  # tolerance, and what eight vertices add
    assert len(obstacles) < 0.2 * len(cells) + 5


def test_a_slanting_wall_is_one_polygon():
    yy, xx = np.mgrid[:100, :100]
    wall = np.abs(0.6 * xx - 0.8 * yy + 5) < 2
    assert len(Occupancy(wall, np.zeros(3), 0.2).polygons()) == 1


def test_cells_have_their_place_in_the_frame():
    occupied = np.zeros((4, 6), dtype=bool)
    occupied[1, 3] = True
    grid = Occupancy(occupied, np.array([10.0, 20.0, np.pi / 2]), 0.5)
    (cell,) = grid.polygons()
    # Column 3, row 1 from the corner, turned left by a right angle: x - 0.5 to 1, y + 1.5 to 2.
    np.testing.assert_allclose([cell.min(0), cell.max(0)], [[9.0, 21.5], [9.5, 22.0]], atol=1e-9)
    assert grid.holds(np.array([9.0, 21.0]))
    assert not grid.holds(np.array([10.1, 21.0]))


def test_beyond_the_map_is_out_of_bounds():
    world = World.of_map(Occupancy(np.zeros((20, 30), dtype=bool), np.zeros(3), 0.5))
    outside = np.array([[-0.1, 3.0], [15.1, 3.0], [4.0, -0.1], [4.0, 10.1], [-4.0, -4.0]])
    assert inside(outside, world.obstacles).all()
    assert not inside(np.array([[0.1, 0.1], [14.9, 9.9], [7.0, 5.0]]), world.obstacles).any()


@pytest.mark.parametrize(
    ("cells", "origin", "resolution", "reason"),
    [
        (np.zeros((0, 0), bool), np.zeros(3), 0.2, "the map is empty"),
        (np.zeros((2, 2), bool), np.zeros(3), 0.0, "resolution"),
        (np.zeros((2, 2), bool), np.array([0, np.nan, 0]), 0.2, "origin"),
    ],
)
def test_a_map_that_is_none_is_refused(cells, origin, resolution, reason):
    with pytest.raises(ValueError, match=reason):
        Occupancy(cells, origin, resolution)


def test_hulls_are_cut_down_from_outside():
    angle = np.linspace(0, 2 * np.pi, 17)[:-1]
    round_hull = np.stack([3 * np.cos(angle), 5 * np.sin(angle)], 1)
    cut = _simplified(round_hull)
    assert len(cut) == 8
    assert inside(round_hull, Obstacles.of([cut])).all()


@pytest.mark.parametrize(
    "polygon",
    [np.zeros((4, 2)), np.eye(2), box(0, 0, 1, 1)[::-1], np.full((3, 2), np.nan),
     np.array([[0.0, 0], [4, 0], [1, 1], [0, 4]])],
)  # fmt: skip
def test_what_is_no_convex_polygon_is_refused(polygon):
    with pytest.raises(ValueError, match="polygon"):
        Obstacles.of([polygon])


def test_overlaps_are_those_of_points():
    # A point of one shape that lies in the other, among many: what an overlap is.
    generator = np.random.default_rng(0)
    share = np.linspace(0, 1, 60)
    gx, gy = np.meshgrid(share, share)
    decided = 0
    for _ in range(150):
        polygon = random_obstacle(generator)
        pose = np.r_[generator.normal(size=2), generator.uniform(-3, 3)]
        ours = overlaps(torch.from_numpy(pose)[None], VEHICLE, Obstacles.of([polygon])).item()
        points = polygon[0] + gx.ravel()[:, None] * (polygon[1] - polygon[0])
        points = points + gy.ravel()[:, None] * (polygon[3] - polygon[0]) - pose[:2]
        c, s = np.cos(pose[2]), np.sin(pose[2])
        ahead, left = points @ [c, s], points @ [-s, c]
        depth = np.minimum.reduce([
            VEHICLE.front_m - ahead, ahead + VEHICLE.rear_m,
            VEHICLE.half_width_m - np.abs(left),
        ]).max()  # fmt: skip
        if abs(depth) > 0.5:  # farther from touching than the points lie apart
            decided += 1
            assert ours == (depth > 0)
    assert decided > 50


def test_many_obstacles_are_touched_as_each_alone():
    generator = np.random.default_rng(1)
    polygons = [random_obstacle(generator) for _ in range(6)]
    poses = torch.from_numpy(generator.normal(size=(5, 40, 3)) * [4, 4, 2])
    alone = [touches(poses, VEHICLE, Obstacles.of([p])) for p in polygons]
    together = touches(poses, VEHICLE, Obstacles.of(polygons))
    assert torch.equal(together, torch.stack(alone).any(0))
    assert together.any()
    assert not together.all()


def test_a_lane_is_free_inside_and_closed_at_its_borders():
    angle = np.linspace(0, 1.5, 80)
    route = Route.along(30 * np.stack([np.sin(angle), 1 - np.cos(angle)], 1))
    lane = lane_borders(route, 0.0, route.length_m, 2.0)
    way = slice(0, len(route.points))
    for offset_m in (-1.8, -1.0, 0.0, 1.8):
        assert not inside(route.shifted(way, offset_m), lane).any()
    for offset_m in (-4.0, -2.0, 2.0, 4.0):
        assert inside(route.shifted(slice(1, -1), offset_m), lane).mean() > 0.99
    assert len(lane) < 40
    with pytest.raises(ValueError, match="half-width"):
        lane_borders(route, 0.0, 10.0, 0.01)


def test_strips_lie_to_the_left():
    (quad,) = strips(np.array([[0.0, 0.0], [10.0, 0.0]]), 3.0)
    np.testing.assert_allclose([quad.min(0), quad.max(0)], [[0, 0], [10, 3]])


@pytest.mark.oracle
def test_overlaps_are_those_of_commonroads_drivability_checker():
    reason = "commonroad-drivability-checker is not installed"
    checker = pytest.importorskip("commonroad_dc.pycrcc", reason=reason)
    generator = np.random.default_rng(0)
    middle = 0.5 * (VEHICLE.front_m - VEHICLE.rear_m)
    half_length = 0.5 * (VEHICLE.front_m + VEHICLE.rear_m)
    for _ in range(1000):
        polygon, yaw = random_obstacle(generator), generator.uniform(-3, 3)
        x, y = generator.normal(size=2)
        car = checker.RectOBB(
            half_length, VEHICLE.half_width_m, yaw,
            x + middle * np.cos(yaw), y + middle * np.sin(yaw),
        )  # fmt: skip
        halves = (checker.Triangle(*polygon[0], *polygon[k], *polygon[k + 1]) for k in (1, 2))
        pose = torch.tensor([[x, y, yaw]], dtype=torch.float64)
        ours = overlaps(pose, VEHICLE, Obstacles.of([polygon])).item()
        assert ours == any(car.collide(half) for half in halves)
