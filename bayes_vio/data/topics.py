"""Choose a recording's topics: as asked, else by type where only one carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bayes_vio.data.bag_reader import BagTopic
from bayes_vio.data.messages import BagError, MessageType


@dataclass(frozen=True)
class Topics:
    """Name the topics and frames to read.

    A topic that is None is found by its type, which must be unique; "" leaves the IMU or the
    reference out. ``reference`` carries Odometry, PoseStamped or, if named, TFMessage, of which
    the pair (``reference_world``, ``reference_frame``) is read. ``reference_frame`` is the frame
    whose pose the reference gives, by default an Odometry's child_frame_id, else ``base_frame``.
    """

    imu: str | None = None
    image: str | None = None
    camera_info: str | None = None
    reference: str | None = None
    reference_world: str | None = None
    reference_frame: str | None = None
    base_frame: str = "base_link"


@dataclass(frozen=True)
class Selection:
    """The topics to read; None where a recording has no such stream."""

    image: str
    camera_info: str
    imu: str | None
    reference: str | None


_IMAGES = (MessageType.IMAGE, MessageType.COMPRESSED_IMAGE)
_REFERENCES = (MessageType.ODOMETRY, MessageType.POSE_STAMPED)


def select_topics(path: Path, held: Mapping[str, BagTopic], topics: Topics) -> Selection:
    """Choose one topic per stream; BagError listing what there is where that is not possible."""
    available = {name: topic.msgtype for name, topic in held.items() if topic.count}
    listing = "; ".join(f"{topic} ({kind})" for topic, kind in sorted(available.items()))
    choose = _Chooser(path, available, listing or "nothing")
    image = choose("image", topics.image, _IMAGES, required=True)
    assert image is not None  # required
    camera_info = topics.camera_info or _sibling_camera_info(image, available)
    camera_info = choose("camera_info", camera_info, (MessageType.CAMERA_INFO,), required=True)
    assert camera_info is not None  # required
    imu = choose("imu", topics.imu, (MessageType.IMU,))
    reference = topics.reference
    kinds = _REFERENCES
    if reference and available.get(_absolute(reference)) == MessageType.TF.value:
        kinds = (MessageType.TF,)
        if not (topics.reference_world and topics.reference_frame):
            raise BagError(f"reference {reference} is a TFMessage: name --reference-world and "
                           "--reference-frame, the pair of frames to read")  # fmt: skip
    return Selection(image, camera_info, imu, choose("reference", reference, kinds))


def _sibling_camera_info(image: str, available: dict[str, str]) -> str | None:
    """Return the camera_info beside an image topic (the rule of image_transport), if there."""
    parts = image.split("/")
    for depth in range(len(parts) - 1, 0, -1):
        candidate = "/".join([*parts[:depth], "camera_info"])
        if available.get(candidate) == MessageType.CAMERA_INFO.value:
            return candidate
    return None


def _absolute(topic: str) -> str:
    return topic if topic.startswith("/") else f"/{topic}"


class _Chooser:
    """Choose a stream's topic among those that a recording has."""

    def __init__(self, path: Path, available: dict[str, str], listing: str) -> None:
        self._path, self._available, self._listing = path, available, listing

    def __call__(
        self,
        role: str,
        asked: str | None,
        kinds: Iterable[MessageType],
        required: bool = False,
    ) -> str | None:
        names = {kind.value for kind in kinds}
        types = " or ".join(sorted(names))
        if asked:
            if self._available.get(_absolute(asked)) not in names:
                raise self._error(f"no topic {asked} of type {types} for {role}")
            return _absolute(asked)
        if asked == "" and not required:
            return None
        found = sorted(t for t, kind in self._available.items() if kind in names)
        if len(found) == 1:
            return found[0]
        if not found and not required:
            return None
        if found:
            option = f"--{role.replace('_', '-')}-topic"
            several = f"several topics for {role} ({', '.join(found)}): name one ({option})"
            raise self._error(several)
        raise self._error(f"no topic for {role} (type {types})")

    def _error(self, problem: str) -> BagError:
        return BagError(f"{self._path} has {problem}; it holds {self._listing}")
