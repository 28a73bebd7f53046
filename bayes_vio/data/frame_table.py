"""Measure a recording's images once: gray grids, flow of pairs, statistics; kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.frames import VIEW_VERSION, FlowEstimator, ViewProjector, to_grid_levels
from bayes_vio.data.image_quality import image_statistics_of
from bayes_vio.data.messages import BagError
from bayes_vio.data.rows import RowWriter, read_rows
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH, Streams
from bayes_vio.whole_files import folder_aside

# Besides consecutive images, each image is paired with one that lies 2 to 5 earlier.
MAX_STRIDE = 5
# Images further apart than this make no sample: too little of the view is left in common.
MAX_INTERVAL_S = 1.0

_FORMAT_VERSION = 1
_INTERVAL_TOO_LONG = "samples: images more than 1 s apart"

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class FrameTable:
    """What was measured of n images and p pairs of them.

    frame_stamp_ns [n]; pairs [p, 2], indices of the earlier and the later image; brightness [n]
    and sharpness [n] (image_quality); view_valid [40, 128]; ``sha256`` of the gray grids and
    stamps; ``dropped`` counts by cause. Gray grids and flow stay on disk.
    """

    folder: Path
    frame_stamp_ns: NDArray[np.int64]
    pairs: NDArray[np.int64]
    brightness: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    view_valid: NDArray[np.float32]
    sha256: str
    dropped: dict[str, int]

    def gray(self, frames: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return the gray grids [m, 40, 128] uint8 of images [m]."""
        return read_rows(self.folder / "gray.npy", frames)

    def flow(self, pairs: NDArray[np.integer]) -> NDArray[np.float16]:
        """Return the flow [m, 2, 40, 128] float16 (focal lengths, later to earlier) of pairs."""
        return read_rows(self.folder / "flow.npy", pairs)


