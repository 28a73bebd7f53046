"""Turn a camera's images into views of one virtual camera, and pairs of views into flow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.road_alignment import RoadAligner, normalised, to_pixels
from bayes_vio.data.samples import (
    GRID_HEIGHT,
    GRID_WIDTH,
    VIEW_FOCAL_PX,
    VIEW_HEIGHT,
    VIEW_WIDTH,
    CameraModel,
)

# Changes whenever the same image would give another view or flow: part of every cache's key.
VIEW_VERSION = 3
MIN_VIEW_SHARE = 0.30
# From this ratio of source to view resolution on, plain bilinear sampling would alias.
_ALIASING_SCALE = 1.5


def view_rays(oversampling: int = 1) -> NDArray[np.float64]:
    """Return the rays [80 k, 256 k, 3] of the view's pixels in its optical frame (z = 1).

    With ``oversampling`` k every pixel is split into k x k; pixel centres have integer
    coordinates and the principal point is the centre of the view.
    """
    k = oversampling
    u = (np.arange(VIEW_WIDTH * k) + 0.5) / k - VIEW_WIDTH / 2
    v = (np.arange(VIEW_HEIGHT * k) + 0.5) / k - VIEW_HEIGHT / 2
    x, y = np.meshgrid(u / VIEW_FOCAL_PX, v / VIEW_FOCAL_PX)
    return np.stack([x, y, np.ones_like(x)], -1)


def project_rays(camera: CameraModel, rays: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return pixels [..., 2] of rays [..., 3] in the camera's optical frame; NaN where unseen.

    Rays behind the camera, and those beyond the radius at which the lens model stops growing
    (it would fold them back into the image), are unseen.
    """
    shape, flat = rays.shape[:-1], rays.reshape(-1, 1, 3)
    depth = np.where(flat[..., 2:] > 1e-6, flat[..., 2:], np.nan)
    normalised = flat[..., :2] / depth
    zero = np.zeros(3)
    if camera.distortion == "equidistant":
        pixels = cv2.fisheye.distortPoints(
            np.nan_to_num(normalised), camera.K, camera.coefficients[:4]
        )
        radius = np.arctan(np.hypot(normalised[..., 0], normalised[..., 1]))
    else:
        points = np.concatenate([np.nan_to_num(normalised), np.ones_like(depth)], -1)
        pixels, _ = cv2.projectPoints(points, zero, zero, camera.K, camera.coefficients)
        radius = np.hypot(normalised[..., 0], normalised[..., 1])
    seen = radius <= _largest_radius(camera)  # False for NaN
    return np.where(seen[..., None], pixels.reshape(-1, 1, 2), np.nan).reshape(*shape, 2)


def _largest_radius(camera: CameraModel) -> float:
    """Return the radius (tangent, or angle if equidistant) up to which the lens model grows."""
    limit = np.pi / 2 if camera.distortion == "equidistant" else 10.0
    r = np.linspace(0, limit, 4001)
    k = np.zeros(8)
    k[: min(8, camera.coefficients.size)] = camera.coefficients[:8]
    if camera.distortion == "equidistant":
        distorted = r * (1 + k[0] * r**2 + k[1] * r**4 + k[2] * r**6 + k[3] * r**8)
    else:
        numerator = 1 + k[0] * r**2 + k[1] * r**4 + k[4] * r**6
        distorted = r * numerator / (1 + k[5] * r**2 + k[6] * r**4 + k[7] * r**6)
    falling = np.flatnonzero(np.diff(distorted) <= 0)
    return float(r[falling[0]]) if falling.size else limit


