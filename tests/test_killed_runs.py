"""What a killed run had begun to write is gone after the next run over the same output."""

import signal
from pathlib import Path

import numpy as np
import pytest

from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.bags import open_streams
from tests.cli_process import Machine, bayes_vio
from tests.data.convert.kitti_folders import RECTIFIED, write_drive
from tests.data.convert.motion import Motion

KILLED = Machine(killed_at_message=20)
LINE = "removed what a run that was killed had written of"


@pytest.fixture(params=["simulate", "convert"])
def command(request, tmp_path: Path) -> tuple[object, ...]:
    """Return a command that writes the bag out/bag."""
    out = tmp_path / "out" / "bag"
    if request.param == "simulate":
        return ("simulate", "--out", out, "--duration", 2)
    drive, motion = tmp_path / "2011_09_26" / "2011_09_26_drive_0005_sync", Motion(duration_s=1.0)
    write_drive(drive, motion, "image_00", RECTIFIED, motion.imu_s())
    return ("convert", "kitti-raw", drive, out)


def test_the_next_run_removes_it_and_says_so(command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for times in (1, 2):
        done = bayes_vio(tmp_path / "log", *command, machine=KILLED)
        assert done.code == -signal.SIGKILL
        assert [path.name.startswith(".bag.partial-") for path in out.iterdir()] == [True]
        assert done.errors.count(LINE) == times - 1
    done = bayes_vio(tmp_path / "log", *command)
    assert (done.code, done.errors) == (0, f"{LINE} {out / 'bag'}\n")
    assert [path.name for path in out.iterdir()] == ["bag"]
    assert len(open_streams(out / "bag").image_stamp_ns) >= 10


def write_while_another_does(path: Path) -> None:
    with BagWriter(path) as slow:
        slow.odometry(0, np.eye(4))
        with BagWriter(path) as quick:
            quick.odometry(0, np.eye(4))
            assert len(list(path.parent.iterdir())) == 2
        slow.odometry(1, np.eye(4))


def test_what_a_living_run_is_writing_stays(tmp_path: Path, caplog) -> None:
    with pytest.raises(OSError, match="not empty"):
        write_while_another_does(tmp_path / "bag")
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    assert not caplog.records
