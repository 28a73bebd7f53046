"""Drive a car through a random world and write what its sensors report into a bag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.samples import CameraModel
from bayes_vio.simulation.camera import CameraSettings, SimulatedCamera, exposure_gains
from bayes_vio.simulation.drives import DriveSettings, RecordedDrive, random_drive, recorded_drive
from bayes_vio.simulation.faults import (
    Fault,
    added_bias,
    frozen,
    lost_frames,
    lost_samples,
    spoil,
)
from bayes_vio.simulation.imu import ImuSettings, simulate_imu
from bayes_vio.simulation.render import Renderer
from bayes_vio.simulation.road import road_path
from bayes_vio.simulation.textures import Gray
from bayes_vio.simulation.trajectory import Trajectory
from bayes_vio.simulation.world import (
    World,
    WorldSettings,
    draw_surface,
    lane_offset_m,
    random_world,
)


@dataclass(frozen=True)
class SimulationSettings:
    """All that defines a simulated recording: the same settings give the same bag.

    start_ns is the first stamp of a random drive; a recorded one keeps its own stamps.
    """

    seed: int = 0
    drive: DriveSettings | RecordedDrive = field(default_factory=DriveSettings)
    world: WorldSettings = field(default_factory=WorldSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)
    imu: ImuSettings = field(default_factory=ImuSettings)
    faults: tuple[Fault, ...] = ()
    start_ns: int = 1_600_000_000 * NS_PER_S
    storage: Literal["mcap", "sqlite3"] = "mcap"


@dataclass(frozen=True)
class Simulation:
    """A drive and its world before any sensor has looked at them; ``origin_ns`` is time 0."""

    settings: SimulationSettings
    trajectory: Trajectory
    world: World
    camera: CameraModel
    T_base_camera: NDArray[np.float64]
    origin_ns: int

    def stamp_ns(self, time_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return stamps [n] (ns) of times [n] (s)."""
        return self.origin_ns + np.rint(time_s * NS_PER_S).astype(np.int64)

    def rng(self, purpose: int) -> np.random.Generator:
        """Return a generator of its own for one purpose, so that none shifts another's draws."""
        return np.random.default_rng([self.settings.seed, purpose])


_DRIVE, _WORLD, _IMU, _TIMES, _LIGHT, _LOSSES, _NOISE = range(7)


def plan(settings: SimulationSettings) -> Simulation:
    """Return the drive and the world of a simulation.

    Raises ValueError where the settings do not describe a drive.
    """
    drive, seed = settings.drive, settings.seed
    if isinstance(drive, RecordedDrive):
        trajectory, origin_ns = recorded_drive(drive), int(drive.stamp_ns[0])
    else:
        trajectory = random_drive(drive, np.random.default_rng([seed, _DRIVE]))
        origin_ns = settings.start_ns
    rng = np.random.default_rng([seed, _WORLD])
    surface = draw_surface(settings.world, rng)
    centre_m = lane_offset_m(surface, settings.world.left_hand_traffic)
    path = road_path(trajectory, drive.base_height_m, centre_m, rng)
    world = random_world(path, surface, settings.world, settings.camera.focal_px, rng)
    T_base_camera = settings.camera.T_base_camera(drive.base_height_m)
    camera = settings.camera.model()
    return Simulation(settings, trajectory, world, camera, T_base_camera, origin_ns)


def simulate(
    out: Path,
    settings: SimulationSettings,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a bag with imu, image, camera_info, /tf_static and ground_truth/odometry.

    The reference pose is written at the time of every image, lost ones included. ``progress`` is
    called with (images done, images in all). Raises ValueError for settings that make no sense
    and BagError where ``out`` exists.
    """
    simulation = plan(settings)
    recorder = _Recorder(simulation)
    imu_stamp_ns, samples = _imu_messages(simulation)
    frame_stamp_ns = simulation.stamp_ns(recorder.time_s)
    poses = simulation.trajectory.pose(recorder.time_s)
    stamps = np.concatenate([frame_stamp_ns, imu_stamp_ns])
    n_frames = len(frame_stamp_ns)
    with BagWriter(out, settings.storage) as bag:
        frames = {"imu_link": settings.imu.T_base_imu, "camera_optical": simulation.T_base_camera}
        bag.tf_static(int(stamps.min()), frames)
        for index in np.argsort(stamps, kind="stable").tolist():
            stamp_ns = int(stamps[index])
            if index >= n_frames:
                bag.imu(stamp_ns, samples[index - n_frames])
                continue
            bag.odometry(stamp_ns, poses[index])
            image = recorder.image(index)
            if image is not None:
                bag.camera_info(stamp_ns, simulation.camera)
                bag.image(stamp_ns, image, jpeg_quality=settings.camera.jpeg_quality)
            if progress is not None:
                progress(index + 1, n_frames)


def _imu_messages(simulation: Simulation) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return stamps [n] and samples [n, 6] in the IMU's axes, faults included."""
    settings, rng = simulation.settings, simulation.rng(_IMU)
    offset_s = settings.imu.time_offset_s
    if isinstance(settings.drive, RecordedDrive) and settings.drive.imu is not None:
        stream, R_base_imu = settings.drive.imu, settings.imu.T_base_imu[:3, :3]
        stamp_ns = stream.stamp_ns
        samples = (stream.samples.reshape(-1, 2, 3) @ R_base_imu).reshape(-1, 6)
        true_s = (stamp_ns - simulation.origin_ns) / NS_PER_S - offset_s
    else:
        record = simulate_imu(simulation.trajectory, settings.imu, rng)
        stamp_ns, samples = simulation.stamp_ns(record.stamp_s), record.samples
        true_s = record.stamp_s - offset_s
    samples = samples + added_bias(true_s, settings.faults)
    kept = ~lost_samples(true_s, settings.faults, simulation.rng(_LOSSES))
    return stamp_ns[kept], samples[kept]


class _Recorder:
    """Take all images of a simulation in order."""

    def __init__(self, simulation: Simulation) -> None:
        settings = simulation.settings.camera
        self._faults, self._seed = simulation.settings.faults, simulation.settings.seed
        self.time_s = settings.times(simulation.trajectory, simulation.rng(_TIMES))
        rng = simulation.rng(_LIGHT)
        self._gains = exposure_gains(self.time_s, settings.exposure_drift_std, rng)
        self._lost = lost_frames(
            self.time_s,
            self._faults,
            settings.drop_probability,
            settings.drop_burst_frames,
            simulation.rng(_LOSSES),
        )
        self._camera = SimulatedCamera(
            Renderer(simulation.world, simulation.camera),
            simulation.trajectory,
            settings,
            simulation.T_base_camera,
        )
        self._noise = simulation.rng(_NOISE)
        self._last: Gray | None = None

    def image(self, index: int) -> Gray | None:
        """Return the image [h, w] of one time, None where it is lost."""
        if self._lost[index]:
            return None
        time_s = float(self.time_s[index])
        if self._last is None or not frozen(time_s, self._faults):
            sharp = self._camera.shoot(time_s, float(self._gains[index]), self._noise)
            self._last = spoil(sharp, time_s, self._faults, self._seed)
        return self._last
