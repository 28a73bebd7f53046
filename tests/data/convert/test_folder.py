"""A folder of images and CSV files becomes the recording it describes."""

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from bayes_vio.data.dataset import prepare
from tests.data.convert.motion import (
    Motion,
    assert_gyro_agrees,
    assert_images,
    assert_imu,
    assert_reference,
    camera_pose,
    pose,
    write_images,
)

WIDTH, HEIGHT = 96, 64
T_BASE_IMU = pose((0.1, -0.2, 1.5), (0.5, 0.1, -0.3))
T_BASE_CAMERA = camera_pose((0.01, 0.02, -0.03), (1.5, 0.0, 1.2))
CAMERA_YAML = """
size: [96, 64]
K: [60, 61, 47.5, 31.5]
distortion: {{model: plumb_bob, coefficients: [-0.1, 0.01, 0.001, -0.002, 0.0]}}
T_base_camera: {camera}
T_base_imu: {{translation: {place}, quaternion_xyzw: {quaternion}}}
"""


def csv(path, heading, stamps, rows):
    lines = [
        ",".join([str(s), *map(repr, map(float, row))])
        for s, row in zip(stamps, rows, strict=True)
    ]
    path.write_text("\n".join([heading, *lines]) + "\n")


def write_folder(root, motion=None):
    motion = motion or Motion()
    root.mkdir()
    t, imu_t = motion.image_s(), motion.imu_s()
    names = [f"frames/{i}.png" for i in range(len(t))]
    images = write_images([root / name for name in names], WIDTH, HEIGHT)
    stamps = motion.stamps(t)
    # Stamps as seconds with nine decimals, and as whole nanoseconds.
    seconds = [f"{s // 10**9}.{s % 10**9:09d}" for s in stamps.tolist()]
    rows = [f"{s},{name}" for s, name in zip(seconds, names, strict=True)]
    (root / "images.csv").write_text("stamp,filename\n" + "\n".join(rows) + "\n")
    samples = (motion.samples(imu_t).reshape(-1, 2, 3) @ T_BASE_IMU[:3, :3]).reshape(-1, 6)
    csv(root / "imu.csv", "stamp,ax,ay,az,gx,gy,gz", motion.stamps(imu_t), samples)
    T = motion.poses(t)
    quaternions = Rotation.from_matrix(T[:, :3, :3]).as_quat()
    csv(root / "poses.csv", "# stamp,...", stamps, np.hstack([T[:, :3, 3], quaternions]))
    (root / "camera.yaml").write_text(
        CAMERA_YAML.format(
            camera=T_BASE_CAMERA.tolist(),
            place=T_BASE_IMU[:3, 3].tolist(),
            quaternion=Rotation.from_matrix(T_BASE_IMU[:3, :3]).as_quat().tolist(),
        )
    )
    return motion, images


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_the_bag_says_what_the_folder_says(tmp_path, storage):
    motion, images = write_folder(tmp_path / "source")
    told = []
    result = convert(
        Layout.FOLDER,
        tmp_path / "source",
        tmp_path / "bag",
        storage=storage,
        progress=lambda done, total: told.append((done, total)),
    )
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, motion.stamps(motion.image_s()), images)
    assert_imu(streams, motion)
    assert_reference(streams, motion, motion.image_s())
    assert_gyro_agrees(streams, 1e-3)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, T_BASE_CAMERA, atol=1e-12)
    np.testing.assert_allclose(streams.extrinsics.T_base_imu, T_BASE_IMU, atol=1e-12)
    np.testing.assert_array_equal(streams.camera.K, [[60, 0, 47.5], [0, 61, 31.5], [0, 0, 1]])
    np.testing.assert_array_equal(streams.camera.coefficients, [-0.1, 0.01, 0.001, -0.002, 0])
    assert told == [(i + 1, len(images)) for i in range(len(images))]
    assert (result.images, result.imu_samples, result.poses) == (len(images), 400, len(images))
    assert "left out: nothing" in result.lines()


def test_the_bag_can_be_prepared_for_a_fit(tmp_path):
    """Through the virtual view, flow and windows to samples with the motion's increments."""
    motion, images = write_folder(tmp_path / "source")
    convert(Layout.FOLDER, tmp_path / "source", tmp_path / "bag")
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache", time_offset_s=0.0)
    assert len(recording.samples) >= len(images) - 1
    T = motion.poses(motion.image_s())
    truth = (np.linalg.inv(T[:-1]) @ T[1:])[:, :3, 3].mean(0)
    single = recording.samples.stride == 1
    np.testing.assert_allclose(recording.samples.target[single, :3].mean(0), truth, atol=0.02)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_image_files_are_kept_byte_by_byte(tmp_path, suffix):
    source = tmp_path / "source"
    write_folder(source, Motion(duration_s=0.5))
    files = [source / "frames" / f"{i}.{suffix}" for i in range(5)]
    write_images(files, WIDTH, HEIGHT)
    (source / "images.csv").write_text(
        "".join(f"{i + 1}.5,frames/{file.name}\n" for i, file in enumerate(files))
    )
    for table in ("imu.csv", "poses.csv"):
        (source / table).unlink()
    convert(Layout.FOLDER, source, tmp_path / "bag")
    with AnyReader([tmp_path / "bag"]) as reader:
        connections = [c for c in reader.connections if c.topic == "/image"]
        messages = [reader.deserialize(m[2], m[0].msgtype) for m in reader.messages(connections)]
    assert {message.format for message in messages} == {"png" if suffix == "png" else "jpeg"}
    assert [m.data.tobytes() for m in messages] == [file.read_bytes() for file in files]


