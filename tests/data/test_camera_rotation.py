"""The camera's rotation is found: exact geometry, rendered drives, outliers, straight roads."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from bayes_vio.conventions import NS_PER_S, R_BASE_OPTICAL
from bayes_vio.data.bags import open_streams
from bayes_vio.data.camera_rotation import (
    CameraRotation,
    CameraRotationError,
    combine_rotations,
    estimate_camera_rotation,
)
from bayes_vio.data.frames import view_rays
from bayes_vio.data.recording import PreparedRecording, prepare
from bayes_vio.data.samples import Extrinsics, ImuStream, ReferenceStream
from bayes_vio.geometry import se3, so3
from bayes_vio.simulation import (
    CameraSettings,
    DriveSettings,
    ImuSettings,
    SimulationSettings,
    simulate,
)
from tests.data.drives import START_NS

DT_S = 0.1
GYRO_BIAS = np.array([0.003, -0.002, 0.004])


def rotation(vector) -> np.ndarray:
    return so3.exp(torch.as_tensor(np.asarray(vector, np.float64))).numpy()


def geometric_recording(
    seen_deg, yaw_rates, n=120, noise=2e-3, moving_share=0.0, shaking=0.02, seed=0
) -> PreparedRecording:
    """Return a recording whose flow is exact geometry of random depths, plus noise.

    seen_deg [3]: R_base_camera as it is, from the one given; yaw_rates [n - 1] (rad/s). A
    moving_share of the cells flows as it likes.
    """
    rng = np.random.default_rng(seed)
    rates = np.column_stack([shaking * rng.normal(size=(n - 1, 2)), yaw_rates])
    T_earlier_later = se3.exp(
        torch.from_numpy(np.concatenate([np.tile([1.0, 0, 0], (n - 1, 1)), DT_S * rates], axis=1))
    ).numpy()
    T_world_base = [np.eye(4)]
    for step in T_earlier_later:
        T_world_base.append(T_world_base[-1] @ step)
    mount = np.eye(4)
    mount[:3, :3], mount[:3, 3] = R_BASE_OPTICAL, [1.2, 0.1, 0.9]
    R_view_base = R_BASE_OPTICAL.T @ rotation(np.radians(seen_deg)).T
    rays = view_rays().reshape(40, 2, 128, 2, 3).mean((1, 3)).reshape(-1, 3)
    flow = np.empty((n - 1, 2, 40, 128))
    for i, T in enumerate(T_earlier_later):
        depth = rng.uniform(4, 40, (10, 32)).repeat(4, 0).repeat(4, 1).reshape(-1, 1)
        later = depth * rays @ R_view_base
        moved = later @ T[:3, :3].T + T[:3, 3] + (T[:3, :3] - np.eye(3)) @ mount[:3, 3]
        earlier = moved @ R_view_base.T
        flow[i] = (earlier[:, :2] / earlier[:, 2:] - rays[:, :2]).T.reshape(2, 40, 128)
        flow[i] += noise * rng.normal(size=(2, 10, 32)).repeat(4, 1).repeat(4, 2)
        strange = (rng.random((10, 32)) < moving_share).repeat(4, 0).repeat(4, 1)
        flow[i] += strange * rng.normal(scale=0.05, size=(2, 1, 1))
    stamp_ns = START_NS + np.round(DT_S * np.arange(n) * NS_PER_S).astype(np.int64)
    # Piecewise constant rates: ten samples of each interval's own rate.
    imu_ns = START_NS + np.round((np.arange(10 * (n - 1)) + 0.5) * DT_S / 10 * NS_PER_S)
    samples = np.zeros((10 * (n - 1), 6))
    samples[:, 3:] = rates.repeat(10, 0) + GYRO_BIAS
    table = SimpleNamespace(
        frame_stamp_ns=stamp_ns,
        pairs=np.stack([np.arange(n - 1), np.arange(1, n)], 1),
        view_valid=np.ones((40, 128), np.float32),
        flow=lambda rows: flow[rows],
    )
    recording = SimpleNamespace(
        frames=table,
        reference=ReferenceStream(stamp_ns, np.stack(T_world_base)),
        imu=ImuStream(imu_ns.astype(np.int64), samples),
        extrinsics=Extrinsics(np.eye(4), mount, "test"),
        time_offset_s=0.0,
    )
    return cast(Any, recording)


def turns(n=120) -> np.ndarray:
    return 0.4 * np.sin(np.arange(n - 1) / 8)


@pytest.mark.parametrize(
    "seen_deg", [(0, 0, 0), (2, 0, 0), (0, -3, 0), (0, 0, 2), (-0.7, 2, -1.5)]
)
def test_exact_geometry_gives_the_rotation_back(seen_deg):
    found = estimate_camera_rotation(geometric_recording(seen_deg, turns()))
    np.testing.assert_allclose(np.degrees(found.vector), seen_deg, atol=0.1)
    assert (np.abs(np.degrees(found.vector) - seen_deg) < 3 * np.degrees(found.std)).all()
    assert found.observable.all()
    assert np.linalg.eigvalsh(found.cov).min() > 0
    np.testing.assert_array_equal(found.contradicts, np.abs(seen_deg) > 1.4)


def test_a_fifth_of_moving_things_does_not_move_it():
    recording = geometric_recording((1, -2, 1), turns(), moving_share=0.2)
    found = estimate_camera_rotation(recording)
    np.testing.assert_allclose(np.degrees(found.vector), (1, -2, 1), atol=0.2)


def test_a_straight_drive_does_not_show_roll():
    found = estimate_camera_rotation(geometric_recording((2, 1, -1), np.zeros(119), shaking=0.0))
    np.testing.assert_array_equal(found.observable, [False, True, True])
    assert not found.contradicts[0]
    np.testing.assert_allclose(np.degrees(found.vector[1:]), (1, -1), atol=0.15)


def test_the_reference_stands_in_for_a_missing_imu():
    recording = geometric_recording((0, 2, 0), turns())
    recording = cast(Any, SimpleNamespace(**{**vars(recording), "imu": None}))
    found = estimate_camera_rotation(recording)
    np.testing.assert_allclose(np.degrees(found.vector), (0, 2, 0), atol=0.1)


def test_a_recording_that_cannot_tell_is_refused():
    recording = vars(geometric_recording((0, 0, 0), turns()))
    no_reference = cast(Any, SimpleNamespace(**{**recording, "reference": None}))
    with pytest.raises(CameraRotationError, match="needs a reference"):
        estimate_camera_rotation(no_reference)
    standing = ReferenceStream(recording["reference"].stamp_ns, np.tile(np.eye(4), (120, 1, 1)))
    parked = cast(Any, SimpleNamespace(**{**recording, "reference": standing}))
    with pytest.raises(CameraRotationError, match="there are 0"):
        estimate_camera_rotation(parked)


def test_recordings_are_weighted_by_what_they_know():
    sure = CameraRotation(np.array([0.01, 0, 0]), np.diag([1e-6, 1e-6, 1e-6]), 10)
    unsure = CameraRotation(np.array([0.05, 0, 0]), np.diag([9e-6, 1e-6, 1e-6]), 5)
    both = combine_rotations([sure, unsure])
    np.testing.assert_allclose(both.vector, [0.9 * 0.01 + 0.1 * 0.05, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.diag(both.cov), [0.9e-6, 0.5e-6, 0.5e-6])
    assert both.pairs == 15


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rotation") / "drive"
    drive = DriveSettings(duration_s=30.0, straight_share=0.2, stop_interval_m=1e4)
    settings = SimulationSettings(
        seed=4, drive=drive, camera=CameraSettings(), imu=ImuSettings(time_offset_s=0.03)
    )
    simulate(folder, settings)
    return folder


@pytest.mark.parametrize("wrong_deg", [(0, 0, 0), (2, 0, 0), (0, -3, 0), (1, 1.5, -2)])
def test_wrong_extrinsics_of_a_rendered_drive_are_told(bag, tmp_path, wrong_deg):
    streams = open_streams(bag)
    given = streams.extrinsics
    T_wrong = given.T_base_camera.copy()
    T_wrong[:3, :3] = rotation(np.radians(wrong_deg)).T @ T_wrong[:3, :3]
    wrong = replace(given, T_base_camera=T_wrong)
    recording = prepare(replace(streams, extrinsics=wrong), tmp_path, workers=2)
    assert recording.time_offset is not None
    assert recording.time_offset.offset_s == pytest.approx(0.03, abs=0.002)
    found = estimate_camera_rotation(recording)
    error_deg = np.degrees(found.vector) - wrong_deg
    assert (np.abs(error_deg) < 3 * np.degrees(found.std)).all(), (error_deg, found.std)
    assert np.abs(error_deg).max() < 0.7  # half a minute of driving; long drives reach 0.3
    assert found.observable.all()
