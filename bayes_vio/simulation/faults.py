"""Bad days: what can go wrong with a camera or an IMU for a while."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, SPECIFIC_FORCE
from bayes_vio.simulation.textures import Gray

_DIRT_LEVEL = 20.0


class FaultKind(Enum):
    """Kinds of faults, and what a strength of 1 means for each."""

    FRAME_DROP = "frame_drop"  # every image is lost; less: that share of them
    FREEZE = "freeze"  # the last image before is repeated, whatever the strength
    IMU_GAP = "imu_gap"  # every sample is lost; less: that share of them
    IMU_BIAS = "imu_bias"  # 1 m/s^2 and 0.05 rad/s on every axis
    DARKNESS = "darkness"  # no light is left
    BLUR = "blur"  # a Gaussian of 3 % of the image's width
    OCCLUSION = "occlusion"  # dirt all over the lens; less: that share of the image


@dataclass(frozen=True)
class Fault:
    """One fault from ``start_s`` after the drive's start, for ``duration_s``; strength in 0..1.

    Raises ValueError for a strength outside 0..1 or a duration that is not positive.
    """

    kind: FaultKind
    start_s: float
    duration_s: float
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength {self.strength} of {self.kind.value} must be in 0..1")
        if not self.duration_s > 0:
            raise ValueError(f"duration {self.duration_s} s of {self.kind.value} must be positive")

    def holds(self, time_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return at which of the times [n] (s) the fault is present."""
        return (time_s >= self.start_s) & (time_s < self.start_s + self.duration_s)


def lost_frames(
    time_s: NDArray[np.float64],
    faults: tuple[Fault, ...],
    drop_probability: float,
    burst_frames: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return which frames at time_s [n] are lost, by faults and by random bursts.

    drop_probability: the share of frames lost at random; burst_frames: mean length of a burst.
    Raises ValueError for a probability outside [0, 1) or bursts shorter than one frame.
    """
    if not 0 <= drop_probability < 1:
        raise ValueError(f"drop probability {drop_probability} must be at least 0 and below 1")
    if not burst_frames >= 1:
        raise ValueError(f"bursts of {burst_frames} frames: a burst has at least 1 frame")
    lost = _hit(time_s, faults, FaultKind.FRAME_DROP, rng)
    # A two-state chain: bursts end with probability 1 / burst_frames, and begin so often that
    # the share of lost frames comes out.
    begin = drop_probability / max(1 - drop_probability, 1e-9) / burst_frames
    draws, bursting = rng.random(len(time_s)), False
    for i, draw in enumerate(draws):
        bursting = draw >= 1 / burst_frames if bursting else draw < begin
        lost[i] |= bursting
    return lost


def lost_samples(
    time_s: NDArray[np.float64], faults: tuple[Fault, ...], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which IMU samples taken at time_s [n] are lost."""
    return _hit(time_s, faults, FaultKind.IMU_GAP, rng)


def _hit(
    time_s: NDArray[np.float64],
    faults: tuple[Fault, ...],
    kind: FaultKind,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    hit = np.zeros(len(time_s), bool)
    for fault in faults:
        if fault.kind is kind:
            hit |= fault.holds(time_s) & (rng.random(len(time_s)) < fault.strength)
    return hit


def added_bias(time_s: NDArray[np.float64], faults: tuple[Fault, ...]) -> NDArray[np.float64]:
    """Return what faults add to IMU samples at time_s [n]: [n, 6] (m/s^2, rad/s)."""
    bias = np.zeros((len(time_s), 6))
    for fault in faults:
        if fault.kind is FaultKind.IMU_BIAS:
            present = fault.strength * fault.holds(time_s)[:, None]
            bias[:, SPECIFIC_FORCE] += 1.0 * present
            bias[:, ANGULAR_RATE] += 0.05 * present
    return bias


def frozen(time_s: float, faults: tuple[Fault, ...]) -> bool:
    """Return whether the camera repeats an earlier image at a time (s)."""
    return any(_is(fault, FaultKind.FREEZE, time_s) for fault in faults)


def spoil(image: Gray, time_s: float, faults: tuple[Fault, ...], seed: int) -> Gray:
    """Return the image [h, w] as darkness, blur and dirt present at a time (s) leave it.

    The dirt of one fault stays where it is; ``seed`` says where.
    """
    for number, fault in enumerate(faults):
        if _is(fault, FaultKind.DARKNESS, time_s):
            image = np.rint(image * (1 - fault.strength)).astype(np.uint8)
        elif _is(fault, FaultKind.BLUR, time_s) and fault.strength > 0:
            sigma = 0.03 * fault.strength * image.shape[1]
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)
        elif _is(fault, FaultKind.OCCLUSION, time_s):
            clear = 1 - _dirt(image.shape, fault.strength, np.random.default_rng([seed, number]))
            image = np.rint(_DIRT_LEVEL + clear * (image - _DIRT_LEVEL)).astype(np.uint8)
    return image


def _is(fault: Fault, kind: FaultKind, time_s: float) -> bool:
    return fault.kind is kind and bool(fault.holds(np.array([time_s]))[0])


def _dirt(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return opacity [h, w] of blots that cover about a share of the image, soft at the edges."""
    opacity = np.zeros(shape[:2], np.float32)
    while opacity.mean() < share:
        centre = int(rng.integers(shape[1])), int(rng.integers(shape[0]))
        radius = int(np.ceil(rng.uniform(0.1, 0.3) * min(shape)))
        cv2.circle(opacity, centre, radius, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(opacity, (0, 0), 0.01 * shape[1]), dtype=np.float32)
