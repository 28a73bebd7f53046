# ruff: noqa: E402, the imports need what is skipped for
"""The filter's node as a process, over DDS: fed with messages, and behind the real estimator."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from geometry_msgs.msg import PoseWithCovarianceStamped, TwistWithCovarianceStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import NavSatFix
from std_srvs.srv import Trigger

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.consistency import nees
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.fusion import MotionFilter
from bayes_vio.filters.geodetic import LocalFrame
from bayes_vio.filters.measurements import TwistMeasurement
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.ros.messages import (
    FrameNames,
    pose_and_right_cov,
    pose_with_covariance,
    stamp_ns_of,
    time_of,
    twist,
)
from bayes_vio.ros.player import PlaySettings, play
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from tests.filters.ekf_cases import EPISTEMIC_COV, NOISE_COV, STEP_NS, exp, right_error
from tests.motion_cases import tiny_artifact
from tests.ros.live import Client, EkfProcess, EstimatorProcess, status_of, wait_until

APART = ("-r", "__ns:=/apart")
TURN = np.array([8.0, 0, 0, 0, 0, 0.1])
CORRELATION = NoiseCorrelation((0.5,) * 6, (0.2, 0, 0, 0, 0, 0.1))  # of tiny_artifact


class Feeder(Client):
    """Publishes what the estimator would, and keeps what the filter publishes."""

    def __init__(self, namespace: str = "") -> None:
        super().__init__(namespace, target="ekf")
        self._name = f"{namespace}/ekf: filter"
        create = self.node.create_publisher
        self.twist = create(TwistWithCovarianceStamped, "twist", 100)
        self.epistemic = create(TwistWithCovarianceStamped, "twist/epistemic", 100)
        self.fix = create(NavSatFix, "fix", 100)
        self.fix_odometry = create(Odometry, "fix_odometry", 100)
        self.filtered: list[Odometry] = []
        self.node.create_subscription(Odometry, "filtered/odometry", self.filtered.append, 1000)

    def connect(self) -> None:
        wait_until(lambda: self.twist.get_subscription_count() > 0, 90.0)
        wait_until(lambda: self.epistemic.get_subscription_count() > 0, 90.0)
        wait_until(lambda: self.node.count_publishers("filtered/odometry") > 0, 90.0)
        time.sleep(0.3)

    def send(self, stamp_ns: int, mean=TURN, cov=None, epistemic_cov=EPISTEMIC_COV) -> None:
        frames = FrameNames()
        self.epistemic.publish(twist(TURN, epistemic_cov, stamp_ns, frames))
        message = twist(np.nan_to_num(mean), NOISE_COV + EPISTEMIC_COV, stamp_ns, frames)
        message.twist.twist.linear.x = float(mean[0])
        if cov is not None:
            message.twist.covariance = cov.reshape(36)
        self.twist.publish(message)

    def drive(self, n: int, start_ns: int) -> int:
        """Send n twists, and return the last one's stamp once the filter has answered it."""
        for k in range(n):
            self.send(start_ns + k * STEP_NS)
            time.sleep(0.004)
        last_ns = start_ns + (n - 1) * STEP_NS
        self.wait_for_filtered(last_ns)
        return last_ns

    def wait_for_filtered(self, stamp_ns: int, timeout_s: float = 10.0) -> Odometry:
        wait_until(lambda: self.filtered and stamp(self.filtered[-1]) == stamp_ns, timeout_s)
        return self.filtered[-1]

    def status(self) -> dict:
        """Return the second diagnostics from now on: it has seen all that was sent before."""
        seen = self._statuses()
        wait_until(lambda: self._statuses() >= seen + 2, 30.0)
        status = status_of(self, self._name)
        assert status is not None
        return status

    def _statuses(self) -> int:
        texts = self.recorder.arrays().get("diagnostics_json", [])
        return sum(json.loads(str(text))["name"] == self._name for text in texts)


def stamp(message: Odometry) -> int:
    return stamp_ns_of(message.header.stamp)


