# ruff: noqa: E402, the imports need what is skipped for
"""Whatever messages come, nothing crashes and all that is published is finite and SPD."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry

from bayes_vio.conventions import NS_PER_S
from bayes_vio.ros.diagnostics import Telemetry
from bayes_vio.ros.messages import time_of
from bayes_vio.ros.outputs import Outputs
from bayes_vio.ros.parameters import CalibrationSource, ImageTransport, NodeParameters
from bayes_vio.ros.pipeline import Pipeline
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog
from bayes_vio.ros.worker import EstimationWorker, Surroundings
from tests.motion_cases import tiny_artifact
from tests.ros.live import camera_info_message, image_message, imu_message, jpeg_message, wire
from tests.ros.test_pipeline import Lines, Topics
from tests.ros.test_ros_calibration import Transforms

START_NS = 1_700_000_000 * NS_PER_S
IMU_STEP_NS, PER_IMAGE = 5_000_000, 10
ODD = [np.nan, np.inf, -np.inf, 1e308, -1e308, 1e30, 5e-324, 0.0, -0.0, -1.0]
FRAMES = ["", "odom", "map", "base_link", "camera_optical", "imu_link", "/imu_link", "ü\n"]


class Fuzzer:
    """A stream of sensors at its usual pace, in which about a third of the messages is spoiled."""

    def __init__(self, pipeline: Pipeline, seed: int, compressed: bool) -> None:
        self.pipeline = pipeline
        self.rng = np.random.default_rng(seed)
        self.compressed = compressed
        self.now_ns, self.sent, self.images = START_NS, 0, 0

    def send_one(self) -> None:
        """Send one message, chosen and spoiled at random."""
        kind = self.rng.choice(
            ["imu", "image", "camera_info", "tf", "reference", "set_pose", "service"],
            p=[0.72, 0.16, 0.03, 0.02, 0.03, 0.03, 0.01],
        )
        getattr(self, f"send_{kind}")()
        self.sent += 1

    def spoils(self, share: float = 0.3) -> bool:
        return bool(self.rng.random() < share)

    def odd(self) -> float:
        return float(self.rng.choice(ODD))

    def stamp(self):
        """Return the time, or one that is zero, negative, a repetition, of the past or future."""
        if not self.spoils(0.1):
            return time_of(self.now_ns)
        hour_ns = 3600 * NS_PER_S
        choice = self.rng.integers(6)
        offset_ns = [0, -hour_ns, hour_ns, 8760 * hour_ns, -300_000_000, 30_000_000][choice]
        if choice == 0:
            return time_of(int(self.rng.choice([0, -NS_PER_S, 2**31 * NS_PER_S - 1])))
        return time_of(self.now_ns + offset_ns)

    def send_imu(self) -> None:
        self.now_ns += IMU_STEP_NS
        message = imu_message(self.now_ns)
        message.header.stamp = self.stamp()
        if self.spoils():
            vector = self.rng.choice([message.linear_acceleration, message.angular_velocity])
            setattr(vector, self.rng.choice(["x", "y", "z"]), self.odd())
        if self.spoils(0.05):
            message.angular_velocity_covariance[0] = self.odd()
            message.header.frame_id = str(self.rng.choice(FRAMES))
        self.pipeline.on_imu(wire(message))

    def send_image(self) -> None:
        self.images += 1
        make = jpeg_message if self.compressed else image_message
        message = make(self.now_ns, self.images)
        message.header.stamp = self.stamp()
        if self.spoils():
            (self.spoil_jpeg if self.compressed else self.spoil_image)(message)
        self.pipeline.on_image(message)

    def spoil_image(self, message) -> None:
        match self.rng.integers(7):
            case 0:
                encodings = ["", "mono16", "rgb8", "bayer_rggb8", "32FC1", "ü", "8UC1"]
                message.encoding = str(self.rng.choice(encodings))
            case 1:
                message.height = int(self.rng.choice([0, 1, 119, 121, 2**32 - 1]))
            case 2:
                message.width = int(self.rng.choice([0, 1, 319, 321, 2**32 - 1]))
            case 3:
                message.step = int(self.rng.choice([0, 1, 319, 640, 2**32 - 1]))
            case 4:
                message.data = message.data[: self.rng.integers(len(message.data))]
            case 5:
                message.data = bytes([int(self.rng.choice([0, 128, 255]))]) * len(message.data)
            case 6:
                message.data = self.rng.bytes(len(message.data))

    def spoil_jpeg(self, message) -> None:
        data = bytearray(message.data)
        match self.rng.integers(4):
            case 0:
                message.data = b""
            case 1:
                message.data = bytes(data[: self.rng.integers(len(data))])
            case 2:
                message.data = self.rng.bytes(200)
            case 3:
                data[self.rng.integers(len(data))] ^= 0xFF
                message.data = bytes(data)

    def send_camera_info(self) -> None:
        message = camera_info_message()
        if self.spoils(0.8):
            message.k[self.rng.integers(9)] = self.odd()
            message.d = [self.odd() for _ in range(self.rng.integers(10))]
            message.distortion_model = str(
                self.rng.choice(["", "plumb_bob", "equidistant", "rational_polynomial", "x"])
            )
            message.width = int(self.rng.choice([0, 1, 320, 2**32 - 1]))
            message.binning_x = int(self.rng.choice([0, 1, 2]))
        self.pipeline.on_camera_info(message)

    def send_tf(self) -> None:
        T = np.eye(4)
        if self.spoils():
            T[:3, 3] = [self.odd(), 0.0, self.odd()]
        message = Transforms((str(self.rng.choice(FRAMES)), str(self.rng.choice(FRAMES)), T))
        if self.spoils():
            q = message.transforms[0].transform.rotation
            q.x, q.w = self.odd(), self.odd()
        self.pipeline.on_tf_static(message)

    def pose(self, message) -> None:
        position, q = message.pose.pose.position, message.pose.pose.orientation
        position.x, position.y, q.z, q.w = 10.0 * self.rng.random(), -3.0, 0.6, 0.8
        if self.spoils():
            setattr(position, str(self.rng.choice(["x", "y", "z"])), self.odd())
        if self.spoils():
            q.w = self.odd()

    def send_reference(self) -> None:
        message = Odometry(child_frame_id=str(self.rng.choice(["base_link", "base_link", ""])))
        message.header.stamp = self.stamp()
        self.pose(message)
        self.pipeline.on_reference(message)

    def send_set_pose(self) -> None:
        message = PoseWithCovarianceStamped()
        message.header.frame_id = str(self.rng.choice(FRAMES[:3]))
        self.pose(message)
        A = self.rng.normal(size=(6, 6))
        cov = A @ A.T * 10 ** self.rng.uniform(-12, 4)
        match self.rng.integers(6):
            case 0:
                cov[:] = 0
            case 1:
                cov[self.rng.integers(6), self.rng.integers(6)] = self.odd()
            case 2:
                cov = -cov
            case 3:
                cov *= 1e30
        message.pose.covariance = cov.reshape(36)
        self.pipeline.on_set_pose(message)

    def send_service(self) -> None:
        if self.rng.random() < 0.5:
            self.pipeline.reset()
        else:
            self.pipeline.pause(True)
            self.step()
            self.pipeline.pause(False)

    def step(self) -> None:
        """Do what the worker's thread does, here, so that an error ends the test."""
        worker = self.pipeline._worker
        if worker is not None:
            worker.step(self.pipeline._inbox.take(0.0))


