"""A real estimator process and a client that talks to it over DDS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from std_srvs.srv import SetBool, Trigger

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S
from bayes_vio.ros.messages import time_of
from bayes_vio.ros.recorder import Recorder

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 320, 120
IMU_HZ, CAMERA_HZ = 200, 20
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


def domain_id() -> int:
    """Return a domain of this process's own; Linux has room for 0 to 101 and 215 to 232."""
    return 1 + os.getpid() % 100


def environment() -> dict[str, str]:
    """Return an environment in which ROS stays on this machine and finds a venv's packages."""
    own = {
        "ROS_DOMAIN_ID": str(domain_id()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH", sys.prefix),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    return {**os.environ, **own}


class EstimatorProcess:
    """The node as users run it, its log in a file; killed at the end if it does not stop."""

    program: tuple[str, ...] = ("-m", "bayes_vio.ros")

    def __init__(self, log: Path, parameters: dict[str, Any], *ros_arguments: str) -> None:
        self._log = log
        given = [f"{name}:={_yaml(value)}" for name, value in parameters.items()]
        arguments = [part for text in given for part in ("-p", text)]
        command = [sys.executable, *self.program, "--ros-args"]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, *arguments, *ros_arguments],
                env=environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def __enter__(self) -> EstimatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.interrupt()

    def interrupt(self, timeout_s: float = 10.0, times: int = 1) -> int:
        """Send SIGINT and return the exit status; kills the process where it does not end."""
        for _ in range(times):
            self.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def log(self) -> str:
        return self._log.read_text()


class EkfProcess(EstimatorProcess):
    """The filter's node, as `ros2 run` and `ros2 launch` start it."""

    program = (str(ROOT / "scripts" / "ekf"),)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def texture() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(HEIGHT, 2 * WIDTH))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(120 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


TEXTURE = texture()


def scene(index: int) -> np.ndarray:
    """Return the image [120, 320] of a world that passes by at 2 pixels a frame."""
    return np.ascontiguousarray(np.roll(TEXTURE, -2 * index, axis=1)[:, :WIDTH])


class Client:
    """Publishes sensors, calls services and records outputs, on a context of its own."""

    def __init__(self, namespace: str = "", target: str = "estimator") -> None:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id())
        self.node = Node("client", namespace=namespace, context=self.context)
        self.target = target
        create = self.node.create_publisher
        self.imu = create(Imu, "imu", 500)
        self.image = create(Image, "image", 50)
        self.compressed = create(CompressedImage, "image/compressed", 50)
        self.camera_info = create(CameraInfo, "camera_info", 10)
        self.reference = create(Odometry, "reference", 100)
        self.set_pose = create(PoseWithCovarianceStamped, "set_pose", 10)
        self.recorder = Recorder(self.node)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self._closing = Event()
        self._thread = Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._frames = 0

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(10.0)
        assert not self._thread.is_alive(), "ROS does not come back from spinning"
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = 20.0) -> Any:
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, f"{self.target}/{name}")
        client = self._clients[name]
        assert client.wait_for_service(timeout_sec=timeout_s), f"no service {name}"
        future = client.call_async(request)
        wait_until(future.done, timeout_s)
        return future.result()

    def change_state(self, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return self.call(ChangeState, "change_state", request).success

    def state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: Any) -> Any:
        message = Parameter(name, value=value).to_parameter_msg()
        assert isinstance(message, ParameterMessage)
        request = SetParameters.Request(parameters=[message])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def trigger(self, name: str) -> Any:
        return self.call(Trigger, name, Trigger.Request())

    def pause(self, paused: bool) -> Any:
        return self.call(SetBool, "pause", SetBool.Request(data=paused))

    def wait_for_inputs(self) -> None:
        """Wait until the estimator listens to the sensors and its outputs are connected."""
        wait_until(lambda: self.imu.get_subscription_count() > 0, 20.0)
        wait_until(lambda: self.node.count_publishers("odometry") > 0, 20.0)
        time.sleep(0.2)

    def drive(
        self,
        duration_s: float,
        start_ns: int | None = None,
        image: Callable[[int, int], Any] | None = None,
        imu: Callable[[int], Any] | None = None,
    ) -> tuple[int, int]:
        """Publish sensors in real time; return the first and the last image's stamp.

        start_ns: the first stamp (default: now). image(stamp_ns, index), imu(stamp_ns): messages
        in place of the default ones.
        """
        image, imu = image or image_message, imu or imu_message
        start_ns = time.time_ns() if start_ns is None else start_ns
        began_s, per_image = time.monotonic(), IMU_HZ // CAMERA_HZ
        last_image_ns = start_ns
        for k in range(round(duration_s * IMU_HZ) + 1):
            stamp_ns = start_ns + k * NS_PER_S // IMU_HZ
            time.sleep(max(0.0, began_s + k / IMU_HZ - time.monotonic()))
            self.imu.publish(imu(stamp_ns))
            if k % per_image == 0:
                message = image(stamp_ns, self._frames)
                publisher = self.image if isinstance(message, Image) else self.compressed
                publisher.publish(message)
                last_image_ns, self._frames = stamp_ns, self._frames + 1
        return start_ns, last_image_ns

    def send_camera_info(self) -> None:
        self.camera_info.publish(camera_info_message())

    def wait_for(self, stream: str, stamp_ns: int, timeout_s: float = 5.0) -> dict[str, Any]:
        """Wait until an output reaches a stamp; return all that was recorded."""

        def reached() -> bool:
            stamps = self.recorder.arrays().get(f"{stream}_stamp_ns", np.zeros(0))
            return bool(stamps.size and stamps[-1] >= stamp_ns)

        wait_until(reached, timeout_s)
        return self.recorder.arrays()


def wait_until(condition: Callable[[], Any], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.01)


def wire(message: Any) -> bytes:
    """Return a message as a raw subscription hands it over."""
    return bytes(serialize_message(message))


def imu_message(stamp_ns: int) -> Imu:
    """Return a sample at rest in a gentle turn, that never repeats to the last bit."""
    message = Imu()
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "imu_link"
    message.linear_acceleration.z = GRAVITY_M_S2 + 1e-6 * (stamp_ns // 1000 % 97)
    message.angular_velocity.z = 0.1
    return message


def image_message(stamp_ns: int, index: int, encoding: str = "mono8") -> Image:
    pixels = scene(index)
    message = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=WIDTH)
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "camera_optical"
    message.data = pixels.tobytes()
    return message


def jpeg_message(stamp_ns: int, index: int) -> CompressedImage:
    message = CompressedImage(format="jpeg")
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "camera_optical"
    message.data = cv2.imencode(".jpg", scene(index))[1].tobytes()
    return message


def camera_info_message() -> CameraInfo:
    focal = WIDTH / 256 * 148.0
    message = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = "camera_optical"
    message.k = [focal, 0.0, WIDTH / 2, 0.0, focal, HEIGHT / 2, 0.0, 0.0, 1.0]
    return message


def status_of(client: Client, name: str) -> dict | None:
    """Return the last diagnostic status of this name, None where none came."""
    texts = client.recorder.arrays().get("diagnostics_json", [])
    found = [s for s in map(json.loads, map(str, texts)) if s["name"] == name]
    return found[-1] if found else None
