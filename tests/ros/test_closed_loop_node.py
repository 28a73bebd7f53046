# ruff: noqa: E402, the imports need what is skipped for
"""Both nodes, over DDS, drive a rendered car past a gate and through silence to a finish."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = [pytest.mark.ros, pytest.mark.slow]

import cv2
import torch
from geometry_msgs.msg import PoseWithCovarianceStamped, Twist
from nav_msgs.msg import OccupancyGrid, Path
from planning_scenes import box
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, Imu

from bayes_vio.conventions import NS_PER_S
from bayes_vio.planning import Route, Vehicle
from bayes_vio.planning.car import Car, Command, Motion
from bayes_vio.planning.course import Condition, Course
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.rendered import RenderedSensors
from bayes_vio.planning.sampled import planar_matrix
from bayes_vio.ros.messages import pose_with_covariance, time_of
from tests.ros.live import Client, EstimatorProcess, wait_until
from tests.ros.planner_messages_cases import route_message
from tests.ros.test_planner_node import PlannerProcess

VEHICLE = Vehicle(speed_max_m_s=5.0)
STEP_S, STEPS_PER_IMAGE = 0.01, 10
GATE_M, FINISH_M, ROUTE_M = 14.0, 24.0, 45.0
_STALL_S = 0.1
FIX_COV = np.diag([0.05, 0.05, 0.02, 0.003, 0.003, 0.005]) ** 2


def street() -> Course:
    """Return a straight street along x with a gate 3.8 m wide."""
    route = Route.along(np.stack([np.linspace(0.0, 50.0, 60), np.zeros(60)], 1))
    walls = [box(20.0, side * 5.5, 80.0, 1.0) for side in (-1, 1)]
    gate = [box(GATE_M, 3.45 * side, 1.0, 3.1) for side in (-1, 1)]
    never = 1e6
    return Course(route, (*walls, *gate), 2, 5.0, (never, never), never, 0.0, start_speed_m_s=0.0)


def map_of(course: Course, resolution: float = 0.2) -> OccupancyGrid:
    """Return the street's obstacles as an occupancy grid in odom."""
    origin, rows, columns = np.array([-15.0, -8.0]), 80, 400
    cells = np.zeros((rows, columns), np.uint8)
    for polygon in course.polygons:
        corners = np.rint((polygon - origin) / resolution - 0.5).astype(np.int32)
        cv2.fillPoly(cells, [corners], 100)
    message = OccupancyGrid(data=cells.astype(np.int8).ravel().tolist())
    message.header.frame_id = "odom"
    message.info.width, message.info.height, message.info.resolution = columns, rows, resolution
    message.info.origin.position.x, message.info.origin.position.y = origin.tolist()
    message.info.origin.orientation.w = 1.0
    return message


