"""Cameras of many pixels and long focal lengths: OpenCV's remap takes 32766 columns at most."""

import numpy as np
from scipy.ndimage import map_coordinates

from bayes_vio.simulation import panorama
from bayes_vio.simulation.render import Renderer
from bayes_vio.simulation.road import GroundPatch
from tests.simulation.simulated_scenes import (
    camera_at,
    path_of,
    pinhole,
    plain_world,
    wavy_trajectory,
)


def test_heights_of_any_number_of_points_are_those_of_the_raster():
    patch = GroundPatch(path_of(wavy_trajectory(amplitude_m=2.0)), 0.0)
    rng = np.random.default_rng(0)
    ny, nx = patch.height.shape
    x = rng.uniform(0, nx - 1, (2, 70_001)).astype(np.float32)
    y = rng.uniform(0, ny - 1, (2, 70_001)).astype(np.float32)
    expected = map_coordinates(patch.height, [y, x], order=1)
    np.testing.assert_allclose(patch.heights(x, y), expected, atol=0.02)  # 1/32 cell
    assert patch.heights(x[:, :0], y[:, :0]).shape == (2, 0)


def test_a_camera_of_1080_lines_sees_the_ground():
    world = plain_world(path_of(wavy_trajectory()), ground=60, sky=200)
    image = Renderer(world, pinhole(1920, 1080, 1100.0)).render(camera_at(5.0), 5.0)
    assert image.shape == (1080, 1920)
    assert (image[:500] > 150).all()
    assert (image[700:] < 120).all()


def test_a_sky_is_no_finer_than_can_be_sampled(monkeypatch):
    monkeypatch.setattr(panorama, "_FINEST_PX_PER_RAD", 60.0)
    finest = panorama.random_panorama(60.0, 200.0, np.random.default_rng(0))
    longer = panorama.random_panorama(1e5, 200.0, np.random.default_rng(0))
    np.testing.assert_array_equal(longer.pixels, finest.pixels)
    assert longer.px_per_rad == finest.px_per_rad


def test_the_finest_sky_fits():
    assert 2 * np.pi * panorama._FINEST_PX_PER_RAD + 2 < 32_767
