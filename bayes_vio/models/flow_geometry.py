"""What a camera's own motion does to the flow on the virtual view: rays, rotation, road plane.

The flow reaches from the later view to the earlier one. A ray r = (x, y, 1) of the later view is
seen along r_e = (x + u, y + v, 1) in the earlier one. With R the camera's rotation (earlier from
later), R^T r_e is where it would be seen had the camera not turned, whatever the depth (E-F1).
What is left on a road at height h below the camera, whose depth is h / y, is (E-F2)
    v = y' - y,    y' = y / (1 + d y),    d = s / h = 1 / y' - 1 / y,
after a way s along the view's axis. For small angles E-F1 is linear:
    u = -x y w_x + (1 + x^2) w_y - y w_z,    v = -(1 + y^2) w_x + x y w_y + x w_z.
Source: Longuet-Higgins and Prazdny (1980), "The interpretation of a moving retinal image".
"""

from itertools import pairwise

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
from bayes_vio.geometry import so3

# Rows nearer to the horizon than this say nothing of speed (y in focal lengths; 9 px of the view).
_LEAST_ROAD_Y = 0.06
# No road is seen nearer to the horizon than this in the earlier view, and no way is found that is
# longer (see RoadAligner): the flow there is wrong.
_LEAST_EARLIER_Y, _FURTHEST_HEIGHTS = 0.02, 8.0
# Where the road's own speed is read: in bands between these y, so far beside the heading.
_BAND_EDGES_Y, _READ_HALF_WIDTH = (0.07, 0.1, 0.13, 0.165, 0.21, 0.27), 0.1
ROAD_BANDS = len(_BAND_EDGES_Y) - 1


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


def without_rotation(flow: Tensor, rotation: Tensor, rays: Tensor) -> Tensor:
    """Return the flow [batch, 2, 40, 128] had the camera not turned (E-F1, exact).

    rotation [batch, 3]: rotation vector of R_earlier_later (rad, optical axes); rays
    [2, 40, 128]: ``ray_grid``.
    """
    earlier = flow + rays
    R = so3.exp(rotation)
    still = torch.einsum("bji,bjhw->bihw", R[:, :2], earlier) + R[:, 2, :, None, None]
    return still[:, :2] / still[:, 2:] - rays


def road_way(still_flow: Tensor, y: Tensor) -> Tensor:
    """Return d [batch, 40, 128], the way in heights that a flat road tells (E-F2).

    still_flow [batch, 2, 40, 128] without rotation, y [40, 128] of ``ray_grid``; 0 above the road.
    """
    earlier_y = (y + still_flow[:, 1]).clamp(min=_LEAST_EARLIER_Y)
    way = (1 / earlier_y - 1 / y).clamp(max=_FURTHEST_HEIGHTS)
    return torch.where(y > _LEAST_ROAD_Y, way, 0.0)


def road_bands() -> list[Tensor]:
    """Return flat indices of the cells that show the road just ahead, by bands, farthest first."""
    x, y = ray_grid()
    ahead = x.abs() < _READ_HALF_WIDTH + y
    return [
        ((y > a) & (y <= b) & ahead).flatten().nonzero()[:, 0] for a, b in pairwise(_BAND_EDGES_Y)
    ]