def test_without_imu_and_poses_it_is_a_camera_recording(tmp_path):
    write_folder(tmp_path / "source")
    (tmp_path / "source" / "imu.csv").unlink()
    (tmp_path / "source" / "poses.csv").unlink()
    result = convert(Layout.FOLDER, tmp_path / "source", tmp_path / "bag")
    assert "no IMU, no reference" in result.lines()[0]
    streams = open_streams(tmp_path / "bag")
    assert streams.imu is None
    assert streams.reference is None


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    source = tmp_path / "source"
    _, images = write_folder(source)
    (source / "frames" / "3.png").unlink()
    (source / "frames" / "4.png").write_bytes(b"\x89PNG no more")
    write_images([source / "frames" / "5.png"], WIDTH + 2, HEIGHT)
    imu = (source / "imu.csv").read_text().splitlines()
    imu[10] = imu[10].split(",")[0] + ",nan,0,0,0,0,0"
    imu[20] = imu[19]
    (source / "imu.csv").write_text("\n".join(imu))
    result = convert(Layout.FOLDER, source, tmp_path / "bag")
    assert result.images == len(images) - 3
    assert result.dropped == {
        "image: missing file": 1,
        "image: undecodable": 1,
        "image: wrong size": 1,
        "imu: not finite": 1,
        "imu: duplicate stamp": 1,
    }
    streams = open_streams(tmp_path / "bag")
    assert len(streams.image_stamp_ns) == len(images) - 3
    assert streams.dropped == {}


def replaced(name, old, new):
    def edit(source):
        text = (source / name).read_text()
        assert old in text
        (source / name).write_text(text.replace(old, new, 1))

    return edit


def line(name, number, text):
    def edit(source):
        lines = (source / name).read_text().splitlines()
        lines[number - 1] = text
        (source / name).write_text("\n".join(lines))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (line("images.csv", 3, "5.0,../x.png"), "images.csv line 3: '../x.png' leads out of"),
        (line("images.csv", 3, "5.0,a/../../x.png"), "leads out of"),
        (line("images.csv", 3, "5.0,/etc/hostname"), "leads out of"),
        (line("images.csv", 3, "5.0,C:\\x.png"), "leads out of"),
        (line("images.csv", 3, "5.0,..\\x.png"), "leads out of"),
        (line("images.csv", 3, "5.0"), "line 3: 1 columns where 2 are needed"),
        (line("images.csv", 3, "soon,frames/1.png"), "'soon' is no stamp"),
        (line("images.csv", 3, "-1,frames/1.png"), "stamp '-1' lies outside"),
        (line("images.csv", 3, "1e99999,frames/1.png"), "lies outside"),
        (line("imu.csv", 5, "1,2,3,x,5,6,7"), "imu.csv line 5"),
        (line("imu.csv", 5, "1,2,3"), "3 columns where 7 are needed"),
        (lambda s: (s / "imu.csv").write_text("stamp,ax\n"), "imu.csv holds no rows"),
        (lambda s: (s / "imu.csv").write_text("5,0,0,9,0,0,0\n6,0,0,9,0,0,0\n"), "different clo"),
        (lambda s: (s / "images.csv").unlink(), "images.csv does not exist"),
        (lambda s: (s / "camera.yaml").unlink(), "camera.yaml does not exist"),
        (lambda s: (s / "camera.yaml").write_text("size: [1"), "camera.yaml is no YAML"),
        (lambda s: (s / "camera.yaml").write_bytes(b"\xff\xfe\x00"), "camera.yaml is bad"),
        (replaced("camera.yaml", "K: [60", "focal: [60"), "focal is not one of"),
        (replaced("camera.yaml", "60, 61, 47.5, 31.5", "60, 61"), "K in"),
        (replaced("camera.yaml", "[60", "[-60"), "must be positive"),
        (replaced("camera.yaml", "size: [96, 64]", "size: [96]"), "size in"),
        (replaced("camera.yaml", "plumb_bob", "fisheye62"), "'fisheye62' is not one of"),
        (replaced("camera.yaml", "0.001, -0.002, 0.0]", "0.001]"), "3 coefficients"),
        (replaced("camera.yaml", "T_base_imu", "T_base_camera2"), "T_base_camera2"),
        (lambda s: [f.unlink() for f in (s / "frames").iterdir()], "0 images are usable"),
    ],
)
def test_malformed_sources_are_refused(tmp_path, edit, said):
    source = tmp_path / "source"
    write_folder(source, Motion(duration_s=0.5))
    edit(source)
    with pytest.raises(ValueError) as refused:
        convert(Layout.FOLDER, source, tmp_path / "bag")
    assert said in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["images.csv", "imu.csv", "poses.csv"])
def test_a_table_without_rows_is_refused_by_name(tmp_path, name):
    write_folder(tmp_path / "source")
    (tmp_path / "source" / name).write_text("a heading\n")
    with pytest.raises(ValueError, match=name):
        convert(Layout.FOLDER, tmp_path / "source", tmp_path / "bag")


def test_an_existing_bag_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "bag").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        convert(Layout.FOLDER, tmp_path / "nothing", tmp_path / "bag")


def test_an_option_of_another_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--sequence is not for layout folder, but for kitti-od"):
        convert(Layout.FOLDER, tmp_path, tmp_path / "bag", ConvertOptions(sequence="00"))
