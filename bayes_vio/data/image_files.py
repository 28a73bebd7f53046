"""Decode the JPEG and PNG files that compressed images carry, once their size is known."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Larger images than any camera on a vehicle takes: a few bytes of JPEG can claim 4 gigapixels.
MAX_PIXELS = 1 << 26

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Start-of-frame markers (ITU T.81, table B.1): the codes between them are tables, not frames.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD9)])


class ImageError(ValueError):
    """One image message cannot be decoded; ``cause`` is the name under which it is counted."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def check_pixels(height: int, width: int) -> None:
    """Refuse the size of an image that is empty or larger than MAX_PIXELS, with an ImageError."""
    if height <= 0 or width <= 0:
        raise ImageError("no pixels", f"image of {width} x {height} pixels is empty")
    if height * width > MAX_PIXELS:
        raise ImageError(
            "too large", f"image claims {width} x {height} pixels, more than {MAX_PIXELS}"
        )


def gray_of_jpeg(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the gray image [height, width] uint8 of JPEG or PNG bytes, colour or gray.

    Raises ImageError for other formats, a file that is cut off or broken, and, before anything
    is decoded, for a size beyond MAX_PIXELS.
    """
    buffer = np.asarray(data, dtype=np.uint8)
    size = _size_of_file(buffer.tobytes())
    check_pixels(*size)
    # The calibration is of the stored pixels: a rotation noted in the file's tags is not applied.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        gray = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise ImageError("undecodable", f"compressed image cannot be decoded: {error}") from error
    if gray is None or gray.shape != size:
        raise ImageError("undecodable", "compressed image cannot be decoded as JPEG or PNG")
    return np.asarray(gray, dtype=np.uint8)


def _size_of_file(data: bytes) -> tuple[int, int]:
    """Return (height, width) that a file's header states."""
    if data.startswith(_PNG_SIGNATURE) and data[12:16] == b"IHDR":
        return _number(data[20:24]), _number(data[16:20])
    if data.startswith(_JPEG_START):
        return _size_of_jpeg(data)
    raise ImageError("undecodable", "compressed image is neither JPEG nor PNG")


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments of a JPEG file (ITU T.81, annex B) up to its frame header."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            place += 2
        elif marker in _JPEG_FRAMES:
            # The decoder would fill what is missing with gray, which is no image of the world.
            if data.rfind(_JPEG_END, place) < 0:
                raise ImageError("undecodable", "JPEG file is cut off: it has no end marker")
            return _number(data[place + 5 : place + 7]), _number(data[place + 7 : place + 9])
        else:
            place += 2 + max(2, _number(data[place + 2 : place + 4]))
    raise ImageError("undecodable", "JPEG file has no frame header")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
