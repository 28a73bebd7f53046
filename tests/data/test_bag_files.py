"""Bags in every shape: split, without metadata, compressed; none leads out of its folder."""

import re
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from bayes_vio.data import compression
from bayes_vio.data.bag_files import bag_name, distinct_names
from bayes_vio.data.bag_reader import BagReader
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, open_streams
from bayes_vio.data.compression import zstd
from bayes_vio.data.message_parts import TYPESTORE
from tests.data.bag_cases import GRAY, camera_bag, mounted, stamps
from tests.data.drives import START_NS, Drive, write_drive


def storage_file(bag: Path) -> Path:
    (file,) = [f for f in bag.iterdir() if f.suffix != ".yaml"]
    return file


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "drive"
    write_drive(path, Drive(duration_s=1.0))
    return path


def assert_same(path: Path, truth: Path) -> None:
    """Both bags hold the same IMU, reference and images."""
    streams, expected = open_streams(path), open_streams(truth)
    assert streams.imu is not None
    assert expected.imu is not None
    np.testing.assert_array_equal(streams.imu.samples, expected.imu.samples)
    assert streams.reference is not None
    assert expected.reference is not None
    np.testing.assert_array_equal(streams.reference.T_world_base, expected.reference.T_world_base)
    frames, truths = dict(streams.frames()), dict(expected.frames())
    assert frames.keys() == truths.keys()
    assert all(np.array_equal(frames[stamp], truths[stamp]) for stamp in frames)


def rewrite(
    source: Path,
    path: Path,
    storage: str = "mcap",
    mode: CompressionMode = CompressionMode.NONE,
    part: slice = slice(None),
) -> Path:
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    bag = BagReader(source)
    with writer:
        connections = {
            name: writer.add_connection(name, topic.msgtype, typestore=TYPESTORE)
            for name, topic in bag.topics.items()
        }
        for message in list(bag.messages(bag.topics))[part]:
            writer.write(connections[message.topic], message.log_ns, message.payload)
    return path


def split(source: Path, path: Path, storage: str, parts: int) -> Path:
    """Write a bag as ros2 bag does with --max-bag-size: several files, one metadata.yaml."""
    bag = BagReader(source)
    total = len(list(bag.messages(bag.topics)))
    path.mkdir()
    names = []
    for k in range(parts):
        part = slice(k * total // parts, (k + 1) * total // parts)
        one = rewrite(source, path.parent / f"{path.name}-{k}", storage, part=part)
        file = storage_file(one)
        names.append(f"{path.name}_{k}{file.suffix}")
        file.rename(path / names[-1])
        listed = (one / "metadata.yaml").read_text().replace(file.name, names[0])
        (path / "metadata.yaml").write_text(listed)
        shutil.rmtree(one)
    text = (path / "metadata.yaml").read_text()
    lists = "".join(f"\n    - {name}" for name in names)
    text = re.sub(r"(relative_file_paths:)\s*(- \S+|\[\S+\])", rf"\1{lists}", text)
    (path / "metadata.yaml").write_text(text)
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_split_bags(drive, tmp_path, storage):
    bag = split(drive, tmp_path / "parts", storage, 12)
    assert len(BagReader(bag).files) == 12
    assert_same(bag, drive)
    (bag / "metadata.yaml").unlink()
    assert_same(bag, drive)  # _2 before _10


def test_a_folder_without_metadata(drive, tmp_path):
    bag = tmp_path / "killed"
    shutil.copytree(drive, bag)
    (bag / "metadata.yaml").unlink()
    assert_same(bag, drive)
    shutil.copy(storage_file(bag), bag / "other.mcap")
    with pytest.raises(BagError, match=r"several recordings \(drive.mcap, other.mcap\): name one"):
        open_streams(bag)
    assert_same(bag / "other.mcap", drive)


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        ("mcap", "FILE"),
        ("mcap", "MESSAGE"),
        ("mcap", "STORAGE"),
        ("sqlite3", "FILE"),
        ("sqlite3", "MESSAGE"),
    ],
)
def test_zstandard(drive, tmp_path, monkeypatch, storage, mode):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    bag = rewrite(drive, tmp_path / "packed", storage, CompressionMode[mode])
    assert_same(bag, drive)
    assert_same(storage_file(bag), drive)  # a lone file, compressed or not
    assert not list((tmp_path / "tmp").iterdir())


