import importlib.util
from pathlib import Path

import cv2
import pytest

from tests.data.drives import Drive, write_drive
from tests.motion_cases import tiny_artifact

ROOT = Path(__file__).resolve().parent.parent


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoother_goes_from_a_bag_to_a_figure(tmp_path, capsys):
    pytest.importorskip("gtsam", reason="GTSAM is not installed: pip install the extra `smoother`")
    for name in ("drive", "held"):
        write_drive(tmp_path / name, Drive(duration_s=8.0))
    tiny_artifact().save(tmp_path / "tiny")
    out, module = tmp_path / "figure.png", example("smoother")
    arguments = [str(tmp_path / "drive"), "--artifact", str(tmp_path / "tiny"), "--out", str(out)]
    held_out = ["--held-out", str(tmp_path / "held"), "--outage", "3", "2"]
    module.main([*arguments, *held_out])
    assert "m RMSE in the outage" in capsys.readouterr().out
    figure = cv2.imread(str(out))
    assert figure is not None
    assert figure.std() > 10
    with pytest.raises(SystemExit):
        module.main([*arguments, "--outage", "3", "60"])
    assert "within the drive" in capsys.readouterr().err
