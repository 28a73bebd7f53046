# ruff: noqa: E402, the imports need what is skipped for
"""The planner as a process, over DDS: plans, commands, risk; stops and goes on; transitions."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.qos import DurabilityPolicy, QoSProfile

from tests.ros.live import ROOT, Client, environment, status_of, wait_until
from tests.ros.planner_messages_cases import goal_message, map_message, odometry_message


class PlannerProcess:
    """The executable as `ros2 run` starts it, its log in a file."""

    def __init__(self, log, **parameters) -> None:
        self._log = log
        given = [part for n, v in parameters.items() for part in ("-p", f"{n}:={v}")]
        script = str(ROOT / "scripts" / "planner_node")
        command = [sys.executable, script, "--ros-args", *given]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=environment(), stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.interrupt()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            raise

    @property
    def log(self) -> str:
        return self._log.read_text()


class Car:
    """Publishes what a planner needs, keeps what comes back."""

    def __init__(self) -> None:
        self.client = Client(target="planner")
        node = self.client.node
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.odometry = node.create_publisher(Odometry, "odometry", 10)
        self.map = node.create_publisher(OccupancyGrid, "map", latched)
        self.goal = node.create_publisher(PoseStamped, "goal_pose", 10)
        self.paths: list[Path] = []
        self.commands: list[Twist] = []
        node.create_subscription(Path, "plan", self.paths.append, 50)
        node.create_subscription(Twist, "cmd_vel", self.commands.append, 50)

    def connect(self) -> None:
        wait_until(lambda: self.odometry.get_subscription_count() > 0, 40.0)
        wait_until(lambda: self.goal.get_subscription_count() > 0, 20.0)
        wait_until(lambda: self.client.node.count_publishers("cmd_vel") > 0, 20.0)
        self.map.publish(map_message())
        self.goal.publish(goal_message())

    def drive_until(self, condition, timeout_s: float = 15.0, change=lambda m: None) -> None:
        """Publish odometry at 20 Hz until something is true."""

        def driven() -> bool:
            message = odometry_message(time.time_ns())
            change(message)
            self.odometry.publish(message)
            time.sleep(0.05)
            return condition()

        wait_until(driven, timeout_s)

    @property
    def speed(self) -> float:
        return self.commands[-1].linear.x if self.commands else -1.0

    def status(self) -> dict:
        return status_of(self.client, "/planner: plan") or {}


@pytest.fixture
def car():
    car = Car()
    yield car
    car.client.close()


def test_it_plans_stops_without_odometry_and_goes_on(car, tmp_path):
    # A loaded machine may take longer for a message than a car would allow.
    with PlannerProcess(tmp_path / "log.txt", samples=50, odometry_timeout_s=1.0) as node:
        car.connect()
        car.drive_until(lambda: car.speed > 0)
        assert car.paths[-1].header.frame_id == "odom"
        assert len(car.paths[-1].poses) == 41
        car.drive_until(lambda: "collision bound" in json.dumps(car.status()))
        # Silence: the car stops and says so; data: it goes on.
        wait_until(lambda: car.speed == 0.0, 10.0)
        wait_until(lambda: "no usable odometry" in car.status().get("message", ""), 10.0)
        car.drive_until(lambda: car.speed > 0)

        def spoil(message: Odometry) -> None:
            message.pose.covariance[0] = -1.0

        car.drive_until(lambda: car.speed == 0.0, change=spoil)
        car.drive_until(lambda: car.speed > 0)
        assert node.log.count("variance that is not positive") >= 1
        assert car.client.change_state("deactivate")
        wait_until(lambda: car.speed == 0.0, 10.0)
        assert car.client.state() == "inactive"
        assert car.client.change_state("activate")
        assert node.interrupt() == 0
        assert "Traceback" not in node.log


def test_what_does_not_fit_refuses_to_configure(car, tmp_path):
    log = tmp_path / "log.txt"
    with PlannerProcess(log, offsets=4, collision_max=2.0, command="ackermann") as node:
        wait_until(lambda: "stays unconfigured" in node.log, 40.0)
        assert "parameter collision_max: must lie in" in node.log
        assert car.client.state() == "unconfigured"
        assert car.client.set_parameter("collision_max", 0.02).successful
        assert not car.client.change_state("configure")
        wait_until(lambda: "an odd number of offsets" in node.log, 10.0)
        assert car.client.set_parameter("offsets", 5).successful
        try:
            import ackermann_msgs  # pyright: ignore[reportMissingImports]  # noqa: F401
        except ImportError:
            assert not car.client.change_state("configure")
            wait_until(lambda: "needs ackermann_msgs" in node.log, 10.0)
        assert car.client.set_parameter("command", "twist").successful
        assert car.client.change_state("configure")
        assert car.client.change_state("activate")
        assert not car.client.set_parameter("offsets", 7).successful
