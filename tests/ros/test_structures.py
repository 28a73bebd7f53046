# ruff: noqa: E402, the imports need what is skipped for
"""Every structure that fit takes, from bags to the odometry of a live node."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.cli import main
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from tests.ros.live import Client, EstimatorProcess


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    for seed, name in enumerate(("train", "validation")):
        simulate(folder / name, SimulationSettings(500 + seed, DriveSettings(duration_s=3.0)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["inf", "diagonal", "kfac", "efb"])
def test_a_structure_goes_from_bags_to_a_live_node(bags, tmp_path, structure):
    artifact = tmp_path / structure
    command = ["fit", str(bags / "train"), "--validation", str(bags / "validation")]
    command += ["--out", str(artifact), "--structure", structure, "--epochs", "1"]
    command += ["--rank", "4", "--time-offset", "0", "--device", "cpu"]
    assert main([*command, "--work-dir", str(bags / "work")]) == 0
    assert main(["inspect", "--artifact", str(artifact)]) == 0
    judged = ["evaluate", str(bags / "validation"), "--artifact", str(artifact)]
    assert main([*judged, "--out", str(tmp_path / "report"), "--device", "cpu"]) == 0

    parameters = {"artifact": artifact, "device": "cpu"}
    client = Client()
    try:
        with EstimatorProcess(tmp_path / "log", parameters) as node:
            client.wait_for_inputs()
            assert f"predictive '{structure}' over" in node.log
            client.send_camera_info()
            _, last_ns = client.drive(2.0)
            arrays = client.wait_for("odometry", last_ns, 20.0)
    finally:
        client.close()
    epistemic = arrays["epistemic_twist_cov"]
    assert len(epistemic)
    assert (np.linalg.eigvalsh(epistemic) > 0).all()
    assert (np.linalg.eigvalsh(arrays["twist_cov"] - epistemic) > 0).all()