def measure_frames(
    streams: Streams,
    cache_dir: Path,
    seed: int = 0,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> FrameTable:
    """Measure a recording's images, or read what an earlier call measured.

    The cache's key holds the identity of the images, calibration, mounting, seed and version of
    the measurement; a folder is complete or absent. ``workers`` None: one thread per core.
    ``progress`` is told (images done, images in all). Raises BagError for fewer than two images.
    """
    identity = _identity(streams, seed)
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    folder = cache_dir / f"{streams.name}-{key[:16]}"
    if not folder.exists():
        with folder_aside(folder) as partial:
            with _one_opencv_thread():
                _Measurement(streams, partial, seed).run(workers or os.cpu_count() or 1, progress)
            (partial / "key.json").write_text(json.dumps(identity, indent=1))
            _publish(partial, folder)
    return _read_table(folder)


def _identity(streams: Streams, seed: int) -> dict[str, object]:
    camera, mounting = streams.camera, streams.extrinsics
    return {
        "images": _images_identity(streams),
        "size": [camera.width, camera.height],
        "K": camera.K.tolist(),
        "distortion": [camera.distortion, *camera.coefficients.tolist()],
        "R_base_camera": mounting.T_base_camera[:3, :3].tolist(),
        "seed": seed,
        "versions": [VIEW_VERSION, _FORMAT_VERSION],
        "opencv": cv2.__version__,
    }


def _images_identity(streams: Streams) -> object:
    """Return the identity that the images' reader tells, else the hash of every image."""
    identity = getattr(streams.frames, "identity", None)
    if identity is not None:
        return identity()
    digest = hashlib.sha256()
    for stamp_ns, gray in streams.frames():
        digest.update(str(stamp_ns).encode() + gray.tobytes())
    return digest.hexdigest()


def _publish(partial: Path, folder: Path) -> None:
    """Give a complete folder its name; another process that was faster wins."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from splitting each call: pairs are spread over threads already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _Look(NamedTuple):
    """What one image alone gives: its view [80, 256], gray levels [40, 128] and statistics."""

    view: NDArray[np.uint8]
    levels: NDArray[np.uint8]
    statistics: tuple[float, float]


class _Measurement:
    """One pass over the images: decoded here, views and flow in threads, rows in order.

    Threads do: OpenCV releases the interpreter's lock, and views need no copying to processes.
    """

    def __init__(self, streams: Streams, folder: Path, seed: int) -> None:
        self._streams, self._folder = streams, folder
        self._rng = np.random.default_rng(seed)
        self._projector = ViewProjector(streams.camera, streams.extrinsics.T_base_camera[:3, :3])
        self._estimators = threading.local()
        self._stamps: list[int] = []
        self._pairs: list[tuple[int, int]] = []
        self._statistics: list[tuple[float, float]] = []
        self._recent: deque[Future[_Look]] = deque(maxlen=MAX_STRIDE + 1)
        self._looks: deque[Future[_Look]] = deque()
        self._flows: deque[Future[NDArray[np.float16]]] = deque()
        self._too_long = 0
        self._digest = hashlib.sha256()

    def run(self, workers: int, progress: ProgressCallback | None) -> None:
        """Measure everything into the folder."""
        total = len(self._streams.image_stamp_ns)
        grid = (GRID_HEIGHT, GRID_WIDTH)
        with ExitStack() as stack:
            gray = stack.enter_context(RowWriter(self._folder / "gray.npy", grid, np.uint8))
            flow = stack.enter_context(
                RowWriter(self._folder / "flow.npy", (2, *grid), np.float16)
            )
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            for stamp_ns, image in self._streams.frames():
                self._submit(stamp_ns, image, pool)
                self._write(gray, flow, waiting=4 * workers)
                if progress is not None:
                    progress(len(self._stamps), total)
            self._write(gray, flow, waiting=0)
        if len(self._stamps) < 2:
            raise BagError(f"{self._streams.name} has {len(self._stamps)} usable images; need 2")
        self._save()

    def _submit(self, stamp_ns: int, image: NDArray[np.uint8], pool: ThreadPoolExecutor) -> None:
        self._stamps.append(stamp_ns)
        # Submitted before the pairs that wait for it, so that a waiting thread never starves it.
        look = pool.submit(self._look, image)
        self._recent.append(look)
        self._looks.append(look)
        further = int(self._rng.integers(2, MAX_STRIDE + 1))
        for stride in (1, further):
            self._pair(stride, pool)

    def _pair(self, stride: int, pool: ThreadPoolExecutor) -> None:
        later = len(self._stamps) - 1
        earlier = later - stride
        if earlier < 0:
            return
        if self._stamps[later] - self._stamps[earlier] > MAX_INTERVAL_S * NS_PER_S:
            self._too_long += stride == 1
            return
        self._pairs.append((earlier, later))
        self._flows.append(pool.submit(self._flow, self._recent[-1 - stride], self._recent[-1]))

    def _write(self, gray: RowWriter, flow: RowWriter, waiting: int) -> None:
        """Append finished rows in order until no more than ``waiting`` of a kind are left."""
        while len(self._looks) > waiting:
            look, stamp_ns = self._looks.popleft().result(), self._stamps[len(self._statistics)]
            gray.append(look.levels)
            stamp = stamp_ns.to_bytes(8, "little", signed=True)
            self._digest.update(stamp + look.levels.tobytes())
            self._statistics.append(look.statistics)
        while len(self._flows) > waiting:
            flow.append(self._flows.popleft().result())

    def _look(self, image: NDArray[np.uint8]) -> _Look:
        view = self._projector.project(image)
        return _Look(view, to_grid_levels(view), image_statistics_of(view))

    def _flow(self, earlier: Future[_Look], later: Future[_Look]) -> NDArray[np.float16]:
        if not hasattr(self._estimators, "flow"):
            self._estimators.flow = FlowEstimator(self._projector.valid_pixels)
        flow = self._estimators.flow(earlier.result().view, later.result().view)
        # NumPy's own conversion takes thirty times as long.
        return torch.from_numpy(flow).half().numpy()

    def _save(self) -> None:
        brightness, sharpness = np.array(self._statistics).T
        np.savez(
            self._folder / "table.npz",
            frame_stamp_ns=np.array(self._stamps, np.int64),
            pairs=np.array(self._pairs, np.int64).reshape(-1, 2),
            brightness=brightness,
            sharpness=sharpness,
            view_valid=self._projector.valid,
        )
        # What the other topics left out depends on choices that are no part of the cache's key.
        counts = self._streams.dropped.items()
        dropped = {cause: count for cause, count in counts if cause.startswith("image:")}
        if self._too_long:
            dropped[_INTERVAL_TOO_LONG] = self._too_long
        report = {"sha256": self._digest.hexdigest(), "dropped": dropped}
        (self._folder / "report.json").write_text(json.dumps(report))


def _read_table(folder: Path) -> FrameTable:
    try:
        report = json.loads((folder / "report.json").read_text())
        with np.load(folder / "table.npz") as table:
            arrays = {name: table[name] for name in table.files}
        return FrameTable(folder=folder, **arrays, **report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BagError(f"the frame cache {folder} is damaged ({error}): delete it") from error
