"""Real drives keep every convention: directions, gravity, the lag of the IMU's stamps."""

import numpy as np
import pytest
import torch

from bayes_vio.conventions import GRAVITY_M_S2, ROT_Z, X
from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import MotionDataset, prepare
from bayes_vio.data.sync import offset_from_reference
from benchmarks.kitti_bags import RAW, read_raw, read_sequence, write
from tests.data.drives import data_file


def streams_of(name: str, folder):
    source = data_file("kitti", f"{name}.npz")
    write(read_raw(source) if name == RAW else read_sequence(source), folder / name)
    return open_streams(folder / name)


@pytest.mark.parametrize("name", ["real_00", RAW])
def test_the_imu_lags_and_gravity_points_up(name, tmp_path):
    streams = streams_of(name, tmp_path)
    assert streams.dropped == {}
    assert streams.imu is not None
    assert streams.reference is not None
    force = streams.imu.samples[:, :3].mean(0)
    assert force[2] == pytest.approx(GRAVITY_M_S2, abs=0.1)
    offset = offset_from_reference(streams.reference, streams.imu, streams.image_stamp_ns)
    assert 0.055 < offset.offset_s < 0.075
    assert offset.correlation > 0.998
    moved = streams.reference.T_world_base[-1, :3, 3]
    assert np.linalg.norm(moved) > 30


def test_real_flow_tells_yaw_and_speed(tmp_path):
    """Linear regression on coarse flow of the first half predicts the second half's yaw."""
    recording = prepare(streams_of("real_00", tmp_path), tmp_path / "cache", time_offset_s=0.064)
    x, target = MotionDataset([recording]).batch(range(299))
    flow = torch.nn.functional.avg_pool2d(x.flow, (8, 8)).flatten(1).double()
    A = torch.cat([flow / flow.std(0), torch.ones(299, 1)], 1)
    y = target[:, [X, ROT_Z]].double()
    ridge = 10 * torch.eye(A.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(A[::2].T @ A[::2] + ridge, A[::2].T @ y[::2])
    error = (A[1::2] @ weights - y[1::2]).square().mean(0).sqrt()
    assert error[0] < 0.12 * y[:, 0].mean()
    assert error[1].rad2deg() < 0.1


def test_a_camera_without_imu(tmp_path):
    streams = streams_of("real_03_no_imu", tmp_path)
    assert streams.imu is None
    assert len(streams.image_stamp_ns) == 801
