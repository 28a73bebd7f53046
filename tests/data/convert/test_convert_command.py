"""`bayes-vio convert`: one line and code 2 for bad input, a report for good."""

import pytest

from bayes_vio.cli import main
from bayes_vio.data.bags import open_streams
from tests.data.convert.kitti_folders import RECTIFIED, write_drive
from tests.data.convert.motion import Motion

DRIVE = "2011_09_26/2011_09_26_drive_0005_sync"


def test_a_drive_is_converted_and_reported(tmp_path, capsys):
    motion = Motion(duration_s=1.0)
    write_drive(tmp_path / DRIVE, motion, "image_00", RECTIFIED, motion.imu_s())
    (tmp_path / DRIVE / "image_00" / "data" / "0000000003.png").unlink()
    out = tmp_path / "bag"
    command = ["convert", "kitti-raw", str(tmp_path / DRIVE), str(out), "--storage", "sqlite3"]
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "9 images in 0.9 s, 100 IMU samples, 100 reference poses" in shown
    assert "left out: 1 x image: missing file" in shown
    assert list(out.glob("*.db3"))
    assert len(open_streams(out).image_stamp_ns) == 9


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["kitti", ".", "bag"], "kitti"),
        (["folder", "absent", "bag"], "absent"),
        (["folder", ".", "bag"], "camera.yaml"),
        (["kitti-odometry", ".", "bag"], "--sequence"),
        (["euroc", ".", "bag", "--sequence", "00"], "--sequence is not for layout euroc"),
        (["comma2k19", ".", "bag"], "video.hevc"),
        (["comma2k19", ".", "bag", "--jpeg-quality", "0"], "--jpeg-quality"),
        (["kitti-raw", ".", "."], "exists already"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.startswith("bayes-vio: ")
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
