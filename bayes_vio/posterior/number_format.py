"""How a posterior's numbers are written: as they are, in bfloat16, or the diagonals in float8.

Diagonals are floats of eight bits without a sign; files whose diagonals are e4m3 are still read.
Only blocks that stay positive definite whatever their numbers are rounded to have a choice: in
"inf" and "diagonal" curvatures are sums of squares and of entries that are not negative.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_vio.choices import NumberFormat
from bayes_vio.posterior.unsigned_float8 import CODES, ScaledCodes, nearest_codes

# What diagonals in float8 were before; every number of it is one of the codes'.
SIGNED_FLOAT8 = torch.float8_e4m3fn
_DIAGONAL, _ROWS, _COLUMNS = "diagonal", "diagonal.row_scales", "diagonal.column_scales"
_ORTHONORMAL = ("U_g", "U_a")
_ROUNDABLE = ("inf", "diagonal")
# Rounding moves scales by a factor of two at most; seen is a second time, rarely a third.
_MOST_ROUNDS = 20


def check_format(number_format: NumberFormat, structure: str) -> None:
    """Raise ValueError where numbers of a structure must not be rounded."""
    if number_format is not NumberFormat.NATIVE and structure not in _ROUNDABLE:
        raise ValueError(
            f"structure {structure!r} is kept in the network's dtype, not in "
            f"{number_format.value}: rounded, it may be no covariance; use "
            f"{' or '.join(map(repr, _ROUNDABLE))}"
        )


def rounded(stored: Mapping[str, Tensor], number_format: NumberFormat) -> dict[str, Tensor]:
    """Return tensors named ``layer/field``, in their dtypes, that ``encode`` writes exactly."""
    values = dict(stored)
    for _ in range(_MOST_ROUNDS):
        again = _written(values, number_format)
        if all(torch.equal(again[name], values[name]) for name in values):
            return values
        values = again
    raise ValueError(f"numbers found no exact form in {number_format.value}")


def encode(stored: Mapping[str, Tensor], number_format: NumberFormat) -> dict[str, Tensor]:
    """Return the tensors to write; raise ValueError where that would change a number."""
    encoded = _encode(stored, number_format)
    if number_format is not NumberFormat.NATIVE:
        again = _decode(encoded, number_format, {n: t.dtype for n, t in stored.items()})
        changed = [name for name in stored if not torch.equal(again[name], stored[name])]
        if changed:
            raise ValueError(
                f"{changed[0]} is not exact in {number_format.value}: use with_number_format"
            )
    return encoded


def decode(
    encoded: Mapping[str, Tensor], number_format: NumberFormat, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return what was encoded, in the network's dtype.

    Raises ValueError where tensors are not of the format or scales are no powers of two.
    """
    if number_format is NumberFormat.NATIVE:
        return dict(encoded)
    for name, tensor in encoded.items():
        field = name.rpartition("/")[2]
        expected = _dtypes(field, number_format)
        if tensor.dtype not in expected:
            raise ValueError(f"{name} is {tensor.dtype}, its format says {expected[0]}")
        if number_format is NumberFormat.FLOAT8 and field in (_ROWS, _COLUMNS):
            _check_scales(name, tensor)
    values = [n for n in encoded if n.rpartition("/")[2] not in (_ROWS, _COLUMNS)]
    if number_format is NumberFormat.FLOAT8:
        _check_all_scaled(encoded, values)
    return _decode(encoded, number_format, dict.fromkeys(values, dtype))


def _written(stored: Mapping[str, Tensor], number_format: NumberFormat) -> dict[str, Tensor]:
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    found = _decode(_encode(stored, number_format), number_format, dtypes)
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has numbers too large for {number_format.value}")
    return found


def _encode(stored: Mapping[str, Tensor], number_format: NumberFormat) -> dict[str, Tensor]:
    if number_format is NumberFormat.NATIVE:
        return dict(stored)
    encoded: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        layer, _, field = name.rpartition("/")
        if number_format is NumberFormat.FLOAT8 and field == _DIAGONAL:
            encoded |= _encoded_diagonal(layer, tensor)
        else:
            encoded[name] = tensor.to(_dtypes(field, number_format)[0])
    return encoded


def _decode(
    encoded: Mapping[str, Tensor],
    number_format: NumberFormat,
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Tensor]:
    if number_format is NumberFormat.NATIVE:
        return dict(encoded)
    decoded = {}
    for name, dtype in dtypes.items():
        layer, _, field = name.rpartition("/")
        if number_format is NumberFormat.FLOAT8 and field == _DIAGONAL:
            decoded[name] = _decoded_diagonal(encoded, layer, dtype)
        else:
            decoded[name] = encoded[name].to(dtype)
    return decoded


def _encoded_diagonal(layer: str, diagonal: Tensor) -> dict[str, Tensor]:
    try:
        found = nearest_codes(diagonal)
    except ValueError as error:
        raise ValueError(f"{layer}/{_DIAGONAL} has {error}") from error
    return {
        f"{layer}/{_DIAGONAL}": found.codes,
        f"{layer}/{_ROWS}": found.rows.bfloat16(),
        f"{layer}/{_COLUMNS}": found.columns.bfloat16(),
    }


def _decoded_diagonal(encoded: Mapping[str, Tensor], layer: str, dtype: torch.dtype) -> Tensor:
    own, rows, columns = (encoded[f"{layer}/{f}"] for f in (_DIAGONAL, _ROWS, _COLUMNS))
    if own.dtype == SIGNED_FLOAT8:
        return own.to(dtype) * rows.to(dtype) * columns.to(dtype)
    return ScaledCodes(own, rows, columns).values(dtype)


def _dtypes(field: str, number_format: NumberFormat) -> tuple[torch.dtype, ...]:
    """Return what a field is written in, then what else it may be read in."""
    if number_format is NumberFormat.FLOAT8 and field == _DIAGONAL:
        return CODES, SIGNED_FLOAT8
    return (torch.float16 if field in _ORTHONORMAL else torch.bfloat16,)


def _check_scales(name: str, scales: Tensor) -> None:
    mantissas, _ = torch.frexp(scales.float())
    if not bool((mantissas == 0.5).all()):
        raise ValueError(f"{name} holds what is no positive power of two")


def _check_all_scaled(encoded: Mapping[str, Tensor], values: list[str]) -> None:
    diagonals = [n for n in values if n.rpartition("/")[2] == _DIAGONAL]
    n_scales = len(encoded) - len(values)
    if n_scales != 2 * len(diagonals):
        raise ValueError("its scales are not those of its diagonals")
    for name in diagonals:
        rows, columns = (encoded[f"{name.rpartition('/')[0]}/{f}"] for f in (_ROWS, _COLUMNS))
        d_out, d_in = encoded[name].shape
        if tuple(rows.shape) != (d_out, 1) or tuple(columns.shape) != (1, d_in):
            raise ValueError(f"the scales of {name} are not of its shape")
