"""While an image waits for IMU samples its flow is measured, once, and nothing else changes."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from bayes_vio.data.frames import FlowEstimator, ViewProjector
from bayes_vio.estimator import Estimator
from bayes_vio.estimator.intervals import IntervalBuilder
from tests.estimator_cases import START_NS, Drive, KnownArtifact, scene

PERIOD_NS = 10_000_000
FRAME_NS = 10 * PERIOD_NS


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Name every projection and every measurement of flow, in order."""
    made: list[str] = []

    def counted(name: str, function: Callable, *arguments):
        made.append(name)
        return function(*arguments)

    for owner, name in ((ViewProjector, "project"), (FlowEstimator, "__call__")):
        # A function, not a partial object: those do not bind to the instance.
        wrapped = partial(counted, name, getattr(owner, name))
        monkeypatch.setattr(owner, name, lambda *a, wrapped=wrapped: wrapped(*a))
    return made


def feed_imu(estimator: Estimator, stamps_ns: range) -> None:
    for stamp_ns in stamps_ns:
        estimator.feed_imu(stamp_ns, Drive().sample(0))


def test_flow_is_there_before_the_last_imu_sample(calls: list[str]) -> None:
    estimator = Estimator(KnownArtifact())  # pyright: ignore[reportArgumentType]
    end_ns = START_NS + FRAME_NS
    feed_imu(estimator, range(START_NS, end_ns, PERIOD_NS))
    estimator.feed_image(START_NS, scene(0))
    assert estimator.estimate(START_NS) is None
    estimator.feed_image(end_ns, scene(1))
    for later_ns in (0, 1, 2):
        assert estimator.estimate(end_ns + later_ns) is None
    assert calls == ["project", "project", "__call__"]
    feed_imu(estimator, range(end_ns, end_ns + 1))
    assert estimator.estimate(end_ns + 3) is not None
    assert calls == ["project", "project", "__call__"]


@pytest.mark.parametrize("offset_s", [0.0, 0.03, -0.02])
def test_estimates_are_those_without_looking_ahead(
    offset_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Drive(without_image={7, 8}, without_imu=range(55, 60))
    runs = []
    for ahead in (True, False):
        if not ahead:
            monkeypatch.setattr(IntervalBuilder, "look_ahead", lambda *_: None)
        artifact = KnownArtifact(time_offset_s=offset_s)
        estimates = drive.run(Estimator(artifact), 2.0)  # pyright: ignore[reportArgumentType]
        runs.append((estimates, artifact.asked))
    (with_it, seen), (without, also_seen) = runs
    assert [(e.stamp_ns, e.state, e.cause) for e in with_it] == [
        (e.stamp_ns, e.state, e.cause) for e in without
    ]
    for x, y in zip(seen, also_seen, strict=True):
        np.testing.assert_array_equal(x.flow, y.flow)
        np.testing.assert_array_equal(x.gray, y.gray)
