"""Read a bag's messages one after the other; whatever is damaged ends in one BagError."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.rosbag2 import Reader

from bayes_vio.data.bag_files import storage_files
from bayes_vio.data.compression import unpacked_file, unpacked_message
from bayes_vio.data.message_parts import TYPESTORE
from bayes_vio.data.messages import BagError

_LATEST_NS = 2**63 - 1
# SQLite takes the path as a URI, in which these have a meaning.
_URI_CHARACTERS = frozenset("?#%")


class RawMessage(NamedTuple):
    """One serialised message, with the time at which it was logged."""

    topic: str
    msgtype: str
    log_ns: int
    payload: bytes

    def decoded(self) -> Any:
        """Return the message; BagError where its bytes are not of its type."""
        # Definitions in the bag are not looked at: those of the types read here never changed,
        # and a bag is not to be refused for what it says of others.
        with _damage_told(f"a message of {self.topic} ({self.msgtype})"):
            return TYPESTORE.deserialize_cdr(self.payload, self.msgtype)


@dataclass(frozen=True)
class BagTopic:
    """A topic's message type and number of messages."""

    msgtype: str
    count: int


class BagReader:
    """A bag's topics, and its messages as often as asked; nothing of them is kept.

    Files of a split bag are read in turn, one open at a time; a compressed one is unpacked to
    disk while it is read. Raises BagError where the bag cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = storage_files(path)
        self.topics: dict[str, BagTopic] = {}
        with _damage_told(f"recording {path}"):
            for file in self.files:
                with _opened(file) as storage:
                    self._add_topics(storage)

    def _add_topics(self, storage: Reader) -> None:
        for connection in storage.connections:
            kind, count = connection.msgtype, connection.msgcount
            known = self.topics.get(connection.topic, BagTopic(kind, 0))
            if kind not in known.msgtype.split(" and "):
                kind = f"{known.msgtype} and {kind}"  # two types on one topic: neither is chosen
            self.topics[connection.topic] = BagTopic(kind, known.count + count)

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Yield the messages of some topics in the order in which they were logged."""
        with _damage_told(f"recording {self.path}"):
            for file in self.files:
                with _opened(file) as storage:
                    yield from _messages(storage, topics)


def _messages(storage: Reader, topics: Collection[str]) -> Iterator[RawMessage]:
    connections = [c for c in storage.connections if c.topic in topics]
    if not connections:  # the library would take none for all
        return
    for connection, log_ns, data in storage.messages(connections):
        # SQLite lets a column hold anything.
        if not (isinstance(log_ns, int) and 0 <= log_ns <= _LATEST_NS and isinstance(data, bytes)):
            raise BagError(f"a message of {connection.topic} has no log stamp or no data")
        yield RawMessage(connection.topic, connection.msgtype, log_ns, unpacked_message(data))


@contextmanager
def _opened(file: Path) -> Iterator[Reader]:
    with unpacked_file(file) as unpacked, _plain_path(unpacked) as plain, Reader(plain) as reader:
        yield reader


@contextmanager
def _plain_path(file: Path) -> Iterator[Path]:
    """Provide a path to the file that means the same as a URI."""
    if not _URI_CHARACTERS & set(str(file)):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="bayes-vio-bag-") as folder:
        link = Path(folder, f"bag{file.suffix}")
        link.symlink_to(file.resolve())
        yield link


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    """Turn whatever the reading library raises on damaged bytes into one BagError."""
    try:
        yield
    except BagError:
        raise
    # A stranger's bytes can end in any error of the library, of SQLite or of a decompressor.
    except Exception as error:
        raise BagError(
            f"{what} cannot be read ({type(error).__name__}: {error}); if recording was cut off, "
            "`ros2 bag reindex` or `mcap recover` may mend it"
        ) from error
