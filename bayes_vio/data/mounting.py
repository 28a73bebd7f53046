"""Find where the sensors sit: static transforms of a recording, or a YAML file."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bayes_vio.data.messages import BagError, pose_row, poses_of
from bayes_vio.data.samples import Extrinsics

_ROTATION_TOLERANCE = 1e-3
_NORM_TOLERANCE = 0.5
_LARGEST_VALUE = 1e9


class StaticFrames:
    """The tree of static transforms that a recording carries."""

    def __init__(self) -> None:
        self._neighbours: dict[str, dict[str, NDArray[np.float64]]] = {}

    def add(self, parent: str, child: str, T_parent_child: NDArray[np.float64]) -> None:
        """Add one transform [4, 4]; the last one given for a pair holds."""
        self._neighbours.setdefault(frame_name(parent), {})[frame_name(child)] = T_parent_child
        inverse = np.asarray(np.linalg.inv(T_parent_child), dtype=np.float64)
        self._neighbours.setdefault(frame_name(child), {})[frame_name(parent)] = inverse

    def add_message(self, message: Any) -> None:
        """Add all transforms of a tf2_msgs/TFMessage; BagError for one that is not rigid."""
        for transform in message.transforms:
            t = transform.transform
            row = np.array(pose_row(t.translation, t.rotation))
            parent, child = transform.header.frame_id, transform.child_frame_id
            if not _is_pose(row):
                raise BagError(
                    f"/tf_static carries no rigid transform from '{parent}' to '{child}': its "
                    f"translation and quaternion are {row.tolist()}"
                )
            self.add(parent, child, poses_of(row)[0])

    def transform(self, target: str, source: str) -> NDArray[np.float64]:
        """Return T_target_source [4, 4] along the tree; BagError naming the missing frame."""
        target, source = frame_name(target), frame_name(source)
        reached = {target: np.eye(4)}
        queue = deque([target])
        while queue and source not in reached:
            here = queue.popleft()
            for frame, T_here_frame in self._neighbours.get(here, {}).items():
                if frame not in reached:
                    reached[frame] = reached[here] @ T_here_frame
                    queue.append(frame)
        if source not in reached:
            known = ", ".join(sorted(self._neighbours)) or "none"
            raise BagError(
                f"no static transform leads from '{target}' to frame '{source}' (frames on "
                f"/tf_static: {known}): record /tf_static, or give the extrinsics in a YAML file "
                "(--extrinsics)"
            )
        return reached[source]


def _is_pose(row: NDArray[np.float64]) -> bool:
    """Tell whether a row [7] is a finite position and a quaternion that is about normalised."""
    if not np.isfinite(row).all() or np.abs(row).max() > _LARGEST_VALUE:
        return False
    return bool(abs(np.linalg.norm(row[3:]) - 1) < _NORM_TOLERANCE)


def frame_name(frame_id: str) -> str:
    """Return a frame id without the leading slash that old drivers write."""
    return frame_id.lstrip("/")


def read_extrinsics(path: Path) -> Extrinsics:
    """Read T_base_imu and T_base_camera (optical frame) from a YAML file.

    Each is four rows of four numbers, or ``translation: [x, y, z]`` (m) with
    ``quaternion_xyzw: [x, y, z, w]``. Raises BagError where one is missing or no rigid transform.
    """
    path = Path(path)
    try:
        content = YAML(typ="safe").load(path.read_text())
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise BagError(f"extrinsics {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BagError(f"extrinsics {path} must hold the keys T_base_imu and T_base_camera")
    T_base_imu, T_base_camera = (
        _read_transform(content, name, path) for name in ("T_base_imu", "T_base_camera")
    )
    return Extrinsics(T_base_imu, T_base_camera, str(path))


def _read_transform(content: dict[str, Any], name: str, path: Path) -> NDArray[np.float64]:
    if name not in content:
        raise BagError(f"extrinsics {path} lack {name}: give 4 x 4 numbers, or a translation and "
                       "a quaternion_xyzw")  # fmt: skip
    value = content[name]
    try:
        if isinstance(value, dict):
            row = np.array([*value["translation"], *value["quaternion_xyzw"]], dtype=np.float64)
            T = poses_of(row)[0] if row.shape == (7,) and np.any(row[3:]) else np.zeros(0)
        else:
            T = np.array(value, dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BagError(f"{name} in {path} is not a transform: {error}") from error
    if not is_rigid(T):
        raise BagError(f"{name} in {path} is not a rigid transform [4, 4] with a rotation matrix")
    return T


def is_rigid(T: NDArray[np.float64]) -> bool:
    """Tell whether T is a finite [4, 4] matrix with a proper rotation."""
    if T.shape != (4, 4) or not np.all(np.isfinite(T)):
        return False
    R, last = T[:3, :3], T[3]
    orthonormal = np.abs(R @ R.T - np.eye(3)).max() < _ROTATION_TOLERANCE
    return bool(orthonormal and np.linalg.det(R) > 0 and np.array_equal(last, [0, 0, 0, 1]))
