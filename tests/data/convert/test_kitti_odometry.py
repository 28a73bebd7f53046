"""KITTI's odometry benchmark: poses of cam0 become those of the OXTS unit, an IMU joins in."""

import numpy as np
import pytest

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.bags import open_streams
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.conversion import ConvertOptions, convert
from bayes_vio.data.convert.kitti_odometry import CAM0_IN_BASE_M, RAW_DRIVES, T_VELO_IMU
from tests.data.convert.kitti_folders import (
    P_RECT,
    T_BASE_RECT0,
    line,
    write_day,
    write_oxts,
    write_stamps,
)
from tests.data.convert.motion import (
    Motion,
    assert_gyro_agrees,
    assert_images,
    assert_reference,
    write_images,
)

SIZE = (60, 40)
FIRST_NS = NS_PER_S
MOTION = Motion(start_ns=FIRST_NS)
RAW_MOTION = Motion(start_ns=1_317_646_534_997_992_704)


def write_sequence(root, sequence="00", camera="image_0", motion=MOTION, tr=True):
    folder, t = root / "sequences" / sequence, motion.image_s()
    paths = [folder / camera / f"{i:06d}.png" for i in range(len(t))]
    images = write_images(paths, *SIZE)
    (folder / "times.txt").write_text("".join(f"{time:.6e}\n" for time in t))
    text = line("P0", P_RECT * [1, 1, 1, 0]) + line("P2", P_RECT)
    if tr:
        text += line("Tr", np.linalg.inv(T_VELO_IMU @ T_BASE_RECT0)[:3])
    (folder / "calib.txt").write_text(text)
    T_world_cam0 = motion.poses(t) @ T_BASE_RECT0
    rows = (np.linalg.inv(T_world_cam0[0]) @ T_world_cam0)[:, :3].reshape(-1, 12)
    (root / "poses").mkdir()
    text = "\n".join(" ".join(f"{v:.9e}" for v in row) for row in rows)
    (root / "poses" / f"{sequence}.txt").write_text(text)
    return images


def write_raw(root, sequence="00", motion=RAW_MOTION, extract=True):
    name, first = RAW_DRIVES[sequence]
    day = root / name[:10]
    write_day(day)
    stamps = motion.stamps(motion.image_s())
    earlier = stamps[0] - 100_000_000 * np.arange(first, 0, -1)
    sync = day / f"{name}_sync"
    write_stamps(sync / "image_00" / "timestamps.txt", np.concatenate([earlier, stamps]))
    write_oxts(sync / "oxts", motion, motion.image_s())
    if extract:
        write_oxts(day / f"{name}_extract" / "oxts", motion, motion.imu_s())
    return stamps


def options(sequence="00", **others):
    return ConvertOptions(sequence=sequence, **others)


@pytest.mark.parametrize("camera", ["image_0", "image_2"])
def test_a_sequence_is_a_camera_recording_of_the_oxts_unit(tmp_path, camera):
    images = write_sequence(tmp_path / "set", camera=camera)
    convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", options())
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, MOTION.stamps(MOTION.image_s()), images)
    assert_reference(streams, MOTION, MOTION.image_s())
    assert streams.imu is None
    T_base_camera = T_BASE_RECT0.copy()
    if camera == "image_2":
        shift = np.eye(4)
        shift[:3, 3] = np.linalg.solve(P_RECT[:, :3], P_RECT[:, 3])
        T_base_camera = T_BASE_RECT0 @ np.linalg.inv(shift)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, T_base_camera, atol=1e-9)
    np.testing.assert_array_equal(streams.camera.K, P_RECT[:, :3])


def test_without_tr_the_sketch_of_the_car_stands_in_and_that_is_said(tmp_path):
    write_sequence(tmp_path / "set", tr=False)
    result = convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", options())
    assert any("sketch" in note for note in result.notes)
    streams = open_streams(tmp_path / "bag")
    np.testing.assert_allclose(streams.extrinsics.T_base_camera[:3, 3], CAM0_IN_BASE_M)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera[:3, :3], R_BASE_OPTICAL, atol=1e-9)


