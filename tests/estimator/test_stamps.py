import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_vio.conventions import NS_PER_S
from bayes_vio.estimator import Estimator, EstimatorSettings, TrackingState
from bayes_vio.estimator.missing_samples import MissingSamples
from bayes_vio.estimator.stamps import StampFault, StampGate
from tests.estimator_cases import START_NS, Drive, KnownArtifact, scene

MS = 1_000_000
LAST_NS = 10 * NS_PER_S
HOUR_NS = 3600 * NS_PER_S


def gate_after(last_ns: int = LAST_NS, now_ns: int | None = None) -> StampGate[str]:
    gate: StampGate[str] = StampGate(0.5, 3)
    if now_ns is not None:
        gate.observe(now_ns)
    assert gate.take(last_ns, "last").items == [(last_ns, "last")]
    return gate


def faults(passage) -> list[StampFault]:
    return [f.fault for f in passage.faults]


@pytest.mark.parametrize(
    ("stamp_ns", "fault"),
    [
        (0, StampFault.INVALID),
        (-5, StampFault.INVALID),
        (1 << 62, StampFault.INVALID),
        (float("nan"), StampFault.INVALID),
        (LAST_NS, StampFault.DUPLICATE),
        (LAST_NS - 1, StampFault.BACKWARDS),
        (LAST_NS - 500 * MS, StampFault.BACKWARDS),
    ],
)
def test_a_stamp_out_of_order_is_left_out_and_named(stamp_ns, fault):
    passage = gate_after().take(stamp_ns, "bad")
    assert (passage.items, faults(passage)) == ([], [fault])
    assert passage.faults[0].last_ns == LAST_NS


def test_the_first_stamp_may_be_any_and_the_next_may_step_by_the_jump():
    assert gate_after(1).take(1 + 500 * MS, "next").items == [(1 + 500 * MS, "next")]


@pytest.mark.parametrize(
    ("stray_ns", "fault"),
    [
        (LAST_NS + HOUR_NS, StampFault.AHEAD),
        (LAST_NS + 24 * 365 * HOUR_NS, StampFault.AHEAD),
        (1, StampFault.BACKWARDS),
    ],
)
def test_one_stamp_far_off_is_left_out_once_the_stream_goes_on(stray_ns, fault):
    gate = gate_after()
    for _ in range(4):  # strays that do not go on from one another never add up
        held = gate.take(stray_ns, "stray")
        assert not held.items
        assert StampFault.JUMP not in faults(held)
    passage = gate.take(LAST_NS + 10 * MS, "next")
    assert passage.items == [(LAST_NS + 10 * MS, "next")]
    assert faults(passage) == [fault]


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -5 * NS_PER_S])
def test_a_clock_that_jumps_is_followed_from_its_first_message_on(jump_ns):
    gate = gate_after()
    stamps = [LAST_NS + jump_ns + k * 10 * MS for k in range(5)]
    passages = [gate.take(stamp_ns, str(stamp_ns)) for stamp_ns in stamps]
    assert [len(p.items) for p in passages] == [0, 0, 3, 1, 1]
    assert [stamp_ns for p in passages for stamp_ns, _ in p.items] == stamps
    assert [p.went_back for p in passages] == [False, False, jump_ns < 0, False, False]
    assert [f for p in passages for f in faults(p)] == [StampFault.JUMP]


def test_a_silence_that_the_clock_has_seen_is_no_jump():
    gate = gate_after(now_ns=5)
    gate.observe(5 + 2 * NS_PER_S)
    assert len(gate.take(LAST_NS + 2400 * MS, "after the gap").items) == 1
    late = gate_after(now_ns=5)  # the message comes before the clock is asked again
    assert not late.take(LAST_NS + 2050 * MS, "after the gap").items
    assert len(late.observe(5 + 2 * NS_PER_S).items) == 1


def test_a_slow_camera_that_jumps_back_is_followed():
    gate = gate_after(now_ns=0)
    passed = []
    for k in range(3):  # 1 Hz
        gate.observe((k + 1) * NS_PER_S)
        passed += gate.take(NS_PER_S + k * NS_PER_S, str(k)).items
    assert len(passed) == 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(-5, 40), st.integers(-(10**7), 10**7)), max_size=60))
def test_stamps_that_pass_rise_unless_the_clock_went_back(tenths):
    gate: StampGate[int] = StampGate(0.5, 3)
    last_ns, taken, passed, left_out = 0, 0, 0, 0
    for step in tenths:
        stamp_ns = LAST_NS + step * 100 * MS
        passage = gate.take(stamp_ns, stamp_ns)
        taken += 1
        if passage.went_back:
            last_ns = 0
        for stamp_ns, item in passage.items:
            assert stamp_ns == item > last_ns
            last_ns = stamp_ns
        passed += len(passage.items)
        left_out += sum(f is not StampFault.JUMP for f in faults(passage))
    assert taken == passed + left_out + len(gate.reset())  # every message is accounted for


