"""A reference that jumps, or froze before it jumped, tells no motion there."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bags import open_streams
from bayes_vio.data.recording import prepare
from bayes_vio.data.reference_jumps import jumps, spans_jump
from bayes_vio.data.samples import ReferenceStream
from bayes_vio.data.sync import increments_between
from tests.data.drives import START_NS, Drive, write_drive


def driven(rate_hz: float = 10.0, noise_m: float = 0.0, seed: int = 0) -> ReferenceStream:
    """20 s: 5 s standing, 8 m/s^2 up to 24 m/s, a bend of 0.8 rad/s, braking at 10 m/s^2."""
    t = np.arange(0, 20, 1 / rate_hz)
    speed = np.interp(t, [5, 8, 15, 17.4], [0, 24, 24, 0])
    yaw = np.interp(t, [9, 11], [0, 1.6])
    step = speed / rate_hz
    T = np.tile(np.eye(4), (len(t), 1, 1))
    T[:, :3, :3] = Rotation.from_euler("z", yaw[:, None]).as_matrix()
    T[:, 0, 3] = 4e5 + np.cumsum(step * np.cos(yaw))  # as far from the origin as UTM is
    T[:, 1, 3] = np.cumsum(step * np.sin(yaw))
    T[:, :3, 3] += np.random.default_rng(seed).normal(0, noise_m, (len(t), 3))
    return ReferenceStream(START_NS + np.round(t * NS_PER_S).astype(np.int64), T)


@pytest.mark.parametrize("rate_hz", [2.5, 10.0, 100.0])
@pytest.mark.parametrize("noise_m", [0.0, 0.02, 0.3])
def test_what_a_car_can_do_is_no_jump(rate_hz, noise_m):
    assert not jumps(driven(rate_hz, noise_m)).any()


@pytest.mark.parametrize("rate_hz", [10.0, 100.0])
@pytest.mark.parametrize("at_s", [0.0, 2.0, 6.5, 10.0, 16.0, 19.8])
@pytest.mark.parametrize("step_m", [(3.0, 0, 0), (0, -4.0, 0), (0, 0, 5.0)])
def test_a_step_of_some_metres_is_found_where_it_is(rate_hz, at_s, step_m):
    reference = driven(rate_hz, 0.02)
    k = round(at_s * rate_hz)
    reference.T_world_base[k + 1 :, :3, 3] += step_m
    assert np.flatnonzero(jumps(reference)).tolist() == [k]


def test_a_turn_that_no_car_makes_is_found():
    reference = driven()
    turn = Rotation.from_euler("z", 35, degrees=True).as_matrix()
    reference.T_world_base[121:, :3, :3] = turn @ reference.T_world_base[121:, :3, :3]
    assert np.flatnonzero(jumps(reference)).tolist() == [120]


def test_a_reference_that_freezes_until_it_jumps_tells_nothing_meanwhile():
    reference = driven()
    reference.T_world_base[100:131] = reference.T_world_base[100]
    assert np.flatnonzero(jumps(reference)).tolist() == list(range(100, 131))


def test_intervals_that_touch_a_jump_are_told():
    reference = driven()
    reference.T_world_base[121:, 0, 3] += 30
    stamp_ns = reference.stamp_ns
    start_ns = np.array([stamp_ns[118], stamp_ns[119] + 1, stamp_ns[120] + 5, stamp_ns[121]])
    end_ns = np.array([stamp_ns[120], stamp_ns[120] + 1, stamp_ns[121] - 5, stamp_ns[122]])
    assert spans_jump(reference, start_ns, end_ns).tolist() == [False, True, True, False]
    _, ok = increments_between(reference, start_ns, end_ns)
    assert ok.tolist() == [True, False, False, True]


def test_few_poses_tell_no_jump():
    reference = driven()
    few = ReferenceStream(reference.stamp_ns[:4], reference.T_world_base[:4])
    assert jumps(few).tolist() == [False] * 3


def test_samples_over_a_jump_are_left_out_and_counted(tmp_path):
    write_drive(tmp_path / "bag", Drive(duration_s=4.0))
    streams = open_streams(tmp_path / "bag")
    assert streams.reference is not None
    sound = prepare(streams, tmp_path / "cache", time_offset_s=0.0)
    half_ns = int(streams.image_stamp_ns[20])
    streams.reference.T_world_base[streams.reference.stamp_ns > half_ns, 1, 3] += 25.0
    jumping = prepare(streams, tmp_path / "cache", time_offset_s=0.0)
    stamps = sound.frame_stamp_ns[sound.frames.pairs[sound.samples.pair]]
    over = (stamps[:, 0] <= half_ns) & (stamps[:, 1] > half_ns)
    assert jumping.dropped == {"samples: the reference jumps": int(over.sum())}
    np.testing.assert_array_equal(jumping.samples.pair, sound.samples.pair[~over])
    np.testing.assert_allclose(jumping.samples.target, sound.samples.target[~over], atol=1e-5)
