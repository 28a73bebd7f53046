"""Every image encoding comes out as the gray image it was made from; what cannot be is refused."""

import struct
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, open_streams
from bayes_vio.data.image_files import MAX_PIXELS
from bayes_vio.data.messages import ImageError, MessageType, gray_of_image, gray_of_jpeg
from tests.data.bag_cases import GRAY, SIZE, image_message, mounted, stamps
from tests.data.drives import START_NS, texture

COLOUR = np.stack([GRAY, np.roll(GRAY, 7, 1), np.roll(GRAY, 13, 0)], -1)  # blue, green, red
ALPHA = np.full((*SIZE, 1), 9, np.uint8)
# ITU-R BT.601, the weights of brightness.
COLOUR_GRAY = np.rint(COLOUR @ np.array([0.114, 0.587, 0.299]))
NOISE = np.random.default_rng(1).integers(0, 256, (*SIZE, 1), dtype=np.uint8)
LITTLE_12_BIT = GRAY.astype("<u2") * 256 + 77


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected", "tolerance"),
    [
        ("mono8", GRAY, GRAY, 0),
        ("8UC1", GRAY, GRAY, 0),
        ("bgr8", COLOUR, COLOUR_GRAY, 1),
        ("8UC3", COLOUR, COLOUR_GRAY, 1),
        ("rgb8", COLOUR[..., ::-1], COLOUR_GRAY, 1),
        ("bgra8", np.concatenate([COLOUR, ALPHA], -1), COLOUR_GRAY, 1),
        ("8UC4", np.concatenate([COLOUR, ALPHA], -1), COLOUR_GRAY, 1),
        ("rgba8", np.concatenate([COLOUR[..., ::-1], ALPHA], -1), COLOUR_GRAY, 1),
        ("mono16", LITTLE_12_BIT, GRAY, 0),
        ("16UC1", LITTLE_12_BIT, GRAY, 0),
        ("yuv422", np.concatenate([NOISE, GRAY[..., None]], -1), GRAY, 0),
        ("uyvy", np.concatenate([NOISE, GRAY[..., None]], -1), GRAY, 0),
        ("yuv422_yuy2", np.concatenate([GRAY[..., None], NOISE], -1), GRAY, 0),
        ("yuyv", np.concatenate([GRAY[..., None], NOISE], -1), GRAY, 0),
    ],
)
def test_raw_images(encoding, pixels, expected, tolerance, padding):
    gray = gray_of_image(image_message(START_NS, pixels, encoding, padding=padding))
    assert gray.dtype == np.uint8
    assert gray.flags.c_contiguous
    assert np.abs(gray - expected).max() <= tolerance


def test_big_endian_16_bit():
    pixels = LITTLE_12_BIT.astype(">u2")
    gray = gray_of_image(image_message(START_NS, pixels, "mono16", big_endian=True))
    np.testing.assert_array_equal(gray, GRAY)


