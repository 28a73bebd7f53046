# ruff: noqa: E402, the imports need what is skipped for
"""What the node uses of the posterior: told at the start, diagnosed, changed by transitions."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.artifact import MotionArtifact
from bayes_vio.posterior import fit_posterior
from tests.motion_cases import Samples, tiny_artifact
from tests.ros.live import Client, EstimatorProcess, wait_until


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Return a folder with the artifacts `inf` and `ella`."""
    folder, artifact = tmp_path_factory.mktemp("artifacts"), tiny_artifact()
    artifact.save(folder / "inf")
    ella = fit_posterior(
        artifact.model, Samples.random(32).loader(16), structure="ella", n_points=60
    )
    replace(artifact, posterior=ella).save(folder / "ella")
    return folder


def n_layers(artifact: Path) -> int:
    return len(MotionArtifact.load(artifact).posterior.layers)


@pytest.fixture
def client():
    client = Client()
    yield client
    client.close()


def drive(client: Client) -> np.ndarray:
    """Drive a while; return the epistemic variances of the speed [n] that came meanwhile."""
    seen = len(client.recorder.arrays().get("epistemic_twist_stamp_ns", []))
    _, last_ns = client.drive(1.0)
    client.wait_for("odometry", last_ns)
    return client.recorder.arrays()["epistemic_twist_cov"][seen + 3 :, 0, 0]


def diagnosed(client: Client) -> dict[str, str]:
    """Return the values of a line of diagnostics still to come."""
    seen = len(client.recorder.arrays().get("diagnostics_json", []))
    wait_until(lambda: len(client.recorder.arrays().get("diagnostics_json", [])) > seen + 1, 10.0)
    return json.loads(str(client.recorder.arrays()["diagnostics_json"][-1]))["values"]


def test_predictive_and_budget_are_told_and_change_by_transitions(artifacts, client, tmp_path):
    parameters = {"artifact": artifacts / "inf", "device": "cpu", "camera_source": "artifact"}
    parameters |= {"predictive": "last_layer", "latency_budget_ms": 2000.0}
    with EstimatorProcess(tmp_path / "log", parameters) as node:
        client.wait_for_inputs()
        n = n_layers(artifacts / "inf")
        line = rf"artifact \S+/inf .*device cpu .*over 1 of {n} layers \(last_layer\), \d+ % .*"
        assert re.search(line + r"\d\.\d ms, within the latency budget of 2000.0 ms", node.log)
        values = diagnosed(client)
        assert (values["predictive"], values["predictive layers"]) == ("last_layer", f"1 of {n}")
        assert 0.0 < float(values["epistemic variance kept"]) < 1.0
        assert 0.0 < float(values["prediction time (ms)"]) < 2000.0
        assert values["latency budget (ms)"] == "2000.00"
        assert values["latency budget holds"] == "True"
        last_layer = drive(client)

        assert not client.set_parameter("predictive", "whole").successful
        assert client.change_state("deactivate")
        assert client.set_parameter("predictive", "auto").successful
        assert client.set_parameter("latency_budget_ms", 0.0).successful
        assert not client.change_state("activate")  # not what it was configured with
        for transition in ("cleanup", "configure", "activate"):
            assert client.change_state(transition)
        client.wait_for_inputs()
        assert re.search(rf"over {n} of {n} layers \(auto\), 100 %.* no latency budget", node.log)
        values = diagnosed(client)
        assert values["predictive layers"] == f"{n} of {n}"
        assert "latency budget (ms)" not in values
        assert np.median(drive(client)) > np.median(last_layer)
        assert node.interrupt() == 0


def test_a_budget_that_nothing_holds_is_a_warning(artifacts, client, tmp_path):
    parameters = {"artifact": artifacts / "inf", "device": "cpu", "latency_budget_ms": 0.001}
    with EstimatorProcess(tmp_path / "log", parameters) as node:
        client.wait_for_inputs()
        n = n_layers(artifacts / "inf")
        text = rf"WARN\] .*over 1 of {n} layers \(auto\).* OVER the latency budget of 0.0 ms"
        assert re.search(text, node.log)
        assert diagnosed(client)["latency budget holds"] == "False"


def test_a_structure_that_mixes_layers_refuses_a_budget(artifacts, client, tmp_path):
    parameters = {"artifact": artifacts / "ella", "device": "cpu", "camera_source": "artifact"}
    with EstimatorProcess(tmp_path / "log", parameters | {"latency_budget_ms": 50.0}) as node:
        wait_until(lambda: "stays unconfigured" in node.log, 60.0)
        assert "cannot configure: the posterior's structure 'ella' mixes all layers" in node.log
        assert client.set_parameter("latency_budget_ms", 0.0).successful
        assert client.change_state("configure")
        assert client.change_state("activate")
        client.wait_for_inputs()
        assert (drive(client) > 0).all()
