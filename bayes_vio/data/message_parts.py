"""Build the parts of which the messages of a bag are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from bayes_vio.conventions import NS_PER_S
from bayes_vio.geometry import so3

# Kilted's definitions of the message types used here are those of Humble to Lyrical.
TYPESTORE = get_typestore(Stores.ROS2_KILTED)


def transform_message(
    stamp_ns: int, T_parent_child: NDArray[np.float64], parent: str, child: str
) -> Any:
    """Return a geometry_msgs/TransformStamped of T_parent_child [4, 4]."""
    types = TYPESTORE.types
    return types["geometry_msgs/msg/TransformStamped"](
        header=header_message(stamp_ns, parent),
        child_frame_id=child,
        transform=types["geometry_msgs/msg/Transform"](
            translation=vector_message(T_parent_child[:3, 3]),
            rotation=quaternion_message(T_parent_child[:3, :3]),
        ),
    )


def time_message(stamp_ns: int) -> Any:
    """Return a builtin_interfaces/Time of nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(int(stamp_ns), NS_PER_S)
    return TYPESTORE.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)


def header_message(stamp_ns: int, frame_id: str) -> Any:
    """Return a std_msgs/Header."""
    return TYPESTORE.types["std_msgs/msg/Header"](stamp=time_message(stamp_ns), frame_id=frame_id)


def vector_message(v: NDArray[np.float64]) -> Any:
    """Return a geometry_msgs/Vector3 of v [3]."""
    x, y, z = (float(value) for value in v)
    return TYPESTORE.types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)


def quaternion_message(R: NDArray[np.float64]) -> Any:
    """Return a geometry_msgs/Quaternion of a rotation R [3, 3]."""
    x, y, z, w = so3.quaternion(torch.as_tensor(R, dtype=torch.float64)).tolist()
    return TYPESTORE.types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w)
