"""Views are what a lens model says, without aliasing; flow finds known warps."""

import cv2
import numpy as np
import pytest

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.frames import FlowEstimator, ViewProjector, project_rays, to_grid, view_rays
from bayes_vio.data.samples import VIEW_FOCAL_PX, VIEW_HEIGHT, VIEW_WIDTH, CameraModel
from tests.data.drives import CENTRE, VIEW_CAMERA, texture

CAMERAS = {
    "pinhole": CameraModel(640, 480, np.array([[350.0, 0, 320], [0, 352, 240], [0, 0, 1]])),
    "plumb_bob": CameraModel(
        640,
        480,
        np.array([[350.0, 0, 315], [0, 352, 244], [0, 0, 1]]),
        "plumb_bob",
        np.array([-0.28, 0.07, 0.001, -0.0005, 0.0]),
    ),
    "rational_polynomial": CameraModel(
        1280,
        720,
        np.array([[700.0, 0, 640], [0, 702, 350], [0, 0, 1]]),
        "rational_polynomial",
        np.array([0.6, -0.1, 0.0003, 0.0002, -0.002, 0.9, -0.05, -0.01]),
    ),
    "equidistant": CameraModel(
        640,
        480,
        np.array([[290.0, 0, 318], [0, 291, 243], [0, 0, 1]]),
        "equidistant",
        np.array([-0.01, 0.004, -0.002, 0.0003]),
    ),
}


def tilted(pitch: float, yaw: float) -> np.ndarray:
    """R_base_camera of a camera pitched down and yawed left."""
    R = cv2.Rodrigues(np.array([0, pitch, 0.0]))[0]
    return cv2.Rodrigues(np.array([0, 0, yaw]))[0] @ R @ R_BASE_OPTICAL


def project_by_opencv(camera: CameraModel, points: np.ndarray) -> np.ndarray:
    zero, k = np.zeros(3), camera.coefficients
    points = points.reshape(-1, 1, 3)
    if camera.distortion == "equidistant":
        return cv2.fisheye.projectPoints(points, zero, zero, camera.K, k)[0].reshape(-1, 2)
    return cv2.projectPoints(points, zero, zero, camera.K, k)[0].reshape(-1, 2)


def coordinate_image(camera: CameraModel, axis: int) -> np.ndarray:
    """Gray levels that are proportional to a pixel coordinate, 0 to 250."""
    size = (camera.width, camera.height)[axis]
    ramp = 250 * np.arange(size) / (size - 1)
    shape = (camera.height, camera.width)
    whole = np.broadcast_to(ramp if axis == 0 else ramp[:, None], shape)
    return np.round(whole).astype(np.uint8)


@pytest.mark.parametrize("name", CAMERAS)
def test_views_show_what_opencv_projects(name):
    camera = CAMERAS[name]
    R_base_camera = tilted(0.08, -0.05)
    projector = ViewProjector(camera, R_base_camera)
    rows, columns = np.meshgrid([2, 20, 40, 61, 77], [3, 50, 128, 200, 252], indexing="ij")
    pixels = np.stack([columns, rows], -1).reshape(-1, 2)
    ahead = np.concatenate([(pixels - CENTRE) / VIEW_FOCAL_PX, np.ones((len(pixels), 1))], 1)
    in_camera = ahead @ R_BASE_OPTICAL.T @ R_base_camera
    expected = project_by_opencv(camera, in_camera)
    used = projector.valid_pixels[pixels[:, 1], pixels[:, 0]]
    assert used.sum() > 15
    for axis, size in enumerate((camera.width, camera.height)):
        view = projector.project(coordinate_image(camera, axis))
        seen = view[pixels[:, 1], pixels[:, 0]].astype(float) * (size - 1) / 250
        # A gray level is size / 250 pixels wide, rounded three times on the way.
        assert np.abs(seen - expected[:, axis])[used].max() < 2 * size / 250


def test_a_camera_like_the_view_is_copied():
    image = texture(VIEW_HEIGHT, VIEW_WIDTH)
    projector = ViewProjector(VIEW_CAMERA, R_BASE_OPTICAL)
    np.testing.assert_array_equal(projector.project(image), image)
    assert projector.valid.min() == 1


def test_rays_of_pixel_parts_average_to_the_pixel():
    parts = view_rays(3).reshape(VIEW_HEIGHT, 3, VIEW_WIDTH, 3, 3).mean((1, 3))
    np.testing.assert_allclose(parts, view_rays(), atol=1e-12)
    assert abs(view_rays()[..., :2].mean()) < 1e-12


@pytest.mark.parametrize("scale", [2, 3.3, 9])
def test_fine_patterns_do_not_alias(scale):
    width, height = int(VIEW_WIDTH * scale), int(VIEW_HEIGHT * scale)
    f = VIEW_FOCAL_PX * scale
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    projector = ViewProjector(CameraModel(width, height, K), R_BASE_OPTICAL)
    checker = (255 * (np.indices((height, width)).sum(0) % 2)).astype(np.uint8)
    inner = projector.project(checker)[4:-4, 4:-4].astype(float)
    # Picking pixels would give 0 and 255, a deviation of 127.5.
    assert inner.mean() == pytest.approx(127.5, abs=3)
    assert inner.std() < 30
    coarse = texture(VIEW_HEIGHT, VIEW_WIDTH, smooth=4)
    large = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    error = projector.project(large)[4:-4, 4:-4].astype(float) - coarse[4:-4, 4:-4]
    assert np.abs(error).mean() < 2.5


