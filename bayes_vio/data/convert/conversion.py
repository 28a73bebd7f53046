"""Convert a source of any known layout into a bag, and say what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.convert import Layout
from bayes_vio.data.convert.comma2k19 import read_comma2k19
from bayes_vio.data.convert.euroc import read_euroc
from bayes_vio.data.convert.folder import read_folder
from bayes_vio.data.convert.kitti_odometry import read_kitti_odometry
from bayes_vio.data.convert.kitti_raw import read_kitti_raw
from bayes_vio.data.convert.source import SourceError, SourceRecording
from bayes_vio.data.convert.write import write_recording

VIDEO_JPEG_QUALITY = 95
_OPTIONS = {
    Layout.KITTI_ODOMETRY: {"sequence", "camera", "raw"},
    Layout.KITTI_RAW: {"camera"},
    Layout.EUROC: {"camera"},
    Layout.COMMA2K19: {"jpeg_quality"},
    Layout.FOLDER: set[str](),
}


@dataclass(frozen=True)
class ConvertOptions:
    """What only some layouts ask for; None where it is not given.

    sequence, raw: of kitti-odometry. camera: the images' folder. jpeg_quality: of video frames.
    """

    sequence: str | None = None
    camera: str | None = None
    raw: Path | None = None
    jpeg_quality: int | None = None


@dataclass(frozen=True)
class Conversion:
    """What was written: numbers of messages, what was left out by cause, notes."""

    path: Path
    images: int
    duration_s: float
    imu_samples: int
    poses: int
    dropped: dict[str, int]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the report, a line per matter."""
        parts = [f"{self.images} images in {self.duration_s:.1f} s"]
        parts.append(f"{self.imu_samples} IMU samples" if self.imu_samples else "no IMU")
        parts.append(f"{self.poses} reference poses" if self.poses else "no reference")
        causes = ", ".join(f"{n} x {cause}" for cause, n in self.dropped.items())
        return [
            f"wrote {self.path}: {', '.join(parts)}",
            f"left out: {causes or 'nothing'}",
            *self.notes,
        ]


def convert(
    layout: Layout,
    source: Path,
    out: Path,
    options: ConvertOptions | None = None,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write ``source`` as a bag at ``out``; a failure leaves nothing there.

    ``progress`` is told (images done, images in all). Raises SourceError or BagError, both
    ValueErrors, where the source lacks a file, holds a malformed one, or ``out`` exists.
    """
    options = options or ConvertOptions()
    _check_options(layout, options)
    writer = BagWriter(out, storage)
    recording = _read(layout, Path(source), options)
    quality = options.jpeg_quality or VIDEO_JPEG_QUALITY
    images = write_recording(
        recording, writer, quality if layout is Layout.COMMA2K19 else None, progress
    )
    return Conversion(
        path=Path(out),
        images=images,
        duration_s=float(recording.image_ns[-1] - recording.image_ns[0]) / NS_PER_S,
        imu_samples=0 if recording.imu is None else len(recording.imu.stamp_ns),
        poses=0 if recording.reference is None else len(recording.reference.stamp_ns),
        dropped=dict(recording.dropped),
        notes=recording.notes,
    )


def _read(layout: Layout, source: Path, options: ConvertOptions) -> SourceRecording:
    match layout:
        case Layout.KITTI_ODOMETRY:
            if options.sequence is None:
                raise SourceError(f"layout {layout.value} needs --sequence, for example 00")
            return read_kitti_odometry(source, options.sequence, options.camera, options.raw)
        case Layout.KITTI_RAW:
            return read_kitti_raw(source, options.camera or "image_00")
        case Layout.EUROC:
            return read_euroc(source, options.camera or "cam0")
        case Layout.COMMA2K19:
            return read_comma2k19(source)
        case Layout.FOLDER:
            return read_folder(source)


def _check_options(layout: Layout, options: ConvertOptions) -> None:
    for name, value in vars(options).items():
        if value is not None and name not in _OPTIONS[layout]:
            takers = ", ".join(known.value for known, names in _OPTIONS.items() if name in names)
            flag = name.replace("_", "-")
            raise SourceError(f"--{flag} is not for layout {layout.value}, but for {takers}")