@pytest.mark.parametrize("ahead_ns", [600 * MS, HOUR_NS, 24 * 365 * HOUR_NS, -HOUR_NS])
@pytest.mark.parametrize("stream", ["imu", "image"])
def test_one_message_of_another_time_changes_nothing(stream, ahead_ns):
    estimator, drive = Estimator(KnownArtifact()), Drive()
    before = drive.run(estimator, 1.0)
    stray_ns = START_NS + 1000 * MS + ahead_ns
    if stream == "imu":
        estimator.feed_imu(stray_ns, drive.sample(0))
    else:
        estimator.feed_image(stray_ns, scene(3))
    estimates = before + drive_on(estimator, drive, 1.0, 3.0)
    undisturbed = Drive().run(Estimator(KnownArtifact()), 3.0)
    assert [e.stamp_ns for e in estimates] == [e.stamp_ns for e in undisturbed]
    assert {e.state for e in estimates} == {TrackingState.TRACKING}
    np.testing.assert_array_equal(estimates[-1].odom_cov, undisturbed[-1].odom_cov)
    side = "ahead" if ahead_ns > 0 else "backwards"
    assert estimator.counters == {f"{stream}_stamp_{side}": 1}


def drive_on(estimator, drive, start_s, end_s, shift_ns=0):
    """Go on with a drive; shift_ns is added to all stamps, not to the clock."""
    estimates = []
    for time_ns, kind, index in drive.events(end_s):
        if time_ns <= start_s * NS_PER_S:
            continue
        stamp_ns = START_NS + time_ns + shift_ns
        if kind == 0:
            estimator.feed_imu(stamp_ns, drive.sample(index))
        else:
            estimator.feed_image(stamp_ns, scene(index))
        if (estimate := estimator.estimate(START_NS + time_ns)) is not None:
            estimates.append(estimate)
    return estimates


@pytest.mark.parametrize("shift_ns", [HOUR_NS, -HOUR_NS])
def test_a_clock_that_jumps_is_followed_within_a_few_frames(shift_ns):
    estimator, drive = Estimator(KnownArtifact()), Drive()
    drive.run(estimator, 1.0)
    after = drive_on(estimator, drive, 1.0, 3.0, shift_ns)
    tracked = [e for e in after if e.state is TrackingState.TRACKING]
    assert tracked[0].stamp_ns - shift_ns <= START_NS + 1500 * MS
    assert tracked == after[-len(tracked) :]
    assert estimator.counters["imu_stamp_jump"] == 1
    # Back, the odometry starts anew; ahead, an hour has passed in which the car may be anywhere.
    assert estimator.counters["reset"] == (1 if shift_ns < 0 else 0)
    std_m = np.sqrt(after[-1].odom_cov[0, 0])
    assert std_m < 1.0 if shift_ns < 0 else std_m > 1e4


def test_images_that_jump_with_the_imu_lose_no_frame():
    estimator, drive = Estimator(KnownArtifact()), Drive()
    drive.run(estimator, 1.0)
    estimator.feed_image(START_NS - HOUR_NS, scene(0))  # the image comes first, and waits
    assert estimator.estimate(START_NS + 1001 * MS) is None
    again = Drive(start_ns=START_NS - HOUR_NS + 1)
    estimates = []
    for time_ns, kind, index in again.events(0.4):
        if kind == 0:
            estimator.feed_imu(again.start_ns + time_ns, again.sample(index))
        elif index:
            estimator.feed_image(START_NS - HOUR_NS + time_ns, scene(index))
        if (estimate := estimator.estimate(START_NS + 1002 * MS + time_ns)) is not None:
            estimates.append(estimate)
    assert [e.stamp_ns for e in estimates][:2] == [
        START_NS - HOUR_NS + k * 100 * MS for k in (1, 2)
    ]
    assert {e.state for e in estimates} == {TrackingState.TRACKING}


def test_samples_that_never_came_are_counted():
    rng = np.random.default_rng(0)
    stamps = START_NS + np.arange(4000) * 2_500_000
    lost = rng.choice(np.arange(200, 3900), 150, replace=False)
    watch = MissingSamples(silence_s=0.5)
    assert sum(watch.add(int(s)) for s in np.delete(stamps, lost)) == 150
    assert watch.add(int(stamps[-1]) + NS_PER_S) == 0  # a silence, told otherwise


def test_jitter_and_packets_are_no_losses():
    stamps = np.cumsum(np.tile([100_000, 4_900_000], 1000)) + START_NS
    stamps += np.random.default_rng(1).integers(0, 500_000, len(stamps))
    watch = MissingSamples(silence_s=0.5)
    assert sum(watch.add(int(s)) for s in np.sort(stamps)) == 0


def test_the_estimator_tells_lost_samples():
    estimator = Estimator(KnownArtifact())
    Drive(without_imu={150, 151, 180}).run(estimator, 3.0)
    assert estimator.counters["imu_samples_missing"] == 3
    assert EstimatorSettings().stamp_jump_messages == 3
