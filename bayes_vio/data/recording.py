"""Turn streams into motion samples: images measured once, windows cut for any time offset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.flow_yaw import rotation_from_flow
from bayes_vio.data.frame_table import FrameTable, ProgressCallback, measure_frames
from bayes_vio.data.reference_jumps import spans_jump
from bayes_vio.data.samples import (
    IMU_BINS,
    CameraModel,
    Extrinsics,
    ImuStream,
    ReferenceStream,
    Streams,
    TimeOffset,
)
from bayes_vio.data.sync import (
    TimeOffsetError,
    estimate_time_offset,
    offset_from_reference,
    pose_at,
)
from bayes_vio.data.units import check_yaw_rate
from bayes_vio.data.windows import imu_bins_many
from bayes_vio.geometry import se3


@dataclass(frozen=True)
class Samples:
    """The usable pairs of a recording.

    pair [m], row in the frame table; stride [m] (images); dt_s [m]; imu [m, 20, 6] and imu_valid
    [m, 20] of the interval, zero without an IMU; target [m, 6] float32, Log(T_earlier_later) of
    base_link (m, rad), NaN without a reference.
    """

    pair: NDArray[np.int64]
    stride: NDArray[np.int64]
    dt_s: NDArray[np.float64]
    imu: NDArray[np.float32]
    imu_valid: NDArray[np.float32]
    target: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pair)

    def where(self, kept: NDArray[np.bool_]) -> Samples:
        """Return the samples that are kept [m]."""
        return Samples(**{f.name: getattr(self, f.name)[kept] for f in fields(self)})


@dataclass(frozen=True)
class PreparedRecording:
    """A recording ready to be read in batches; images and flow stay on disk.

    T_world_base [n, 4, 4] and reference_ok [n] are the reference at the images. ``time_offset``
    is what the recording tells of the camera-IMU offset (None, with the reason in ``note``, where
    it cannot); ``time_offset_s`` is what the IMU windows were cut with. ``sha256`` is of
    everything a fit reads of it but the offset.
    """

    name: str
    sha256: str
    camera: CameraModel
    extrinsics: Extrinsics
    frames: FrameTable
    imu: ImuStream | None
    reference: ReferenceStream | None
    T_world_base: NDArray[np.float64]
    reference_ok: NDArray[np.bool_]
    time_offset: TimeOffset | None
    time_offset_s: float
    samples: Samples
    dropped: dict[str, int]
    note: str

    @property
    def frame_stamp_ns(self) -> NDArray[np.int64]:
        """Stamps [n] of the images."""
        return self.frames.frame_stamp_ns

    @property
    def brightness(self) -> NDArray[np.float64]:
        """Mean gray level [n] of the views."""
        return self.frames.brightness

    @property
    def sharpness(self) -> NDArray[np.float64]:
        """Variance of the Laplacian [n] of the views."""
        return self.frames.sharpness

    def with_time_offset(self, time_offset_s: float) -> PreparedRecording:
        """Return the recording with its IMU windows cut for another offset (s)."""
        base = replace(self, time_offset_s=time_offset_s)
        samples, dropped = _cut_samples(base)
        return replace(base, samples=samples, dropped=self.frames.dropped | dropped)

    def summary(self) -> str:
        """Return one line on what there is and what was left out."""
        duration_s = (self.frame_stamp_ns[-1] - self.frame_stamp_ns[0]) / NS_PER_S
        sensors = "camera and IMU" if self.imu is not None else "camera alone"
        parts = [
            f"{self.name}: {len(self.frame_stamp_ns)} images in {duration_s:.1f} s, {sensors}, "
            f"{len(self.samples)} samples"
        ]
        if self.imu is not None:
            parts.append(f"time offset {1e3 * self.time_offset_s:+.1f} ms")
        if self.note:
            parts.append(self.note)
        if self.dropped:
            parts.append("left out " + ", ".join(f"{n} x {c}" for c, n in self.dropped.items()))
        return "; ".join(parts)


def prepare(
    streams: Streams,
    cache_dir: Path,
    time_offset_s: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> PreparedRecording:
    """Measure a recording's images (once; cached in ``cache_dir``) and cut its samples.

    ``time_offset_s`` None: the recording's own estimate, or 0 where it tells none (then
    ``time_offset`` is None and ``note`` says why). ``seed`` draws each image's second partner.
    ``progress`` is told (images done, images in all). Raises BagError for fewer than two images,
    or where the yaw that they show tells that the gyro's unit or sign is wrong.
    """
    frames = measure_frames(streams, cache_dir, seed, workers, progress)
    frames = replace(frames, dropped=streams.dropped | frames.dropped)
    T_world_base, reference_ok = _reference_at_frames(streams.reference, frames)
    time_offset, note = _offset_of(streams, frames)
    estimated_s = time_offset.offset_s if time_offset else 0.0
    uncut = PreparedRecording(
        name=streams.name,
        sha256=_content_hash(streams, frames),
        camera=streams.camera,
        extrinsics=streams.extrinsics,
        frames=frames,
        imu=streams.imu,
        reference=streams.reference,
        T_world_base=T_world_base,
        reference_ok=reference_ok,
        time_offset=time_offset,
        time_offset_s=estimated_s,
        samples=_no_samples(),
        dropped={},
        note=note,
    )
    return uncut.with_time_offset(estimated_s if time_offset_s is None else time_offset_s)


def _reference_at_frames(
    reference: ReferenceStream | None, frames: FrameTable
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    n = len(frames.frame_stamp_ns)
    if reference is None:
        return np.tile(np.eye(4), (n, 1, 1)), np.zeros(n, bool)
    return pose_at(reference, frames.frame_stamp_ns)


def _offset_of(streams: Streams, frames: FrameTable) -> tuple[TimeOffset | None, str]:
    """Return the recording's own estimate of the time offset, or why there is none."""
    if streams.imu is None:
        return None, ""
    try:
        if streams.reference is not None:
            stamps = frames.frame_stamp_ns
            return offset_from_reference(streams.reference, streams.imu, stamps), ""
        _check_gyro(streams.name, streams.imu, frames)
        return offset_from_flow(frames, streams.imu), ""
    except TimeOffsetError as error:
        return None, str(error)


