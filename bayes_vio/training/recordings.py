"""Recordings made ready for a fit: read, split by use, on one clock, what was dropped told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.data.bag_files import check_distinct, distinct_names
from bayes_vio.data.bags import Topics, open_streams
from bayes_vio.data.camera_rotation import (
    CameraRotation,
    CameraRotationError,
    combine_rotations,
    estimate_camera_rotation,
)
from bayes_vio.data.dataset import NO_REFERENCE, MotionDataset, PreparedRecording, prepare
from bayes_vio.data.samples import Extrinsics, MotionInput, TimeOffset
from bayes_vio.distributed import Workers
from bayes_vio.training.checkpoint import Progress


class FitObserver:
    """What a fit tells while it runs; override what you want to show."""

    def stage(self, text: str) -> None:
        """Tell that a stage begins."""

    def frames(self, recording: str, done: int, total: int) -> None:
        """Tell how many frames of a recording are decoded."""

    def epoch(self, progress: Progress, epochs: int) -> None:
        """Tell the losses after an epoch."""

    def note(self, text: str) -> None:
        """Tell a finding: an offset, a count of what was dropped, a chosen value."""


@dataclass(frozen=True)
class CommonOffset:
    """The one time offset of a fit (s; see conventions), and its standard deviation.

    The deviation is at least the scatter of the recordings it comes from; None where the offset
    was given. ``recordings``: how many it comes from.
    """

    offset_s: float
    std_s: float | None
    recordings: int


@dataclass(frozen=True)
class Recordings:
    """Prepared recordings by their use, all cut with one time offset.

    ``camera_rotations``: what each recording shows of the camera's rotation, by name.
    """

    train: list[PreparedRecording]
    validation: list[PreparedRecording]
    time_offset: CommonOffset
    camera_rotations: dict[str, CameraRotation]

    @property
    def all(self) -> list[PreparedRecording]:
        """Training recordings, then validation ones."""
        return [*self.train, *self.validation]


def read_recordings(
    train: Sequence[Path],
    validation: Sequence[Path],
    cache_dir: Path,
    topics: Topics | None,
    extrinsics: Extrinsics | None,
    time_offset_s: float | None,
    seed: int,
    observer: FitObserver,
) -> Recordings:
    """Read the bags of a fit, all with one time offset: the given one, or the training bags'.

    Raises ValueError for a bag given twice, also as a copy, none for one of the uses, or an offset
    that no training recording tells.
    """
    _check_split(train, validation)
    prepared = []
    paths = [*train, *validation]
    for path, name in zip(paths, distinct_names(paths), strict=True):
        streams = replace(open_streams(path, topics, extrinsics), name=name)
        if streams.reference is None:
            raise ValueError(NO_REFERENCE.format(path))  # said before its images are decoded
        recording = prepare(
            streams,
            cache_dir,
            seed=seed,
            progress=lambda done, total, name=name: observer.frames(name, done, total),
        )
        _check_new(recording, prepared)
        prepared.append(recording)
    offset = CommonOffset(time_offset_s or 0.0, None, 0)
    if time_offset_s is None:
        offset = _common_offset([r.time_offset for r in prepared[: len(train)]], observer)
    prepared = [r.with_time_offset(offset.offset_s) for r in prepared]
    for recording in prepared:
        observer.note(recording.summary())
    _tell_different_mountings(prepared, observer)
    rotations = _camera_rotations(prepared, observer)
    return Recordings(prepared[: len(train)], prepared[len(train) :], offset, rotations)


def _check_split(train: Sequence[Path], validation: Sequence[Path]) -> None:
    shared = {p.resolve() for p in train} & {p.resolve() for p in validation}
    if shared:
        names = ", ".join(sorted(str(p) for p in shared))
        raise ValueError(f"{names}: in training and in validation; a recording has one use")
    for use in (train, validation):
        check_distinct(use)
    if not train or not validation:
        raise ValueError("a fit needs at least one training and one validation recording")


def _check_new(recording: PreparedRecording, earlier: Sequence[PreparedRecording]) -> None:
    for other in earlier:
        if other.sha256 == recording.sha256:
            raise ValueError(
                f"{other.name} and {recording.name} hold the same recording; give it once"
            )


def _tell_different_mountings(
    recordings: Sequence[PreparedRecording], observer: FitObserver
) -> None:
    first = recordings[0]
    for other in recordings[1:]:
        pairs = (
            (first.extrinsics.T_base_imu, other.extrinsics.T_base_imu),
            (first.extrinsics.T_base_camera, other.extrinsics.T_base_camera),
        )
        if not all(np.allclose(a, b, atol=1e-6) for a, b in pairs):
            observer.note(
                f"{other.name} has other extrinsics than {first.name}, whose the artifact keeps"
            )


def _common_offset(offsets: Sequence[TimeOffset | None], observer: FitObserver) -> CommonOffset:
    """Return the mean of the recordings' offsets, weighted by their information."""
    known = [o for o in offsets if o is not None]
    if not known:
        raise ValueError(
            "no training recording tells the camera-IMU time offset (too little turning, or no "
            "IMU): give it by --time-offset, 0 if the clocks agree"
        )
    weights = np.array([o.std_s**-2 for o in known])
    values = np.array([o.offset_s for o in known])
    mean = float(weights @ values / weights.sum())
    # Recordings that disagree by more than their errors make the mean less sure (Birge, 1932).
    scatter = float(weights @ (values - mean) ** 2) / max(len(known) - 1, 1)
    std = float(np.sqrt(max(scatter, 1.0) / weights.sum()))
    observer.note(
        f"camera-IMU time offset {1e3 * mean:+.1f} +- {1e3 * std:.1f} ms (positive: the IMU's "
        f"stamps lag), from {len(known)} recordings between {1e3 * values.min():+.1f} and "
        f"{1e3 * values.max():+.1f} ms"
    )
    return CommonOffset(mean, std, len(known))


