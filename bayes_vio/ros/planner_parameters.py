"""The planner node's parameters: one field of `PlannerParameters` is one ROS parameter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from bayes_vio.device import DEVICE_PATTERN, choose_device
from bayes_vio.planning import Growth, Lattice, Planner, PlannerSettings, Vehicle
from bayes_vio.ros.parameter_table import choice, number, parameter, shared_values


class Command(str, Enum):
    """What is published to drive the car."""

    TWIST = "twist"
    ACKERMANN = "ackermann"


@dataclass(frozen=True)
class PlannerParameters:
    """The planner node's parameters, as checked; read when the node configures."""

    autostart: bool = parameter(
        True, "Configure and activate when the process starts", read_only=True
    )
    device: str = parameter(
        "cpu",
        "Where candidates are rolled out: cpu, cuda or cuda:N, or auto",
        pattern=DEVICE_PATTERN,
    )
    torch_threads: int = number(1, "Threads of PyTorch on the CPU", "threads", 1, 64)
    rate_hz: float = number(10.0, "Plans per second", "Hz", 1.0, 50.0)
    command: Command = choice(
        Command.TWIST,
        "What is published to drive by: geometry_msgs/Twist on cmd_vel, or "
        "ackermann_msgs/AckermannDriveStamped on ackermann_cmd",
    )
    odom_frame: str = parameter("odom", "Frame of the odometry, the map, the goal and the plan")
    estimator: str = parameter("estimator", "Name of the node whose diagnostics tell its state")
    command_lead_s: float = number(
        0.5, "How far ahead in the plan the commanded speed may be", "s", 0.1, 5.0
    )
    odometry_timeout_s: float = number(
        0.5, "Age of the newest odometry beyond which the car stops", "s", 0.05, 10.0
    )

    collision_max: float = number(
        0.01, "Largest probability of a collision that a plan may have", "1", 1e-6, 0.5
    )
    lane_departure_max: float = number(
        0.05, "Largest probability of leaving the lane that a plan may have", "1", 1e-6, 0.5
    )
    lane_half_width_m: float = number(
        0.0, "From the route to the lane's borders; 0: there is no lane", "m", 0.0, 50.0
    )
    risk_spacing_m: float = number(
        0.9, "Way between two stations at which risk is counted", "m", 0.2, 5.0
    )
    samples: int = number(
        500, "Motions sampled to estimate the chosen plan's probabilities", "motions", 1, 100000
    )
    goal_tolerance_m: float = number(1.0, "Distance at which a goal is reached", "m", 0.1, 10.0)
    occupied_from: int = number(
        50, "Occupancy from which a cell must not be touched", "percent", 1, 100
    )
    unknown_is_occupied: bool = parameter(
        True, "Whether cells of unknown occupancy are kept out of"
    )

    wheelbase_m: float = number(2.7, "Between the axles", "m", 0.1, 20.0)
    front_m: float = number(3.6, "From base_link (the rear axle) to the front", "m", 0.05, 20.0)
    rear_m: float = number(0.9, "From base_link to the rear", "m", 0.05, 20.0)
    half_width_m: float = number(0.9, "Half of the car's width", "m", 0.05, 5.0)
    speed_max_m_s: float = number(10.0, "Fastest speed planned", "m/s", 0.1, 60.0)
    acceleration_max_m_s2: float = number(1.5, "Largest acceleration", "m/s^2", 0.05, 20.0)
    braking_m_s2: float = number(
        2.5, "Deceleration by which every plan ends standing", "m/s^2", 0.1, 20.0
    )
    braking_max_m_s2: float = number(
        6.0, "Deceleration where no plan is within the bounds", "m/s^2", 0.1, 20.0
    )
    lateral_acceleration_max_m_s2: float = number(
        3.0, "Largest lateral acceleration", "m/s^2", 0.1, 20.0
    )
    steering_max_rad: float = number(0.55, "Largest angle of the front wheels", "rad", 0.05, 1.5)
    steering_rate_max_rad_s: float = number(
        0.6, "Fastest turning of the front wheels", "rad/s", 0.01, 10.0
    )

    noise_correlation_s: float = number(
        0.5, "For how long the noise of the twist lasts", "s", 0.001, 60.0
    )
    position_tracking_std_m: float = number(
        0.05, "Standard deviation of following a plan, position", "m", 1e-4, 5.0
    )
    yaw_tracking_std_rad: float = number(
        0.005, "Standard deviation of following a plan, heading", "rad", 1e-5, 1.0
    )

    offsets: int = number(11, "Lateral offsets tried, an odd number", "offsets", 1, 101)
    offset_max_m: float = number(3.0, "Largest lateral offset tried", "m", 0.1, 20.0)
    speeds: int = number(4, "Target speeds tried", "speeds", 1, 50)
    commit_s: float = number(1.5, "How long a target speed is held", "s", 0.1, 30.0)
    short_commit_s: float = number(
        0.5, "For how long the slowest target speed is held, too", "s", 0.05, 30.0
    )
    horizon_s: float = number(6.0, "Length of a plan", "s", 0.5, 60.0)
    time_step_s: float = number(0.15, "Time step of a plan", "s", 0.02, 1.0)

    def planner(self) -> Planner:
        """Return the planner; ValueError for settings that do not fit one another."""
        settings = shared_values(self, PlannerSettings)
        settings |= {
            "lane_half_width_m": self.lane_half_width_m or None,
            "spacing_m": self.risk_spacing_m,
        }
        return Planner(
            vehicle=Vehicle(**shared_values(self, Vehicle)),
            growth=Growth(**shared_values(self, Growth)),
            lattice=Lattice(**shared_values(self, Lattice), dt_s=self.time_step_s),
            settings=PlannerSettings(**settings),
            device=self.chosen_device,
        )

    @property
    def chosen_device(self) -> torch.device:
        """Return the device asked for; ValueError where it is not there."""
        return choose_device(self.device)
