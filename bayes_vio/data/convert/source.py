"""Hold what a data set says, whatever its layout, until it is written as a bag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.image_files import ImageError, gray_of_jpeg
from bayes_vio.data.samples import CameraModel, Extrinsics, ImuStream, ReferenceStream
from bayes_vio.data.series import Series

_PNG_START = 0x89


class SourceError(ValueError):
    """A source cannot be converted; the message says what was wrong, where, what to do."""


@dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes [n] as they are, and their encoding, "jpeg" or "png"."""

    data: NDArray[np.uint8]
    encoding: str


Image = EncodedImage | NDArray[np.uint8]


@dataclass(frozen=True)
class SourceRecording:
    """One recording of a data set, images still on disk.

    image_ns [n]: stamps of the images that should be there; ``images``: read once, yields (stamp,
    encoded file or gray image [height, width]) in their order, usable ones only. ``imu`` is in the
    IMU's own axes. ``dropped`` counts what is left out, by cause, and grows while the images are
    read; ``notes`` are for the user.
    """

    camera: CameraModel
    extrinsics: Extrinsics
    image_ns: NDArray[np.int64]
    images: Iterable[tuple[int, Image]]
    imu: ImuStream | None
    reference: ReferenceStream | None
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def usable(
    name: str,
    where: Path,
    stamp_ns: NDArray[np.int64],
    rows: NDArray[np.float64],
    dropped: dict[str, int],
) -> NDArray[np.bool_]:
    """Tell which of the rows [n, ...] of a file can be used [n]; count the others in ``dropped``.

    Left out are values that are not finite, stamps of zero (a message's sign for "no stamp") and
    stamps not after all earlier ones. Raises BagError where that is most of them.
    """
    flat = rows.reshape(len(stamp_ns), -1)
    series = Series(flat.shape[1], name, str(where))
    for stamp, row in zip(stamp_ns.tolist(), flat.tolist(), strict=True):
        series.append(stamp, stamp, "", row)
    return series.cleaned(dropped)[1]


def imu_stream(
    where: Path,
    stamp_ns: NDArray[np.int64],
    samples: NDArray[np.float64],
    dropped: dict[str, int],
) -> ImuStream:
    """Return the usable samples [n, 6] of an IMU, in its own axes."""
    kept = usable("imu", where, stamp_ns, samples, dropped)
    return ImuStream(stamp_ns[kept], samples[kept])


def reference_stream(
    where: Path,
    stamp_ns: NDArray[np.int64],
    T_world_base: NDArray[np.float64],
    dropped: dict[str, int],
) -> ReferenceStream:
    """Return the usable poses [n, 4, 4] of base_link."""
    kept = usable("reference", where, stamp_ns, T_world_base, dropped)
    return ReferenceStream(stamp_ns[kept], T_world_base[kept])


@dataclass(frozen=True)
class ImageFiles:
    """Image files by stamp; those that are missing, broken or of another size are left out."""

    stamp_ns: NDArray[np.int64]
    paths: Sequence[Path]
    size: tuple[int, int]  # width, height
    dropped: dict[str, int]

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        for stamp, path in zip(self.stamp_ns.tolist(), self.paths, strict=True):
            try:
                yield stamp, self._read(path)
            except ImageError as error:
                cause = f"image: {error.cause}"
                self.dropped[cause] = self.dropped.get(cause, 0) + 1

    def _read(self, path: Path) -> EncodedImage:
        data = file_bytes(path)
        height, width = gray_of_jpeg(data).shape
        if (width, height) != self.size:
            raise ImageError("wrong size", f"{path} is {width} x {height}")
        return EncodedImage(data, "png" if data[0] == _PNG_START else "jpeg")


def image_files(
    where: Path,
    stamp_ns: NDArray[np.int64],
    paths: Sequence[Path],
    size: tuple[int, int],
    dropped: dict[str, int],
) -> ImageFiles:
    """Return the PNG or JPEG files whose stamps can be used; size: width, height in pixels."""
    kept = usable("image", where, stamp_ns, np.zeros((len(stamp_ns), 0)), dropped)
    files = [path for path, good in zip(paths, kept.tolist(), strict=True) if good]
    return ImageFiles(stamp_ns[kept], files, size, dropped)


def file_bytes(path: Path) -> NDArray[np.uint8]:
    """Return an image file's bytes; ImageError where there is no such file."""
    if not path.is_file():
        raise ImageError("missing file", f"{path} is not there")
    return np.fromfile(path, dtype=np.uint8)


def image_size(paths: Iterable[Path]) -> tuple[int, int]:
    """Return width and height of the first file that is an image."""
    first = None
    for path in paths:
        first = first or path
        try:
            height, width = gray_of_jpeg(file_bytes(path)).shape
        except ImageError:
            continue
        return width, height
    raise SourceError(f"none of the images can be read, beginning with {first}")
