"""Samples are the recording's motion, measured once, whoever reads them and in which order."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL, ROT_Z, X
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.data.frames import FlowEstimator, ViewProjector
from bayes_vio.data.recording import offset_from_flow
from bayes_vio.data.rows import RowWriter, read_rows
from bayes_vio.data.windows import imu_bins, motion_input
from tests.data.drives import (
    START_NS,
    VIEW_CAMERA,
    Drive,
    optical_mount,
    texture,
    write_drive,
)

DRIVE = Drive(offset_s=0.07)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drives")


@pytest.fixture(scope="module")
def streams(folder):
    write_drive(folder / "drive", DRIVE)
    return open_streams(folder / "drive")


@pytest.fixture(scope="module")
def recording(folder, streams):
    return prepare(streams, folder / "cache")


def test_targets_are_increments_of_the_drive(recording):
    dataset = MotionDataset([recording], (1,))
    t = DRIVE.image_t()
    assert len(dataset) == len(t) - 1
    _, target = dataset.batch(np.arange(len(dataset)))
    assert target.dtype == torch.float32
    np.testing.assert_allclose(target[:, ROT_Z], np.diff(DRIVE.yaw(t)), atol=1e-6)
    assert target[:, X].mean() == pytest.approx(DRIVE.speed_m_s / DRIVE.image_hz, rel=1e-2)
    assert target[:, [2, 3, 4]].abs().max() < 1e-6


def test_windows_show_the_turn_that_the_images_show(recording):
    """With the offset found, mean yaw rate * dt is the yaw between the images."""
    assert recording.time_offset.offset_s == pytest.approx(DRIVE.offset_s, abs=0.004)
    x, target = MotionDataset([recording]).batch(range(20, 60))
    told = x.imu[..., ROT_Z].mean(1) * x.dt
    np.testing.assert_allclose(told, target[:, ROT_Z], atol=2e-3)
    assert x.imu_valid.min() == 1
    horizontal = x.flow[:, 0, 10:30, 40:88].mean((1, 2))
    np.testing.assert_allclose(horizontal, -target[:, ROT_Z], atol=4e-3)


def test_another_offset_cuts_other_windows_from_the_same_images(recording):
    shifted = recording.with_time_offset(recording.time_offset_s + 0.02)
    assert shifted.frames is recording.frames
    x, _ = MotionDataset([recording]).batch([30])
    y, _ = MotionDataset([shifted]).batch([30])
    assert (x.flow == y.flow).all()
    assert not torch.equal(x.imu, y.imu)
    again = shifted.with_time_offset(recording.time_offset_s)
    assert torch.equal(MotionDataset([again]).batch([30])[0].imu, x.imu)


def test_samples_are_what_the_parts_give_one_by_one(streams, recording):
    """The same functions that the online estimator calls give the same input."""
    frames = list(streams.frames())
    projector = ViewProjector(streams.camera, R_BASE_OPTICAL)
    flow_of = FlowEstimator(projector.valid_pixels)
    dataset = MotionDataset([recording], (3,))
    x, _ = dataset.batch([5])
    pair = recording.samples.pair[np.flatnonzero(recording.samples.stride == 3)[5]]
    earlier, later = recording.frames.pairs[pair]
    assert later - earlier == 3
    (start_ns, first), (end_ns, last) = frames[earlier], frames[later]
    views = projector.project(first), projector.project(last)
    shift = round(recording.time_offset_s * NS_PER_S)
    imu = imu_bins(streams.imu.stamp_ns, streams.imu.samples, start_ns + shift, end_ns + shift)
    expected = motion_input(
        views[1], flow_of(*views), projector.valid, *imu, (end_ns - start_ns) / NS_PER_S
    )
    for name in ("gray", "imu", "imu_valid", "dt", "view_valid", "camera_valid"):
        assert torch.equal(getattr(x, name), getattr(expected, name)), name
    np.testing.assert_allclose(x.flow, expected.flow, rtol=1e-3, atol=1e-7)


def test_strides(recording):
    n = len(recording.frame_stamp_ns)
    every = MotionDataset([recording], (1, 2, 3, 4, 5))
    assert len(every) > 1.9 * n
    pairs = recording.frames.pairs
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    lengths = [len(MotionDataset([recording], (s,))) for s in (1, 2, 3, 4, 5)]
    assert sum(lengths) == len(every)
    assert min(lengths[1:]) > n / 10
    np.testing.assert_allclose(MotionDataset([recording], (4,)).dt_s, 0.4, atol=1e-9)


def test_the_second_call_reads_the_cache(folder, streams, recording):
    def refuse():
        raise AssertionError("images were read again")

    refuse.identity = streams.frames.identity  # type: ignore[attr-defined]
    again = prepare(replace(streams, frames=refuse), folder / "cache")
    assert again.frames.folder == recording.frames.folder
    assert again.sha256 == recording.sha256
    assert again.dropped == recording.dropped
    x, y = MotionDataset([recording]).batch([3, 1]), MotionDataset([again]).batch([3, 1])
    assert all(torch.equal(getattr(x[0], f), getattr(y[0], f)) for f in ("gray", "flow", "imu"))
    assert torch.equal(x[1], y[1])


def test_workers_do_not_change_the_result(tmp_path, streams, recording):
    alone = prepare(streams, tmp_path, workers=1)
    assert alone.sha256 == recording.sha256
    rows = np.arange(len(alone.frames.pairs))
    np.testing.assert_array_equal(alone.frames.flow(rows), recording.frames.flow(rows))


def test_another_seed_or_mounting_is_measured_anew(tmp_path, folder, streams, recording):
    other = prepare(streams, folder / "cache", seed=1)
    assert other.frames.folder != recording.frames.folder
    assert not np.array_equal(other.frames.pairs, recording.frames.pairs)
    turned = optical_mount()
    turned[:3, :3] = turned[:3, :3] @ np.diag([-1.0, -1, 1])  # upside down
    upside = replace(streams, extrinsics=replace(streams.extrinsics, T_base_camera=turned))
    assert prepare(upside, folder / "cache").frames.folder != recording.frames.folder


def test_streams_in_memory_are_known_by_their_content(tmp_path, streams):
    frames = list(streams.frames())
    held = replace(streams, frames=lambda: iter(frames))
    brighter = replace(streams, frames=lambda: ((s, g // 2) for s, g in frames))
    first, same, other = (prepare(s, tmp_path) for s in (held, held, brighter))
    assert first.frames.folder == same.frames.folder != other.frames.folder
    assert first.sha256 == same.sha256 != other.sha256


def test_a_failed_measurement_leaves_nothing(tmp_path, streams):
    def broken():
        yield from list(streams.frames())[:10]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        prepare(replace(streams, frames=broken), tmp_path / "cache")
    failing = replace(streams, frames=broken)
    failing.frames.identity = lambda: "x"  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="disk gone"):
        prepare(failing, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").iterdir())


def test_a_damaged_cache_is_told(tmp_path, streams):
    frames = prepare(streams, tmp_path).frames
    flow = frames.folder / "flow.npy"
    flow.write_bytes(flow.read_bytes()[:-100])
    with pytest.raises(OSError, match="truncated"):
        frames.flow(np.array([len(frames.pairs) - 1]))
    (frames.folder / "report.json").write_text("{")
    with pytest.raises(BagError, match="damaged"):
        prepare(streams, tmp_path)


def test_batches_keep_the_order_asked_for(folder, recording):
    write_drive(folder / "second", Drive(duration_s=4.5, amplitude=0.3, period_s=3))
    second = prepare(open_streams(folder / "second"), folder / "cache")
    dataset = MotionDataset([recording, second])
    n = len(MotionDataset([recording]))
    asked = [n + 2, 5, 0, n, 7, 5]
    x, target = dataset.batch(asked)
    for place, index in enumerate(asked):
        one, one_target = dataset.batch([index])
        assert torch.equal(target[place], one_target[0])
        assert torch.equal(x.flow[place], one.flow[0])
        assert x.dt[place] == pytest.approx(dataset.dt_s[index])


def test_loaders_are_re_iterable_and_complete(recording):
    dataset = MotionDataset([recording])
    shuffled = dataset.loader(16, shuffle_seed=4)
    first = torch.cat([target for _, target in shuffled])
    assert torch.equal(first, torch.cat([target for _, target in shuffled]))
    in_order = torch.cat([target for _, target in dataset.loader(16)])
    assert not torch.equal(first, in_order)
    other = torch.cat([target for _, target in dataset.loader(16, shuffle_seed=5)])
    assert not torch.equal(first, other)
    assert torch.equal(first[:, ROT_Z].sort().values, in_order[:, ROT_Z].sort().values)
    assert len(shuffled) == len(list(shuffled)) == -(-len(dataset) // 16)


def test_a_camera_alone(tmp_path):
    write_drive(tmp_path / "bag", Drive(duration_s=2), imu=False)
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache")
    assert recording.time_offset is None
    x, _ = MotionDataset([recording]).batch(range(5))
    assert not x.imu.any()
    assert not x.imu_valid.any()
    assert x.camera_valid.min() == 1
    assert "camera alone" in recording.summary()


def test_without_a_reference_the_flow_tells_the_offset(tmp_path):
    drive = write_drive(tmp_path / "bag", Drive(duration_s=10, offset_s=-0.06), reference=False)
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache")
    assert recording.time_offset is not None
    assert recording.time_offset.source == "optical flow"
    assert recording.time_offset.offset_s == pytest.approx(drive.offset_s, abs=0.004)
    with pytest.raises(ValueError, match="no reference pose"):
        MotionDataset([recording])


def test_flow_and_reference_agree_on_the_offset(recording):
    from_flow = offset_from_flow(recording.frames, recording.imu)
    assert from_flow.offset_s == pytest.approx(recording.time_offset.offset_s, abs=0.004)


def test_a_straight_drive_has_no_offset_and_says_why(tmp_path):
    write_drive(tmp_path / "bag", Drive(amplitude=0.0))
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache")
    assert recording.time_offset is None
    assert recording.time_offset_s == 0
    assert "turns too little" in recording.summary()
    given = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache", time_offset_s=0.03)
    assert given.time_offset_s == 0.03


def test_what_is_left_out_is_counted(tmp_path):
    """Ten images, then a pause of 2 s; the reference ends early, the IMU starts late."""
    with BagWriter(tmp_path / "bag") as bag:
        bag.tf_static(START_NS, {"imu_link": np.eye(4), "camera_optical": optical_mount()})
        bag.camera_info(START_NS, VIEW_CAMERA)
        times = [*np.arange(10) / 10, *(3 + np.arange(10) / 10)]
        for t in times:
            stamp_ns = START_NS + round(t * NS_PER_S)
            bag.image(stamp_ns, texture(80, 256))
            if t < 3.45:
                bag.odometry(stamp_ns, np.eye(4))
        for t in np.arange(0.31, 4.2, 0.01):
            bag.imu(START_NS + round(t * NS_PER_S), np.array([0, 0, 9.8, 0, 0, 0]))
    recording = prepare(open_streams(tmp_path / "bag"), tmp_path / "cache", time_offset_s=0.0)
    strides = recording.samples.stride
    # Stride 1: 18 pairs; five end after the reference, three end before the IMU starts.
    assert np.count_nonzero(strides == 1) == 10
    assert recording.dropped["samples: images more than 1 s apart"] == 1
    gone = [recording.dropped[f"samples: {c}"] for c in ("no reference", "no IMU window")]
    assert sum(gone) + len(recording.samples) == len(recording.frames.pairs)
    assert gone[0] >= 5
    assert gone[1] >= 3
    partly = MotionDataset([recording]).batch([0])[0].imu_valid
    assert 0 < partly.mean() < 1


def test_the_cache_counts_images_and_the_streams_the_rest(tmp_path, streams):
    counted = replace(streams, dropped={"imu: not finite": 2, "image: undecodable": 1})
    assert prepare(counted, tmp_path).dropped == counted.dropped
    other = replace(streams, dropped={"imu: zero stamp": 1})
    assert prepare(other, tmp_path).dropped == {"imu: zero stamp": 1, "image: undecodable": 1}


def test_one_image_is_not_a_recording(tmp_path):
    write_drive(tmp_path / "bag", Drive(duration_s=0.1))
    with pytest.raises(BagError, match="need 2"):
        prepare(open_streams(tmp_path / "bag"), tmp_path / "cache")


def test_nothing_to_learn_from_is_refused(recording):
    with pytest.raises(ValueError, match="no sample of stride"):
        MotionDataset([recording], (9,))
    with pytest.raises(ValueError, match="no recording"):
        MotionDataset([])


def test_progress_is_told(tmp_path, streams):
    told = []
    prepare(streams, tmp_path, progress=lambda done, total: told.append((done, total)))
    n = len(streams.image_stamp_ns)
    assert told == [(k + 1, n) for k in range(n)]


def test_cache_names_what_it_was_measured_from(recording):
    key = json.loads((recording.frames.folder / "key.json").read_text())
    assert key["size"] == [256, 80]
    assert key["images"][0][0].startswith("drive")


def test_rows_are_plain_npy_files(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12_345, 2, 3)).astype(np.float16)
    with RowWriter(tmp_path / "rows.npy", (2, 3), np.float16) as writer:
        for row in rows:
            writer.append(row)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)
    asked = np.array([7, 12_344, 0, 7])
    np.testing.assert_array_equal(read_rows(tmp_path / "rows.npy", asked), rows[asked])
    with pytest.raises(IndexError, match="row 12345"):
        read_rows(tmp_path / "rows.npy", np.array([12_345]))
