"""The exact diagonal of a layer's curvature."""

from __future__ import annotations

from torch import Tensor

from bayes_vio.curvature.layer import Layer


class DiagonalSums:
    """Sums over data of dW_r^2 [d_out, d_in] of one layer (E4)."""

    def __init__(self, layer: Layer):
        self._layer = layer
        self._sum = layer.zeros(*layer.shape)

    def add(self, features: Tensor, gradients: Tensor, first_columns: bool) -> None:  # noqa: ARG002
        """Add data: features [batch, positions, d_in], gradients [batch, columns, ..., d_out]."""
        self._layer.add_squares(self._sum, features, gradients)

    def totals(self) -> list[Tensor]:
        """Return the sum over data."""
        return [self._sum]

    def mean(self, n_data: int) -> Tensor:
        """Return F_diag [d_out, d_in], a mean over data."""
        return self._sum / n_data