def test_names(tmp_path):
    for name, expected in {
        "a.mcap": "a", "b_0.db3.zstd": "b_0", "c_0.db3": "c_0", "d.mcap.zstd": "d",
    }.items():  # fmt: skip
        (tmp_path / name).touch()
        assert bag_name(tmp_path / name) == expected
    for folder in ("2024.05.01", "2024.05.02"):
        (tmp_path / folder).mkdir()
        assert bag_name(tmp_path / folder) == folder


def test_bags_that_are_called_alike_are_told_apart(tmp_path):
    paths = [tmp_path / p for p in ("a/x/rosbag2", "a/y/rosbag2", "b/y/rosbag2", "a/x/drive")]
    for path in paths:
        path.mkdir(parents=True)
    names = ["rosbag2 (x)", "rosbag2 (y) 1", "rosbag2 (y) 2", "drive"]
    assert distinct_names(paths) == names
    assert distinct_names(paths[2:]) == ["rosbag2", "drive"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_paths_that_would_mean_something_in_a_uri(tmp_path, storage):
    with BagWriter(tmp_path / "drive", storage) as bag:
        camera_bag(bag)
    awkward = tmp_path / "50% #1?" / "drive?x#"
    awkward.parent.mkdir()
    (tmp_path / "drive").rename(awkward)
    assert len(list(open_streams(awkward).frames())) == 4


@pytest.mark.parametrize(
    "listed",
    ["../secret.mcap", "/etc/passwd", "../../etc/passwd", "a/../../secret.mcap", "a/b/c", ".."],
)
def test_lists_that_lead_out_of_the_folder_are_not_followed(drive, tmp_path, listed, monkeypatch):
    bag = tmp_path / "bag"
    shutil.copytree(drive, bag)
    shutil.copy(storage_file(drive), tmp_path / "secret.mcap")
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(storage_file(bag).name, listed))
    monkeypatch.setattr("bayes_vio.data.bag_reader.Reader", None)  # nothing is opened
    with pytest.raises(BagError, match="not in the bag's folder"):
        open_streams(bag)


def test_old_lists_repeat_the_folder(drive, tmp_path):
    bag = tmp_path / "bag"
    shutil.copytree(drive, bag)
    name = storage_file(bag).name
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(name, f"drive/{name}"))
    assert_same(bag, drive)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rosbag2_bagfile_information"),
        ("rosbag2_bagfile_information: 3", "no rosbag2_bagfile_information"),
        ("rosbag2_bagfile_information: {}", "lists no relative_file_paths"),
        ("rosbag2_bagfile_information: {relative_file_paths: [3]}", "lists no relative_file"),
        ("rosbag2_bagfile_information: {relative_file_paths: [x.mcap]}", "missing there"),
        ("rosbag2_bagfile_information: {relative_file_paths: [p.txt]}", "give a rosbag2 folder"),
        ("rosbag2_bagfile_information: {relative_file_paths: [d.mcap]}", "no regular file"),
        ("rosbag2_bagfile_information: {compression_mode: FILE, compression_format: lz9}", "lz9"),
        ("a: [", "cannot be read"),
        ("[" * 5_000, "cannot be read"),
        ("#" * (2**24 + 1), "is no metadata"),
    ],
)
def test_metadata_that_cannot_be_right(tmp_path, text, message):
    (tmp_path / "metadata.yaml").write_text(text)
    (tmp_path / "p.txt").write_text("no bag")
    (tmp_path / "d.mcap").mkdir()
    with pytest.raises(BagError, match=message):
        open_streams(tmp_path)


def test_ros_1_bags_are_refused_with_what_converts_them(tmp_path):
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(BagError, match="rosbags-convert"):
        open_streams(tmp_path / "old.bag")


