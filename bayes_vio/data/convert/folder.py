"""Read a folder of image files and CSV tables: the layout to bring one's own data into.

SOURCE holds
- images.csv: stamp, file name relative to SOURCE (PNG or JPEG, gray or colour);
- camera.yaml: size: [width, height]; K: [fx, fy, cx, cy] or three rows; distortion:
  {model: plumb_bob | rational_polynomial | equidistant, coefficients: [...]} (absent: none);
  T_base_camera (optical frame) and T_base_imu, each four rows of four numbers, or
  {translation: [x, y, z], quaternion_xyzw: [x, y, z, w]};
- imu.csv (optional): stamp, ax, ay, az (m/s^2, specific force: +9.8 upwards at rest), gx, gy, gz
  (rad/s), in the IMU's axes;
- poses.csv (optional): stamp, x, y, z (m), qx, qy, qz, qw of base_link in a fixed world.

A stamp that is a whole number is nanoseconds, one with a decimal point seconds; all come from one
clock. A heading line is passed over. ``base_link`` is whatever frame poses.csv tells: x forward, y
left, z up, such as the rear axle or the IMU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.convert.source import (
    SourceError,
    SourceRecording,
    image_files,
    imu_stream,
    usable,
)
from bayes_vio.data.convert.tables import (
    array_of,
    required_folder,
    stamped_names,
    stamped_rows,
    yaml_mapping,
)
from bayes_vio.data.messages import DISTORTION_MODELS, poses_of
from bayes_vio.data.mounting import read_extrinsics
from bayes_vio.data.samples import CameraModel, ImuStream, ReferenceStream

_KEYS = {"size", "K", "distortion", "T_base_camera", "T_base_imu"}
_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}


def read_folder(folder: Path) -> SourceRecording:
    """Read one recording."""
    required_folder(folder, "folder")
    dropped: dict[str, int] = {}
    camera = _camera_model(folder / "camera.yaml")
    image_ns, paths = stamped_names(folder / "images.csv", folder)
    images = image_files(
        folder / "images.csv", image_ns, paths, (camera.width, camera.height), dropped
    )
    return SourceRecording(
        camera=camera,
        extrinsics=read_extrinsics(folder / "camera.yaml"),
        image_ns=images.stamp_ns,
        images=images,
        imu=_imu(folder / "imu.csv", dropped),
        reference=_reference(folder / "poses.csv", dropped),
        dropped=dropped,
    )


def _imu(path: Path, dropped: dict[str, int]) -> ImuStream | None:
    return imu_stream(path, *stamped_rows(path, 7), dropped) if path.exists() else None


def _reference(path: Path, dropped: dict[str, int]) -> ReferenceStream | None:
    if not path.exists():
        return None
    stamp_ns, rows = stamped_rows(path, 8)
    kept = usable("reference", path, stamp_ns, rows, dropped)
    return ReferenceStream(stamp_ns[kept], poses_of(rows[kept]))


def _camera_model(path: Path) -> CameraModel:
    content = yaml_mapping(path)
    if unknown := sorted(map(str, set(content) - _KEYS)):
        raise SourceError(f"{path}: {', '.join(unknown)} is not one of {', '.join(sorted(_KEYS))}")
    width, height = array_of(content.get("size"), (2,), f"size in {path}").astype(int).tolist()
    K = _K(content.get("K"), f"K in {path}")
    if min(width, height, K[0, 0], K[1, 1]) <= 0:
        raise SourceError(f"{path}: size and focal lengths must be positive")
    model, coefficients = _distortion(content.get("distortion"), path)
    return CameraModel(width, height, K, model, coefficients)


def _K(value: Any, what: str) -> NDArray[np.float64]:
    flat = array_of(value, (-1,), what)
    if flat.size == 4:
        fx, fy, cx, cy = flat
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return array_of(value, (3, 3), what)


def _distortion(value: Any, path: Path) -> tuple[str, NDArray[np.float64]]:
    if value is None:
        return "plumb_bob", np.zeros(5)
    model = value.get("model") if isinstance(value, dict) else None
    if model not in DISTORTION_MODELS:
        known = ", ".join(DISTORTION_MODELS)
        raise SourceError(f"{path}: the distortion's model '{model}' is not one of {known}")
    coefficients = array_of(value.get("coefficients"), (-1,), f"distortion coefficients in {path}")
    if coefficients.size not in (counts := _COEFFICIENTS[model]):
        wanted = " or ".join(map(str, counts))
        raise SourceError(f"{path}: {coefficients.size} coefficients where {model} has {wanted}")
    return model, coefficients