@dataclass
class Driven:
    """A car in real time: its sensors out, its commands in."""

    course: Course
    client: Client
    seen: list[Twist] = field(default_factory=list)

    def __post_init__(self) -> None:
        node = self.client.node
        rng = np.random.default_rng(30_700)
        self.car = Car(VEHICLE, self.course.start)
        self.sensors = RenderedSensors(self.course, VEHICLE, rng)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.map = node.create_publisher(OccupancyGrid, "map", latched)
        self.route = node.create_publisher(Path, "route", 10)
        node.create_subscription(Twist, "cmd_vel", self.seen.append, 10)
        self.speeds: list[float] = []
        self.collided = False

    def connect(self) -> None:
        node = self.client.node
        wait_until(lambda: self.client.imu.get_subscription_count() > 0, 60.0)
        wait_until(lambda: self.route.get_subscription_count() > 0, 60.0)
        wait_until(lambda: node.count_publishers("cmd_vel") > 0, 60.0)
        wait_until(lambda: node.count_publishers("odometry") > 0, 60.0)
        self.map.publish(map_of(self.course))
        self.route.publish(route_message([(0.0, 0.0), (ROUTE_M, 0.0)]))
        time.sleep(0.5)

    def drive_until(self, done, timeout_s: float, silent: bool = False) -> None:
        """Drive in real time until something is true; silent: no sensor is published."""
        began_s, steps = time.time(), 0
        while not done():
            assert steps * STEP_S < timeout_s, f"timed out at {self.car.pose}"
            due_s = began_s + steps * STEP_S
            early_s = due_s - time.time()
            time.sleep(max(0.0, early_s))
            began_s += max(0.0, -early_s - _STALL_S)  # a machine that stalls is not caught up with
            motion = self.car.drive(self._command(), STEP_S, steps=1)
            self._see(motion)
            if not silent:
                self._publish(round(due_s * NS_PER_S), motion, steps % STEPS_PER_IMAGE == 0)
            steps += 1

    def drive_for(self, duration_s: float, silent: bool = False) -> None:
        """Drive for a time of the car's own clock (s)."""
        until = len(self.speeds) + round(duration_s / STEP_S)
        self.drive_until(lambda: len(self.speeds) >= until, duration_s + 1.0, silent)

    def _command(self) -> Command:
        """Return what the newest cmd_vel asks for: a speed, met in a fifth of a second."""
        if not self.seen:
            return Command(0.0, 0.0, 0.0)
        speed, rate = self.seen[-1].linear.x, self.seen[-1].angular.z
        steering = self.car.steering_rad
        if speed > 0.05:
            steering = float(np.arctan(rate * VEHICLE.wheelbase_m / speed))
        return Command(speed, (speed - self.car.speed_m_s) / 0.2, steering)

    def _see(self, motion: Motion) -> None:
        self.speeds.append(self.car.speed_m_s)
        pose = torch.from_numpy(motion.poses[-1])
        self.collided |= bool(touches(pose, VEHICLE, self.course.world.obstacles))

    def _publish(self, stamp_ns: int, motion: Motion, image: bool) -> None:
        sample = self.sensors.imu(motion)[0].tolist()
        self.client.imu.publish(imu_message(stamp_ns, sample))
        if image:
            pixels = self.sensors.image(motion.poses[-1], Condition.CLEAR)
            self.client.camera_info.publish(camera_info(self.sensors, stamp_ns))
            self.client.image.publish(image_message(stamp_ns, pixels))

    def fix(self) -> None:
        """Tell the estimator where the car is."""
        message = PoseWithCovarianceStamped()
        message.header.stamp, message.header.frame_id = time_of(time.time_ns()), "odom"
        message.pose = pose_with_covariance(planar_matrix(self.car.pose), FIX_COV)
        self.client.set_pose.publish(message)


def imu_message(stamp_ns: int, sample: list[float]) -> Imu:
    message = Imu()
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "imu_link"
    force, rate = message.linear_acceleration, message.angular_velocity
    force.x, force.y, force.z, rate.x, rate.y, rate.z = sample
    return message


def image_message(stamp_ns: int, pixels: np.ndarray) -> Image:
    height, width = pixels.shape
    message = Image(height=height, width=width, encoding="mono8", step=width)
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "camera_optical"
    message.data = pixels.tobytes()
    return message


def camera_info(sensors: RenderedSensors, stamp_ns: int) -> CameraInfo:
    camera = sensors.camera
    message = CameraInfo(width=camera.width, height=camera.height, d=[0.0] * 5)
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), "camera_optical"
    message.distortion_model = "plumb_bob"
    message.k = camera.K.ravel().tolist()
    return message


def test_a_car_is_driven_past_a_gate_and_through_silence_to_the_finish(tmp_path):
    client = Client(target="planner")
    estimator = {"camera_source": "camera_info", "device": "cpu"}
    planner = {
        "samples": 1,
        "speed_max_m_s": 5.0,
        "offsets": 7,
        "speeds": 3,
        "horizon_s": 4.5,
        "collision_max": 0.05,
        "odometry_timeout_s": 0.8,
    }
    try:
        with (
            EstimatorProcess(tmp_path / "estimator.txt", estimator) as first,
            PlannerProcess(tmp_path / "planner.txt", **planner) as second,
        ):
            driven = Driven(street(), client)
            driven.connect()
            driven.drive_until(lambda: driven.car.speed_m_s > 2.0, 30.0)
            driven.drive_until(lambda: driven.car.pose[0] > 4.0, 20.0)
            driven.drive_for(4.0, silent=True)
            stood = driven.speeds[-1]
            before_gate_m = driven.car.pose[0] + VEHICLE.front_m
            driven.drive_for(1.0)

            def finished() -> bool:
                if len(driven.speeds) % 200 == 0:
                    driven.fix()
                return driven.car.pose[0] > FINISH_M

            driven.drive_until(finished, 90.0)
            logs = first.log + second.log
    finally:
        client.close()
    assert stood < 0.05
    assert before_gate_m < GATE_M
    assert not driven.collided
    assert "Traceback" not in logs
