"""An IMU that repeats itself or a gyro without a rate is named and left out till it recovers."""

import numpy as np
import pytest

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S
from bayes_vio.estimator import Cause, Estimator, TrackingState
from bayes_vio.estimator.stuck_samples import StuckSamples
from tests.estimator_cases import START_NS, Drive, KnownArtifact

RATE_HZ = 100.0


def told(samples: np.ndarray, rate_hz: float = RATE_HZ) -> list[Cause | None]:
    stuck = StuckSamples(0.25)
    return [stuck.add(round(k * NS_PER_S / rate_hz), sample) for k, sample in enumerate(samples)]


def noisy(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6))


def runs(*parts: tuple[int, Cause | None]) -> list[Cause | None]:
    return [cause for count, cause in parts for _ in range(count)]


def test_a_repeated_sample_is_told_after_a_quarter_of_a_second_and_forgiven_at_once() -> None:
    samples = noisy(100)
    samples[20:60] = samples[20]
    # The second alike is the first that is suspicious.
    assert told(samples) == runs((46, None), (14, Cause.IMU_FROZEN), (40, None))


def test_a_gyro_of_zeros_is_dead_though_the_accelerometer_lives() -> None:
    samples = noisy(100)
    samples[20:60, ANGULAR_RATE] = 0
    assert told(samples) == runs((45, None), (15, Cause.GYRO_DEAD), (40, None))


def test_of_a_slow_stream_ten_in_a_row_are_needed() -> None:
    samples = noisy(40)
    samples[10:] = samples[10]
    causes = told(samples, rate_hz=10.0)
    assert causes.index(Cause.IMU_FROZEN) == 20


@pytest.mark.parametrize("step", [0.5, 1.0, 1.5])
def test_coarse_steps_are_neither_frozen_nor_dead(step: float) -> None:
    """Noise of one deviation in steps of ``step``: three zeros are common, but not in a row."""
    assert not any(told(step * np.round(noisy(5000) / step)))


def stuck_drive(gyro_alone: bool) -> Drive:
    def samples(index: int, sample: np.ndarray) -> np.ndarray:
        if not 150 <= index < 250:
            return sample
        return np.array([*sample[:3], 0, 0, 0]) if gyro_alone else np.array([0, 0, 9.8, 0, 0, 0.2])

    return Drive(samples=samples)


@pytest.mark.parametrize(("gyro_alone", "cause"), [(False, "imu_frozen"), (True, "gyro_dead")])
def test_a_stuck_imu_is_named_and_left_out(gyro_alone: bool, cause: str) -> None:
    artifact = KnownArtifact()
    estimator = Estimator(artifact)  # pyright: ignore[reportArgumentType]
    estimates = stuck_drive(gyro_alone).run(estimator, 4.0)
    by_frame = {round((e.stamp_ns - START_NS) / 1e8): e for e in estimates}
    for k in range(19, 25):
        assert by_frame[k].state is TrackingState.DEGRADED
        assert by_frame[k].cause == f"imu_missing, {cause}"
        assert artifact.asked[k - 1].imu_valid.sum() == 0
        assert by_frame[k].cov[5, 5] > 100 * by_frame[14].cov[5, 5]
    assert all(by_frame[k].state is TrackingState.TRACKING for k in (*range(2, 15), 30, 40))
    # The samples, and the intervals without them.
    assert 74 + 6 <= estimator.counters[cause] <= 75 + 8
    assert sum(event.startswith(f"{cause}: 1") for event in estimator.events()) == 1
