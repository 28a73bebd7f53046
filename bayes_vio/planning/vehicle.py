"""A car as a rectangle on a kinematic bicycle, with what it can do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Scalars = Array | float

# Corners of the footprint in their order; the next one round is the neighbour.
FRONT_LEFT, REAR_LEFT, REAR_RIGHT, FRONT_RIGHT = range(4)


@dataclass(frozen=True)
class Vehicle:
    """A car's size (m, from base_link on the rear axle) and its limits (SI units).

    speed_max_m_s: fastest speed planned. braking_m_s2: comfortable deceleration, by which every
    plan ends standing; braking_max_m_s2: the hardest one, kept for when no plan is within bounds.
    """

    wheelbase_m: float = 2.7
    front_m: float = 3.6
    rear_m: float = 0.9
    half_width_m: float = 0.9
    speed_max_m_s: float = 10.0
    acceleration_max_m_s2: float = 1.5
    braking_m_s2: float = 2.5
    braking_max_m_s2: float = 6.0
    lateral_acceleration_max_m_s2: float = 3.0
    steering_max_rad: float = 0.55
    steering_rate_max_rad_s: float = 0.6

    def __post_init__(self) -> None:
        """Raise ValueError for a size or limit that is not a positive, finite number."""
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"vehicle's {name} is {value}: give a number above 0")
        if self.steering_max_rad >= np.pi / 2:
            raise ValueError(f"steering_max_rad is {self.steering_max_rad}: stay below pi / 2")

    @property
    def corners(self) -> Tensor:
        """Return the footprint's corners [4, 2] in base_link (m)."""
        front, rear, side = self.front_m, -self.rear_m, self.half_width_m
        rows = [[front, side], [rear, side], [rear, -side], [front, -side]]
        return torch.tensor(rows, dtype=torch.float64)

    def grown(self, sides_m: Tensor) -> Tensor:
        """Return corners [..., 4, 2] (m) of a footprint larger by sides_m [..., 4].

        To the front, left, rear and right.
        """
        front, left, rear, right = sides_m.unbind(-1)
        x = torch.stack([front, -rear, -rear, front], -1)
        y = torch.stack([left, left, -right, -right], -1)
        return self.corners.to(sides_m.device) + torch.stack([x, y], -1)

    @property
    def radius_m(self) -> float:
        """Return the radius of the circle about base_link that holds the footprint."""
        return float(np.hypot(max(self.front_m, self.rear_m), self.half_width_m))

    def advance(
        self, pose: Array, speed: Scalars, later_speed: Scalars, steering: Scalars, dt_s: float
    ) -> Array:
        """Return the poses [..., 3] (x, y, yaw) after one step of the kinematic bicycle.

        speed, later_speed, steering [...]: at the step's ends (m/s) and during it (rad). The
        heading of the step's middle stands for the step: second order in dt_s.
        """
        way = 0.5 * (speed + later_speed) * dt_s
        turn = way * np.tan(steering) / self.wheelbase_m
        middle = pose[..., 2] + 0.5 * turn
        return pose + np.stack([way * np.cos(middle), way * np.sin(middle), turn], -1)
