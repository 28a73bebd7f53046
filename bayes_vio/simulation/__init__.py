"""Simulated recordings: drives, a textured world, a camera and an IMU, and what goes wrong."""

from bayes_vio.simulation.camera import CameraSettings
from bayes_vio.simulation.drives import DriveSettings, RecordedDrive
from bayes_vio.simulation.faults import Fault, FaultKind
from bayes_vio.simulation.imu import PERFECT_IMU, ImuSettings
from bayes_vio.simulation.road_surface import RoadStyle
from bayes_vio.simulation.simulate import Simulation, SimulationSettings, plan, simulate
from bayes_vio.simulation.world import WorldSettings

__all__ = [
    "PERFECT_IMU",
    "CameraSettings",
    "DriveSettings",
    "Fault",
    "FaultKind",
    "ImuSettings",
    "RecordedDrive",
    "RoadStyle",
    "Simulation",
    "SimulationSettings",
    "WorldSettings",
    "plan",
    "simulate",
]
