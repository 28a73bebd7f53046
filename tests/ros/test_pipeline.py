# ruff: noqa: E402, the imports need what is skipped for
"""Outputs and the pipeline with a stand-in node: tf, stamps, frames, refusals."""

import sys
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.estimator.tracking import MotionEstimate, TrackingState
from bayes_vio.filters.covariance import CovarianceError
from bayes_vio.ros.diagnostics import Telemetry
from bayes_vio.ros.messages import MeanTwist, quaternion_of, stamp_ns_of, unpacked
from bayes_vio.ros.outputs import Outputs
from bayes_vio.ros.parameters import CalibrationSource, NodeParameters, TwistStamp
from bayes_vio.ros.pipeline import Pipeline
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog
from bayes_vio.ros.worker import Surroundings
from tests.motion_cases import tiny_artifact
from tests.ros.live import camera_info_message, image_message, imu_message, wire
from tests.ros.test_ros_calibration import Transforms

NOW_NS = 1_700_000_000_000_000_000


class Topics:
    """Stands for the node: what was published, by topic."""

    def __init__(self):
        self.sent: dict[str, list] = {}

    def create_lifecycle_publisher(self, kind, topic, depth):
        sent = self.sent.setdefault(topic, [])
        return SimpleNamespace(publish=sent.append, kind=kind)

    def destroy_lifecycle_publisher(self, publisher):
        pass


class Lines:
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)

    warning = error = info


def estimate() -> MotionEstimate:
    T = np.eye(4)
    T[0, 3] = 0.8
    cov = np.diag([0.03, 0.02, 0.02, 0.001, 0.001, 0.002]) ** 2
    return MotionEstimate(
        NOW_NS, NOW_NS + 10**8, 0.1, T, 0.2 * cov, 0.8 * cov, TrackingState.TRACKING, "", T, cov
    )


def test_one_estimate_goes_to_every_topic():
    topics = Topics()
    Outputs(topics, NodeParameters(base_frame="body", odom_frame="world")).publish(estimate())
    assert {name: len(sent) for name, sent in topics.sent.items()} == dict.fromkeys(
        ("odometry", "relative_pose", "twist", "twist/epistemic"), 1
    )
    whole, part = topics.sent["twist"][0], topics.sent["twist/epistemic"][0]
    np.testing.assert_allclose(whole.twist.covariance, 5 * part.twist.covariance)
    assert topics.sent["odometry"][0].header.frame_id == "world"
    assert whole.header.frame_id == "body"


def test_a_twist_taken_as_that_of_the_later_image_is_less_certain():
    topics = Topics()
    parameters = NodeParameters(
        twist_stamp=TwistStamp.LATER,
        acceleration_std_m_s2=4.0,
        angular_acceleration_std_rad_s2=0.6,
    )
    Outputs(topics, parameters).publish(estimate())
    twist = topics.sent["twist"][0]
    assert stamp_ns_of(twist.header.stamp) == NOW_NS + 10**8
    added = unpacked(twist.twist.covariance) - MeanTwist.of(estimate()).cov
    np.testing.assert_allclose(added, np.diag([0.2] * 3 + [0.03] * 3) ** 2, atol=1e-12)


def test_without_a_covariance_nothing_is_published():
    topics = Topics()
    outputs = Outputs(topics, NodeParameters())
    for bad in (np.full((6, 6), np.nan), np.zeros((6, 6)), -np.eye(6)):
        for field in ("odom_cov", "epistemic_cov"):
            with pytest.raises(CovarianceError):
                outputs.publish(replace(estimate(), **{field: bad}))
    assert not any(topics.sent.values())


def test_tf_is_published_where_it_is_asked_for_and_there(monkeypatch):
    sent, module = [], ModuleType("tf2_ros")
    module.TransformBroadcaster = lambda node: SimpleNamespace(sendTransform=sent.append)
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    Outputs(Topics(), NodeParameters()).publish(estimate())
    assert not sent
    Outputs(Topics(), NodeParameters(publish_tf=True)).publish(estimate())
    assert (sent[0].header.frame_id, sent[0].child_frame_id) == ("odom", "base_link")
    assert sent[0].transform.translation.x == 0.8
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with pytest.raises(ImportError, match="publish_tf needs tf2_ros"):
        Outputs(Topics(), NodeParameters(publish_tf=True))


@pytest.fixture(scope="module")
def artifact():
    return tiny_artifact()


@pytest.fixture
def piped(artifact):
    """Return a function that makes a pipeline, with its counts, log lines and topics."""
    pipelines = []

    def make(**parameters):
        telemetry, lines, topics = Telemetry(), Lines(), Topics()
        values = NodeParameters(**parameters)
        around = Surroundings(
            lambda: time.time_ns(),
            lambda: True,
            telemetry,
            ThrottledLog(lines),
            ChangeLog(lines, "waiting"),
        )
        pipeline = Pipeline(artifact, values, Outputs(topics, values), around)
        pipelines.append(pipeline)
        return SimpleNamespace(
            pipeline=pipeline,
            artifact=artifact,
            telemetry=telemetry,
            lines=lines.lines,
            topics=topics,
        )

    yield make
    for pipeline in pipelines:
        pipeline.stop()


