"""Values that pass from recordings to the model: streams, windows, motion samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Every image becomes a view of one virtual pinhole camera, axes parallel to base_link: the network
# sees the same rays whatever the lens, the resolution and the mounting angle.
VIEW_WIDTH = 256
VIEW_HEIGHT = 80
VIEW_FOCAL_PX = 148.0  # 81.7 deg by 30.2 deg
# Flow is measured on the view and averaged onto this coarser grid, which the network reads.
GRID_WIDTH = 128
GRID_HEIGHT = 40
IMU_BINS = 20


@dataclass(frozen=True)
class CameraModel:
    """A calibrated pinhole camera: size in pixels, K [3, 3] in pixels, lens distortion.

    ``distortion`` is "plumb_bob", "rational_polynomial" or "equidistant"; ``coefficients`` [n].
    """

    width: int
    height: int
    K: NDArray[np.float64]
    distortion: str = "plumb_bob"
    coefficients: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))


def same_camera(a: CameraModel, b: CameraModel) -> bool:
    """Return whether two calibrations are the same numbers."""
    return (
        (a.width, a.height, a.distortion) == (b.width, b.height, b.distortion)
        and np.array_equal(a.K, b.K)
        and np.array_equal(a.coefficients, b.coefficients)
    )


@dataclass(frozen=True)
class Extrinsics:
    """Where the sensors sit: T_base_imu, T_base_camera (optical frame) [4, 4], and who says so."""

    T_base_imu: NDArray[np.float64]
    T_base_camera: NDArray[np.float64]
    source: str


@dataclass(frozen=True)
class ImuStream:
    """IMU samples in base axes: stamp_ns [n], increasing, and samples [n, 6] (m/s^2, rad/s)."""

    stamp_ns: NDArray[np.int64]
    samples: NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceStream:
    """Reference poses of base_link: stamp_ns [n] (strictly increasing), T_world_base [n, 4, 4]."""

    stamp_ns: NDArray[np.int64]
    T_world_base: NDArray[np.float64]


@dataclass(frozen=True)
class Streams:
    """One recording, images still on disk.

    ``frames()`` opens the recording anew and yields (stamp_ns, gray image [height, width] uint8)
    in order of stamps; ``dropped`` counts what was left out, by cause.
    """

    name: str
    camera: CameraModel
    extrinsics: Extrinsics
    image_stamp_ns: NDArray[np.int64]
    frames: Callable[[], Iterator[tuple[int, NDArray[np.uint8]]]]
    imu: ImuStream | None
    reference: ReferenceStream | None
    dropped: dict[str, int]


@dataclass(frozen=True)
class TimeOffset:
    """The camera-IMU offset (s; see conventions), its standard error, correlation and source."""

    offset_s: float
    std_s: float
    correlation: float
    source: str


@dataclass(frozen=True)
class MotionInput:
    """What the motion model reads of one interval between two images; axis 0 is the batch.

    gray [batch, 40, 128] in [0, 1], the later image on the grid; flow [batch, 2, 40, 128], the
    displacement of the later view's pixels to the earlier one in normalised camera coordinates
    (focal lengths; right, down); view_valid [batch, 40, 128] in [0, 1], share of each cell seen by
    the camera; imu [batch, 20, 6], time averages over equal bins of the interval (m/s^2, rad/s,
    base axes); imu_valid [batch, 20], 1 where a bin is covered by samples; dt [batch] (s);
    camera_valid [batch], 1 where there is a camera. Absent values are zeros.
    """

    gray: Tensor
    flow: Tensor
    view_valid: Tensor
    imu: Tensor
    imu_valid: Tensor
    dt: Tensor
    camera_valid: Tensor

    def __len__(self) -> int:
        return self.dt.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> MotionInput:
        """Apply a function to every tensor, as in ``x.map(lambda t: t.to(device))``."""
        return MotionInput(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    @staticmethod
    def stack(inputs: list[MotionInput]) -> MotionInput:
        """Concatenate along the batch axis."""
        names = [f.name for f in fields(MotionInput)]
        return MotionInput(**{n: torch.cat([getattr(x, n) for x in inputs]) for n in names})
