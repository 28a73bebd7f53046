"""Units that cannot be right are refused with their factor; odd but right recordings pass."""

import numpy as np
import pytest

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import BagError, open_streams
from bayes_vio.data.recording import prepare
from bayes_vio.data.samples import ImuStream, ReferenceStream
from bayes_vio.data.units import check_units, check_yaw_rate
from tests.data.bag_cases import GRAY, mounted
from tests.data.drives import START_NS, Drive, write_drive

GENTLE = Drive(duration_s=20, amplitude=0.06, period_s=8)  # at most 2.7 deg/s


def imu_of(drive: Drive, noise: float = 0.0, seed: int = 0) -> ImuStream:
    t = drive.imu_t()
    samples = drive.samples(t)
    samples += noise * np.random.default_rng(seed).normal(size=samples.shape)
    return ImuStream(
        START_NS + np.round((t + drive.offset_s) * NS_PER_S).astype(np.int64), samples
    )


def reference_of(drive: Drive, rate_hz: float = 10.0) -> ReferenceStream:
    t = np.arange(0, drive.duration_s, 1 / rate_hz)
    stamp_ns = START_NS + np.round(t * NS_PER_S).astype(np.int64)
    return ReferenceStream(stamp_ns, np.stack([drive.pose(s) for s in t]))


def scaled(imu: ImuStream, force: float = 1.0, rate: float = 1.0) -> ImuStream:
    return ImuStream(imu.stamp_ns, imu.samples * np.repeat([force, rate], 3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "drive",
    [
        Drive(),
        Drive(offset_s=0.2),
        Drive(amplitude=0.0),
        Drive(amplitude=0.9, period_s=3, speed_m_s=2, imu_hz=400),
        Drive(speed_m_s=55, imu_hz=50, amplitude=0.05),
        GENTLE,
    ],
)
def test_right_units_pass(drive, seed):
    imu = imu_of(drive, noise=0.3, seed=seed)
    bias = np.array([0.2, -0.3, 0.5, 0.01, -0.01, 0.02])
    check_units("bag", ImuStream(imu.stamp_ns, imu.samples + bias), reference_of(drive))


def test_a_car_that_stands_passes():
    still = Drive(amplitude=0, speed_m_s=0)
    check_units("bag", imu_of(still, noise=0.02), reference_of(still))


@pytest.mark.parametrize(
    ("force", "words"),
    [
        (1 / GRAVITY_M_S2, r"in the median, gravity in g: multiply it by 9\.8066 to give m/s\^2"),
        (1000 / GRAVITY_M_S2, r"milli-g .*multiply it by 0\.0098066"),
        (100.0, "gravity in milli-g"),
        (5.0, r"5\.\d+ times gravity"),
    ],
)
def test_specific_force_in_another_unit(force, words):
    with pytest.raises(BagError, match=f"^bag: .*{words}"):
        check_units("bag", scaled(imu_of(Drive(), noise=0.05), force=force), None)


def test_specific_force_without_gravity():
    imu = imu_of(Drive(), noise=0.05)
    imu.samples[:, 2] -= GRAVITY_M_S2
    with pytest.raises(BagError, match="gravity was taken out of it"):
        check_units("bag", imu, None)


@pytest.mark.parametrize("drive", [Drive(), Drive(offset_s=0.15), GENTLE])
def test_gyro_in_degrees_against_a_reference(drive):
    imu = scaled(imu_of(drive, noise=0.01), rate=180 / np.pi)
    with pytest.raises(BagError, match=r"is 5\d\.?\d? times that of the reference.*57\.3 to give"):
        check_units("bag", imu, reference_of(drive))


def test_gyro_in_degrees_alone():
    imu = scaled(imu_of(Drive(duration_s=30)), rate=180 / np.pi)
    with pytest.raises(BagError, match=r"no vehicle does; if its unit is deg/s, .* 57\.3"):
        check_units("bag", imu, None)


def test_gyro_of_the_wrong_sign():
    with pytest.raises(BagError, match="turns the other way: check T_base_imu"):
        check_units("bag", scaled(imu_of(Drive()), rate=-1.0), reference_of(Drive()))


def test_sensors_that_measure_nothing():
    """Drivers fill in zeros for what a sensor does not have."""
    drive = Drive()
    for part, told in ((slice(0, 3), "accelerometer measures nothing"), (slice(3, 6), "all 900")):
        imu = imu_of(drive, noise=0.01)
        imu.samples[:, part] = 0.0
        with pytest.raises(BagError, match=told):
            check_units("bag", imu, reference_of(drive))
    still = Drive(amplitude=0, speed_m_s=0)  # a simulated gyro without noise may be constant there
    imu = imu_of(still, noise=0.02)
    imu.samples[:, 3:] = 0.0
    check_units("bag", imu, reference_of(still))


def test_gyro_with_a_reference_that_has_gaps():
    drive = Drive(duration_s=20)
    whole, seconds = reference_of(drive), reference_of(drive).stamp_ns / NS_PER_S % 10
    kept = (seconds < 3) | (seconds > 6)
    gappy = ReferenceStream(whole.stamp_ns[kept], whole.T_world_base[kept])
    check_units("bag", imu_of(drive, noise=0.01), gappy)
    with pytest.raises(BagError, match="that of the reference"):
        check_units("bag", scaled(imu_of(drive, noise=0.01), rate=180 / np.pi), gappy)


@pytest.mark.parametrize("rate_hz", [5.0, 10.0, 100.0])
def test_a_reference_in_millimetres(rate_hz):
    reference = reference_of(Drive(), rate_hz)
    reference.T_world_base[:, :3, 3] *= 1000
    with pytest.raises(BagError, match=r"moves at 5e\+03 m/s.*multiply its positions by 0\.001"):
        check_units("bag", None, reference)


def test_a_reference_that_jumps_once_passes():
    reference = reference_of(Drive())
    reference.T_world_base[40:, 0, 3] += 500
    check_units("bag", None, reference)


def test_unrelated_yaw_tells_nothing():
    rng = np.random.default_rng(0)
    drive = Drive(duration_s=20)
    stamps = reference_of(drive).stamp_ns
    for _ in range(20):
        noise = rng.normal(scale=0.01, size=len(stamps) - 1)
        check_yaw_rate("bag", imu_of(drive), stamps[:-1], stamps[1:], noise, "noise")


def test_short_recordings_pass():
    imu = scaled(imu_of(Drive(duration_s=2)), force=0.1)
    check_units("bag", imu, reference_of(Drive(duration_s=0.2)))


def test_a_bag_is_refused_by_name(tmp_path):
    with BagWriter(tmp_path / "in_g") as bag:
        mounted(bag)
        imu = imu_of(Drive())
        for stamp_ns, sample in zip(imu.stamp_ns.tolist(), imu.samples, strict=True):
            bag.imu(stamp_ns, sample / GRAVITY_M_S2)
        bag.image(START_NS, GRAY)
    with pytest.raises(BagError, match="in_g: the IMU's specific force is 1"):
        open_streams(tmp_path / "in_g")


def test_gyro_in_degrees_against_the_images(tmp_path):
    drive = Drive(amplitude=0.06, duration_s=10)
    write_drive(tmp_path / "bag", drive, reference=False)
    streams = open_streams(tmp_path / "bag")
    assert streams.imu is not None
    prepare(streams, tmp_path / "cache")
    streams.imu.samples[:, 3:] *= 180 / np.pi
    with pytest.raises(BagError, match=r"times that of the optical flow.* 57\.3"):
        prepare(streams, tmp_path / "cache")
