"""Rendering: every pixel where the geometry says, sharp where it can be, and never aliased."""

import cv2
import numpy as np
import pytest

from bayes_vio.data.samples import CameraModel
from bayes_vio.simulation.drives import DriveSettings, random_drive
from bayes_vio.simulation.render import Renderer
from bayes_vio.simulation.road import GroundPatch, road_path
from bayes_vio.simulation.road_surface import RoadStyle
from bayes_vio.simulation.textures import RipmapAtlas, fractal_noise
from bayes_vio.simulation.world import (
    WorldSettings,
    draw_surface,
    lane_offset_m,
    random_world,
)
from tests.simulation.simulated_scenes import (
    BASE_HEIGHT_M,
    board,
    camera_at,
    mounted,
    path_of,
    pinhole,
    plain_world,
    wavy_trajectory,
)


def rays_of(camera):
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T


def ground_points(depth, camera, T_world_camera):
    """World points [h, w, 3] of pixels at depths [h, w]."""
    points = rays_of(camera) * np.where(np.isfinite(depth), depth, 0)[..., None]
    return points @ T_world_camera[:3, :3].T + T_world_camera[:3, 3]


def ground_flow(depth, camera, T_world_later, T_world_earlier):
    """Displacement [h, w, 2] in pixels from the later image to the earlier; NaN off the ground."""
    points = ground_points(depth, camera, T_world_later)
    seen = (points - T_world_earlier[:3, 3]) @ T_world_earlier[:3, :3] @ camera.K.T
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    flow = seen[..., :2] / seen[..., 2:] - np.stack([u, v], -1)
    return np.where(np.isfinite(depth)[..., None], flow, np.nan)


def textured_scene(seed, style, camera, duration_s=20.0):
    rng = np.random.default_rng(seed)
    trajectory = random_drive(DriveSettings(duration_s=duration_s), rng)
    settings = WorldSettings(style=style)
    surface = draw_surface(settings, rng)
    path = road_path(trajectory, BASE_HEIGHT_M, lane_offset_m(surface, False), rng)
    world = random_world(path, surface, settings, float(camera.K[0, 0]), rng)
    return trajectory, world


@pytest.fixture(scope="module")
def city():
    camera = pinhole(512, 160, 296.0)
    return (*textured_scene(4, RoadStyle.CITY, camera, 40.0), camera)


def test_level_ground_has_the_depth_of_a_plane():
    camera = pinhole()
    renderer = Renderer(plain_world(path_of(wavy_trajectory())), camera)
    depth = renderer.ground_depth(camera_at(30.0), 30.0)
    down = rays_of(camera)[..., 1]
    expected = np.where(down > 0.015, 1.65 / np.maximum(down, 1e-9), np.nan)
    seen = np.isfinite(expected)
    np.testing.assert_allclose(depth[seen], expected[seen], rtol=2e-5)
    assert np.isinf(depth[down < 0]).all()


@pytest.mark.parametrize("time_s", [2.0, 3.7, 5.0, 6.3])
def test_rays_end_where_they_first_meet_hilly_ground(time_s):
    trajectory, camera = wavy_trajectory(amplitude_m=1.5, wavelength_m=90.0), pinhole()
    path = path_of(trajectory)
    renderer = Renderer(plain_world(path), camera)
    T_world_camera, distance = mounted(trajectory, time_s), path.distance_at(time_s)
    depth = renderer.ground_depth(T_world_camera, distance)
    patch = GroundPatch(path, np.floor(distance / 80) * 80)
    directions, origin = rays_of(camera) @ T_world_camera[:3, :3].T, T_world_camera[:3, 3]
    march = np.arange(1.0, 150, 0.05)
    met = missed = 0
    for u in (0, 33, 100, 128, 190, 255):
        points = origin + march[:, None, None] * directions[None, :, u]
        below = points[..., 2] <= patch.height_at(points[..., :2])
        hits, first = below.any(0), march[below.argmax(0)]
        found = np.isfinite(depth[:, u])
        both = hits & found
        ends = origin + depth[both, u, None] * directions[both, u]
        apart_px = (ends[:, 2] - patch.height_at(ends[None, :, :2])[0]) / depth[both, u] * 148
        assert np.abs(apart_px).max() < 0.05
        assert (np.abs(depth[both, u] - first[both]) < 0.1 + 0.03 * first[both]).all()
        met, missed = met + both.sum(), missed + (hits & ~found).sum()
    assert met > 150
    assert missed <= 0.005 * met  # rays that graze a crest


def test_ground_follows_the_car_over_hills():
    trajectory = random_drive(DriveSettings(duration_s=60), np.random.default_rng(2))
    path = path_of(trajectory)
    t = np.arange(0, 60, 0.1)
    position = trajectory.position(t)
    for start in np.arange(0, path.time_distance[-1], 80):
        patch = GroundPatch(path, start)
        along = np.interp(t, path.time_s, path.time_distance)
        here = (along >= start) & (along < start + 80)
        ground = patch.height_at(position[None, here, :2])[0]
        # Heave moves the car by about 8 mm, the raster's smoothing the ground by as much.
        np.testing.assert_allclose(position[here, 2] - ground, BASE_HEIGHT_M, atol=0.04)
    assert np.ptp(path.height) > 1.0


