"""From a public data set as it is published to an artifact that is judged, by commands alone."""

import json

import numpy as np
import pytest

from bayes_vio.cli import main
from tests.data.convert.real_kitti import write_odometry, write_raw_drive
from tests.data.drives import data_file


@pytest.mark.slow
def test_kitti_is_converted_fitted_and_evaluated(tmp_path):
    """Nothing is asked of the figures of two epochs but that they are there and finite."""
    dataset, raw = tmp_path / "dataset", tmp_path / "raw"
    for sequence in ("00", "02"):
        recording = np.load(data_file("kitti", f"real_{sequence}.npz"))
        write_odometry(dataset, raw, sequence, recording)
        command = ["convert", "kitti-odometry", str(dataset), str(tmp_path / sequence)]
        assert main([*command, "--sequence", sequence, "--raw", str(raw)]) == 0
    drive = raw / "2011_09_26" / "2011_09_26_drive_0005_sync"
    write_raw_drive(drive, np.load(data_file("kitti", "raw_2011_09_26_0005.npz")))
    assert main(["convert", "kitti-raw", str(drive), str(tmp_path / "0005")]) == 0

    artifact, out = str(tmp_path / "artifact"), tmp_path / "report"
    command = ["fit", str(tmp_path / "00"), "--validation", str(tmp_path / "02")]
    command += ["--out", artifact, "--epochs", "2", "--rank", "30", "--device", "cpu"]
    assert main(command) == 0
    assert (tmp_path / "artifact.report" / "fit_report.html").is_file()
    assert main(["inspect", "--artifact", artifact]) == 0
    assert (
        main(["evaluate", str(tmp_path / "0005"), "--artifact", artifact, "--out", str(out)]) == 0
    )
    report = json.loads((out / "report.json").read_text())
    (recording,) = report["recordings"]
    assert recording["frames"] > 100
    assert recording["horizons"]["1"]["joint"]["nees_mean"] > 0
    assert recording["counters"].get("image_unusable", 0) == 0
    assert report["artifact"]["time_offset_s"] == pytest.approx(0.065, abs=0.02)
