"""Image sets in their published formats, written by hand and read back."""

import gzip
import io
import struct
import tarfile

import cv2
import numpy as np
import pytest
import torch

from bayes_vio.classification import images
from tests.data.drives import data_file

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 2, 2, 1], dtype=np.uint8)


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def test_idx_files_of_mnist_and_emnist(tmp_path):
    (tmp_path / "x").write_bytes(idx(GRAY))
    (tmp_path / "y.gz").write_bytes(gzip.compress(idx(LABELS + 1)))
    found = images.read_idx(tmp_path / "x", tmp_path / "y.gz", first_label=1)
    assert np.array_equal(found.images[:, 0], GRAY)
    assert found.labels.tolist() == LABELS.tolist()
    turned = images.read_idx(tmp_path / "x", tmp_path / "y.gz", transposed=True)
    assert np.array_equal(turned.images[:, 0], GRAY.swapaxes(1, 2))
    (tmp_path / "short").write_bytes(idx(GRAY)[:-1])
    with pytest.raises(ValueError, match="truncated"):
        images.read_idx(tmp_path / "short", tmp_path / "y.gz")
    with pytest.raises(ValueError, match="hold"):
        images.read_idx(tmp_path / "y.gz", tmp_path / "x")
    (tmp_path / "other").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(ValueError, match="no idx file"):
        images.read_idx(tmp_path / "other", tmp_path / "y.gz")


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=GRAY, y_test=LABELS)
    found = images.read_npz(tmp_path / "a.npz", "x_test", "y_test")
    x, y = found.tensors()
    assert x.shape == (5, 1, 4, 3)
    assert float(x.max()) <= 1.0
    assert torch.equal((x[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(GRAY))
    assert y.tolist() == LABELS.tolist()
    with pytest.raises(ValueError, match=r"holds \['x_test', 'y_test'\], not \['x', 'y'\]"):
        images.read_npz(tmp_path / "a.npz")
    order = found.shuffled(1)
    assert sorted(order.labels.tolist()) == sorted(LABELS.tolist())
    place = found.labels.tolist().index(3)
    assert np.array_equal(order.images[order.labels == 3][0], found.images[place])


def test_svhn_s_ten_is_zero(tmp_path):
    from scipy.io import savemat

    colour = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(tmp_path / "t.mat", {"X": colour, "y": np.array([[10], [1], [9], [10]])})
    found = images.read_svhn(tmp_path / "t.mat")
    assert found.labels.tolist() == [0, 1, 9, 0]
    assert np.array_equal(found.images[2], colour[..., 2].transpose(2, 0, 1))


@pytest.mark.parametrize("n_label_bytes", [1, 2])
def test_cifar_binaries(tmp_path, n_label_bytes):
    pixels = RNG.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    fine = np.array([7, 99, 0], dtype=np.uint8)
    labels = [np.array([1, 2, 3], np.uint8), fine] if n_label_bytes == 2 else [fine]
    rows = np.concatenate([*(v[:, None] for v in labels), pixels.reshape(3, -1)], 1)
    (tmp_path / "a.bin").write_bytes(rows[:2].tobytes())
    (tmp_path / "b.bin").write_bytes(rows[2:].tobytes())
    found = images.read_cifar_binary([tmp_path / "a.bin", tmp_path / "b.bin"], n_label_bytes)
    assert np.array_equal(found.images, pixels)
    assert found.labels.tolist() == fine.tolist()
    (tmp_path / "a.bin").write_bytes(rows.tobytes()[:-1])
    with pytest.raises(ValueError, match="no multiple"):
        images.read_cifar_binary([tmp_path / "a.bin"], n_label_bytes)


def jpeg(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> bytes:
    """One plain colour (RGB) as a PNG."""
    image = np.full((height, width, 3), colour[::-1], np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def test_image_tars(tmp_path):
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        for name, colour in {
            "set/train/dog/1.png": (10, 20, 30),
            "set/train/cat/1.png": (40, 50, 60),
            "set/train/cat/2.png": (70, 80, 90),
            "set/test/cat/1.png": (1, 2, 3),
        }.items():
            content = jpeg(colour)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = images.read_image_tar(tmp_path / "a.tar.xz", "train")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.images[:, :, 0, 0].tolist() == [[40, 50, 60], [70, 80, 90], [10, 20, 30]]
    assert len(images.read_image_tar(tmp_path / "a.tar.xz", "train", limit=1)) == 2
    with pytest.raises(ValueError, match="no images below a folder 'val'"):
        images.read_image_tar(tmp_path / "a.tar.xz", "val")


def test_a_folder_of_classes_is_read_batch_by_batch(tmp_path):
    for name, colour in {"n01": (255, 0, 0), "n02": (0, 255, 0)}.items():
        (tmp_path / name).mkdir()
        for i, shape in enumerate([(40, 60), (90, 50), (16, 16)]):
            (tmp_path / name / f"{i}.png").write_bytes(jpeg(colour, *shape))
    loader = images.FolderLoader(tmp_path, size=28, batch_size=4, seed=3)
    assert loader.classes == ["n01", "n02"]
    batches = list(loader)
    assert [tuple(x.shape) for x, _ in batches] == [(4, 3, 28, 28), (2, 3, 28, 28)]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(y.tolist()) == [0, 0, 0, 1, 1, 1]
    expected = torch.eye(3)[y][:, :, None, None].expand(-1, -1, 28, 28)
    torch.testing.assert_close(x, expected)
    again = torch.cat([y for _, y in loader])
    assert torch.equal(again, y)
    (tmp_path / "n01" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="OpenCV"):
        list(loader)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        list(images.FolderLoader(tmp_path / "empty"))


def test_the_middle_is_cut_out():
    image = np.zeros((3, 32, 48), np.uint8)
    image[0, :, 8:40] = 200
    cut = images.cut_middle(image, 28)
    assert cut.shape == (3, 28, 28)
    assert cut[0].min() == 200


def test_refusals():
    with pytest.raises(ValueError, match="n > 0"):
        images.ImageSet(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="uint8"):
        images.ImageSet(np.zeros((1, 1, 2, 2)), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="labels"):
        images.ImageSet(np.zeros((2, 1, 2, 2), np.uint8), np.zeros(1, np.int64))


def test_the_published_sets():
    folder = data_file("images", "mnist.npz").parent
    mnist = images.read_npz(folder / "mnist.npz", "x_test", "y_test")
    assert mnist.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(mnist.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    for name, n in {
        "kmnist_test": 10_000,
        "notmnist_10k": 10_000,
        "fashion_mnist_900": 900,
    }.items():
        assert len(images.read_npz(folder / f"{name}.npz")) == n


@pytest.mark.slow
def test_cifar_as_a_tar_of_jpegs():
    found = images.read_image_tar(data_file("images", "cifar10_jpeg.tar.xz"), "test", limit=5)
    assert found.images.shape == (50, 3, 32, 32)
    assert np.bincount(found.labels).tolist() == [5] * 10