def _camera_rotations(
    recordings: Sequence[PreparedRecording], observer: FitObserver
) -> dict[str, CameraRotation]:
    """Return what the recordings show of the camera's rotation; warn where it contradicts."""
    found: dict[str, CameraRotation] = {}
    for recording in recordings:
        try:
            found[recording.name] = estimate_camera_rotation(recording)
        except CameraRotationError as error:
            observer.note(f"{recording.name}: {error}")
    if found:
        together = combine_rotations(list(found.values()))
        degrees, std = np.degrees(together.vector), np.degrees(together.std)
        for axis in np.flatnonzero(together.contradicts):
            name = ("roll", "pitch", "yaw")[axis]
            observer.note(
                f"WARNING: the images show the camera's {name} {degrees[axis]:+.1f} +- "
                f"{std[axis]:.1f} deg from the extrinsics given: check them (nothing is corrected)"
            )
    return found


def description(recording: PreparedRecording) -> dict[str, Any]:
    """Return what an artifact tells of a recording, as JSON values."""
    return {
        "name": recording.name,
        "sha256": recording.sha256,
        "frames": len(recording.frame_stamp_ns),
        "dropped": dict(recording.dropped),
        "time_offset": asdict(recording.time_offset) if recording.time_offset else None,
    }


def fingerprint(recordings: Recordings, start: Any) -> str:
    """Return a hash of what training depends on besides its settings: data and first weights."""
    parts = [
        [(r.name, r.sha256, r.time_offset_s) for r in part]
        for part in (recordings.train, recordings.validation)
    ]
    return hashlib.sha256(json.dumps([parts, start]).encode()).hexdigest()


def even_rows(total: int, count: int) -> NDArray[np.int64]:
    """Return at most ``count`` rows of ``total``, evenly spread and increasing."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


@dataclass(frozen=True)
class EvenSubset:
    """A re-iterable of batches over rows spread evenly over a dataset, in order.

    Workers have some of the rows each.
    """

    dataset: MotionDataset
    count: int
    batch_size: int = 32
    workers: Workers = field(default_factory=Workers)

    def __len__(self) -> int:
        return min(self.count, len(self.dataset))

    def __iter__(self) -> Iterator[tuple[MotionInput, Tensor]]:
        rows = even_rows(len(self.dataset), self.count)
        rows = rows[self.workers.part(len(rows))]
        for start in range(0, len(rows), self.batch_size):
            yield self.dataset.batch(rows[start : start + self.batch_size])