def mosaic(colour: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind a Bayer filter sees; the pattern gives the first two rows."""
    channel = {"b": 0, "g": 1, "r": 2}
    raw = np.empty(colour.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        row, column = divmod(place, 2)
        raw[row::2, column::2] = colour[row::2, column::2, channel[letter]]
    return raw


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns(pattern, padding):
    flat = np.broadcast_to(np.array([30, 100, 200], np.uint8), (*SIZE, 3))
    smooth = np.stack([texture(*SIZE, seed=k, smooth=12) for k in range(3)], -1)
    for colour, tolerance in ((flat, 1), (smooth, 6)):
        message = image_message(
            START_NS, mosaic(colour, pattern), f"bayer_{pattern}8", padding=padding
        )
        error = gray_of_image(message) - np.rint(colour @ np.array([0.114, 0.587, 0.299]))
        assert np.abs(error).max() <= tolerance


@pytest.mark.parametrize("colour", [False, True])
def test_png(colour):
    pixels, expected = (COLOUR, COLOUR_GRAY) if colour else (GRAY, GRAY)
    gray = gray_of_jpeg(cv2.imencode(".png", pixels)[1].reshape(-1))
    assert np.abs(gray - expected).max() <= (1 if colour else 0)


def test_png_of_16_bits():
    gray = gray_of_jpeg(cv2.imencode(".png", GRAY.astype(np.uint16) * 256)[1].reshape(-1))
    np.testing.assert_array_equal(gray, GRAY)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg(colour, options):
    smooth = np.stack([texture(*SIZE, seed=k, smooth=6) for k in range(3)], -1)
    pixels = smooth if colour else smooth[..., 0]
    expected = np.rint(smooth @ np.array([0.114, 0.587, 0.299])) if colour else pixels
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1]
    error = gray_of_jpeg(data.reshape(-1)) - expected.astype(int)
    assert np.abs(error).mean() < 1


def test_an_encoding_of_a_bag(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        for stamp in stamps(2):
            message = image_message(stamp, COLOUR, "bgr8", padding=5)
            bag.write("image", MessageType.IMAGE, message, stamp)
    for _, gray in open_streams(tmp_path / "bag").frames():
        assert np.abs(gray - COLOUR_GRAY).max() <= 1


def test_a_png_of_a_bag(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        png = cv2.imencode(".png", COLOUR)[1].reshape(-1)
        bag.compressed_image(START_NS, png, encoding="png")
    ((_, gray),) = open_streams(tmp_path / "bag").frames()
    assert np.abs(gray - COLOUR_GRAY).max() <= 1


def test_an_unknown_encoding_is_refused_by_name(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        mounted(bag)
        bag.write("image", MessageType.IMAGE, image_message(START_NS, GRAY, "32FC1"), START_NS)
    with pytest.raises(BagError, match="32FC1"):
        list(open_streams(tmp_path / "bag").frames())


class Unreadable:
    """Bytes that know their length and must not be looked at."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __array__(self, *_, **__):
        raise AssertionError("read before its size was checked")


@dataclass
class Claim:
    """An image message of a stranger."""

    height: int = 80
    width: int = 256
    step: int = 256
    encoding: str = "mono8"
    is_bigendian: int = 0
    data: Unreadable = field(default_factory=lambda: Unreadable(80 * 256))


@pytest.mark.parametrize(
    ("claim", "cause"),
    [
        (Claim(height=2**32 - 1, width=2**32 - 1, step=2**32 - 1), "too large"),
        (Claim(height=2**16, width=2**16, step=2**16, data=Unreadable(2**32)), "too large"),
        (Claim(height=0), "no pixels"),
        (Claim(width=0), "no pixels"),
        (Claim(step=255), "short data"),
        (Claim(step=2**32 - 1), "short data"),
        (Claim(data=Unreadable(80 * 256 - 1)), "short data"),
        (Claim(data=Unreadable(80 * 256 + 1)), "surplus data"),
        (Claim(encoding="rgb8"), "short data"),
        (Claim(encoding="8UC12"), "unknown encoding"),
    ],
)
def test_false_headers_are_refused_before_the_data_are_touched(claim, cause):
    with pytest.raises(ImageError) as refused:
        gray_of_image(claim)
    assert refused.value.cause == cause


def jpeg_of_size(height: int, width: int) -> np.ndarray:
    """A JPEG file whose header claims another size."""
    data = cv2.imencode(".jpg", GRAY)[1].tobytes()
    place = data.index(b"\xff\xc0")
    claimed = struct.pack(">HH", height, width)
    return np.frombuffer(data[: place + 5] + claimed + data[place + 9 :], np.uint8)


def png_of_size(height: int, width: int) -> np.ndarray:
    data = cv2.imencode(".png", GRAY)[1].tobytes()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    claimed = header + struct.pack(">I", zlib.crc32(header))
    return np.frombuffer(data[:12] + claimed + data[33:], np.uint8)


@pytest.mark.parametrize("make", [jpeg_of_size, png_of_size])
def test_files_that_expand_to_huge_images_are_not_decoded(make, monkeypatch):
    np.testing.assert_allclose(gray_of_jpeg(make(*SIZE)), GRAY, atol=60)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageError, match=f"more than {MAX_PIXELS}") as refused:
        gray_of_jpeg(make(65500, 65500))
    assert refused.value.cause == "too large"
    with pytest.raises(ImageError, match="empty"):
        gray_of_jpeg(make(0, 80))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_files_that_are_cut_off_or_no_image_are_refused(suffix):
    whole = cv2.imencode(suffix, GRAY)[1].reshape(-1)
    for data in (whole[:0], whole[:1], whole[:30], whole[: len(whole) // 2], whole[:-30]):
        with pytest.raises(ImageError):
            gray_of_jpeg(data)


def test_other_formats_are_refused():
    for suffix in (".bmp", ".tiff", ".webp"):
        with pytest.raises(ImageError, match="neither JPEG nor PNG"):
            gray_of_jpeg(cv2.imencode(suffix, GRAY)[1].reshape(-1))


def test_data_after_a_jpeg_do_no_harm():
    data = cv2.imencode(".jpg", GRAY)[1].reshape(-1)
    padded = np.concatenate([data, np.zeros(7, np.uint8)])
    np.testing.assert_array_equal(gray_of_jpeg(padded), gray_of_jpeg(data))