class ViewProjector:
    """Resample a camera's images into the virtual camera, axes parallel to base_link.

    camera: the calibration; R_base_camera [3, 3]: the optical frame's axes in base_link.
    ``valid_pixels`` [80, 256] bool: pixels that the camera sees; ``valid`` [40, 128] float32: its
    share per grid cell. Raises ValueError where the camera sees less than 30 % of the view.
    """

    def __init__(self, camera: CameraModel, R_base_camera: NDArray[np.float64]) -> None:
        self._size = (camera.height, camera.width)
        R_camera_view = np.asarray(R_base_camera).T @ R_BASE_OPTICAL
        pixels = project_rays(camera, view_rays() @ R_camera_view.T)
        inside = (pixels > -0.5) & (pixels < np.array([camera.width, camera.height]) - 0.5)
        self.valid_pixels: NDArray[np.bool_] = np.asarray(inside.all(-1))
        self.valid = _cells(self.valid_pixels.astype(np.float32))
        share = float(self.valid_pixels.mean())
        if share < MIN_VIEW_SHARE:
            raise ValueError(
                f"the camera sees {share:.0%} of the view ahead of base_link, less than "
                f"{MIN_VIEW_SHARE:.0%}: check R_base_camera (an optical frame has z forward) and K"
            )
        self._plan_resampling(camera, R_camera_view, pixels)

    def _plan_resampling(
        self,
        camera: CameraModel,
        R_camera_view: NDArray[np.float64],
        pixels: NDArray[np.float64],
    ) -> None:
        """Choose how far the source is shrunk first and how finely the view is sampled.

        Where the source is finer than the view, four samples per view pixel are averaged; where
        it is some three times finer or more, blocks of source pixels are averaged before.
        """
        steps = np.linalg.norm(np.diff(pixels, axis=1), axis=-1)
        scale = float(np.nanmedian(steps))
        self._oversampling = 2 if scale > _ALIASING_SCALE else 1
        self._shrink = max(1, round(scale / self._oversampling))
        if self._oversampling > 1:
            pixels = project_rays(camera, view_rays(self._oversampling) @ R_camera_view.T)
        source = (np.nan_to_num(pixels, nan=-1e4) + 0.5) / self._shrink - 0.5
        source = source.astype(np.float32)
        self._maps = cv2.convertMaps(source[..., 0], source[..., 1], cv2.CV_16SC2)

    def project(self, gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the view [80, 256] uint8 of a gray image [height, width] uint8.

        Pixels outside the camera's image repeat its border: a constant there would draw an edge
        that never moves and pull the flow beside it towards zero.
        """
        if gray.shape != self._size:
            height, width = self._size
            raise ValueError(
                f"image is {gray.shape[1]} x {gray.shape[0]}, but the calibration is for "
                f"{width} x {height}: give the camera_info that belongs to this image topic"
            )
        if self._shrink > 1:
            gray = _shrunk(gray, self._shrink)
        view = cv2.remap(gray, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if self._oversampling > 1:
            view = cv2.resize(view, (VIEW_WIDTH, VIEW_HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(view, dtype=np.uint8)


def _shrunk(gray: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Average blocks of factor x factor pixels; an incomplete last row or column is left out."""
    height, width = gray.shape[0] // factor, gray.shape[1] // factor
    whole = gray[: height * factor, : width * factor]
    small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def to_grid_levels(view: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the view's mean gray levels [40, 128] uint8 over the grid's cells, as stored."""
    grid = cv2.resize(view, (GRID_WIDTH, GRID_HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(grid, dtype=np.uint8)


def to_unit(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return gray levels as float32 in [0, 1]."""
    return levels.astype(np.float32) * np.float32(1 / 255)


def to_grid(view: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the view [80, 256] on the grid [40, 128], float32 in [0, 1]."""
    return to_unit(to_grid_levels(view))


class FlowEstimator:
    """Measure dense flow between two views (DIS, Kroeger et al. 2016) on the coarse grid.

    The earlier view is first brought into line with the later one as far as a turn and a flat
    road can (RoadAligner); DIS measures what is left, and the flow is the two in a row (E-F3).
    Settings: the search goes down to full resolution, which halves the error of yaw rates told
    from the flow against the half resolution of OpenCV's presets. Patches of 8 pixels every 5 and
    a single refinement step tell known zooms best for their time. ``valid_pixels`` [80, 256] of
    the projector: other pixels are left out of a cell's mean. One instance serves one thread.
    """

    def __init__(self, valid_pixels: NDArray[np.bool_] | None = None) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setFinestScale(0)
        self._dis.setVariationalRefinementIterations(1)
        self._dis.setPatchStride(5)
        self._dis.setGradientDescentIterations(12)
        if valid_pixels is None:
            valid_pixels = np.ones((VIEW_HEIGHT, VIEW_WIDTH), bool)
        self._align = RoadAligner(valid_pixels)
        v, u = np.mgrid[:VIEW_HEIGHT, :VIEW_WIDTH]
        self._x, self._y = normalised(u), normalised(v, VIEW_HEIGHT)
        self._weight = valid_pixels.astype(np.float32)[..., None]
        share = _cells(self._weight[..., 0])
        self._scale = np.where(share > 0, 1 / np.maximum(share, 0.25), 0).astype(np.float32)

    def __call__(
        self, earlier_view: NDArray[np.uint8], later_view: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return flow [2, 40, 128] from the later view [80, 256] to the earlier one.

        Displacements (right, down) in focal lengths; zero in cells that the camera does not see.
        """
        x, y = self._x, self._y
        motion = self._align(earlier_view, later_view)
        there_x, there_y = motion.moved(x, y)
        map_x, map_y = to_pixels(there_x), to_pixels(there_y, VIEW_HEIGHT)
        aligned = cv2.remap(
            earlier_view, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        left = self._dis.calc(later_view, aligned, None) / VIEW_FOCAL_PX  # pyright: ignore
        there_x, there_y = motion.moved(x + left[..., 0], y + left[..., 1])
        whole = np.stack([there_x - x, there_y - y], -1)
        flow = _cells(whole * self._weight).transpose(2, 0, 1) * self._scale
        return np.ascontiguousarray(flow)


def _cells(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means [40, 128, ...] of view-sized values [80, 256, ...] over grid cells."""
    size = (GRID_WIDTH, GRID_HEIGHT)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
