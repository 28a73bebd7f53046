"""A simulated camera: where it sits, when it takes images, and what light and noise do to them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.samples import VIEW_FOCAL_PX, VIEW_HEIGHT, VIEW_WIDTH, CameraModel
from bayes_vio.simulation.render import Renderer
from bayes_vio.simulation.textures import Gray
from bayes_vio.simulation.trajectory import Trajectory

_BLUR_STEPS = 5


@dataclass(frozen=True)
class CameraSettings:
    """A forward-looking pinhole camera; lengths in metres, angles in radians, times in seconds.

    height_m is above the road; forward_m and left_m are from base_link; a positive pitch_rad looks
    down. Stamps are the middle of the exposure; interval_jitter_s moves each image by up to that
    much; exposure_s > 0 blurs what moves. noise_std is in gray levels, exposure_drift_std the
    relative change of brightness over about 5 s. jpeg_quality None writes raw images.
    drop_probability: share of images lost at random, in bursts of drop_burst_frames on average.
    Raises ValueError for a size, a rate or a timing that no camera has.
    """

    width: int = VIEW_WIDTH
    height: int = VIEW_HEIGHT
    focal_px: float = VIEW_FOCAL_PX
    rate_hz: float = 10.0
    height_m: float = 1.65
    forward_m: float = 1.0
    left_m: float = 0.0
    pitch_rad: float = 0.0
    interval_jitter_s: float = 0.0
    exposure_s: float = 0.0
    noise_std: float = 1.5
    exposure_drift_std: float = 0.05
    jpeg_quality: int | None = None
    drop_probability: float = 0.0
    drop_burst_frames: float = 1.0

    def __post_init__(self) -> None:
        if not (self.width >= 16 and self.height >= 16 and self.focal_px > 0):
            size = f"{self.width} x {self.height}, focal length {self.focal_px} px"
            raise ValueError(f"{size}: a camera needs 16 x 16 pixels and a positive focal length")
        if not self.rate_hz > 0:
            raise ValueError(f"the camera's rate is {self.rate_hz} Hz: it must be positive")
        if not 0 <= 2 * self.interval_jitter_s + self.exposure_s < 1 / self.rate_hz:
            raise ValueError(
                f"jitter {self.interval_jitter_s} s and exposure {self.exposure_s} s do not fit "
                f"into the interval of {1 / self.rate_hz:.4f} s: make them or the rate smaller"
            )

    @staticmethod
    def with_field_of_view(width: int, height: int, horizontal_deg: float) -> CameraSettings:
        """Return a camera of a size (px) and a horizontal field of view (deg)."""
        focal_px = width / 2 / np.tan(np.radians(horizontal_deg) / 2)
        return CameraSettings(width, height, float(focal_px))

    def model(self) -> CameraModel:
        """Return the calibration; the principal point is the image's centre."""
        centre = (self.width - 1) / 2, (self.height - 1) / 2
        K = [[self.focal_px, 0, centre[0]], [0, self.focal_px, centre[1]], [0, 0, 1.0]]
        return CameraModel(self.width, self.height, np.array(K))

    def T_base_camera(self, base_height_m: float) -> NDArray[np.float64]:
        """Return the optical frame's pose in a base_link that is base_height_m above the road."""
        T_base_camera = np.eye(4)
        R_pitch = Rotation.from_euler("y", self.pitch_rad).as_matrix()
        T_base_camera[:3, :3] = R_pitch @ R_BASE_OPTICAL
        T_base_camera[:3, 3] = self.forward_m, self.left_m, self.height_m - base_height_m
        return T_base_camera

    def times(self, trajectory: Trajectory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the times [n] (s) of all images along a trajectory, increasing."""
        margin_s = self.interval_jitter_s + self.exposure_s / 2
        first, last = trajectory.start_s + margin_s, trajectory.end_s - margin_s
        n = int(np.floor((last - first) * self.rate_hz + 1e-6)) + 1
        regular = first + np.arange(n) / self.rate_hz
        return regular + rng.uniform(-1, 1, n) * self.interval_jitter_s


class SimulatedCamera:
    """Take images of a renderer's world along a trajectory."""

    def __init__(
        self,
        renderer: Renderer,
        trajectory: Trajectory,
        settings: CameraSettings,
        T_base_camera: NDArray[np.float64],
    ) -> None:
        self._renderer, self._trajectory = renderer, trajectory
        self._settings, self._T_base_camera = settings, T_base_camera

    def shoot(self, time_s: float, gain: float, rng: np.random.Generator) -> Gray:
        """Return the image [height, width] whose exposure is centred on a time (s)."""
        settings = self._settings
        if settings.exposure_s > 0:
            share = (np.arange(_BLUR_STEPS) + 0.5) / _BLUR_STEPS - 0.5
            moments = time_s + share * settings.exposure_s
            light = np.mean([self._sharp(t) for t in moments], axis=0)
        else:
            light = self._sharp(time_s)
        if settings.noise_std == 0 and gain == 1.0:
            return np.rint(light).astype(np.uint8)
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        noisy = cv2.addWeighted(light.astype(np.float32), gain, noise, settings.noise_std, 0.0)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    def _sharp(self, time_s: float) -> Gray:
        T_world_camera = self._trajectory.pose(time_s)[0] @ self._T_base_camera
        distance_m = self._renderer.path.distance_at(float(time_s))
        return self._renderer.render(T_world_camera, distance_m)


def exposure_gains(
    time_s: NDArray[np.float64], drift_std: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the brightness factor [n] of images at time_s [n]: 1, drifting over about 5 s."""
    if drift_std == 0:
        return np.ones(len(time_s))
    step_s = 0.5
    n = int((time_s[-1] - time_s[0]) / step_s) + 2
    drift = gaussian_filter1d(rng.standard_normal(n + 40), 5 / step_s / np.sqrt(2))[20:-20]
    # The filter leaves 1 / (2 sqrt(pi) sigma) of a white noise's variance.
    drift *= np.sqrt(2 * np.sqrt(np.pi) * 5 / step_s / np.sqrt(2))
    grid = time_s[0] + np.arange(n) * step_s
    return np.exp(drift_std * np.interp(time_s, grid, drift))