@pytest.fixture
def feeder():
    feeder = Feeder()
    yield feeder
    feeder.close()


@pytest.fixture
def apart():
    """A feeder in a namespace of its own, away from the node that other tests share."""
    feeder = Feeder("/apart")
    yield feeder
    feeder.close()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


@pytest.fixture(scope="module")
def running(artifact, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "ekf.txt"
    with EkfProcess(log, {"artifact": artifact, "rejections_max": 5}) as node:
        yield node


@pytest.fixture
def fed(running, feeder):
    feeder.connect()
    assert feeder.call(Trigger, "reset", Trigger.Request()).success
    return feeder


def test_it_publishes_what_the_filter_without_ros_says(fed):
    start_ns = time.time_ns()
    motion = MotionFilter(EkfSettings(1.0, CORRELATION))
    last_ns = fed.drive(30, start_ns)
    for k in range(30):
        stamp_ns = start_ns + k * STEP_NS
        motion.feed(TwistMeasurement(stamp_ns, TURN, NOISE_COV, EPISTEMIC_COV))
    message, state = fed.wait_for_filtered(last_ns), motion.state
    assert state is not None
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    T, cov = pose_and_right_cov(message.pose)
    np.testing.assert_allclose(T, state.T_world_base, atol=1e-9)
    np.testing.assert_allclose(cov, state.pose_cov, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(
        np.reshape(message.twist.covariance, (6, 6)), state.twist_cov, rtol=1e-6, atol=1e-12
    )
    assert message.twist.twist.linear.x == pytest.approx(state.twist[0])
    assert len(fed.filtered) == 30


def test_what_cannot_be_used_is_left_out_counted_and_told(fed, running):
    start_ns = time.time_ns()
    last_ns = fed.drive(30, start_ns)
    before = fed.filtered[-1]
    bad = (NOISE_COV + EPISTEMIC_COV).copy()
    bad[2, 2] = -1.0
    fed.send(last_ns + STEP_NS, mean=np.full(6, np.nan))
    fed.send(last_ns + STEP_NS, cov=bad)
    fed.send(last_ns + STEP_NS, cov=EPISTEMIC_COV / 2)  # less than its own epistemic part
    fed.send(last_ns + STEP_NS, cov=np.full((6, 6), np.nan))
    fed.send(last_ns - 100 * STEP_NS)  # in the past
    fed.send(last_ns + 3600 * NS_PER_S)  # far ahead
    wrong = twist(TURN, NOISE_COV, last_ns + STEP_NS, FrameNames(base="wheel"))
    fed.twist.publish(wrong)
    pose = PoseWithCovarianceStamped()
    pose.header.frame_id = "map"
    fed.set_pose.publish(pose)  # an all-zero quaternion and covariance
    status = fed.status()["values"]
    assert status["dropped, twist_unusable"] == "4"
    assert status["dropped, twist_frame"] == "1"
    assert status["dropped, set_pose"] == "1"
    assert int(status["twist late"]) >= 1
    assert int(status["twist ahead"]) >= 1
    assert stamp(fed.filtered[-1]) == stamp(before)
    assert running.process.poll() is None
    for cause in ("six finite numbers", "far ahead", "in frame 'wheel'"):
        assert cause in running.log
    # Good data go on as if nothing had been.
    after_ns = fed.drive(30, last_ns + STEP_NS)
    T, _ = pose_and_right_cov(fed.wait_for_filtered(after_ns).pose)
    np.testing.assert_allclose(T, exp(5.9 * TURN), atol=0.05)


def test_outliers_are_gated_and_a_gap_is_bridged(fed):
    start_ns = time.time_ns()
    last_ns = fed.drive(30, start_ns)
    _, before = pose_and_right_cov(fed.filtered[-1].pose)
    fed.send(last_ns + STEP_NS, mean=TURN + np.array([300.0, 0, 0, 0, 0, 0]))
    last_ns = fed.drive(20, last_ns + 2 * STEP_NS)
    assert fed.filtered[-1].twist.twist.linear.x == pytest.approx(8, abs=0.1)
    for k in range(5):  # a gap of a minute, confirmed after three messages
        fed.send(last_ns + 60 * NS_PER_S + k * STEP_NS)
        time.sleep(0.01)
    fed.wait_for_filtered(last_ns + 60 * NS_PER_S + 4 * STEP_NS)
    _, after = pose_and_right_cov(fed.filtered[-1].pose)
    assert np.sqrt(after[0, 0]) > 1000
    assert np.linalg.slogdet(after)[1] > np.linalg.slogdet(before)[1]
    values = fed.status()["values"]
    assert int(values["twist gated"]) >= 1
    assert int(values["twist followed"]) >= 1
    low, high = (float(v) for v in values["twist NIS / 6 band (95 %)"].split(" to "))
    assert low < 1 < high
    assert float(values["twist NIS / 6"]) < high


def test_set_pose_is_gone_on_from(fed):
    start_ns = time.time_ns()
    last_ns = fed.drive(20, start_ns)
    T, cov = exp([100.0, -50, 2, 0, 0, 1.0]), np.diag([0.3, 0.1, 0.2, 0.01, 0.02, 0.03]) ** 2
    message = PoseWithCovarianceStamped(pose=pose_with_covariance(T, cov))
    message.header.frame_id = "map"
    fed.set_pose.publish(message)
    time.sleep(0.5)
    last_ns = fed.drive(1, last_ns + STEP_NS)
    found, found_cov = pose_and_right_cov(fed.wait_for_filtered(last_ns).pose)
    np.testing.assert_allclose(found, T @ exp(0.1 * TURN), atol=0.05)
    np.testing.assert_allclose(np.sqrt(found_cov[2, 2]), 0.2, rtol=0.1)


def test_a_twist_without_its_epistemic_part_is_told(running, fed):
    for k in range(5):
        fed.twist.publish(twist(TURN, NOISE_COV, time.time_ns() + k * STEP_NS, FrameNames()))
    status = fed.status()
    assert "twist/epistemic does not" in status["message"]
    assert not fed.filtered


def test_fixes_turn_the_pose_into_their_frame(artifact, apart, tmp_path):
    """NavSatFix of a car that drives north-west, found by position alone."""
    local, rng = LocalFrame(49.0, 8.4, 120.0), np.random.default_rng(0)
    T_enu_odom = exp([0, 0, 0, 0, 0, 2.3])
    parameters = {"artifact": artifact, "use_fixes": True, "fix_unknown_std_m": 0.5}
    with EkfProcess(tmp_path / "ekf.txt", parameters, *APART) as node:
        apart.connect()
        wait_until(lambda: apart.fix.get_subscription_count() > 0, 10.0)
        start_ns, n = time.time_ns(), 150
        place = NavSatFix(latitude=49.0, longitude=8.4, altitude=120.0)
        for k in range(n):
            stamp_ns = start_ns + k * STEP_NS
            apart.send(stamp_ns)
            time.sleep(0.004)
            if k % 5 == 0:
                at = (T_enu_odom @ exp(k * 0.1 * TURN))[:3, 3] + 0.5 * rng.normal(size=3)
                fix = nav_sat(local, at, stamp_ns)
                apart.fix.publish(fix)
            time.sleep(0.004)
        assert apart.status()["message"] == "filtering"
        T, cov = pose_and_right_cov(apart.wait_for_filtered(start_ns + (n - 1) * STEP_NS).pose)
        error = right_error(T, T_enu_odom @ exp((n - 1) * 0.1 * TURN))
        assert len(apart.filtered) < n  # none before the heading was known
        assert np.linalg.norm(error[:3]) < 1.5  # the first fix, 0.9 m off, is the origin
        assert abs(error[5]) < 4 * np.sqrt(cov[5, 5])
        assert np.sqrt(cov[5, 5]) < 0.1
        place.status.status = -1
        apart.fix.publish(place)
        outside = Odometry()
        outside.header.frame_id = "odom"
        apart.fix_odometry.publish(outside)
        values = apart.status()["values"]
        assert values["dropped, fix_absent"] == "1"
        assert values["dropped, fix_frame"] == "1"
        assert node.interrupt() == 0


def nav_sat(local: LocalFrame, position: np.ndarray, stamp_ns: int) -> NavSatFix:
    """Return the fix at a position of a local frame, by Newton's method on its own inverse."""
    place = np.array([49.0, 8.4, 120.0])
    steps = np.diag([1e-5, 1e-5, 1.0])
    for _ in range(4):
        here = local.position(*place)
        J = np.stack([(local.position(*(place + s)) - here) / s.sum() for s in steps], axis=1)
        place = place + np.linalg.solve(J, position - here)
    message = NavSatFix(latitude=place[0], longitude=place[1], altitude=place[2])
    message.header.stamp = time_of(stamp_ns)
    return message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gate_probability", "2.0", "gate_probability: must lie in"),
        ("artifact", "/nowhere", "no artifact at /nowhere"),
    ],
)
def test_what_it_cannot_start_with_is_named(tmp_path, name, value, said):
    with EkfProcess(tmp_path / "ekf.txt", {name: value}) as node:
        assert node.process.wait(90) == 2
    assert "cannot start" in node.log
    assert said in node.log
    assert "Traceback" not in node.log


