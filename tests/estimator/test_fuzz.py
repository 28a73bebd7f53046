"""Whatever is fed, nothing crashes and whatever leaves the estimator can be published."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.estimator import Estimator, TrackingState
from tests.estimator_cases import START_NS, Drive, KnownArtifact, assert_publishable, scene

MS = 1_000_000

STAMPS = st.one_of(
    st.integers(-(10**19), 10**19),
    st.integers(0, 3 * 10**9).map(lambda t: START_NS + t),
)
VALUES = st.one_of(
    st.lists(st.floats(), min_size=6, max_size=6),
    st.lists(st.floats(-30, 30), min_size=6, max_size=6),
    st.lists(st.floats(), max_size=8),
)
IMAGES = st.one_of(
    st.integers(0, 40).map(scene),
    st.integers(0, 255).map(lambda level: np.full((80, 256), level, np.uint8)),
    st.sampled_from([np.zeros((3, 3), np.uint8), np.zeros((80, 256)), scene(3)]),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("imu"), STAMPS, VALUES),
        st.tuples(st.just("image"), STAMPS, IMAGES),
        st.tuples(st.just("ask"), STAMPS, st.none()),
        st.tuples(st.just("drive"), st.integers(0, 20), st.none()),
        st.tuples(st.just("reset"), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_whatever_comes_in_nothing_crashes_and_all_that_leaves_is_publishable(events):
    estimator = Estimator(KnownArtifact())
    for kind, when, what in events:
        if kind == "imu":
            estimator.feed_imu(when, what)
        elif kind == "image":
            estimator.feed_image(when, what)
        elif kind == "drive":
            Drive(start_ns=START_NS + when * 200 * MS).run(estimator, 0.3)
        elif kind == "reset":
            estimator.reset()
        elif (estimate := estimator.estimate(when)) is not None:
            assert_publishable(estimate)
        assert len(estimator.events()) <= 64


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_random_dropouts_keep_the_chain_whole_and_recover(data):
    missing_image = set(data.draw(st.lists(st.integers(5, 29), max_size=20)))
    missing_imu = set(data.draw(st.lists(st.integers(0, 299), max_size=150)))
    dark = set(data.draw(st.lists(st.integers(5, 29), max_size=10)))
    spoil = lambda k, image: image // 16 if k in dark else image  # noqa: E731
    drive = Drive(without_image=missing_image, without_imu=missing_imu, images=spoil)
    estimates = drive.run(Estimator(KnownArtifact()), 4.0)
    for earlier, later in itertools.pairwise(estimates):
        assert later.earlier_stamp_ns == earlier.stamp_ns
    assert all(
        e.state is TrackingState.TRACKING for e in estimates if e.stamp_ns > START_NS + 3200 * MS
    )
