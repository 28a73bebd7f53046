"""Layers as matrices: what a covered layer multiplies its weights with, and where gradients land.

The weights of a layer form a matrix W [d_out, d_in], the bias its last column (of inputs that are
ones). For one datum with inputs a_s [d_in] at shared positions s and output gradients g_s [d_out],
the gradient of W is ``sum_s g_s a_s^T``: a linear layer over tokens and a convolution differ only
in how a_s is cut out. A module called several times has the positions of all its uses (L2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_vio.curvature.parts import Part, Piece, owner_name, piece_name

# Numbers of a batch's Jacobians in work at once: 2 MB in float32 on a CPU, for its own cache.
_JACOBIAN_NUMBERS = {"cpu": 2**19}


@dataclass(frozen=True)
class Layer:
    """A module whose parameters are one matrix [d_out, d_in]; the base of all kinds.

    ``batch_axis`` is that of the module's input and output; here it always comes first.
    """

    name: str
    module: Any
    batch_axis: int = 0
    kind: ClassVar[str]
    is_kronecker: ClassVar[bool] = True
    # Whether axes of the input before its last are all alike, so that any may be the batch.
    any_batch_axis: ClassVar[bool] = False

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Names in ``model.named_parameters()`` of the matrix' parts and their rows."""
        if isinstance(self.module, Part):
            pieces = self.module.pieces
        else:
            pieces = tuple((n, None) for n in ("weight", "bias") if self._own(n) is not None)
        owner = owner_name(self.name, self.module)
        return tuple((f"{owner}.{n}" if owner else n, rows) for n, rows in pieces)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the matrix' parts, weight first; rows of a parameter as ``name[4:8]``."""
        return tuple(piece_name(*piece) for piece in self.pieces)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (d_out, d_in), the bias counted as a column."""
        rows, columns = self.matrix().shape
        return rows, columns

    def matrix(self) -> Tensor:
        """Return the weights as W [d_out, d_in]."""
        rows, bias = self._rows(self.module.weight), self._own("bias")
        return rows if bias is None else torch.cat([rows, bias.reshape(-1, 1)], 1)

    def split(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return a matrix [d_out, d_in] as tensors shaped like ``parameter_names``, by those."""
        weight, bias = self.module.weight, self._own("bias")
        n_columns = matrix.shape[1] - (bias is not None)
        parts = [matrix[:, :n_columns].reshape(weight.shape)]
        if bias is not None:
            parts.append(matrix[:, n_columns].reshape(bias.shape))
        return dict(zip(self.parameter_names, parts, strict=True))

    def write(self, matrix: Tensor, parameters: dict[str, Tensor]) -> None:
        """Put a matrix [d_out, d_in] into parameters by name, in place of the layer's own."""
        for (name, rows), value in zip(self.pieces, self.split(matrix).values(), strict=True):
            if rows is not None:
                whole = parameters[name].clone()
                whole[rows] = value
                value = whole
            parameters[name] = value

    def features(self, uses: Sequence[Tensor]) -> Tensor:
        """Return what W multiplies [batch, positions, d_in], from the module's inputs."""
        parts = [self.use_features(x) for x in uses]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def gradients(self, uses: Sequence[Tensor]) -> Tensor:
        """Return [batch, columns, positions, d_out] from gradients [columns, batch, ...]."""
        parts = [self.use_gradients(g) for g in uses]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def use_features(self, x: Tensor) -> Tensor:
        """Return what W multiplies in one use of the module."""
        raise NotImplementedError

    def use_gradients(self, g: Tensor) -> Tensor:
        """Return the gradients of one use."""
        raise NotImplementedError

    def jacobian(self, features: Tensor, gradients: Tensor) -> Tensor:
        """Return sum_s g_s a_s^T [batch, columns, d_out, d_in].

        features [batch, positions, d_in], gradients [batch, columns, positions, d_out].
        """
        stacked = gradients.mT.flatten(1, 2) @ features  # [batch, columns * d_out, d_in]
        return stacked.unflatten(1, (gradients.shape[1], gradients.shape[3]))

    def jacobian_rows(self, features: Tensor, gradients: Tensor, rows: slice | Tensor) -> Tensor:
        """Return some rows of d_out of the jacobian, by a slice or their indices."""
        return self.jacobian(features, gradients[..., rows])

    def jacobian_blocks(
        self, features: Tensor, gradients: Tensor, numbers: int
    ) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """Yield (rows, their jacobian), so many rows of d_out at once that they hold ``numbers``.

        Rows that are never yielded are zero.
        """
        n_batch, n_columns, _, d_out = gradients.shape
        step = max(1, numbers // (n_batch * n_columns * self.width(features)))
        for start in range(0, d_out, step):
            rows = slice(start, min(start + step, d_out))
            yield rows, self.jacobian_rows(features, gradients, rows)

    def width(self, features: Tensor) -> int:
        """Return d_in."""
        return features.shape[-1]

    def add_squares(self, total: Tensor, features: Tensor, gradients: Tensor) -> None:
        """Add the sum over data and columns of jacobian^2 to a total [d_out, d_in].

        Without shared positions dW is the outer product g a^T, and its square is not formed.
        """
        if self.is_kronecker and features.shape[1] == 1:
            total += gradients[:, :, 0].square().sum(1).mT @ features[:, 0].square()
            return
        for J in self.jacobian_parts(features, gradients):
            total += J.square_().sum((0, 1))

    def jacobian_parts(self, features: Tensor, gradients: Tensor) -> Iterator[Tensor]:
        """Yield the jacobian of a few data at a time, so that it stays in the cache."""
        n_batch, n_columns = gradients.shape[:2]
        numbers = n_columns * self.shape[0] * self.width(features)
        step = max(1, _JACOBIAN_NUMBERS.get(features.device.type, 2**24) // numbers)
        for start in range(0, n_batch, step):
            part = slice(start, start + step)
            yield self.jacobian(features[part], gradients[part])

    def numbers_per_datum(self, n_gradients: int, n_columns: int) -> int:
        """Return how large the largest of one datum's temporary arrays is.

        ``n_gradients``: in one column of the Fisher. Without shared positions dW is not formed.
        """
        d_out, d_in = self.shape
        n_positions = max(1, n_gradients // d_out)
        jacobian = n_columns * d_out * d_in if n_positions > 1 else 0
        return max(jacobian, n_positions * d_in, n_columns * n_gradients)

    @property
    def resolution(self) -> float:
        """Return the machine epsilon of the weights' dtype."""
        return torch.finfo(self.module.weight.dtype).eps

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros to add up in: float64, or float32 on a device that lacks it."""
        device = self.module.weight.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.zeros(shape, device=device, dtype=dtype)

    def _own(self, parameter: str) -> Tensor | None:
        return getattr(self.module, parameter, None)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)