@pytest.mark.parametrize("inner", ["", "2011_10_03"])
def test_with_the_raw_drive_there_are_an_imu_and_true_stamps(tmp_path, inner):
    images = write_sequence(tmp_path / "set", motion=RAW_MOTION)
    stamps = write_raw(tmp_path / "raw")
    choice = options(raw=tmp_path / "raw" / inner)
    convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", choice)
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, stamps, images)
    assert_reference(streams, RAW_MOTION, RAW_MOTION.image_s())
    assert_gyro_agrees(streams, 1e-3)
    t = RAW_MOTION.imu_s()
    np.testing.assert_array_equal(streams.imu.stamp_ns, RAW_MOTION.stamps(t))
    np.testing.assert_allclose(streams.imu.samples, RAW_MOTION.samples(t), atol=1e-9)
    np.testing.assert_allclose(streams.extrinsics.T_base_camera, T_BASE_RECT0, atol=1e-9)


def test_a_sequence_that_begins_within_its_drive(tmp_path):
    """Sequence 08 begins at frame 1100; without _extract, _sync's OXTS rows stand in."""
    images = write_sequence(tmp_path / "set", "08", motion=RAW_MOTION)
    stamps = write_raw(tmp_path / "raw", "08", extract=False)
    choice = options("08", raw=tmp_path / "raw")
    convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", choice)
    streams = open_streams(tmp_path / "bag")
    assert_images(streams, stamps, images)
    np.testing.assert_array_equal(streams.imu.stamp_ns, stamps)


def test_a_sequence_without_published_poses_has_no_reference(tmp_path):
    write_sequence(tmp_path / "set", "11")
    (tmp_path / "set" / "poses" / "11.txt").unlink()
    result = convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", options("11"))
    assert result.poses == 0
    assert open_streams(tmp_path / "bag").reference is None


def written(name, text):
    return lambda root: (root / name).write_text(text)


@pytest.mark.parametrize(
    ("edit", "choice", "said"),
    [
        (None, ConvertOptions(), "needs --sequence"),
        (None, options("0"), "not two digits"),
        (None, options("../"), "not two digits"),
        (None, options("07"), "sequences/07 is no folder"),
        (None, options(camera="image_1"), "no folder image_1"),
        (None, options(camera="image_9"), "camera 'image_9' is not one of"),
        (written("sequences/00/times.txt", "0\nsoon\n"), options(), "times.txt line 2: 'soon'"),
        (written("sequences/00/times.txt", ""), options(), "times.txt holds no times"),
        (written("sequences/00/calib.txt", "P0: 1 2"), options(), "P0 in"),
        (written("sequences/00/calib.txt", "P0: " + "0 " * 12), options(), "no projection matrix"),
        (written("poses/00.txt", "1 0 0"), options(), "holds 1 poses, but times.txt 4 times"),
        (written("poses/00.txt", "1 0 0\n" * 4), options(), "00.txt line 1: 3 numbers, not 12"),
        (written("poses/00.txt", "1 " * 12 + "\n" + "0\n" * 3), options(), "line 1 is no pose"),
        (written("sequences/00/image_0/000000.png", ""), options(), None),
    ],
)
def test_malformed_sequences_are_refused(tmp_path, edit, choice, said):
    write_sequence(tmp_path / "set", motion=Motion(duration_s=0.4, start_ns=FIRST_NS))
    if edit is not None:
        edit(tmp_path / "set")
    if said is None:
        result = convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", choice)
        assert result.dropped == {"image: undecodable": 1}
        return
    with pytest.raises(ValueError) as refused:
        convert(Layout.KITTI_ODOMETRY, tmp_path / "set", tmp_path / "bag", choice)
    assert said in str(refused.value)
    assert not (tmp_path / "bag").exists()


def test_raw_drives_that_do_not_belong_are_refused(tmp_path):
    write_sequence(tmp_path / "set", motion=RAW_MOTION)
    write_sequence(tmp_path / "later", "11")
    choices = {"00": tmp_path / "set", "11": tmp_path / "later"}

    def refused(sequence, raw):
        out = tmp_path / "bag"
        with pytest.raises(ValueError) as error:
            convert(Layout.KITTI_ODOMETRY, choices[sequence], out, options(sequence, raw=raw))
        assert not out.exists()
        return str(error.value)

    assert "not published: drop --raw" in refused("11", tmp_path)
    assert "neither is nor holds 2011_10_03" in refused("00", tmp_path)
    write_raw(tmp_path / "short", motion=Motion(duration_s=2.0))
    assert "20 stamps, but 40 frames" in refused("00", tmp_path / "short")
    write_raw(tmp_path / "slow", motion=Motion(duration_s=8.0, image_hz=8.0))
    assert "these are not the same frames" in refused("00", tmp_path / "slow")
