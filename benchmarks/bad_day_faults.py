"""Bad days: what is done to a recording's streams before the estimator sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.samples import ImuStream, Streams
from bayes_vio.evaluation.run import Run
from bayes_vio.simulation.faults import (
    Fault,
    FaultKind,
    added_bias,
    frozen,
    lost_frames,
    lost_samples,
    spoil,
)

Image = NDArray[np.uint8]
Spoil = Callable[[Streams, float, int], "BadDay"]

ONSET_S = 5.0  # a drive begins well
PERIOD_S, EPISODE_S = 15.0, 10.0  # then ten bad seconds in every fifteen


@dataclass(frozen=True)
class BadDay:
    """A recording with a fault, and the spells [k, 2] (ns, images' clock) in which it is there."""

    streams: Streams
    spell_ns: NDArray[np.int64]

    def hit(self, run: Run) -> NDArray[np.bool_]:
        """Return which of a run's intervals [n] overlap a spell."""
        begins = run.earlier_stamp_ns[:, None] < self.spell_ns[:, 1]
        ends = run.stamp_ns[:, None] > self.spell_ns[:, 0]
        return np.asarray((begins & ends).any(1))


@dataclass(frozen=True)
class FaultRow:
    """A fault at three strengths, weakest first; ``unit`` says what they count."""

    name: str
    unit: str
    strengths: tuple[float, float, float]
    spoil: Spoil


def _share_of(kind: FaultKind, scale: float = 1.0, duration_s: float = EPISODE_S) -> Spoil:
    """Return a fault whose strength is ``scale`` times the simulation's, in spells."""

    def apply(streams: Streams, strength: float, seed: int) -> BadDay:
        return with_faults(streams, _spells(streams, kind, duration_s, scale * strength), seed)

    return apply


def _lasting_for(kind: FaultKind) -> Spoil:
    """Return a whole fault whose strength is how long (s) each spell lasts."""

    def apply(streams: Streams, strength: float, seed: int) -> BadDay:
        return with_faults(streams, _spells(streams, kind, strength, 1.0), seed)

    return apply


def _biased(streams: Streams, strength: float, seed: int) -> BadDay:
    return with_faults(streams, (Fault(FaultKind.IMU_BIAS, 0.0, 1e6, strength / 0.05),), seed)


def _offset(streams: Streams, strength: float, _seed: int) -> BadDay:
    """Shift the IMU's stamps by ``strength`` (s): the estimator's time offset is that wrong."""
    assert streams.imu is not None
    shifted = streams.imu.stamp_ns + round(strength * NS_PER_S)
    imu = ImuStream(shifted, streams.imu.samples)
    return BadDay(replace(streams, imu=imu), _always(streams))


def _refocused(streams: Streams, strength: float, _seed: int) -> BadDay:
    """Give a calibration whose focal lengths are too long by a share."""
    K = streams.camera.K.copy()
    K[[0, 1], [0, 1]] *= 1 + strength
    camera = replace(streams.camera, K=K)
    return BadDay(replace(streams, camera=camera), _always(streams))


FAULTS = (
    FaultRow(
        "blur", "share of the width", (0.003, 0.01, 0.03), _share_of(FaultKind.BLUR, 1 / 0.03)
    ),
    FaultRow("darkness", "light lost", (0.5, 0.8, 0.95), _share_of(FaultKind.DARKNESS)),
    FaultRow("occlusion", "share covered", (0.1, 0.3, 0.6), _share_of(FaultKind.OCCLUSION)),
    FaultRow("frozen", "s of 15 s", (0.5, 2.0, 5.0), _lasting_for(FaultKind.FREEZE)),
    FaultRow("dropped frames", "share", (0.1, 0.3, 0.6), _share_of(FaultKind.FRAME_DROP)),
    FaultRow("IMU gap", "s of 15 s", (0.2, 1.0, 5.0), _lasting_for(FaultKind.IMU_GAP)),
    FaultRow("IMU bias", "rad/s, and 20 times that m/s^2", (0.001, 0.005, 0.02), _biased),
    FaultRow("wrong time offset", "s", (0.005, 0.02, 0.05), _offset),
    FaultRow("wrong intrinsics", "focal length", (0.02, 0.05, 0.1), _refocused),
)


def unspoilt(streams: Streams) -> BadDay:
    """Return a good day, for comparison."""
    return BadDay(streams, _always(streams))


def _spells(
    streams: Streams, kind: FaultKind, duration_s: float, strength: float
) -> tuple[Fault, ...]:
    last_s = (streams.image_stamp_ns[-1] - streams.image_stamp_ns[0]) / NS_PER_S
    starts = np.arange(ONSET_S, last_s - 1.0, PERIOD_S)
    return tuple(Fault(kind, float(start), duration_s, strength) for start in starts)


def _always(streams: Streams) -> NDArray[np.int64]:
    return np.array([[0, streams.image_stamp_ns[-1] + 1]], np.int64)


def with_faults(streams: Streams, faults: tuple[Fault, ...], seed: int) -> BadDay:
    """Return a recording with faults; their times begin with its first image.

    A sample lost or biased is one *taken* within the fault, as near as the recording's own clock
    tells. Raises ValueError for a recording without IMU.
    """
    if streams.imu is None:
        raise ValueError(f"{streams.name} has no IMU: bad days are of cameras and IMUs")
    origin_ns = int(streams.image_stamp_ns[0])
    rng = np.random.default_rng(seed)
    lost = lost_frames((streams.image_stamp_ns - origin_ns) / NS_PER_S, faults, 0.0, 1.0, rng)
    imu_s = (streams.imu.stamp_ns - origin_ns) / NS_PER_S
    kept = ~lost_samples(imu_s, faults, rng)
    samples = streams.imu.samples + added_bias(imu_s, faults)
    spell_s = np.array([[f.start_s, f.start_s + f.duration_s] for f in faults])
    return BadDay(
        replace(
            streams,
            image_stamp_ns=streams.image_stamp_ns[~lost],
            frames=lambda: _spoilt(streams, set(streams.image_stamp_ns[lost]), faults, seed),
            imu=ImuStream(streams.imu.stamp_ns[kept], samples[kept]),
        ),
        origin_ns + np.rint(spell_s * NS_PER_S).astype(np.int64),
    )


def _spoilt(
    streams: Streams, lost_ns: set[int], faults: tuple[Fault, ...], seed: int
) -> Iterator[tuple[int, Image]]:
    origin_ns, shown = int(streams.image_stamp_ns[0]), None
    for stamp_ns, image in streams.frames():
        time_s = (stamp_ns - origin_ns) / NS_PER_S
        if shown is None or not frozen(time_s, faults):
            shown = spoil(image, time_s, faults, seed)
        if stamp_ns not in lost_ns:
            yield stamp_ns, shown
