"""Store rows of equal shape in .npy files, written one by one and read by file reads.

Reads go through the operating system's page cache and not through a memory map, so a long
recording does not grow the process.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray


class RowWriter:
    """Append rows to a .npy file whose length is not known beforehand; a context manager."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._path, self._row_shape, self._dtype = path, row_shape, np.dtype(dtype)
        self._count = 0

    def __enter__(self) -> RowWriter:
        self._file = self._path.open("wb")
        self._header_bytes = self._file.write(self._header())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            header = self._header()
            # NumPy pads headers so that the first axis may grow in place.
            if len(header) != self._header_bytes:
                raise OSError(f"the header of {self._path} does not fit its final length")
            self._file.seek(0)
            self._file.write(header)

    def append(self, row: NDArray) -> None:
        """Write one row."""
        self._file.write(np.ascontiguousarray(row, dtype=self._dtype).tobytes())
        self._count += 1

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        shape = (self._count, *self._row_shape)
        description = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


def read_rows(path: Path, rows: NDArray[np.integer]) -> NDArray:
    """Return the given rows [n, ...] of a .npy file, in the order asked for."""
    with path.open("rb", buffering=0) as file:
        npy.read_magic(file)
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
        if fortran_order:
            raise ValueError(f"{path} is stored column by column: it was not written by RowWriter")
        start = file.tell()
        out = np.empty((len(rows), *shape[1:]), dtype)
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for target, row in enumerate(rows.tolist()):
            if not 0 <= row < shape[0]:
                raise IndexError(f"row {row} is not in {path}, which has {shape[0]}")
            file.seek(start + row * row_bytes)
            if file.readinto(memoryview(out[target]).cast("B")) != row_bytes:
                raise OSError(f"{path} is truncated at row {row}: delete its folder")
    return out
