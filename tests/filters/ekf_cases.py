"""Drives of known motion whose twists err as the filter assumes, or as a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.covariance import symmetric_sqrt
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.measurements import PositionFix, TwistMeasurement
from bayes_vio.geometry import se3
from bayes_vio.models.noise import NoiseCorrelation

START_NS = 1_700_000_000 * NS_PER_S
STEP_NS = NS_PER_S // 10
DT_S = 0.1
NOISE_COV = np.diag([0.10, 0.04, 0.04, 0.01, 0.01, 0.01]) ** 2
EPISTEMIC_COV = np.diag([0.15, 0.03, 0.03, 0.005, 0.005, 0.02]) ** 2
EPISTEMIC_COV[0, 5] = EPISTEMIC_COV[5, 0] = 0.5 * 0.15 * 0.02
LASTING = NoiseCorrelation((2.0, 10.0, 1.0, 50.0, 5.0, 40.0), (0.5, 0.4, 0.6, 0.7, 0.2, 0.5))
SETTINGS = EkfSettings(epistemic_correlation_s=5.0, noise_correlation=LASTING)


def exp(xi: np.ndarray) -> np.ndarray:
    return se3.exp(torch.from_numpy(np.asarray(xi, np.float64))).numpy()


def right_error(T: np.ndarray, T_true: np.ndarray) -> np.ndarray:
    return se3.log(torch.from_numpy(np.linalg.solve(T, T_true))).numpy()


@dataclass
class Sampled:
    """A vehicle drawn from the filter's own model: true pose and twist, and what is measured."""

    settings: EkfSettings
    rng: np.random.Generator
    stamp_ns: int = START_NS

    def __post_init__(self) -> None:
        self.T = np.eye(4)
        self.twist = np.array([8.0, 0, 0, 0, 0, 0.1])
        self.z_noise, self.z_model = self.rng.normal(size=(2, 6))
        self.z_fix = self.rng.normal(size=3)

    def step(self, dt_s: float = DT_S) -> None:
        """Move on; twist and lasting errors change as F1 says."""
        s, pieces = self.settings, 4
        for _ in range(pieces):
            h = dt_s / pieces
            self.T = self.T @ exp(h * self.twist)
            kick = np.sqrt(h) * np.array(s.acceleration_density) * self.rng.normal(size=6)
            self.twist = self.twist + kick
        self.z_noise = self._aged(self.z_noise, np.array(s.noise_correlation.time_s), dt_s)
        self.z_model = self._aged(self.z_model, s.epistemic_correlation_s, dt_s)
        self.z_fix = self._aged(self.z_fix, s.fix_correlation_s, dt_s)
        self.stamp_ns += round(dt_s * NS_PER_S)

    def _aged(self, z, tau_s, dt_s: float) -> np.ndarray:
        r = np.exp(-dt_s / tau_s)
        return r * z + np.sqrt(1 - r**2) * self.rng.normal(size=len(z))

    def measured(self) -> TwistMeasurement:
        white_cov, lasting_cov = self.settings.noise_correlation.split(NOISE_COV)
        error = self.rng.multivariate_normal(np.zeros(6), white_cov)
        error += symmetric_sqrt(lasting_cov) @ self.z_noise
        error += symmetric_sqrt(EPISTEMIC_COV) @ self.z_model
        return TwistMeasurement(self.stamp_ns, self.twist + error, NOISE_COV, EPISTEMIC_COV)

    def fix(self, std_m: float = 1.0) -> PositionFix:
        antenna = np.array(self.settings.antenna_position_m)
        error = std_m * self.rng.normal(size=3) + self.settings.fix_lasting_std_m * self.z_fix
        position = self.T[:3, 3] + self.T[:3, :3] @ antenna + error
        return PositionFix(self.stamp_ns, position, std_m**2 * np.eye(3))


def twists(n: int, start_ns: int = START_NS, step_ns: int = STEP_NS) -> Iterator[TwistMeasurement]:
    """Yield n exact twists of a gentle turn."""
    for k in range(n):
        twist = np.array([8.0, 0, 0, 0, 0, 0.1])
        yield TwistMeasurement(start_ns + k * step_ns, twist, NOISE_COV, EPISTEMIC_COV)


def without_memory(settings: EkfSettings) -> EkfSettings:
    """Return settings by which every error is white."""
    return replace(settings, epistemic_correlation_s=0.0, noise_correlation=NoiseCorrelation())
