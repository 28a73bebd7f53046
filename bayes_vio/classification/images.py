"""Image sets that are on disk, in the formats they are published in; nothing is downloaded.

Readers return an ``ImageSet`` of uint8 images [n, channels, height, width] and class indices;
ImageNet, which does not fit in memory, is read batch by batch by ``FolderLoader``.
"""

from __future__ import annotations

import gzip
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_IDX_UINT8 = 0x08
_CIFAR_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class ImageSet:
    """Images [n, channels, height, width] uint8 and labels [n] int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or not len(self.images):
            raise ValueError(
                f"images must be uint8 [n, channels, height, width], n > 0: they are "
                f"{self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise ValueError(f"there are {len(self.images)} images, labels {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return (x [n, channels, height, width] float32 in [0, 1], y [n] int64)."""
        return torch.from_numpy(self.images).float() / 255, torch.from_numpy(self.labels)

    def shuffled(self, seed: int) -> ImageSet:
        """Return the set in a random order: files are often sorted by class."""
        return self.take(np.random.default_rng(seed).permutation(len(self)))

    def take(self, rows: NDArray | slice) -> ImageSet:
        """Return some of the images."""
        return ImageSet(self.images[rows], self.labels[rows])


def read_npz(path: Path, images: str = "x", labels: str = "y") -> ImageSet:
    """Read gray images [n, height, width] and labels under two names of an .npz, as MNIST's."""
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in (images, labels) if name not in file]
        if missing:
            raise ValueError(f"{path} holds {sorted(file)}, not {missing}")
        return ImageSet(file[images][:, None], file[labels].astype(np.int64))


def read_idx(
    images: Path, labels: Path, transposed: bool = False, first_label: int = 0
) -> ImageSet:
    """Read a pair of idx files (gzipped or not), as of MNIST, KMNIST and EMNIST.

    EMNIST's images are ``transposed``; its letters are counted from ``first_label`` 1.
    """
    x, y = _idx(images), _idx(labels)
    if x.ndim != 3 or y.ndim != 1:
        raise ValueError(f"{images} and {labels} hold {list(x.shape)} and {list(y.shape)}")
    x = x.swapaxes(1, 2) if transposed else x
    return ImageSet(np.ascontiguousarray(x[:, None]), y.astype(np.int64) - first_label)


def read_svhn(path: Path) -> ImageSet:
    """Read SVHN's cropped digits (``train_32x32.mat``); its label 10 is the digit 0."""
    from scipy.io import loadmat

    content = loadmat(path)
    x = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
    return ImageSet(x, content["y"][:, 0].astype(np.int64) % 10)


def read_cifar_binary(paths: list[Path], n_label_bytes: int = 1) -> ImageSet:
    """Read CIFAR's binary version: one label byte for CIFAR-10, two (coarse, fine) for CIFAR-100.

    The last label byte is the class.
    """
    size = n_label_bytes + int(np.prod(_CIFAR_SHAPE))
    parts = []
    for path in paths:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if not content.size or content.size % size:
            raise ValueError(f"{path} has {content.size} bytes, no multiple of {size}")
        parts.append(content.reshape(-1, size))
    rows = np.concatenate(parts)
    x = rows[:, n_label_bytes:].reshape(-1, *_CIFAR_SHAPE)
    return ImageSet(np.ascontiguousarray(x), rows[:, n_label_bytes - 1].astype(np.int64))


def read_image_tar(path: Path, part: str, limit: int | None = None) -> ImageSet:
    """Read images ``.../part/CLASS/name.jpg`` of a tar of any compression, classes by name.

    limit: at most so many of each class. Nothing is unpacked onto the disk.
    """
    found: dict[str, list[NDArray[np.uint8]]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3 or parts[-3] != part:
                continue
            images = found.setdefault(parts[-2], [])
            file = archive.extractfile(member)
            if file is not None and (limit is None or len(images) < limit):
                images.append(decode(file.read(), member.name))
    if not found:
        raise ValueError(f"{path} holds no images below a folder {part!r}")
    counts = [len(found[name]) for name in sorted(found)]
    x = np.stack([image for name in sorted(found) for image in found[name]])
    return ImageSet(x, np.repeat(np.arange(len(counts)), counts).astype(np.int64))


@dataclass(frozen=True)
class FolderLoader:
    """A re-iterable loader of ``folder/CLASS/image``, as ImageNet: classes are folders by name.

    Yields (x [batch, 3, size, size] float32, RGB in [0, 1], y): the shorter side is scaled to
    ``size`` / 0.875 pixels, the middle cut out. Images come in a random order, fixed by the seed.
    """

    folder: Path
    size: int = 224
    batch_size: int = 64
    seed: int = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        files = self.files()
        order = np.random.default_rng(self.seed).permutation(len(files))
        for start in range(0, len(files), self.batch_size):
            rows = [files[i] for i in order[start : start + self.batch_size]]
            x = np.stack([self._image(path) for path, _ in rows])
            yield torch.from_numpy(x).float() / 255, torch.tensor([label for _, label in rows])

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, in the order of their indices."""
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir())

    def files(self) -> list[tuple[Path, int]]:
        """Return every image with its class; raise ValueError where there is none."""
        found = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((self.folder / name).iterdir())
            if path.suffix.lower() in _IMAGE_SUFFIXES
        ]
        if not found:
            raise ValueError(f"{self.folder} holds no images in folders of classes")
        return found

    def _image(self, path: Path) -> NDArray[np.uint8]:
        return cut_middle(decode(path.read_bytes(), str(path)), self.size)


def cut_middle(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the middle [channels, size, size] of an image scaled to size / 0.875 pixels."""
    _, height, width = image.shape
    scale = size / 0.875 / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    resized = cv2.resize(image.transpose(1, 2, 0), shape, interpolation=cv2.INTER_AREA)
    top, left = (shape[1] - size) // 2, (shape[0] - size) // 2
    cut = resized[top : top + size, left : left + size].astype(np.uint8)
    return np.ascontiguousarray(cut.transpose(2, 0, 1))


def decode(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return an image file's pixels [3, height, width], RGB; raise ValueError for none."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{name} is no image that OpenCV can read")
    return np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)).astype(np.uint8)


def _idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an idx file: magic (0, 0, type, dimensions), sizes, bytes."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    zeros, kind, n_axes = struct.unpack(">HBB", content[:4])
    if zeros or kind != _IDX_UINT8:
        raise ValueError(f"{path} is no idx file of bytes")
    shape = struct.unpack(f">{n_axes}I", content[4 : 4 + 4 * n_axes])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is truncated: {values.size} bytes of {list(shape)}")
    return values.reshape(shape)
