"""Unpack compressed bags within bounds: chunks and messages in memory, files on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import lz4.frame
from rosbags.rosbag2 import storage_mcap

from bayes_vio.data.messages import BagError

# The library's choice: the standard library's from Python 3.14 on, else its backport.
zstd = storage_mcap.zstd  # pyright: ignore[reportPrivateImportUsage]

COMPRESSED_SUFFIX = ".zstd"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# No message and no chunk of messages is this large; a few bytes can claim to unpack to more.
MAX_UNPACKED_BYTES = 1 << 29

_COPY_BYTES = 1 << 20
_SPARE_DISK_BYTES = 1 << 28


def unpacked_message(payload: bytes) -> bytes:
    """Return a message's bytes, unpacked where they are compressed; BagError beyond the bound.

    A serialised message starts with 0, so Zstandard's first bytes cannot be mistaken.
    """
    if payload[:4] != ZSTD_MAGIC:
        return payload
    with zstd.open(BytesIO(payload), "rb") as unpacking:
        return _bounded(unpacking, MAX_UNPACKED_BYTES)


def _unpacked_zstd_chunk(data: bytes, size: int) -> bytes:
    with zstd.open(BytesIO(data), "rb") as unpacking:
        return _bounded(unpacking, min(size, MAX_UNPACKED_BYTES))


def _unpacked_lz4_chunk(data: bytes, size: int) -> bytes:
    with lz4.frame.open(BytesIO(data), "rb") as unpacking:
        return _bounded(unpacking, min(size, MAX_UNPACKED_BYTES))


# What unpacks is typed differently by every version; all of them read as files do.
def _bounded(unpacking: Any, limit: int) -> bytes:
    unpacked = unpacking.read(limit + 1)
    if len(unpacked) > limit:
        raise BagError(f"compressed data unpack to more than the {limit} bytes they may have")
    return unpacked


# The library unpacks a chunk whole before it looks at the size that the chunk states.
storage_mcap.DECOMPRESSORS["zstd"] = _unpacked_zstd_chunk
storage_mcap.DECOMPRESSORS["lz4"] = _unpacked_lz4_chunk


@contextmanager
def unpacked_file(path: Path) -> Iterator[Path]:
    """Provide a storage file, unpacked into a temporary folder where it is compressed.

    The folder is removed at the end. Raises BagError where the disk has no room for it.
    """
    if path.suffix != COMPRESSED_SUFFIX:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bayes-vio-bag-") as folder:
        unpacked = Path(folder, path.stem)
        with path.open("rb") as packed, zstd.open(packed, "rb") as source:
            _copy_to_disk(source, unpacked)
        yield unpacked


def _copy_to_disk(source: Any, target: Path) -> None:
    with target.open("wb") as sink:
        while block := source.read(_COPY_BYTES):
            if shutil.disk_usage(target.parent).free < _SPARE_DISK_BYTES + len(block):
                raise BagError(
                    f"no room to unpack a compressed bag in {target.parent.parent}: set TMPDIR "
                    "to a larger disk, or unpack the bag's files with `zstd -d`"
                )
            sink.write(block)
