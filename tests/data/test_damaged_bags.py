"""Damaged bags end in a BagError or in a recording of finite numbers, nothing else."""

from __future__ import annotations

import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_reader import BagReader
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, Topics, open_streams
from bayes_vio.data.message_parts import TYPESTORE
from bayes_vio.data.samples import CameraModel
from tests.data.drives import START_NS, optical_mount, texture

CAMERA = CameraModel(16, 12, np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]]))
KINDS = ("mcap", "sqlite3", "zstd chunks", "zstd messages", "zstd files")


def write_small_bag(path: Path, storage: str) -> None:
    """A bag of which the structure, not the images, takes most bytes."""
    with BagWriter(path, storage) as bag:  # pyright: ignore[reportArgumentType]
        bag.tf_static(START_NS, {"imu_link": np.eye(4), "camera_optical": optical_mount()})
        for k in range(20):
            bag.imu(START_NS + k * NS_PER_S // 20, np.array([0, 0.1, 9.8, 0, 0, 0.1]))
        for k in range(10):
            stamp_ns = START_NS + k * NS_PER_S // 10
            bag.camera_info(stamp_ns, CAMERA)
            bag.odometry(stamp_ns, np.eye(4))
            if k % 2:
                bag.image(stamp_ns, texture(12, 16, seed=k))
            else:
                bag.image(stamp_ns, texture(12, 16, seed=k), topic="front", jpeg_quality=90)


def rewrite(
    source: Path,
    path: Path,
    mode: CompressionMode = CompressionMode.NONE,
    change: Callable[[bytes], bytes] = lambda payload: payload,
) -> None:
    """Write a bag's messages anew, compressed or changed."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    bag = BagReader(source)
    with writer:
        connections = {
            name: writer.add_connection(name, topic.msgtype, typestore=TYPESTORE)
            for name, topic in bag.topics.items()
        }
        for message in bag.messages(bag.topics):
            writer.write(connections[message.topic], message.log_ns, change(message.payload))


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    for storage in ("mcap", "sqlite3"):
        write_small_bag(folder / storage, storage)
    modes = {"chunks": "STORAGE", "messages": "MESSAGE", "files": "FILE"}
    for name, mode in modes.items():
        rewrite(folder / "mcap", folder / f"zstd {name}", CompressionMode[mode])
    return {kind: folder / kind for kind in KINDS}


def mutated(whole: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Damage a file in one of the ways in which files are."""
    damaged, size = bytearray(whole), len(whole)
    start, length = int(rng.integers(size)), int(rng.integers(1, 400))
    way = rng.choice(["cut", "bits", "bytes", "zeros", "splice", "insert", "remove", "ones"])
    if way == "cut":
        del damaged[start:]
    elif way == "bits":
        for place in rng.integers(0, size, rng.integers(1, 30)):
            damaged[place] ^= 1 << int(rng.integers(8))
    elif way == "bytes":
        for place in rng.integers(0, size, rng.integers(1, 60)):
            damaged[place] = int(rng.integers(256))
    elif way in ("zeros", "ones"):
        block = damaged[start : start + length]
        damaged[start : start + length] = bytes([255 * (way == "ones")]) * len(block)
    elif way == "splice":
        other = int(rng.integers(size))
        block = damaged[other : other + length]
        damaged[start : start + len(block)] = block
    elif way == "insert":
        damaged[start:start] = rng.bytes(length)
    else:
        del damaged[start : start + length]
    return str(way), bytes(damaged)


def read_or_refused(path: Path) -> str:
    """Open a bag and read all its images; check that what comes out is finite."""
    try:
        streams = open_streams(path, Topics(image="image"))
        for stamp_ns, gray in streams.frames():
            assert stamp_ns in streams.image_stamp_ns
            assert gray.shape == (streams.camera.height, streams.camera.width)
    except BagError as error:
        return "refused" if str(error) else "refused without a word"
    numbers = [streams.camera.K, streams.camera.coefficients, streams.extrinsics.T_base_camera]
    times = [streams.image_stamp_ns]
    if streams.imu is not None:
        numbers.append(streams.imu.samples)
        times.append(streams.imu.stamp_ns)
    if streams.reference is not None:
        numbers.append(streams.reference.T_world_base)
        times.append(streams.reference.stamp_ns)
    assert all(np.isfinite(n).all() for n in numbers)
    assert all((np.diff(t) > 0).all() for t in times)
    return "read"


def damage(source: Path, folder: Path, trials: int, seed: int) -> Counter[str]:
    """Damage copies of a bag's file, or of its metadata, and count what becomes of them."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    files = {file.name: file.read_bytes() for file in source.iterdir()}
    for trial in range(trials):
        copy = folder / f"{trial}"
        copy.mkdir()
        target = "metadata.yaml" if trial % 8 == 0 else max(files, key=lambda n: len(files[n]))
        way, damaged = mutated(files[target], rng)
        for name, content in files.items():
            (copy / name).write_bytes(damaged if name == target else content)
        outcomes[f"{way}: {read_or_refused(copy)}"] += 1
        shutil.rmtree(copy)
    return outcomes


def changed_message(payload: bytes, rng: np.random.Generator) -> bytes:
    """Put an awkward number, or noise, somewhere into one message of twenty."""
    if rng.uniform() > 0.05:
        return payload
    damaged = bytearray(payload)
    place = int(rng.integers(4, len(payload)) // 4 * 4)
    awkward = [
        struct.pack("<d", rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 0.0])),
        struct.pack("<I", rng.choice([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])),
        rng.bytes(8),
    ]
    word = awkward[rng.integers(len(awkward))]
    damaged[place : place + len(word)] = word
    return bytes(damaged[: len(payload)])


def damage_messages(source: Path, folder: Path, trials: int, seed: int) -> Counter[str]:
    """Write bags that are whole but carry damaged messages; count what becomes of them."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    for trial in range(trials):
        copy = folder / f"{trial}"
        rewrite(source, copy, change=lambda payload: changed_message(payload, rng))
        outcomes[f"messages: {read_or_refused(copy)}"] += 1
        shutil.rmtree(copy)
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_bag_is_read(bags, kind):
    assert read_or_refused(bags[kind]) == "read"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bags_are_read_or_refused(bags, kind, tmp_path):
    outcomes = damage(bags[kind], tmp_path, trials=20, seed=7)
    assert sum(n for outcome, n in outcomes.items() if "refused" in outcome) >= 3


def test_damaged_messages_are_read_or_refused(bags, tmp_path):
    outcomes = damage_messages(bags["mcap"], tmp_path, trials=20, seed=3)
    assert len(outcomes) == 2, outcomes


@pytest.mark.slow
def test_many_damaged_messages_are_read_or_refused(bags, tmp_path):
    outcomes = damage_messages(bags["mcap"], tmp_path, trials=1000, seed=5)
    print(dict(outcomes))
    assert min(outcomes["messages: read"], outcomes["messages: refused"]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_bags_are_read_or_refused(bags, kind, tmp_path):
    outcomes = damage(bags[kind], tmp_path, trials=1200, seed=11)
    print(kind, dict(sorted(outcomes.items())))
    assert sum(n for outcome, n in outcomes.items() if "refused" in outcome) > 100
    assert sum(n for outcome, n in outcomes.items() if "read" in outcome) > 30
