"""Read a bag's images, one after the other, as often as asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.bag_reader import BagReader, RawMessage
from bayes_vio.data.messages import (
    BagError,
    ImageError,
    MessageType,
    gray_of_image,
    gray_of_jpeg,
)
from bayes_vio.data.samples import CameraModel


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

        Raises BagError for an unknown encoding, where no image at all is usable, or where the
        bag is not the one that was opened.
        """
        causes: Counter[str] = Counter()
        index = -1
        for index, message in enumerate(BagReader(self.path).messages([self.topic])):
            if index >= len(self.kept):
                break
            if not self.kept[index]:
                continue
            try:
                gray = _gray(message, self.camera)
            except ImageError as error:
                self._count(error, causes)
                continue
            yield int(self.stamp_ns[index]), gray
        if index + 1 != len(self.kept):
            raise BagError(f"{self.path} changed since it was opened: is it still being recorded?")
        if causes.total() == np.count_nonzero(self.kept):
            told = ", ".join(f"{n} x {cause}" for cause, n in causes.items())
            raise BagError(f"{self.path}, topic {self.topic}: no image is usable: {told}")

    def _count(self, error: ImageError, causes: Counter[str]) -> None:
        if error.cause == "unknown encoding":
            raise BagError(f"{self.path}, topic {self.topic}: {error}") from error
        cause = f"image: {error.cause}"
        causes[cause] += 1
        self.dropped[cause] = causes[cause]


def _gray(message: RawMessage, camera: CameraModel) -> NDArray[np.uint8]:
    image = message.decoded()
    compressed = message.msgtype == MessageType.COMPRESSED_IMAGE.value
    gray = gray_of_jpeg(image.data) if compressed else gray_of_image(image)
    if gray.shape != (camera.height, camera.width):
        raise ImageError("wrong size", f"image is {gray.shape}, unlike its camera_info")
    return gray
