"""What a camera's own motion does to the flow on the virtual view: rays, rotation, road plane.

The flow reaches from the later view to the earlier one. A static point p = (x, y, 1) Z of the
later view moves, per second, by v + w x p in the earlier one, v and w being the camera's velocity
in optical axes. On the image plane the rotation's part does not depend on depth (E-F1),
    u = -x y w_x + (1 + x^2) w_y - y w_z,    v = -(1 + y^2) w_x + x y w_y + x w_z,
and on a road at height h below the camera Z = h / y, so that forward speed s gives (E-F2)
    u = -x y s / h,    v = -y^2 s / h.
Source: Longuet-Higgins and Prazdny (1980), "The interpretation of a moving retinal image".
"""

import torch
from torch import Tensor

from bayes_vio.conventions import R_BASE_OPTICAL
from bayes_vio.data.samples import (
    GRID_HEIGHT,
    GRID_WIDTH,
    VIEW_FOCAL_PX,
    VIEW_HEIGHT,
    VIEW_WIDTH,
)

# Rows nearer to the horizon than this say nothing of speed (y in focal lengths; 9 px of the view).
_LEAST_ROAD_Y = 0.06


def ray_grid() -> tuple[Tensor, Tensor]:
    """Return x and y [40, 128] of the grid's cell centres, in focal lengths (right, down)."""
    columns = (torch.arange(GRID_WIDTH) + 0.5) * VIEW_WIDTH / GRID_WIDTH - VIEW_WIDTH / 2
    rows = (torch.arange(GRID_HEIGHT) + 0.5) * VIEW_HEIGHT / GRID_HEIGHT - VIEW_HEIGHT / 2
    y, x = torch.meshgrid(rows / VIEW_FOCAL_PX, columns / VIEW_FOCAL_PX, indexing="ij")
    return x, y


def rotation_flow_basis() -> Tensor:
    """Return B [2, 40, 128, 3]: flow (1/s) = B @ angular rate (rad/s, base axes), by E-F1."""
    x, y = ray_grid()
    one = torch.ones_like(x)
    u = torch.stack([-x * y, 1 + x * x, -y], -1)
    v = torch.stack([-(one + y * y), x * y, x], -1)
    R_optical_base = torch.as_tensor(R_BASE_OPTICAL.T, dtype=x.dtype)
    return torch.stack([u, v]) @ R_optical_base


def road_speed_weight() -> Tensor:
    """Return c [40, 128] with ``c * v = s / h`` (1/s) on a flat road by E-F2, 0 above the road."""
    _, y = ray_grid()
    return torch.where(y > _LEAST_ROAD_Y, -1 / y.clamp(min=_LEAST_ROAD_Y) ** 2, 0.0)