def _check_gyro(name: str, imu: ImuStream, frames: FrameTable) -> None:
    """Refuse a gyro whose unit or sign is not that of the yaw that consecutive images show."""
    start_ns, end_ns, turned = _rotation_seen(frames)
    check_yaw_rate(name, imu, start_ns, end_ns, turned[:, 2], "the optical flow")


def offset_from_flow(frames: FrameTable, imu: ImuStream) -> TimeOffset:
    """Estimate the time offset from the rotation that consecutive images show.

    Raises TimeOffsetError where the recording turns too little.
    """
    start_ns, end_ns, turned = _rotation_seen(frames)
    return estimate_time_offset(turned, start_ns, end_ns, imu, "optical flow")


def _rotation_seen(
    frames: FrameTable,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return start_ns, end_ns [m] and rotation [m, 3] (rad) between consecutive images."""
    consecutive = np.flatnonzero(np.diff(frames.pairs, axis=1)[:, 0] == 1)
    stamps = frames.frame_stamp_ns[frames.pairs[consecutive]]
    turned = rotation_from_flow(frames.flow(consecutive), frames.view_valid)
    return stamps[:, 0], stamps[:, 1], turned


def _content_hash(streams: Streams, frames: FrameTable) -> str:
    digest = hashlib.sha256(frames.sha256.encode())
    for stream in (streams.imu, streams.reference):
        if stream is not None:
            values = stream.samples if isinstance(stream, ImuStream) else stream.T_world_base
            digest.update(stream.stamp_ns.tobytes() + np.ascontiguousarray(values).tobytes())
    digest.update(streams.camera.K.tobytes() + streams.camera.coefficients.tobytes())
    for T in (streams.extrinsics.T_base_imu, streams.extrinsics.T_base_camera):
        digest.update(np.ascontiguousarray(T).tobytes())
    return digest.hexdigest()


def _no_samples() -> Samples:
    zero = np.zeros(0)
    index = zero.astype(np.int64)
    imu = np.zeros((0, IMU_BINS, 6), np.float32)
    return Samples(index, index, zero, imu, imu[..., 0], np.zeros((0, 6), np.float32))


def _cut_samples(recording: PreparedRecording) -> tuple[Samples, dict[str, int]]:
    """Return the usable samples and how many were left out, by cause."""
    pairs = recording.frames.pairs
    stamps = recording.frame_stamp_ns[pairs]
    n = len(pairs)
    imu, imu_valid = np.zeros((n, IMU_BINS, 6), np.float32), np.zeros((n, IMU_BINS), np.float32)
    has_imu = np.ones(n, bool)
    if recording.imu is not None and n:
        window = stamps + round(recording.time_offset_s * NS_PER_S)
        stream = recording.imu
        imu, imu_valid = imu_bins_many(stream.stamp_ns, stream.samples, *window.T)
        has_imu = np.asarray(imu_valid.any(1))
    target, known, true = np.full((n, 6), np.nan, np.float32), np.ones(n, bool), np.ones(n, bool)
    if recording.reference is not None:
        known = np.asarray(recording.reference_ok[pairs].all(1))
        true = ~spans_jump(recording.reference, *stamps.T)
        target = _increments(recording.T_world_base, pairs)
    has_target = known & true
    samples = Samples(
        pair=np.arange(n),
        stride=pairs[:, 1] - pairs[:, 0],
        dt_s=(stamps[:, 1] - stamps[:, 0]) / NS_PER_S,
        imu=imu,
        imu_valid=imu_valid,
        target=target,
    )
    counts = {
        "samples: no reference": np.count_nonzero(~known),
        "samples: the reference jumps": np.count_nonzero(known & ~true),
        "samples: no IMU window": np.count_nonzero(has_target & ~has_imu),
    }
    return samples.where(has_target & has_imu), {k: int(v) for k, v in counts.items() if v}


def _increments(
    T_world_base: NDArray[np.float64], pairs: NDArray[np.int64]
) -> NDArray[np.float32]:
    T = torch.from_numpy(T_world_base)
    earlier, later = T[pairs[:, 0]], T[pairs[:, 1]]
    return se3.log(se3.inverse(earlier) @ later).numpy().astype(np.float32)
