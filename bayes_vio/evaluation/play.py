"""Play a recording through the estimator as a live stream; set estimates beside the truth."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR_RATE, NS_PER_S, SPECIFIC_FORCE
from bayes_vio.data.reference_jumps import jumps, spans_jump
from bayes_vio.data.samples import Extrinsics, ImuStream, ReferenceStream, Streams
from bayes_vio.data.sync import pose_at
from bayes_vio.estimator import Estimator, MotionEstimate
from bayes_vio.evaluation.run import REFERENCE_JUMPS, Run

# IMU samples this long after the last image still belong to it; later ones would only tell an
# estimator that waits for images that the camera has stopped.
_TAIL_NS = NS_PER_S * 2 // 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Event:
    """One message: an IMU sample [6] in the sensor's own axes, or a gray image [h, w]."""

    stamp_ns: int
    sample: NDArray[np.float64] | None
    gray: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Played:
    """One estimate with the wall time it took and the stream's time when it came out."""

    estimate: MotionEstimate
    compute_s: float
    now_ns: int


def play(estimator: Estimator, streams: Streams, progress: Progress | None = None) -> Run:
    """Feed a recording in the order of its stamps and return the run; the clock is the stream's.

    progress is called with (images fed, images in all). Raises ValueError where the recording has
    no reference, or no estimate falls within it.
    """
    if streams.reference is None:
        raise ValueError(
            f"{streams.name} has no reference pose to evaluate against: name its topic, "
            "or evaluate a recording that has one."
        )
    played = list(estimates(estimator, events(streams, progress)))
    counters = {k: int(v) for k, v in estimator.counters.items()}
    dropped = {f"recording: {k}": int(v) for k, v in streams.dropped.items()}
    return collect(streams.name, played, streams.reference, counters | dropped)


def events(streams: Streams, progress: Progress | None = None) -> Iterator[Event]:
    """Yield a recording's IMU samples and images in the order of their stamps."""
    return heapq.merge(_samples(streams), _images(streams, progress), key=lambda e: e.stamp_ns)


def _samples(streams: Streams) -> Iterator[Event]:
    if streams.imu is None:
        return
    samples = in_imu_axes(streams.imu, streams.extrinsics)
    end_ns = int(streams.image_stamp_ns[-1]) + _TAIL_NS
    for stamp_ns, sample in zip(streams.imu.stamp_ns, samples, strict=True):
        if stamp_ns > end_ns:
            return
        yield Event(int(stamp_ns), sample, None)


def _images(streams: Streams, progress: Progress | None) -> Iterator[Event]:
    for number, (stamp_ns, gray) in enumerate(streams.frames()):
        yield Event(int(stamp_ns), None, gray)
        if progress:
            progress(number + 1, len(streams.image_stamp_ns))


def in_imu_axes(imu: ImuStream, extrinsics: Extrinsics) -> NDArray[np.float64]:
    """Return samples [n, 6] turned from base axes back into the sensor's own."""
    R_base_imu = extrinsics.T_base_imu[:3, :3]
    force = imu.samples[:, SPECIFIC_FORCE] @ R_base_imu
    return np.concatenate([force, imu.samples[:, ANGULAR_RATE] @ R_base_imu], axis=1)


def estimates(estimator: Estimator, stream: Iterator[Event]) -> Iterator[Played]:
    """Yield each estimate as it comes out of the stream.

    An estimate's wall time is what its image took when it was fed, and the call that completed it.
    """
    image_s: dict[int, float] = {}
    for event in stream:
        started = time.perf_counter()
        if event.gray is not None:
            estimator.feed_image(event.stamp_ns, event.gray)
        elif event.sample is not None:
            estimator.feed_imu(event.stamp_ns, event.sample)
        estimate = estimator.estimate(event.stamp_ns)
        spent_s = time.perf_counter() - started
        if estimate is not None:
            earlier_s = image_s.get(estimate.stamp_ns, 0.0)
            image_s = {k: v for k, v in image_s.items() if k > estimate.stamp_ns}
            yield Played(estimate, spent_s + earlier_s, event.stamp_ns)
        elif event.gray is not None:
            image_s[event.stamp_ns] = spent_s


def collect(
    name: str, played: list[Played], reference: ReferenceStream, counters: dict[str, int]
) -> Run:
    """Return the estimates whose interval the reference tells; ValueError if there are none."""
    if not played:
        raise ValueError(f"{name} gave no estimate: {counters or 'nothing was counted'}.")
    said = [p.estimate for p in played]
    earlier_ns = np.array([e.earlier_stamp_ns for e in said], np.int64)
    stamp_ns = np.array([e.stamp_ns for e in said], np.int64)
    T_earlier, earlier_known = pose_at(reference, earlier_ns)
    T_later, later_known = pose_at(reference, stamp_ns)
    true = ~spans_jump(reference, earlier_ns, stamp_ns)
    known = earlier_known & later_known & true
    if jumped := int(jumps(reference).sum()):
        counters = counters | {REFERENCE_JUMPS: jumped}
    if not known.any():
        raise ValueError(
            f"{name} gave {len(said)} estimates, from {earlier_ns[0]} to {stamp_ns[-1]} ns, and "
            f"no reference for any (it runs from {reference.stamp_ns[0]} to "
            f"{reference.stamp_ns[-1]} ns): check that one clock stamps both, and that the "
            "reference has no gaps above 0.5 s and does not jump."
        )
    return Run(
        name=name,
        earlier_stamp_ns=earlier_ns[known],
        stamp_ns=stamp_ns[known],
        T_earlier_later=np.stack([e.T_earlier_later for e in said])[known],
        epistemic_cov=np.stack([e.epistemic_cov for e in said])[known],
        noise_cov=np.stack([e.noise_cov for e in said])[known],
        T_odom_base=np.stack([e.T_odom_base for e in said])[known],
        odom_cov=np.stack([e.odom_cov for e in said])[known],
        state=np.array([e.state.value for e in said])[known],
        compute_s=np.array([p.compute_s for p in played])[known],
        wait_s=(np.array([p.now_ns for p in played]) - stamp_ns)[known] / NS_PER_S,
        T_world_earlier=T_earlier[known],
        T_world_base=T_later[known],
        unreferenced=int((~known).sum()),
        counters=counters,
    )
