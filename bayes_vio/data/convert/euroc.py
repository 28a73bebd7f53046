"""Read a sequence in the layout of the EuRoC MAV data set (ASL format).

SOURCE holds ``mav0``, or is it: CAMERA/{sensor.yaml, data.csv, data/}, imu0/{sensor.yaml,
data.csv}, and as the reference state_groundtruth_estimate0, else vicon0 or mocap0 (leica0 holds
positions alone and is no reference of motion). Columns: imu0 stamp (ns), wx wy wz, ax ay az;
references stamp (ns), position, quaternion w x y z; a sensor.yaml's T_BS is the sensor's pose in
the body.

``base_link`` has its origin at the body frame, which is the IMU, and axes parallel to the
camera's: x along its optical axis, y to the left and z up in its image. The body frame itself
will not do: the MAV's IMU is mounted with x up and z forward. z is up as far as the camera is
level.

Facts from: Burri et al., "The EuRoC micro aerial vehicle datasets" (2016), and the headings of the
data set's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import R_BASE_OPTICAL
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
from bayes_vio.data.messages import poses_of
from bayes_vio.data.mounting import is_rigid
from bayes_vio.data.samples import CameraModel, Extrinsics, ReferenceStream

REFERENCES = ("state_groundtruth_estimate0", "vicon0", "mocap0")
# Names of the two lens models in the field's files; four coefficients each.
_DISTORTION = {
    "radial-tangential": "plumb_bob",
    "radtan": "plumb_bob",
    "plumb_bob": "plumb_bob",
    "equidistant": "equidistant",
}
_FORCE_THEN_RATE = [3, 4, 5, 0, 1, 2]
_XYZ_THEN_XYZW = [0, 1, 2, 4, 5, 6, 3]


def read_euroc(source: Path, camera: str = "cam0") -> SourceRecording:
    """Read one sequence; camera: the folder of one, cam0 or cam1."""
    required_folder(source, "euroc")
    root = source / "mav0" if (source / "mav0").is_dir() else source
    required_folder(root / camera, "euroc")
    dropped: dict[str, int] = {}
    sensor_file = root / camera / "sensor.yaml"
    sensor = yaml_mapping(sensor_file)
    model = _camera_model(sensor, sensor_file)
    T_body_camera = _T_body_sensor(sensor, sensor_file)
    T_base_body = np.eye(4)
    T_base_body[:3, :3] = R_BASE_OPTICAL @ T_body_camera[:3, :3].T
    imu_file = root / "imu0" / "sensor.yaml"
    T_body_imu = _T_body_sensor(yaml_mapping(imu_file), imu_file)
    stamp_ns, rows = stamped_rows(root / "imu0" / "data.csv", 7)
    imu = imu_stream(root / "imu0", stamp_ns, rows[:, _FORCE_THEN_RATE], dropped)
    reference, note = _reference(root, T_base_body, dropped)
    image_ns, paths = stamped_names(root / camera / "data.csv", root / camera / "data")
    images = image_files(root / camera, image_ns, paths, (model.width, model.height), dropped)
    mounting = Extrinsics(T_base_body @ T_body_imu, T_base_body @ T_body_camera, str(sensor_file))
    return SourceRecording(
        camera=model,
        extrinsics=mounting,
        image_ns=images.stamp_ns,
        images=images,
        imu=imu,
        reference=reference,
        dropped=dropped,
        notes=(note,),
    )


def _camera_model(sensor: dict[str, Any], path: Path) -> CameraModel:
    if sensor.get("camera_model") != "pinhole":
        raise SourceError(f"{path}: camera_model is '{sensor.get('camera_model')}', not 'pinhole'")
    name = sensor.get("distortion_model")
    if name not in _DISTORTION:
        known = ", ".join(sorted(_DISTORTION))
        raise SourceError(f"{path}: distortion_model '{name}' is not one of {known}")
    width, height = array_of(sensor.get("resolution"), (2,), f"resolution in {path}").astype(int)
    fu, fv, cu, cv = array_of(sensor.get("intrinsics"), (4,), f"intrinsics in {path}")
    what = f"distortion_coefficients in {path}"
    coefficients = array_of(sensor.get("distortion_coefficients"), (4,), what)
    if min(width, height, fu, fv) <= 0:
        raise SourceError(f"{path}: resolution and focal lengths must be positive")
    if _DISTORTION[name] == "plumb_bob":
        coefficients = np.append(coefficients, 0.0)
    K = np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]])
    return CameraModel(int(width), int(height), K, _DISTORTION[name], coefficients)


def _T_body_sensor(sensor: dict[str, Any], path: Path) -> NDArray[np.float64]:
    value = sensor.get("T_BS")
    value = value.get("data") if isinstance(value, dict) else value
    T = array_of(value, (4, 4), f"T_BS in {path}")
    if not is_rigid(T):
        raise SourceError(f"T_BS in {path} is no rigid transform")
    return T


def _reference(
    root: Path, T_base_body: NDArray[np.float64], dropped: dict[str, int]
) -> tuple[ReferenceStream | None, str]:
    for name in REFERENCES:
        if (root / name / "data.csv").exists():
            break
    else:
        reason = "leica0 holds positions alone" if (root / "leica0").is_dir() else "none is there"
        return None, f"no reference: {reason}"
    stamp_ns, rows = stamped_rows(root / name / "data.csv", 8)
    poses = rows[:, _XYZ_THEN_XYZW]
    kept = usable("reference", root / name, stamp_ns, poses, dropped)
    sensor_file = root / name / "sensor.yaml"
    T_body_sensor = np.eye(4)
    if sensor_file.exists():
        T_body_sensor = _T_body_sensor(yaml_mapping(sensor_file), sensor_file)
    T_base_sensor = T_base_body @ T_body_sensor
    T_world_base = poses_of(poses[kept]) @ np.linalg.inv(T_base_sensor)
    return ReferenceStream(stamp_ns[kept], T_world_base), f"the reference is {name}"