def assert_publishable(topics: dict[str, list]) -> int:
    """Check and forget all that was published; return how many messages."""
    count = 0
    for sent in topics.values():
        for message in sent:
            assert_message(message)
            count += 1
        sent.clear()
    return count


def assert_message(message) -> None:
    parts = [message.twist]
    if isinstance(message, Odometry):
        parts.append(message.pose)
        p, q = message.pose.pose.position, message.pose.pose.orientation
        assert np.isfinite([p.x, p.y, p.z, q.x, q.y, q.z, q.w]).all()
        assert abs(np.linalg.norm([q.x, q.y, q.z, q.w]) - 1) < 1e-9
    v, w = message.twist.twist.linear, message.twist.twist.angular
    assert np.isfinite([v.x, v.y, v.z, w.x, w.y, w.z]).all()
    for part in parts:
        cov = np.array(part.covariance).reshape(6, 6)
        assert np.isfinite(cov).all()
        np.testing.assert_array_equal(cov, cov.T)
        std = np.sqrt(np.diagonal(cov))
        assert std.max() < 1e9
        np.linalg.cholesky(cov / np.outer(std, std))


@pytest.fixture(scope="module")
def artifact():
    return tiny_artifact()


def fuzz(artifact, monkeypatch, n: int, seed: int, **parameters) -> SimpleNamespace:
    """Send n messages; return the pipeline, how much it published and what was counted."""
    monkeypatch.setattr(EstimationWorker, "start", lambda self: None)
    telemetry, lines, topics = Telemetry(), Lines(), Topics()
    values = NodeParameters(**parameters)
    states = ChangeLog(lines, "waiting")
    around = Surroundings(
        lambda: fuzzer.now_ns, lambda: True, telemetry, ThrottledLog(lines), states
    )
    pipeline = Pipeline(artifact, values, Outputs(topics, values), around)
    if values.extrinsics_source is CalibrationSource.TF_STATIC:
        e = artifact.extrinsics
        pipeline.on_tf_static(Transforms(("base_link", "imu_link", e.T_base_imu)))
        pipeline.on_tf_static(Transforms(("base_link", "camera_optical", e.T_base_camera)))
        pipeline.on_imu(wire(imu_message(START_NS)))
        pipeline.on_image(image_message(START_NS, 0))
    compressed = values.image_transport is ImageTransport.COMPRESSED
    fuzzer = Fuzzer(pipeline, seed, compressed)
    published = 0
    while fuzzer.sent < n:
        fuzzer.send_one()
        fuzzer.step()
        published += assert_publishable(topics.sent)
        if fuzzer.sent % 100 == 0:
            pipeline.status()
    return SimpleNamespace(
        pipeline=pipeline, published=published, refused=telemetry.refused, lines=lines.lines
    )


CASES = {
    "raw": {"camera_source": CalibrationSource.ARTIFACT},
    "compressed": {
        "camera_source": CalibrationSource.ARTIFACT,
        "image_transport": ImageTransport.COMPRESSED,
    },
    "camera_info": {},
    "tf_static": {
        "camera_source": CalibrationSource.ARTIFACT,
        "extrinsics_source": CalibrationSource.TF_STATIC,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_few_hundred_spoiled_messages(artifact, monkeypatch, case):
    began_s = time.monotonic()
    result = fuzz(artifact, monkeypatch, 400, seed=1, **CASES[case])
    assert "internal_error" not in result.refused
    assert result.published > 10
    assert time.monotonic() - began_s < 60


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ten_thousand_spoiled_messages(artifact, monkeypatch, case):
    published = 0
    for seed in range(10):
        result = fuzz(artifact, monkeypatch, 1000, seed=100 + seed, **CASES[case])
        published += result.published
        assert "internal_error" not in result.refused
    assert published > 1000
