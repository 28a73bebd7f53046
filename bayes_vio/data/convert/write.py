"""Write a recording of a data set as a bag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge

import numpy as np
from numpy.typing import NDArray

from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.convert.source import EncodedImage, Image, SourceError, SourceRecording

_Event = tuple[int, Callable[[], None]]
MIN_IMAGES = 2


def write_recording(
    recording: SourceRecording,
    writer: BagWriter,
    jpeg_quality: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write all messages in the order of their stamps; return how many images there are.

    At equal stamps: image, camera_info, imu, reference. ``jpeg_quality`` (1-100) encodes images
    that are not files already; ``progress`` is told (images done, images in all). Raises
    SourceError where streams share no time or fewer than two images are usable.
    """
    streams = {"imu": recording.imu, "reference": recording.reference}
    stamps = {name: s.stamp_ns for name, s in streams.items() if s is not None}
    _check_overlap(recording.image_ns, stamps)
    first_ns = min(int(s[0]) for s in (recording.image_ns, *stamps.values()))
    mounting = recording.extrinsics
    count = 0

    def image_events(bag: BagWriter) -> Iterator[_Event]:
        nonlocal count
        for stamp, image in recording.images:
            yield stamp, lambda s=stamp, i=image: _send_image(bag, s, i, jpeg_quality)
            yield stamp, lambda s=stamp: bag.camera_info(s, recording.camera)
            count += 1
            if progress is not None:
                done = int(np.searchsorted(recording.image_ns, stamp, side="right"))
                progress(done, len(recording.image_ns))

    with writer as bag:
        frames = {"imu_link": mounting.T_base_imu, "camera_optical": mounting.T_base_camera}
        bag.tf_static(first_ns, frames)
        sources = (image_events(bag), _imu_events(bag, recording), _poses(bag, recording))
        for _, send in merge(*sources, key=lambda event: event[0]):
            send()
        if count < MIN_IMAGES:
            raise SourceError(f"{count} images are usable, {MIN_IMAGES} are needed: "
                              f"left out {recording.dropped or 'none'}")  # fmt: skip
    return count


def _send_image(bag: BagWriter, stamp_ns: int, image: Image, jpeg_quality: int | None) -> None:
    if isinstance(image, EncodedImage):
        bag.compressed_image(stamp_ns, image.data, encoding=image.encoding)
    else:
        bag.image(stamp_ns, image, jpeg_quality=jpeg_quality)


def _imu_events(bag: BagWriter, recording: SourceRecording) -> Iterator[_Event]:
    if recording.imu is not None:
        for stamp, row in zip(recording.imu.stamp_ns.tolist(), recording.imu.samples, strict=True):
            yield stamp, lambda s=stamp, r=row: bag.imu(s, r)


def _poses(bag: BagWriter, recording: SourceRecording) -> Iterator[_Event]:
    if recording.reference is not None:
        stamps = recording.reference.stamp_ns.tolist()
        for stamp, T in zip(stamps, recording.reference.T_world_base, strict=True):
            yield stamp, lambda s=stamp, T=T: bag.odometry(s, T)


def _check_overlap(image_ns: NDArray[np.int64], stamps: dict[str, NDArray[np.int64]]) -> None:
    if len(image_ns) < MIN_IMAGES:
        raise SourceError(f"{len(image_ns)} images are stamped, {MIN_IMAGES} are needed")
    for name, stamp_ns in stamps.items():
        if stamp_ns[-1] < image_ns[0] or stamp_ns[0] > image_ns[-1]:
            raise SourceError(
                f"{name} stamps {stamp_ns[0]}..{stamp_ns[-1]} ns and image stamps "
                f"{image_ns[0]}..{image_ns[-1]} ns share no time: they come from different clocks"
            )