def test_a_topic_of_two_types_is_never_chosen(tmp_path):
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        for kind in ("sensor_msgs/msg/Image", "sensor_msgs/msg/Imu"):
            connection = writer.add_connection("/mixed", kind, typestore=TYPESTORE)
            writer.write(connection, START_NS, b"\0\1\0\0")
    with pytest.raises(BagError, match=r"no topic for image.*Image and sensor_msgs/msg/Imu"):
        open_streams(tmp_path / "bag")


def test_a_bag_that_is_still_being_written(tmp_path, drive):
    shutil.copytree(drive, tmp_path / "bag")
    streams = open_streams(tmp_path / "bag")
    shutil.rmtree(tmp_path / "bag")
    rewrite(drive, tmp_path / "bag", part=slice(-90))
    with pytest.raises(BagError, match="changed since it was opened"):
        list(streams.frames())


def test_messages_that_unpack_to_too_much_are_refused(monkeypatch):
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 1 << 20)
    for size, fits in ((1 << 20, True), ((1 << 20) + 1, False), (1 << 26, False)):
        packed = zstd.compress(bytes(size))
        if fits:
            assert compression.unpacked_message(packed) == bytes(size)
            continue
        tracemalloc.start()
        with pytest.raises(BagError, match="more than the 1048576 bytes"):
            compression.unpacked_message(packed)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
        tracemalloc.stop()


@pytest.mark.parametrize("packer", ["zstd", "lz4"])
def test_chunks_that_unpack_to_more_than_they_say_are_refused(tmp_path, packer):
    import lz4.frame

    bomb = {"zstd": zstd.compress, "lz4": lz4.frame.compress}[packer](bytes(1 << 28))
    header = struct.pack("<QQQI", START_NS, START_NS, 1000, 0)
    chunk = header + struct.pack("<I", len(packer)) + packer.encode()
    chunk += struct.pack("<Q", len(bomb)) + bomb
    magic = b"\x89MCAP0\r\n"
    head = magic + b"\x01" + struct.pack("<QI4sI", 12, 4, b"ros2", 0)
    body = b"\x06" + struct.pack("<Q", len(chunk)) + chunk
    footer = b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0) + magic
    (tmp_path / "bomb.mcap").write_bytes(head + body + footer)
    tracemalloc.start()
    with pytest.raises(BagError, match="unpack to more than the 1000 bytes"):
        open_streams(tmp_path / "bomb.mcap")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_full_disk_is_told(drive, tmp_path, monkeypatch):
    bag = rewrite(drive, tmp_path / "packed", mode=CompressionMode.FILE)
    monkeypatch.setattr(compression, "_SPARE_DISK_BYTES", 1 << 62)
    with pytest.raises(BagError, match="set TMPDIR"):
        open_streams(bag)


def peak_bytes(path: Path) -> int:
    """Return the most that opening a bag and reading its images holds at once."""
    tracemalloc.start()
    streams = open_streams(path)
    opened = tracemalloc.get_traced_memory()[0]
    count = sum(1 for _ in streams.frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == len(streams.image_stamp_ns)
    assert opened < 1 << 20  # no payload is kept
    return peak


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "FILE", "MESSAGE"])
def test_memory_does_not_grow_with_the_images(tmp_path, storage):
    def write(name: str, images: int) -> Path:
        with BagWriter(tmp_path / name, "sqlite3" if storage == "sqlite3" else "mcap") as bag:
            mounted(bag)
            for stamp in stamps(images):
                bag.image(stamp, GRAY)
        if storage in ("mcap", "sqlite3"):
            return tmp_path / name
        return rewrite(tmp_path / name, tmp_path / f"{name}-z", "mcap", CompressionMode[storage])

    few, many = write("few", 120), write("many", 1200)
    peak_bytes(few)
    few_bytes, many_bytes = peak_bytes(few), peak_bytes(many)
    added_payload = 1080 * GRAY.size
    assert many_bytes - few_bytes < 0.03 * added_payload, (few_bytes, many_bytes)