def test_nothing_starts_before_the_calibration_is_complete(piped):
    p = piped()
    p.pipeline.on_imu(wire(imu_message(NOW_NS)))
    p.pipeline.on_image(image_message(NOW_NS, 0))
    level, summary, values = p.pipeline.status()
    assert (level, summary) == (b"\x01", "waiting: no camera_info yet")
    assert values["dropped, waiting_for_calibration"] == "2"
    assert not p.pipeline.reset()
    p.pipeline.on_camera_info(camera_info_message())
    assert p.pipeline.reset()
    assert p.pipeline.status()[2]["state"] == "waiting"
    other = camera_info_message()
    other.k[0] += 1
    p.pipeline.on_camera_info(other)
    assert p.telemetry.refused["camera_info_changed"] == 1


def test_an_input_that_does_not_come_beside_the_other_is_told(piped):
    """As where images are compressed and image_transport says raw."""
    p = piped(camera_source=CalibrationSource.ARTIFACT)
    assert p.pipeline.status()[1] == "waiting: no image and no imu yet"
    assert not p.lines  # the robot may not have started
    p.pipeline.on_imu(wire(imu_message(NOW_NS)))
    assert p.pipeline.status()[1] == "waiting: no image yet"
    assert any("no image yet: see its topic, its QoS, image_transport" in x for x in p.lines)


def test_images_that_cannot_be_used_are_told_while_waiting(piped):
    p = piped()
    info = camera_info_message()
    info.width, info.height = 2 * info.width, 2 * info.height
    p.pipeline.on_camera_info(info)
    p.pipeline.on_imu(wire(imu_message(NOW_NS)))
    p.pipeline.on_image(image_message(NOW_NS, 0))
    deadline_s = time.monotonic() + 20.0
    while not any("image_size" in line for line in p.lines) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert p.pipeline.status()[1] == "waiting: image_size"
    told = f"an image is {info.width // 2} x {info.height // 2}, but the calibration is for"
    assert any(told in line for line in p.lines)


def test_a_camera_that_sees_too_little_is_an_error_that_says_so(piped):
    p = piped()
    narrow = camera_info_message()
    narrow.k[0] = narrow.k[4] = 5000.0
    p.pipeline.on_camera_info(narrow)
    level, summary, _ = p.pipeline.status()
    assert level == b"\x02"
    assert "the camera sees" in summary
    assert any("the camera sees" in line for line in p.lines)


def test_extrinsics_from_tf_static_and_a_frame_without_a_transform(piped):
    p = piped(
        camera_source=CalibrationSource.ARTIFACT, extrinsics_source=CalibrationSource.TF_STATIC
    )
    e = p.artifact.extrinsics
    p.pipeline.on_tf_static(Transforms(("base_link", "imu_link", e.T_base_imu)))
    p.pipeline.on_imu(wire(imu_message(NOW_NS)))
    p.pipeline.on_image(image_message(NOW_NS, 0))
    assert "camera_optical" in p.pipeline.status()[1]
    p.pipeline.on_tf_static(Transforms(("base_link", "camera_optical", e.T_base_camera)))
    p.pipeline.on_imu(wire(imu_message(NOW_NS)))
    strange = imu_message(NOW_NS + 1)
    strange.header.frame_id = "other_imu"
    p.pipeline.on_imu(wire(strange))
    assert p.telemetry.refused["frame_without_transform"] == 1
    assert any("'other_imu'" in line for line in p.lines)


def test_extrinsics_that_contradict_the_artifact_start_nothing(piped):
    p = piped(
        camera_source=CalibrationSource.ARTIFACT,
        extrinsics_source=CalibrationSource.TF_STATIC,
        imu_frame="imu",
        camera_frame="cam",
    )
    T = p.artifact.extrinsics.T_base_camera.copy()
    T[1, 3] += 0.5
    p.pipeline.on_tf_static(Transforms(("base_link", "imu", np.eye(4)), ("base_link", "cam", T)))
    level, summary, _ = p.pipeline.status()
    assert level == b"\x02"
    assert "0.500 m" in summary


def test_an_imu_that_says_its_values_are_absent_is_left_out(piped):
    p = piped(camera_source=CalibrationSource.ARTIFACT)
    message = imu_message(NOW_NS)
    message.linear_acceleration_covariance[0] = -1.0
    p.pipeline.on_imu(wire(message))
    assert p.telemetry.refused["imu_absent"] == 1
    assert "no image yet" in p.pipeline.status()[1]


def test_a_reference_of_another_frame_is_left_out(piped):
    from nav_msgs.msg import Odometry

    p = piped(camera_source=CalibrationSource.ARTIFACT)
    message = Odometry(child_frame_id="camera_optical")
    message.pose.pose.orientation = quaternion_of(np.eye(3))
    p.pipeline.on_reference(message)
    assert p.telemetry.refused["reference"] == 1
    assert any("camera_optical" in line for line in p.lines)
