"""A short simulated drive, read and measured as a fit does."""

from pathlib import Path

from bayes_vio.data.bags import open_streams
from bayes_vio.data.dataset import PreparedRecording, prepare
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import DriveSettings


def prepared_drive(folder: Path, seed: int, duration_s: float) -> PreparedRecording:
    """Return a drive of 10 images/s, whose clocks agree."""
    drive, camera = DriveSettings(duration_s=duration_s), CameraSettings(rate_hz=10)
    simulate(folder / "drive", SimulationSettings(seed=seed, drive=drive, camera=camera))
    return prepare(open_streams(folder / "drive"), folder / "cache", time_offset_s=0.0, workers=1)
