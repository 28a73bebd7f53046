"""The road's own motion is found where views are rendered from known poses over a flat road."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.data.frames import FlowEstimator
from bayes_vio.data.road_alignment import REST, RoadAligner, RoadMotion, normalised
from bayes_vio.data.samples import VIEW_FOCAL_PX, VIEW_HEIGHT, VIEW_WIDTH
from bayes_vio.models.flow_geometry import ray_grid

EVERYWHERE = np.ones((VIEW_HEIGHT, VIEW_WIDTH), bool)
TEXEL = 0.012  # heights of the camera
ROWS, COLUMNS = 3600, 1400  # of the painted ground: 43 heights ahead, 8 to each side


def ground(seed: int = 0, contrast: float = 40.0) -> np.ndarray:
    """Texture of a flat ground, coarse and fine, rows ahead and columns to the right."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.standard_normal((ROWS // k, COLUMNS // k)), (COLUMNS, ROWS))
        for k in (7, 25)
    ]
    return np.clip(110 + contrast * sum(layers) / 2, 0, 255).astype(np.float32)


def view_of(texture: np.ndarray, way: float, yaw: float, seed: int = 0) -> np.ndarray:
    """Return the view from `way` heights on, turned right; pixels are means of 4 x 4 rays."""
    k = 4
    u = (np.arange(VIEW_WIDTH * k) + 0.5) / k - 0.5
    v = (np.arange(VIEW_HEIGHT * k) + 0.5) / k - 0.5
    x, y = np.meshgrid((u - 127.5) / VIEW_FOCAL_PX, (v - 39.5) / VIEW_FOCAL_PX)
    depth = 1 / np.maximum(y, 1e-3)
    ahead = (np.cos(yaw) - np.sin(yaw) * x) * depth + way
    right = (np.sin(yaw) + np.cos(yaw) * x) * depth
    map_x = (right / TEXEL + COLUMNS / 2).astype(np.float32)
    fine = cv2.remap(
        texture, map_x, (ahead / TEXEL).astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    haze = np.clip((25 - depth) / 10, 0, 1)
    sky = 150 + 30 * np.sin(9 * (np.arctan(x) + yaw)) * np.cos(14 * y)
    fine = np.where(y > 0, haze * fine + (1 - haze) * 150, sky)
    view = fine.reshape(VIEW_HEIGHT, k, VIEW_WIDTH, k).mean((1, 3))
    noise = np.random.default_rng(seed).normal(0, 1.5, view.shape)
    return np.clip(view + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("way", "yaw"),
    [(0.1, 0.0), (0.5, 0.0), (0.5, 0.05), (1.0, -0.06), (1.5, 0.02), (3.0, 0.0), (4.5, -0.03)],
)
def test_way_and_turn_are_found(way: float, yaw: float) -> None:
    texture = ground()
    # The earlier camera stands at 0 and looks along the road; the later one has turned right.
    earlier, later = view_of(texture, 0.0, 0.0, 1), view_of(texture, way, yaw, 2)
    motion = RoadAligner(EVERYWHERE)(earlier, later)
    assert motion.heights == pytest.approx(way, rel=0.06, abs=0.01)
    assert motion.yaw == pytest.approx(yaw, abs=0.006)


@pytest.mark.parametrize(("way", "contrast"), [(0.5, 12.0), (1.0, 12.0), (2.0, 12.0), (4.0, 40.0)])
def test_flow_of_a_road_is_the_true_one(way: float, contrast: float) -> None:
    texture = ground(contrast=contrast)
    flow = FlowEstimator()(view_of(texture, 0.0, 0.0, 1), view_of(texture, way, 0.0, 2))
    x, y = (g.numpy() for g in ray_grid())
    near = (y > 0.12) & (np.abs(x) < 0.5)
    y = y[near]
    ratio = flow[1][near] / (y / (1 + y * way) - y)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    assert np.mean(np.abs(ratio - 1) < 0.15) > 0.9


def test_a_car_that_stands_is_at_rest() -> None:
    texture = ground()
    assert RoadAligner(EVERYWHERE)(view_of(texture, 0, 0, 1), view_of(texture, 0, 0, 2)) == REST


def test_views_without_a_road_to_hold_to_are_at_rest() -> None:
    rng = np.random.default_rng(0)
    aligner = RoadAligner(EVERYWHERE)
    noise = rng.normal(100, 2, (2, VIEW_HEIGHT, VIEW_WIDTH)).astype(np.uint8)
    assert aligner(noise[0], noise[1]) == REST
    assert aligner(np.zeros_like(noise[0]), np.zeros_like(noise[0])) == REST


def test_a_camera_that_sees_no_road_is_at_rest() -> None:
    sky = EVERYWHERE.copy()
    sky[VIEW_HEIGHT // 2 :] = False
    texture = ground()
    aligner = RoadAligner(sky)
    assert aligner(view_of(texture, 0, 0, 1), view_of(texture, 1, 0, 2)) == REST


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.3, 0.3), st.floats(0, 8), st.floats(-0.8, 0.8), st.floats(-0.25, 0.27))
def test_moved_is_the_projection_of_the_point(yaw: float, way: float, x: float, y: float) -> None:
    # A point on the road, or one so far away that the way does not matter.
    depth = 1 / y if y > 1e-9 else 1e9
    point = depth * np.array([x, y, 1.0])
    c, s = np.cos(yaw), np.sin(yaw)
    seen = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ point + np.array([0, 0, way])
    moved_x, moved_y = RoadMotion(yaw, way).moved(
        np.array([x], np.float32), np.array([y], np.float32)
    )
    assert float(moved_x[0]) == pytest.approx(seen[0] / seen[2], abs=1e-5)
    assert float(moved_y[0]) == pytest.approx(seen[1] / seen[2], abs=1e-5)


def test_pixels_and_rays_are_those_of_the_grid() -> None:
    x, y = ray_grid()
    u = normalised(np.arange(VIEW_WIDTH)).reshape(-1, 2).mean(1)
    v = normalised(np.arange(VIEW_HEIGHT), VIEW_HEIGHT).reshape(-1, 2).mean(1)
    np.testing.assert_allclose(x[0].numpy(), u, atol=1e-6)
    np.testing.assert_allclose(y[:, 0].numpy(), v, atol=1e-6)
