"""The curvature of all covered layers jointly: the dense truth for small networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_vio.curvature.layer import Layer

# A dense matrix of this side takes 3.2 GB in float64.
MAX_PARAMETERS = 20_000


class JointSums:
    """Sums over data of vec(dW_r) vec(dW_r)^T [p, p], all layers stacked (E5).

    Raises ValueError where that matrix would not fit a machine.
    """

    def __init__(self, layers: Sequence[Layer]):
        n_parameters = sum(layer.shape[0] * layer.shape[1] for layer in layers)
        if n_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"structure 'full' over {n_parameters} parameters needs a matrix of that side "
                f"(at most {MAX_PARAMETERS}): choose fewer layers or another structure"
            )
        self._sum = layers[0].zeros(n_parameters, n_parameters)

    def add(self, jacobians: Sequence[Tensor]) -> None:
        """Add data: one jacobian [batch, columns, d_out, d_in] per layer, in the layers' order."""
        rows = torch.cat([J.flatten(2) for J in jacobians], 2).flatten(0, 1).to(self._sum.dtype)
        self._sum += rows.mT @ rows

    def totals(self) -> list[Tensor]:
        """Return the sum over data."""
        return [self._sum]

    def mean(self, n_data: int) -> Tensor:
        """Return the joint curvature [p, p], a mean over data."""
        return self._sum / n_data
