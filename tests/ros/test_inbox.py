# ruff: noqa: E402, the imports need what is skipped for
"""The letter box between threads, the reference monitor, counts and rate-limited lines."""

import time
from threading import Thread

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.geometry import se3
from bayes_vio.ros.diagnostics import Telemetry, diagnostic_array, level_of, nees_values
from bayes_vio.ros.inbox import NEVER_NS, Inbox
from bayes_vio.ros.reference import ReferenceMonitor
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog

SAMPLE = (0.0, 0.0, 9.8, 0.0, 0.0, 0.1)


def test_a_third_image_overtakes_two_and_samples_do_not():
    inbox = Inbox(backlog=2)
    for k in range(300):
        inbox.put_imu(k, SAMPLE)
    for name in ("first", "second", "third"):
        inbox.put_image(name)
        inbox.put_imu(300 + len(name), SAMPLE)
    delivery = inbox.take(0.0)
    assert [stamp for stamp, _ in delivery.imu] == [*range(300), 305, 306, 305]
    assert (delivery.image, delivery.skipped_images) == ("third", 2)
    assert delivery.samples_before_image == 302
    empty = inbox.take(0.0)
    assert (len(empty.imu), empty.image, empty.skipped_images) == (0, None, 0)


def test_two_images_come_one_after_the_other_with_their_samples():
    inbox = Inbox()
    inbox.put_imu(1, SAMPLE)
    inbox.put_image("first")
    inbox.put_imu(2, SAMPLE)
    inbox.put_image("second")
    inbox.put_imu(3, SAMPLE)
    first, second, rest = (inbox.take(0.0) for _ in range(3))
    assert ([s for s, _ in first.imu], first.image, first.samples_before_image) == (
        [1, 2], "first", 1,
    )  # fmt: skip
    assert ([s for s, _ in second.imu], second.image, second.samples_before_image) == (
        [3], "second", 0,
    )  # fmt: skip
    assert (first.skipped_images, second.skipped_images, bool(rest)) == (0, 0, False)


def test_a_reader_that_kept_up_works_off_what_came_while_it_was_held_up():
    inbox = Inbox(backlog=5)
    for k in range(5):
        inbox.put_image(k)
        inbox.put_imu(k, SAMPLE)
    taken = [inbox.take(0.0) for _ in range(5)]
    assert [d.image for d in taken] == [0, 1, 2, 3, 4]
    assert [[stamp for stamp, _ in d.imu] for d in taken] == [[0], [1], [2], [3], [4]]
    assert sum(d.skipped_images for d in taken) == 0


def test_after_a_backlog_that_is_too_long_only_two_may_wait_until_the_reader_is_idle():
    inbox = Inbox(backlog=4)
    for k in range(5):
        inbox.put_image(k)
    assert (inbox.take(0.0).image, inbox.take(0.0).image) == (4, None)  # idle by now
    for k in range(5, 9):
        inbox.put_image(k)
    assert [inbox.take(0.0).image for _ in range(4)] == [5, 6, 7, 8]
    for k in range(9, 14):
        inbox.put_image(k)
    inbox.put_image(14)  # behind 13, which overtook; not idle since
    inbox.put_image(15)
    last = inbox.take(0.0)
    assert (last.image, last.skipped_images) == (15, 6)


