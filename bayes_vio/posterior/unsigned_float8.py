"""Floats of eight bits without a sign: five of exponent, three of mantissa (E5M3).

Curvatures' diagonals are not negative, and span more octaves than signed eight-bit floats have:
under a head whose outputs' noise differs by orders of magnitude, about 20 after scaling, where
e4m3 has 17.8, 14.8 of them in full precision. With the sign's bit given to the exponent there are
34, 31 in full precision, at e4m3's relative error of 1/16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

CODES = torch.uint8
_N_CODES, _N_MANTISSAS = 256, 8
# bfloat16 holds these as scales, and float32 what is multiplied with them.
_MOST_OCTAVES = 100


@dataclass(frozen=True)
class ScaledCodes:
    """A matrix as codes [d_out, d_in] times powers of two: rows [d_out, 1], columns [1, d_in]."""

    codes: Tensor
    rows: Tensor
    columns: Tensor

    def values(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix: exact but for what a dtype's own range cuts off."""
        found = _values(self.codes.device)[self.codes.int()].to(dtype)
        return found * self.rows.to(dtype) * self.columns.to(dtype)


def nearest_codes(matrix: Tensor) -> ScaledCodes:
    """Return the nearest codes of a matrix [d_out, d_in] of numbers that are not negative.

    Numbers that are below 2^-31 of both their row's and their column's largest lose digits.
    Raises ValueError where a number is infinite or too large for any scale.
    """
    values = _values(matrix.device)
    scaled, rows, columns = _scaled(matrix, float(values[-1]))
    if not bool((scaled <= values[-1]).all()):
        raise ValueError("numbers too large for float8")
    midpoints = ((values[1:] + values[:-1]) / 2).to(scaled.dtype)
    codes = torch.bucketize(scaled.contiguous(), midpoints, out_int32=True).to(CODES)
    return ScaledCodes(codes, rows, columns)


@cache
def _values(device: torch.device) -> Tensor:
    """Return what the codes stand for [256], ascending: whole numbers from 0 to 15 * 2^30."""
    values = [_value(*divmod(code, _N_MANTISSAS)) for code in range(_N_CODES)]
    return torch.tensor(values, dtype=torch.float64, device=device)


def _value(exponent: int, mantissa: int) -> float:
    return float((_N_MANTISSAS + mantissa) << exponent - 1 if exponent else mantissa)


def _scaled(matrix: Tensor, largest_value: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix over the scales of its rows and columns, and those two.

    Columns first, so that inputs of any scale have their largest entry near the largest number.
    """
    columns = _scale(matrix, 0, largest_value)
    rows = _scale(matrix / columns, 1, largest_value)
    return matrix / columns / rows, rows, columns


def _scale(matrix: Tensor, axis: int, largest_value: float) -> Tensor:
    """Return the powers of two that bring the largest along an axis within a factor of two."""
    largest = matrix.amax(axis, keepdim=True).double()
    exponents = torch.where(largest > 0, (largest / largest_value).log2().ceil(), 0.0)
    return exponents.clamp(-_MOST_OCTAVES, _MOST_OCTAVES).exp2().to(matrix.dtype)
