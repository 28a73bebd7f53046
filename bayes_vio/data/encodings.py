"""Turn raw image messages of every usual encoding into gray images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.image_files import ImageError, check_pixels

_Gray = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Encoding:
    """Bytes per pixel, and what makes rows of bytes [height, width * bytes] gray."""

    pixel_bytes: int
    gray: _Gray


def _every_second_from(first: int) -> _Encoding:
    """Two bytes per pixel, of which one is the brightness."""
    return _Encoding(2, lambda rows: rows[:, first::2])


def _colour(channels: int, code: int) -> _Encoding:
    return _Encoding(
        channels, lambda rows: _converted(rows.reshape(len(rows), -1, channels), code)
    )


def _mosaic(code: int) -> _Encoding:
    return _Encoding(1, lambda rows: _converted(rows, code))


def _converted(pixels: NDArray[np.uint8], code: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


_PLAIN = _Encoding(1, lambda rows: rows)
_LOW_BYTE_FIRST, _HIGH_BYTE_FIRST = _every_second_from(1), _every_second_from(0)
_SIXTEEN_BITS = ("mono16", "16UC1")
# The names of sensor_msgs/image_encodings.hpp.
_ENCODINGS = {
    "mono8": _PLAIN,
    "8UC1": _PLAIN,
    "mono16": _LOW_BYTE_FIRST,
    "16UC1": _LOW_BYTE_FIRST,
    "rgb8": _colour(3, cv2.COLOR_RGB2GRAY),
    "bgr8": _colour(3, cv2.COLOR_BGR2GRAY),
    "8UC3": _colour(3, cv2.COLOR_BGR2GRAY),
    "rgba8": _colour(4, cv2.COLOR_RGBA2GRAY),
    "bgra8": _colour(4, cv2.COLOR_BGRA2GRAY),
    "8UC4": _colour(4, cv2.COLOR_BGRA2GRAY),
    "bayer_rggb8": _mosaic(cv2.COLOR_BayerRGGB2GRAY),
    "bayer_bggr8": _mosaic(cv2.COLOR_BayerBGGR2GRAY),
    "bayer_gbrg8": _mosaic(cv2.COLOR_BayerGBRG2GRAY),
    "bayer_grbg8": _mosaic(cv2.COLOR_BayerGRBG2GRAY),
    "yuv422": _every_second_from(1),
    "uyvy": _every_second_from(1),
    "yuv422_yuy2": _every_second_from(0),
    "yuyv": _every_second_from(0),
}


def gray_of_image(message: Any) -> NDArray[np.uint8]:
    """Return the gray image [height, width] uint8 of a sensor_msgs/Image.

    Rows may be padded (``step``). 16-bit images are scaled by 1/256; of YUV the brightness is
    taken as it is. Raises ImageError for an unknown encoding, a size beyond MAX_PIXELS or data
    whose length is not height times step, all before anything is allocated.
    """
    encoding = _encoding(message)
    height, width, step = int(message.height), int(message.width), int(message.step)
    check_pixels(height, width)
    row_bytes = width * encoding.pixel_bytes
    if step < row_bytes:
        said = f"image rows of {width} pixels need {row_bytes} bytes, but step is {step}"
        raise ImageError("short data", said)
    if len(message.data) != height * step:
        cause = "short data" if len(message.data) < height * step else "surplus data"
        said = f"image carries {len(message.data)} bytes, its header says {height} x {step}"
        raise ImageError(cause, said)
    rows = np.asarray(message.data, dtype=np.uint8).reshape(height, step)[:, :row_bytes]
    try:
        gray = encoding.gray(np.ascontiguousarray(rows))
    except cv2.error as error:
        said = f"image of {width} x {height} in {message.encoding} cannot be converted: {error}"
        raise ImageError("undecodable", said) from error
    return np.ascontiguousarray(gray)


def _encoding(message: Any) -> _Encoding:
    name = message.encoding
    if name not in _ENCODINGS:
        known = ", ".join(_ENCODINGS)
        raise ImageError("unknown encoding", f"encoding '{name}' is not one of {known}")
    if name in _SIXTEEN_BITS and message.is_bigendian:
        return _HIGH_BYTE_FIRST
    return _ENCODINGS[name]