def test_a_backlog_that_is_not_worked_off_in_time_is_overtaken(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr("bayes_vio.ros.inbox.time.monotonic", lambda: now_s)
    inbox, taken, skipped = Inbox(backlog=30), [], 0
    for k in range(120):  # the reader takes one in two
        inbox.put_image(k)
        now_s += 1 / 30
        if k % 2:
            delivery = inbox.take(0.0)
            taken.append(delivery.image)
            skipped += delivery.skipped_images
    assert skipped > 20
    assert taken == sorted(taken)
    # In the long run it is the newest that is read: none older than two intervals.
    assert all(k >= 2 * n for n, k in enumerate(taken[-15:], len(taken) - 15))


def test_a_reader_that_keeps_up_again_has_skipped_nothing_more():
    inbox, seen = Inbox(backlog=2), []
    for k in range(7):
        inbox.put_image(k)
        if k % 2:
            seen.append(inbox.take(0.0))
    while (delivery := inbox.take(0.0)).image is not None:
        seen.append(delivery)
    images = [d.image for d in seen]
    assert images == sorted(images)
    assert images[-1] == 6
    assert len(images) + sum(d.skipped_images for d in seen) == 7


def test_a_sample_wakes_the_reader_only_from_the_awaited_stamp_on():
    inbox = Inbox()
    inbox.put_imu(1, SAMPLE)
    start_s = time.monotonic()
    assert len(inbox.take(0.05).imu) == 1
    assert time.monotonic() - start_s >= 0.05
    inbox.wake_from(10)
    inbox.put_imu(9, SAMPLE)
    Thread(target=lambda: (time.sleep(0.05), inbox.put_imu(10, SAMPLE))).start()
    start_s = time.monotonic()
    assert [stamp for stamp, _ in inbox.take(5.0).imu] == [9, 10]
    assert time.monotonic() - start_s < 2.0
    inbox.put_imu(20, SAMPLE)  # comes while the reader is still busy
    inbox.wake_from(15)
    start_s = time.monotonic()
    assert len(inbox.take(5.0).imu) == 1
    assert time.monotonic() - start_s < 2.0
    inbox.wake_from(NEVER_NS)
    inbox.put_imu(2**61, SAMPLE)
    start_s = time.monotonic()
    assert len(inbox.take(0.05).imu) == 1
    assert time.monotonic() - start_s >= 0.05


def test_the_order_of_samples_and_image_is_kept():
    inbox = Inbox()
    for k in range(3):
        inbox.put_imu(k, SAMPLE)
    inbox.put_image("image")
    inbox.put_imu(3, SAMPLE)
    delivery = inbox.take(0.0)
    assert (delivery.samples_before_image, len(delivery.imu)) == (3, 4)


def test_a_command_wakes_the_reader_and_keeps_its_place():
    inbox, called = Inbox(), []
    inbox.put_command(lambda: called.append(1))
    for command in inbox.take(5.0).commands:
        command()
    assert called == [1]


def circle(stamp_ns: int) -> np.ndarray:
    """Return the pose of a car on a circle, 8 m/s and 0.2 rad/s."""
    xi = torch.tensor([8.0, 0, 0, 0, 0, 0.2], dtype=torch.float64) * stamp_ns * 1e-9
    return se3.exp(xi).numpy()


def increment(start_ns: int, end_ns: int, error: np.ndarray, std: np.ndarray) -> MotionEstimate:
    """Return an estimate whose right error is ``error`` and whose covariance is diag(std^2)."""
    T_true = np.linalg.solve(circle(start_ns), circle(end_ns))
    T = T_true @ se3.exp(torch.from_numpy(-error)).numpy()
    cov = np.diag(std**2)
    return MotionEstimate(
        start_ns, end_ns, (end_ns - start_ns) * 1e-9, T, 0.25 * cov, 0.75 * cov,
        TrackingState.TRACKING, "", circle(end_ns), cov,
    )  # fmt: skip


STD = np.array([0.1, 0.05, 0.05, 0.01, 0.01, 0.02])


def test_the_online_nees_is_that_of_the_errors():
    monitor = ReferenceMonitor(window=100, max_gap_s=0.3)
    rng, errors = np.random.default_rng(0), []
    for k in range(60):
        errors.append(rng.normal(size=6) * STD)
        monitor.add_estimate(increment(k * 10**8 + 3, (k + 1) * 10**8 + 3, errors[-1], STD))
    for k in range(120):  # 20 Hz, and a circle at constant twist is a geodesic: no error added
        monitor.add_reference(k * 5 * 10**7, circle(k * 5 * 10**7))
    judged = [e for k, e in enumerate(errors) if (k + 1) * 10**8 + 3 <= 119 * 5 * 10**7]
    assert len(monitor.window) == len(judged) == 59
    expected = np.mean([np.sum((e / STD) ** 2) for e in judged])
    assert monitor.window.mean == pytest.approx(expected, rel=1e-6)
    values = nees_values(monitor.window)
    assert float(values["NEES / 6"]) == pytest.approx(expected / 6, abs=1e-3)
    assert values["NEES consistent"] == "True"


def test_the_reference_is_not_interpolated_over_a_gap_or_beyond_its_end():
    monitor = ReferenceMonitor(window=10, max_gap_s=0.3)
    monitor.add_reference(10**8, circle(10**8))
    monitor.add_reference(10**9, circle(10**9))
    for stamp_ns in (10**8 - 1, 5 * 10**8, 10**9 + 1):
        assert monitor.pose_at(stamp_ns) is None
    np.testing.assert_array_equal(monitor.pose_at(10**9), circle(10**9))
    monitor.add_estimate(increment(10**8, 5 * 10**8, np.zeros(6), STD))
    assert len(monitor.window) == 0


def test_a_reference_that_starts_again_is_taken_anew():
    monitor = ReferenceMonitor(window=10, max_gap_s=0.3)
    for _ in range(2):
        for k in range(10):
            monitor.add_reference(k * 10**8, circle(k * 10**8))
        assert monitor.pose_at(10**9) is None
        np.testing.assert_allclose(monitor.pose_at(5 * 10**7), circle(5 * 10**7), atol=1e-12)


def test_diagnostics_say_level_rates_latency_and_causes():
    telemetry = Telemetry()
    telemetry.counts["imu"] += 400
    for latency_s in np.linspace(0.01, 0.02, 101):
        telemetry.add_latency(latency_s)
    telemetry.refused["image_undecodable"] += 3
    values = telemetry.values()
    assert values["dropped, image_undecodable"] == "3"
    assert values["imu count"] == "400"
    assert float(values["imu rate (Hz)"]) > 0
    assert float(values["latency mean (s)"]) == pytest.approx(0.015, abs=1e-4)
    assert float(values["latency p99 (s)"]) == pytest.approx(0.0199, abs=1e-4)
    assert telemetry.rates_hz()["imu"] == 0
    level = level_of(TrackingState.DEGRADED)
    message = diagnostic_array(1_500_000_000, "/estimator: motion", level, "degraded", values)
    assert message.header.stamp.nanosec == 500_000_000
    assert message.status[0].level == b"\x01"
    assert {v.key for v in message.status[0].values} == set(values)


class Lines:
    def __init__(self):
        self.lines = []

    def warning(self, text):
        self.lines.append(text)

    error = info = warning


def test_every_change_of_state_is_told_and_a_flickering_one_in_the_end():
    lines = Lines()
    log = ChangeLog(lines, "waiting", burst=3, period_s=0.1)
    for state, cause in (("waiting", ""), ("tracking", ""), ("tracking", ""), ("lost", "no imu")):
        log.see(state, cause)
    assert lines.lines == ["state waiting -> tracking", "state tracking -> lost: no imu"]
    for k in range(11):
        log.see("lost" if k % 2 else "tracking", "flicker" if k % 2 else "")
    assert len(lines.lines) == 3
    log.see("degraded", "dark")  # news
    assert lines.lines[3:] == ["state tracking -> degraded (11 changes): dark"]
    log.see("lost", "dark")
    time.sleep(0.11)
    log.see("lost", "dark")
    assert lines.lines[4:] == ["state degraded -> lost: dark"]


def test_a_cause_is_told_once_per_period_with_its_count():
    lines = Lines()
    log = ThrottledLog(lines, period_s=0.05)
    for _ in range(10):
        log.warn("nan", "NaN in imu")
        log.error("empty", "empty JPEG")
    assert lines.lines == ["NaN in imu", "empty JPEG"]
    time.sleep(0.06)
    log.warn("nan", "NaN in imu")
    assert lines.lines[-1] == "NaN in imu (9 more since the last such line)"
