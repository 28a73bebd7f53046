"""Without a camera the forward speed is what was seen last and what the IMU has felt since."""

import os
from pathlib import Path

import numpy as np
import pytest

from bayes_vio.estimator import Estimator, EstimatorSettings, TrackingState
from bayes_vio.estimator.inertia import ForwardSpeed, Speed
from tests.estimator_cases import SPEED_M_S, Drive, KnownArtifact, no_inertia

DT_S = 0.1
SETTINGS = EstimatorSettings()
DATA = Path(os.environ.get("BAYES_VIO_DATA", Path(__file__).parents[3] / "shared" / "data"))
ALL = np.ones(20)


def bins(force_m_s2: float) -> np.ndarray:
    imu = np.zeros((20, 6))
    imu[:, 0] = force_m_s2
    return imu


def driven(speeds, level: float = 0.4, noise_std: float = 0.0, seed: int = 0) -> ForwardSpeed:
    """Return what has seen mean speeds of intervals, its IMU tilted by a level (m/s^2)."""
    rng, carrying = np.random.default_rng(seed), ForwardSpeed(SETTINGS)
    ends = np.concatenate([[speeds[0]], 0.5 * (speeds[1:] + speeds[:-1]), [speeds[-1]]])
    for speed, gained in zip(speeds, np.diff(ends), strict=True):
        carried = carrying.carry(bins(gained / DT_S + level), ALL, DT_S)
        seen = Speed(speed + noise_std * rng.standard_normal(), 0.1)
        carrying.see(seen, carried, DT_S)
    return carrying


def test_a_car_that_brakes_unseen_is_followed():
    carrying = driven(np.full(100, 12.0))
    for k in range(1, 41):
        carried = carrying.carry(bins(0.4 - 2.0), ALL, DT_S)
        # Half an interval of the old acceleration at first.
        assert carried.mean == pytest.approx(12.0 - 2.0 * DT_S * (k - 0.5), abs=1e-6)
    assert carried.var == pytest.approx(0.05 + (0.3**2 + 2 * 0.05 / 100) * 4.0**2, rel=0.05)


def test_what_the_imu_says_at_constant_speed_is_learned_while_the_speed_varies():
    times = DT_S * np.arange(400)
    speeds = 8.0 + 2.0 * np.sin(0.5 * times)
    carrying = driven(speeds, level=-0.5, noise_std=0.3)
    for _ in range(20):
        carried = carrying.carry(bins(-0.5), ALL, DT_S)
    ends = 0.5 * (3 * speeds[-1] - speeds[-2])
    assert abs(carried.mean - ends) < 3 * np.sqrt(carried.var)
    assert np.sqrt(carried.var) < 0.8


def test_before_anything_is_known_and_without_an_imu_nothing_is_carried():
    carrying = ForwardSpeed(SETTINGS)
    assert carrying.carry(bins(0.0), ALL, DT_S) is None
    carrying = driven(np.full(20, 5.0))
    gap = ALL.copy()
    gap[:10] = 0
    assert carrying.carry(bins(0.4), gap, DT_S) is None
    assert carrying.carry(bins(0.4), ALL, DT_S) is None
    carrying.see(Speed(5.0, 0.1), None, DT_S)
    assert carrying.carry(bins(0.4), ALL, DT_S).mean == pytest.approx(5.0)


def test_several_estimates_are_surer_than_one_but_not_by_more_than_lasts():
    seen, carried = Speed(5.0, 0.2), Speed(7.0, 0.2)
    carrying = driven(np.full(50, 6.0))
    carrying.carry(bins(0.4), ALL, DT_S)
    carrying.see(seen, carried, DT_S)
    both = carrying.carry(bins(0.4), ALL, DT_S)
    assert both.mean == pytest.approx(6.0, abs=0.05)  # what was seen changed by 1 m/s at once
    assert 0.1 < both.var < 0.11


def test_an_estimator_whose_camera_goes_dark_keeps_its_speed():
    dark = lambda k, image: image // 16 if k >= 30 else image  # noqa: E731
    said = {}
    for name, settings in (("carried", SETTINGS), ("network", no_inertia())):
        estimator = Estimator(KnownArtifact(), settings)
        said[name] = Drive(images=dark).run(estimator, 5.0)[-1]
    assert {e.state for e in said.values()} == {TrackingState.DEGRADED}
    speed = {name: e.T_earlier_later[0, 3] / e.dt_s for name, e in said.items()}
    assert speed["carried"] == pytest.approx(SPEED_M_S, abs=0.1)
    assert speed["network"] == pytest.approx(5.0, abs=0.1)
    std = {name: np.sqrt(e.cov[0, 0]) / e.dt_s for name, e in said.items()}
    assert 0.1 < std["carried"] < 1.0
    assert std["network"] > 2.9
    odometry = {name: np.sqrt(e.odom_cov[0, 0]) for name, e in said.items()}
    assert odometry["carried"] < 0.5 * odometry["network"]


@pytest.mark.parametrize("sequence", ["00", "08", "06"])
def test_on_real_drives_the_error_is_within_what_is_told(sequence):
    poses, tracks = DATA / "kitti" / "imu_poses.npz", DATA / "kitti" / "oxts.npz"
    if not (poses.is_file() and tracks.is_file()):
        pytest.skip(f"{DATA} has no real IMU: set BAYES_VIO_DATA")
    with np.load(poses) as p, np.load(tracks) as t:
        imu = p[f"imu_{sequence}"]
        speed = t[f"oxts_{sequence}"][:, list(t["cols"]).index("vf")]
        dt_s = np.diff(t[f"stamp_{sequence}"].astype(np.int64)) * 1e-9
    lag = 6  # samples, by which this IMU's stamps are late
    frames = min(len(dt_s), (len(imu) - lag) // 10 - 1)
    rng, carrying, squared = np.random.default_rng(0), ForwardSpeed(SETTINGS), []
    for k in range(frames):
        felt = np.zeros((20, 6))
        felt[:] = imu[10 * k + lag : 10 * k + lag + 10].mean(0)
        carried = carrying.carry(felt, ALL, dt_s[k])
        true = 0.5 * (speed[k] + speed[k + 1])
        if k % 100 < 60 or carried is None:  # then 4 s without a camera
            seen = Speed(true + 0.3 * rng.standard_normal(), 0.09)
            carrying.see(seen, carried, dt_s[k])
        elif k > 100:
            squared.append((carried.mean - true) ** 2 / carried.var)
    assert len(squared) > 300
    assert 0.1 < np.mean(squared) < 1.5
    assert np.mean(np.array(squared) < 9.0) > 0.98