def test_neighbouring_patches_agree_on_the_ground_ahead():
    path = path_of(random_drive(DriveSettings(duration_s=60), np.random.default_rng(3)))
    one, two = GroundPatch(path, 80.0), GroundPatch(path, 160.0)
    ahead = (path.s > 165) & (path.s < 230)
    xy = path.xy[ahead] + 4.0 * path.normal[ahead]
    np.testing.assert_allclose(one.height_at(xy[None]), two.height_at(xy[None]), atol=2e-3)
    for a, b in zip(
        one.road_coordinates(*one.cell(xy[:, :1], xy[:, 1:])),
        two.road_coordinates(*two.cell(xy[:, :1], xy[:, 1:])),
        strict=True,
    ):
        shift = np.median(a - b)
        assert min(abs(shift), abs(shift - 80)) < 1e-3
        np.testing.assert_allclose(a - b, shift, atol=5e-3)


def test_marker_on_a_board_appears_at_its_projection():
    camera = pinhole()
    gray = np.full((200, 200), 100, np.uint8)
    cv2.circle(gray, (140, 60), 20, 250, -1)
    # The disc's centre is 1.405 m right of and 1.395 m above the board's lower left corner.
    marker = np.array([40.0, 1.0 - 1.405, 2.0 - 0.605])
    plane = board(gray, (40.0, 1.0))
    renderer = Renderer(plain_world(path_of(wavy_trajectory()), (plane,)), camera)
    for x, y, yaw in ((30.0, 0.0, 0.0), (33.3, -1.0, 0.1), (24.7, 2.0, -0.2), (35.1, 0.5, 0.0)):
        T_world_camera = camera_at(x, y, yaw=yaw)
        image = renderer.render(T_world_camera, x).astype(float)
        weight = np.maximum(image - 100, 0)
        u, v = np.meshgrid(np.arange(256), np.arange(80))
        centroid = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
        seen = camera.K @ (T_world_camera[:3, :3].T @ (marker - T_world_camera[:3, 3]))
        assert weight.sum() > 1000
        np.testing.assert_allclose(centroid, seen[:2] / seen[2], atol=0.08)


def test_nearer_board_hides_the_farther_one():
    black, white = np.zeros((50, 50)), np.full((50, 50), 255)
    planes = (board(black, (35.0, 1.0)), board(white, (40.0, 1.0)))
    for order in (planes, planes[::-1]):
        renderer = Renderer(plain_world(path_of(wavy_trajectory()), order), pinhole())
        assert renderer.render(camera_at(25.0), 25.0)[40, 128] <= 2 + 100 * (10 / 180) ** 2


def test_adjoining_walls_leave_no_gap():
    wall = np.full((100, 100), 200)
    planes = tuple(board(wall, (20.0 + 2 * i, 4.0), (1.0, 0.0), 2.0, 6.0) for i in range(20))
    renderer = Renderer(plain_world(path_of(wavy_trajectory()), planes, 0, 200), pinhole())
    for x in (10.0, 10.37, 17.9):
        image = renderer.render(camera_at(x), x)
        assert image[:38, 20:70].min() >= 194


def test_wall_beside_and_behind_the_camera_is_cut_not_mirrored():
    wall = board(np.full((50, 400), 255), (20.0, 3.0), (1.0, 0.0), 30.0, 3.0)
    renderer = Renderer(plain_world(path_of(wavy_trajectory()), (wall,), 50, 50), pinhole())
    image = renderer.render(camera_at(35.0), 35.0)
    assert (image[:, 140:] <= 50).all()
    assert image[30, 5] > 200


def test_crest_hides_what_stands_behind_it():
    trajectory = wavy_trajectory(amplitude_m=2.5, wavelength_m=80.0)
    path = path_of(trajectory)
    white = np.full((40, 40), 255)
    hidden = board(white, (66.0, 1.0), height_m=1.0)  # in the valley past the crest at x = 20
    world = plain_world(path, (hidden,), 60, 60)
    seen = Renderer(world, pinhole()).render(mounted(trajectory, 0.3), path.distance_at(0.3))
    assert seen.max() <= 62
    near = Renderer(world, pinhole()).render(mounted(trajectory, 5.0), path.distance_at(5.0))
    assert near.max() > 200


def test_far_things_fade_in():
    white = np.full((50, 50), 255)
    path = path_of(wavy_trajectory())
    plane = board(white, (90.0, 3.0), width_m=6.0, height_m=8.0, visible_m=60.0)
    renderer = Renderer(plain_world(path, (plane,)), pinhole())
    brightness = [int(renderer.render(camera_at(x), x).max()) for x in np.arange(28, 70, 0.5)]
    assert brightness[0] == 100
    assert brightness[-1] > 220
    assert np.abs(np.diff(brightness)).max() <= 6


