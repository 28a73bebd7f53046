"""Files and folders that are whole or absent, read only if they are what they seem."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from bayes_vio import whole_files
from bayes_vio.whole_files import (
    InUseError,
    folder_aside,
    partial_folder,
    read_bounded,
    sole_use,
    write_whole,
)


def test_a_file_is_written_whole_and_readable_by_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "file", b"first")
    write_whole(tmp_path / "deep" / "file", b"second")
    assert read_bounded(tmp_path / "deep" / "file", 6) == b"second"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o644


def test_what_is_too_large_linked_or_no_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"seven..")
    with pytest.raises(ValueError, match="has 7 bytes, more than the 6"):
        read_bounded(tmp_path / "file", 6)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(ValueError, match="symbolic link"):
        read_bounded(tmp_path / "link", 10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_bounded(tmp_path / "pipe", 10)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 10)


def test_a_folder_takes_its_place_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "my[1]"
    for text in ("first", "second"):
        with partial_folder(target) as partial:
            (partial / "file").write_text(text)
            assert not target.exists() or (target / "file").read_text() == "first"
    with pytest.raises(IsADirectoryError), partial_folder(target) as partial:
        partial.write_text("third")
    assert (target / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["my[1]"]


def test_leftovers_of_the_dead_are_removed_those_of_the_living_are_not(tmp_path: Path) -> None:
    target = tmp_path / "my[1]"
    (tmp_path / ".my[1].partial-dead").mkdir()
    with partial_folder(target) as living:
        assert not (tmp_path / ".my[1].partial-dead").exists()
        whole_files.remove_leftovers(target)
        assert living.exists()
        (living / "file").write_text("here")
    assert (target / "file").exists()


def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    refused = []

    def second() -> None:
        try:
            with sole_use(tmp_path / "work", "fit", tmp_path / "work" / "cache"):
                pass
        except InUseError as error:
            refused.append(str(error))

    with sole_use(tmp_path / "work", "fit", tmp_path / "work" / "cache"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused == [
        f"another fit is using {tmp_path / 'work'}: wait for it, or give another folder"
    ]
    assert not (tmp_path / "work").exists()  # made for nothing


def test_half_written_entries_of_a_cache_are_removed(tmp_path: Path) -> None:
    cache = tmp_path / "work" / "cache"
    (cache / ".bag-0.partial-dead").mkdir(parents=True)
    (cache / "bag-1").mkdir()
    (tmp_path / "work" / ".drive.partial-living").mkdir()
    with sole_use(tmp_path / "work", "fit", cache):
        assert [path.name for path in cache.iterdir()] == ["bag-1"]
    assert (tmp_path / "work" / ".drive.partial-living").exists()


def interrupted_at(line: int, work: Callable[[], object]) -> bool:
    """Run with an interrupt at the n-th line of whole_files; return whether it came so far."""
    left = [line]

    def trace(frame: FrameType, event: str, _: object):
        if frame.f_code.co_filename != whole_files.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_any_line_leaves_nothing(tmp_path: Path) -> None:
    def enter_folder() -> None:
        with folder_aside(tmp_path / "folder"):
            sys.settrace(None)  # the block is the caller's, and so are interrupts in it

    for work in (enter_folder, lambda: write_whole(tmp_path / "file", b"new")):
        line = 0
        while interrupted_at(line := line + 1, work) and line < 100:
            assert not [path.name for path in tmp_path.glob(".*")], line
        assert line > 10
    assert (tmp_path / "file").read_bytes() == b"new"