def test_a_narrow_camera_fills_a_part_of_the_view():
    K = np.array([[300.0, 0, 159.5], [0, 300, 119.5], [0, 0, 1]])
    projector = ViewProjector(CameraModel(320, 240, K), R_BASE_OPTICAL)
    columns = VIEW_FOCAL_PX * 320 / 300
    assert projector.valid_pixels.any(0).sum() == pytest.approx(columns, abs=2)
    assert projector.valid.mean() == pytest.approx(projector.valid_pixels.mean(), abs=1e-6)
    assert set(np.unique(projector.valid)) <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_a_camera_that_looks_elsewhere_is_refused():
    with pytest.raises(ValueError, match="check R_base_camera"):
        ViewProjector(CAMERAS["pinhole"], tilted(0, 1.3))
    with pytest.raises(ValueError, match="sees 0% of the view"):
        ViewProjector(CAMERAS["pinhole"], np.eye(3))


def test_an_image_of_another_size_is_refused():
    projector = ViewProjector(CAMERAS["pinhole"], R_BASE_OPTICAL)
    with pytest.raises(
        ValueError, match="image is 320 x 240, but the calibration is for 640 x 480"
    ):
        projector.project(np.zeros((240, 320), np.uint8))


def test_rays_behind_or_folded_back_are_unseen():
    strong = CameraModel(640, 480, CAMERAS["pinhole"].K, "plumb_bob", np.array([-0.5, 0, 0, 0]))
    # x (1 - x^2 / 2) falls again beyond x = sqrt(2 / 3).
    rays = np.array([[0.0, 0, 1], [0.8, 0, 1], [0.83, 0, 1], [0, 0, -1], [0.1, 0, 0]])
    pixels = project_rays(strong, rays)
    np.testing.assert_array_equal(np.isnan(pixels[:, 0]), [False, False, True, True, True])


def warped(view: np.ndarray, zoom: float, shift: tuple[float, float]):
    """The later view, in which the earlier one appears zoomed and shifted; and the true flow."""
    centre = CENTRE
    M = np.array([[zoom, 0, 0.0], [0, zoom, 0]])
    M[:, 2] = np.array(shift) + (1 - zoom) * centre
    later = cv2.warpAffine(
        view, M, (VIEW_WIDTH, VIEW_HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    q = np.stack(np.meshgrid(np.arange(VIEW_WIDTH), np.arange(VIEW_HEIGHT)), -1).astype(float)
    earlier = (q - M[:, 2]) / zoom
    flow = (earlier - q).reshape(40, 2, 128, 2, 2).mean((1, 3)).transpose(2, 0, 1)
    inside = ((earlier > 6) & (earlier < [VIEW_WIDTH - 7, VIEW_HEIGHT - 7])).all(-1)
    return later, flow / VIEW_FOCAL_PX, inside.reshape(40, 2, 128, 2).all((1, 3))


@pytest.mark.parametrize(
    ("zoom", "shift"),
    [(1, (0, 0)), (1, (0.5, 0)), (1, (3.3, 1.2)), (1, (-10.5, 0)), (1, (25, 0)), (1.05, (0, 0)),
     (1.2, (0, 0)), (1.05, (-8, 2))],
)  # fmt: skip
def test_flow_finds_known_warps(zoom, shift):
    # Large and small structure, as in real images: a long shift is found on the large.
    large = texture(VIEW_HEIGHT, VIEW_WIDTH, 6, smooth=12)
    view = cv2.addWeighted(texture(VIEW_HEIGHT, VIEW_WIDTH, 5), 0.5, large, 0.5, 0)
    later, truth, inside = warped(view, zoom, shift)
    flow = FlowEstimator()(view, later)
    assert flow.shape == (2, 40, 128)
    assert flow.dtype == np.float32
    error_px = np.linalg.norm(flow - truth, axis=0)[inside] * VIEW_FOCAL_PX
    assert np.median(error_px) < (0.1 if zoom < 1.1 else 0.25)
    assert np.mean(error_px) < (0.3 if zoom < 1.1 else 0.6)


def test_flow_is_that_of_pixels_from_later_to_earlier():
    # The car turns left: what it sees moves right, so later pixels come from the left.
    view = texture(VIEW_HEIGHT, VIEW_WIDTH)
    later = np.roll(view, 6, axis=1)
    flow = FlowEstimator()(view, later)
    assert np.median(flow[0]) == pytest.approx(-6 / VIEW_FOCAL_PX, rel=0.02)
    assert np.median(flow[1]) == pytest.approx(0, abs=1e-3)


def test_unseen_pixels_do_not_count():
    view = texture(VIEW_HEIGHT, VIEW_WIDTH)
    later = np.roll(view, 3, axis=1)
    mask = np.ones((VIEW_HEIGHT, VIEW_WIDTH), bool)
    mask[:, :21] = False  # ends inside a cell
    masked, whole = FlowEstimator(mask)(view, later), FlowEstimator()(view, later)
    assert not masked[:, :, :10].any()
    np.testing.assert_allclose(masked[:, :, 11:], whole[:, :, 11:], atol=1e-6)
    assert np.median(masked[0, :, 10]) == pytest.approx(-3 / VIEW_FOCAL_PX, rel=0.1)


def test_flow_does_not_depend_on_the_number_of_threads():
    view, later = texture(80, 256, 1), np.roll(texture(80, 256, 1), 4, axis=1)
    before = cv2.getNumThreads()
    flows = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        flows.append(FlowEstimator()(view, later))
    cv2.setNumThreads(before)
    np.testing.assert_array_equal(*flows)


def test_grid_is_the_mean_of_cells():
    view = texture(VIEW_HEIGHT, VIEW_WIDTH)
    means = view.reshape(40, 2, 128, 2).mean((1, 3)) / 255
    grid = to_grid(view)
    assert grid.dtype == np.float32
    np.testing.assert_allclose(grid, means, atol=0.51 / 255)