@pytest.mark.parametrize("interval_s", [0.033, 0.1])
def test_measured_flow_on_the_road_agrees_with_the_geometry(city, interval_s):
    trajectory, world, camera = city
    renderer = Renderer(world, camera)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    relative, ratio = [], []
    for time_s in np.arange(1.0, 39.0, 1.5):
        if not 5 < np.linalg.norm(trajectory.velocity_world(time_s)) < 15:
            continue
        earlier, later = (mounted(trajectory, t) for t in (time_s - interval_s, time_s))
        distance = world.path.distance_at(time_s)
        before = renderer.render(earlier, world.path.distance_at(time_s - interval_s))
        now, depth = renderer.render(later, distance), renderer.ground_depth(later, distance)
        expected = ground_flow(np.where(depth < 20, depth, np.inf), camera, later, earlier)
        inside = np.isfinite(expected[..., 0])
        inside &= np.mgrid[:160, :512][0] + np.nan_to_num(expected[..., 1]) < 155
        measured, expected = dis.calc(now, before, None)[inside], expected[inside]
        size = np.linalg.norm(expected, axis=1)
        relative.append(np.median(np.linalg.norm(measured - expected, axis=1) / size))
        ratio.append(np.median((measured * expected).sum(1) / size**2))
    assert len(relative) > 8
    assert abs(np.median(ratio) - 1) < 0.015
    assert np.median(relative) < 0.05


def test_world_is_static_under_a_turning_camera(city):
    """Rotation alone moves every pixel by one homography, whatever its depth."""
    _, world, camera = city
    renderer = Renderer(world, camera)
    first, turned = camera_at(30.0, z_m=30.0), camera_at(30.0, z_m=30.0, yaw=0.05)
    centre = world.path.xy[np.searchsorted(world.path.s, 30.0)]
    ground = world.path.height[np.searchsorted(world.path.s, 30.0)]
    first[:3, 3] = turned[:3, 3] = (*centre, ground + 1.65)
    H = camera.K @ turned[:3, :3].T @ first[:3, :3] @ np.linalg.inv(camera.K)
    one, two = renderer.render(first, 30.0), renderer.render(turned, 30.0)
    warped = cv2.warpPerspective(one, H, (512, 160), borderValue=0).astype(float)
    inside = cv2.warpPerspective(np.ones_like(one), H, (512, 160), borderValue=0) > 0
    shift, _ = cv2.phaseCorrelate(
        np.where(inside, warped, 0)[20:140, 40:440], np.where(inside, two, 0.0)[20:140, 40:440]
    )
    assert np.hypot(*shift) < 0.1


def test_ripmap_gives_texels_back_and_averages_what_is_too_fine():
    rng = np.random.default_rng(0)
    strip = rng.integers(0, 255, (64, 256)).astype(np.uint8)
    atlas = RipmapAtlas(strip, 5, 4)
    along, across = np.meshgrid(np.arange(100) + 0.5, np.arange(40) + 0.5)
    same = atlas.sample(along.astype(np.float32), across.astype(np.float32))
    np.testing.assert_array_equal(same, strip[:40, :100])
    shifted = atlas.sample((along + 512).astype(np.float32), across.astype(np.float32))
    np.testing.assert_array_equal(shifted, same)
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 128))
    coarse = RipmapAtlas(stripes, 5, 4).sample(
        (along * 7.3).astype(np.float32), across.astype(np.float32)
    )
    np.testing.assert_allclose(coarse, 100, atol=1)


def test_noise_is_periodic_and_standardised():
    noise = fractal_noise(64, 128, np.random.default_rng(0))
    assert abs(noise.mean()) < 1e-5
    assert abs(noise.std() - 1) < 1e-4
    inner = np.abs(np.diff(noise, axis=1)).mean()
    assert np.abs(noise[:, 0] - noise[:, -1]).mean() < 1.5 * inner


def test_worlds_of_other_seeds_look_different_and_nothing_stands_on_the_road():
    images, camera = [], pinhole()
    for seed in range(3):
        trajectory, world = textured_scene(seed, None, camera)
        renderer = Renderer(world, camera)
        image = renderer.render(mounted(trajectory, 5.0), world.path.distance_at(5.0))
        images.append(image.astype(float))
        assert image.std() > 15
        centre = world.path.xy + world.path.normal * world.path.centre[:, None]
        low = [p for p in world.planes if p.picture.height_m < 3]
        for plane in low:
            ends = plane.foot + np.outer([0, plane.picture.width_m], plane.direction)
            gap = np.linalg.norm(centre[:, None] - ends, axis=-1).min()
            assert gap > world.surface.half_width_m - 0.5
    assert min(np.abs(images[i] - images[i - 1]).mean() for i in range(3)) > 15


def test_distorted_cameras_are_refused():
    camera = CameraModel(256, 80, pinhole().K, coefficients=np.array([0.1, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="pinhole"):
        Renderer(plain_world(path_of(wavy_trajectory())), camera)
