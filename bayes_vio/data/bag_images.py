"""Read a bag's images, one after the other, as often as asked."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_typestore

from bayes_vio.data.messages import (
    BagError,
    ImageError,
    MessageType,
    gray_of_image,
    gray_of_jpeg,
)
from bayes_vio.data.samples import CameraModel

# What the reading library lets through where a file's bytes are damaged.
_UNREADABLE = (
    AnyReaderError,
    ReaderError,
    OSError,
    apsw.Error,
    struct.error,
    UnicodeDecodeError,
    OverflowError,
    KeyError,
    MemoryError,
)


@contextmanager
def opened(path: Path) -> Iterator[AnyReader]:
    """Open a bag for reading, with every failure of the format as a BagError."""
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise BagError(
            f"{path} has no metadata.yaml: give a rosbag2 folder or its .mcap / .db3 file"
        )
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED)) as reader:
            yield reader
    except FileNotFoundError as error:
        raise BagError(f"recording {path} does not exist") from error
    except _UNREADABLE as error:
        raise BagError(
            f"recording {path} cannot be read ({type(error).__name__}: {error}); if recording was "
            "cut off, `ros2 bag reindex` or `mcap recover` may mend it"
        ) from error


@dataclass(frozen=True)
class FrameReader:
    """Read a bag's images anew at every call; what a pass leaves out it sets in ``dropped``."""

    path: Path
    topic: str
    stamp_ns: NDArray[np.int64]
    kept: NDArray[np.bool_]
    camera: CameraModel
    dropped: dict[str, int]

    def identity(self) -> list[list[object]]:
        """Return what changes when the bag is written anew: its files' names, sizes, times."""
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files] + [[self.topic]]

    def __call__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (stamp_ns, gray image [height, width]) in order of stamps.

        Raises BagError for an unknown encoding, or where no image at all is usable.
        """
        causes: Counter[str] = Counter()
        with opened(self.path) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            for index, (connection, _, raw) in enumerate(reader.messages(connections)):
                if not self.kept[index]:
                    continue
                try:
                    message = reader.deserialize(raw, connection.msgtype)
                    gray = _gray(message, connection, self.camera)
                except ImageError as error:
                    self._count(error, causes)
                    continue
                yield int(self.stamp_ns[index]), gray
        if causes.total() == np.count_nonzero(self.kept):
            raise BagError(f"{self.path}, topic {self.topic}: no image is usable ({dict(causes)})")

    def _count(self, error: ImageError, causes: Counter[str]) -> None:
        if error.cause == "unknown encoding":
            raise BagError(f"{self.path}, topic {self.topic}: {error}") from error
        cause = f"image: {error.cause}"
        causes[cause] += 1
        self.dropped[cause] = causes[cause]


def _gray(message: Any, connection: Connection, camera: CameraModel) -> NDArray[np.uint8]:
    compressed = connection.msgtype == MessageType.COMPRESSED_IMAGE.value
    gray = gray_of_jpeg(message.data) if compressed else gray_of_image(message)
    if gray.shape != (camera.height, camera.width):
        raise ImageError("wrong size", f"image is {gray.shape}, unlike its camera_info")
    return gray
