# ruff: noqa: E402, the imports need what is skipped for
"""The node as a process, over DDS: outputs, services, bad input, a reference."""

import json
import time

import numpy as np
import pytest
import torch

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.published import mean_twist_cov
from bayes_vio.geometry import se3
from bayes_vio.ros.messages import pose_with_covariance, time_of
from tests.motion_cases import tiny_artifact
from tests.ros.live import (
    CAMERA_HZ,
    Client,
    EstimatorProcess,
    image_message,
    imu_message,
    status_of,
    wait_until,
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


@pytest.fixture
def client():
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def running(artifact, tmp_path_factory):
    """An active node, the camera from the artifact, shared by tests that only feed it."""
    log = tmp_path_factory.mktemp("log") / "node.txt"
    parameters = {"artifact": artifact, "camera_source": "artifact", "device": "cpu"}
    with EstimatorProcess(log, parameters) as node:
        yield node


@pytest.fixture
def driven(running, client):
    """The shared node, fresh: nothing accumulated, the client connected."""
    client.wait_for_inputs()
    assert client.trigger("reset").success
    return client


def assert_covariances(covs: np.ndarray) -> None:
    assert covs.shape[1:] == (6, 6)
    assert np.isfinite(covs).all()
    for cov in covs:
        std = np.sqrt(np.diagonal(cov))
        np.linalg.cholesky(cov / np.outer(std, std))


def diagnostics(arrays: dict, index: int = -1) -> dict:
    return json.loads(str(arrays["diagnostics_json"][index]))


def arrived_alike(arrays: dict) -> bool:
    """Return whether as many messages of every output came: they are published in turn."""
    streams = ("relative_pose", "odometry", "twist", "epistemic_twist")
    return len({len(arrays[f"{stream}_stamp_ns"]) for stream in streams}) == 1


def test_every_output_agrees_with_every_other(driven):
    start_ns, last_ns = driven.drive(2.0)
    driven.wait_for("odometry", last_ns)
    wait_until(lambda: arrived_alike(driven.recorder.arrays()), 5.0)
    out = driven.recorder.arrays()
    stamps = out["relative_pose_stamp_ns"]
    n = len(stamps)
    assert n >= 0.8 * 2.0 * CAMERA_HZ
    for stream in ("relative_pose", "odometry", "twist", "epistemic_twist"):
        assert_covariances(out[f"{stream}_cov"])
    # Stamps are images' stamps, and each increment goes on where the last one ended.
    assert not np.any((stamps - start_ns) % (NS_PER_S // CAMERA_HZ))
    np.testing.assert_array_equal(out["odometry_stamp_ns"], stamps)
    earlier = out["relative_pose_earlier_stamp_ns"]
    np.testing.assert_array_equal(earlier[1:], stamps[:-1])
    np.testing.assert_array_equal(out["twist_stamp_ns"], (earlier + stamps) // 2)
    np.testing.assert_array_equal(out["epistemic_twist_stamp_ns"], out["twist_stamp_ns"])
    # The twist is the increment over its time, and so is its covariance.
    dt_s = (stamps - earlier)[:, None] / NS_PER_S
    xi = torch.from_numpy(out["twist_mean"] * dt_s)
    np.testing.assert_allclose(se3.exp(xi).numpy(), out["relative_pose_T"], atol=1e-9)
    for k, T in enumerate(out["relative_pose_T"]):
        cov = mean_twist_cov(T, out["relative_pose_cov"][k], dt_s[k, 0])
        np.testing.assert_allclose(out["twist_cov"][k], cov, rtol=1e-6, atol=1e-12)
    assert np.all(np.linalg.eigvalsh(out["twist_cov"] - out["epistemic_twist_cov"]) > 0)
    # The odometry is what the increments add up to.
    T = out["odometry_T"]
    np.testing.assert_allclose(T[1:], T[:-1] @ out["relative_pose_T"][1:], atol=1e-9)
    assert np.linalg.det(out["odometry_cov"][-1]) > np.linalg.det(out["odometry_cov"][0])
    assert np.all((out["odometry_arrival_ns"] - stamps)[3:] < 0.25 * NS_PER_S)


def test_frames_are_those_of_the_convention(driven):
    from geometry_msgs.msg import TwistWithCovarianceStamped
    from nav_msgs.msg import Odometry

    frames = {}
    create, node = driven.node.create_subscription, driven.node
    for kind, topic in (
        (Odometry, "odometry"),
        (Odometry, "relative_pose"),
        (TwistWithCovarianceStamped, "twist"),
    ):
        create(kind, topic, lambda m, t=topic: frames.__setitem__(t, m), 10)
    wait_until(lambda: node.count_subscribers("odometry") >= 2, 5.0)
    driven.drive(1.0)
    wait_until(lambda: len(frames) == 3, 5.0)
    assert frames["odometry"].header.frame_id == "odom"
    assert frames["odometry"].child_frame_id == "base_link"
    assert frames["twist"].header.frame_id == "base_link"
    assert frames["relative_pose"].header.frame_id == "base_link"
    assert frames["relative_pose"].child_frame_id.startswith("base_link@")


def test_reset_pause_and_set_pose(driven):
    _, last_ns = driven.drive(1.0)
    moved = driven.wait_for("odometry", last_ns)["odometry_T"][-1]
    assert np.linalg.norm(moved[:3, 3]) > 1.0
    assert driven.pause(True).success
    time.sleep(0.1)
    count = len(driven.recorder.arrays()["odometry_stamp_ns"])
    driven.drive(0.5)
    assert len(driven.recorder.arrays()["odometry_stamp_ns"]) == count
    assert driven.trigger("reset").success  # before an increment spans the pause
    assert driven.pause(False).success
    _, last_ns = driven.drive(0.3)
    out = driven.wait_for("odometry", last_ns)
    np.testing.assert_allclose(out["odometry_T"][count], out["relative_pose_T"][count], atol=1e-9)

    T = np.eye(4)
    T[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    T[:3, 3] = [100.0, -50.0, 2.0]
    given = np.diag([0.3, 0.1, 0.2, 0.01, 0.02, 0.03]) ** 2
    message = driven_pose(T, given)
    driven.set_pose.publish(message)
    message.header.frame_id = "map"
    driven.set_pose.publish(message)  # in another frame: left out
    message.header.frame_id = "odom"
    message.pose.covariance[0] = -1.0
    driven.set_pose.publish(message)  # no covariance: left out
    time.sleep(0.2)
    count = len(driven.recorder.arrays()["odometry_stamp_ns"])
    _, last_ns = driven.drive(0.3)
    out = driven.wait_for("odometry", last_ns)
    first, increment = out["odometry_T"][count], out["relative_pose_T"][count]
    np.testing.assert_allclose(first, T @ increment, atol=1e-6)
    grown = out["odometry_cov"][count]
    assert np.all(np.sqrt(np.diagonal(grown)) > 0.09 * np.array([1, 1, 1, 0.1, 0.2, 0.3]))


def driven_pose(T, cov):
    from geometry_msgs.msg import PoseWithCovarianceStamped

    message = PoseWithCovarianceStamped(pose=pose_with_covariance(T, cov))
    message.header.frame_id = "odom"
    return message


def test_bad_input_is_counted_told_and_survived(running, driven):
    def bad_imu(stamp_ns):
        message = imu_message(stamp_ns)
        if stamp_ns // 10**7 % 10 == 0:
            message.angular_velocity.z = float("nan")
        return message

    def bad_image(stamp_ns, index):
        kind = index % 8
        if kind == 1:
            return image_message(stamp_ns, index, encoding="32FC1")
        if kind == 3:
            message = image_message(stamp_ns, index)
            message.data = message.data[:1000]
            return message
        if kind == 5:
            message = image_message(stamp_ns, index)
            message.height, message.data = 60, message.data[: 60 * message.width]
            return message
        if kind == 7:
            return image_message(0, index)
        return image_message(stamp_ns, index)

    driven.drive(2.0, image=bad_image, imu=bad_imu)
    _, last_ns = driven.drive(1.5)
    out = driven.wait_for("odometry", last_ns)
    for stream in ("relative_pose", "odometry", "twist"):
        assert_covariances(out[f"{stream}_cov"])
    time.sleep(1.1)
    values = diagnostics(driven.recorder.arrays())["values"]
    for cause in (
        "image_unknown_encoding",
        "image_short_data",
        "image_size",
        "imu_not_finite",
        "image_stamp_invalid",
    ):
        assert int(values[f"dropped, {cause}"]) > 0, (cause, values)
    lines = running.log
    for text in ("32FC1", "imu_not_finite", "image_size"):
        assert 1 <= lines.count(text) <= 4, text


def test_stamps_that_go_back_reset_and_a_silent_camera_is_lost(driven):
    _, last_ns = driven.drive(1.0)
    out = driven.wait_for("odometry", last_ns)
    count, far = len(out["odometry_T"]), np.linalg.norm(out["odometry_T"][-1][:3, 3])
    start_ns = time.time_ns() - 3600 * NS_PER_S
    _, last_ns = driven.drive(0.5, start_ns=start_ns)  # as when a recording starts again
    wait_until(lambda: driven.recorder.arrays()["odometry_stamp_ns"][-1] == last_ns, 5.0)
    out = driven.recorder.arrays()
    assert out["odometry_stamp_ns"][count] < out["odometry_stamp_ns"][count - 1]
    assert np.linalg.norm(out["odometry_T"][count][:3, 3]) < 0.5 * far
    # Neither images nor IMU samples: increments go on, ever wider.
    seen = len(out["odometry_T"])

    def told_lost() -> bool:
        status = status_of(driven, "/estimator: motion")
        return (status["level"], status["values"]["state"]) == (2, "lost")

    wait_until(told_lost, 5.0)
    wait_until(lambda: len(driven.recorder.arrays()["twist_cov"]) > seen + 1, 5.0)
    out = driven.recorder.arrays()
    assert_covariances(out["odometry_cov"])
    assert out["twist_cov"][-1][0, 0] > out["twist_cov"][seen - 1][0, 0]


def test_a_reference_gives_the_online_nees(driven):
    from nav_msgs.msg import Odometry

    def send(stamp_ns, index):
        message = Odometry(child_frame_id="base_link")
        message.header.stamp = time_of(stamp_ns)
        xi = torch.tensor([4.0, 0, 0, 0, 0, 0.1]) * ((stamp_ns - start_ns) / NS_PER_S)
        message.pose = pose_with_covariance(se3.exp(xi.double()).numpy(), np.eye(6))
        driven.reference.publish(message)
        return image_message(stamp_ns, index)

    start_ns = time.time_ns()
    driven.drive(2.0, start_ns=start_ns, image=send)
    time.sleep(1.1)
    values = diagnostics(driven.recorder.arrays())["values"]
    assert int(values["NEES increments"]) > 20
    assert float(values["NEES / 6"]) > 0
    low, high = (float(v) for v in values["NEES / 6 band (95 %)"].split(" to "))
    assert 0 < low < 1 < high