def test_a_bag_replayed_through_estimator_and_filter(apart, tmp_path):
    """Images and IMU over DDS, two processes, and the truth: errors are as large as said."""
    bag = tmp_path / "drive"
    drive = DriveSettings(duration_s=4.0, max_speed_m_s=12.0)
    simulate(bag, SimulationSettings(seed=30_900, drive=drive))
    parameters = {"camera_source": "camera_info", "device": "cpu"}
    with (
        EstimatorProcess(tmp_path / "estimator.txt", parameters, *APART) as estimator,
        EkfProcess(tmp_path / "ekf.txt", {}, *APART),
    ):
        apart.connect()
        wait_until(lambda: apart.node.count_subscribers("image") > 0, 60.0)
        time.sleep(1.0)
        remap = {"ground_truth/odometry": "reference"}
        play(apart.node, bag, PlaySettings(remap=remap), keep_on=lambda: True)
        time.sleep(1.0)
        recorded = apart.recorder.arrays()
        filtered = list(apart.filtered)
    assert "twist_stamp_ns" in recorded, estimator.log
    assert len(filtered) > 0.8 * len(recorded["twist_stamp_ns"]) > 8  # fewer under load
    stamps = np.array([stamp(m) for m in filtered])
    assert set(stamps) <= set(recorded["twist_stamp_ns"].tolist())
    reference = dict(
        zip(recorded["reference_stamp_ns"].tolist(), recorded["reference_T"], strict=True)
    )
    known = np.array(sorted(reference))
    first = known[np.argmin(np.abs(known - stamps[0]))]
    errors, covs = [], []
    for message in filtered[len(filtered) // 5 :]:
        near = known[np.argmin(np.abs(known - stamp(message)))]
        T, cov = pose_and_right_cov(message.pose)
        v = message.twist.twist.linear.x
        true = np.linalg.solve(reference[first], reference[near])
        apart_s = abs(near - stamp(message)) / NS_PER_S + abs(first - stamps[0]) / NS_PER_S
        error = right_error(T, true)
        assert abs(error[0]) < 4 * np.sqrt(cov[0, 0]) + apart_s * abs(v) + 0.05
        errors.append(error[[1, 5]])
        covs.append(cov[np.ix_([1, 5], [1, 5])])
    assert np.median(nees(np.stack(errors), np.stack(covs))) < 20
    moved = np.linalg.norm(pose_and_right_cov(filtered[-1].pose)[0][:3, 3])
    assert moved > 0.3
