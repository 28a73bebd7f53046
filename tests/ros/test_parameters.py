# ruff: noqa: E402, the imports need what is skipped for
"""Every parameter has a meaning, a unit and a range; what does not fit is refused by name."""

import math
import os
from dataclasses import fields
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from rclpy.node import Node
from rclpy.parameter import Parameter
from ruamel.yaml import YAML

from bayes_vio.choices import Predictive
from bayes_vio.estimator.tracking import EstimatorSettings
from bayes_vio.ros.declaration import Declaration
from bayes_vio.ros.parameter_table import of_values, table_of
from bayes_vio.ros.parameters import (
    THRESHOLD_PREFIX,
    CalibrationSource,
    ImageTransport,
    NodeParameters,
)
from bayes_vio.ros.thresholds import THRESHOLDS

CONFIG = Path(__file__).parents[2] / "config" / "estimator.yaml"


@pytest.fixture
def declare(monkeypatch):
    """Return a function that declares the parameters on a node given overrides."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)
    nodes = []

    def declared(**overrides) -> tuple[Node, Declaration]:
        node = Node(
            f"n{len(nodes)}",
            context=context,
            enable_rosout=False,
            start_parameter_services=False,
            automatically_declare_parameters_from_overrides=True,
            parameter_overrides=[
                Parameter(name.replace("__", "."), value=value)
                for name, value in overrides.items()
            ],
        )
        nodes.append(node)
        return node, Declaration(node, NodeParameters)

    yield declared
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_every_threshold_of_the_estimator_is_a_parameter():
    assert set(THRESHOLDS) == {f.name for f in fields(EstimatorSettings)}


def test_every_parameter_is_described_and_its_default_is_accepted():
    for name, (default, spec) in table_of(NodeParameters).items():
        assert len(spec.description) > 10, name
        assert not spec.refusal(default, default), name
        numeric = isinstance(default, float) or type(default) is int
        assert not numeric or (spec.minimum is not None and spec.unit), name


def test_the_configuration_file_holds_every_parameter_with_its_default():
    table = YAML(typ="safe").load(CONFIG.read_text())["/**/estimator"]["ros__parameters"]
    thresholds = table.pop("estimator")
    given = table | {THRESHOLD_PREFIX + name: value for name, value in thresholds.items()}
    known = table_of(NodeParameters)
    assert set(given) == set(known)
    for name, value in given.items():
        default = known[name][0]
        value = tuple(value) if isinstance(value, list) else value
        assert type(value) is type(default), name
        assert value == default or (math.isnan(value) and math.isnan(default)), name


def test_the_configuration_file_explains_every_parameter():
    lines = CONFIG.read_text().splitlines()
    for name in table_of(NodeParameters):
        key = name.removeprefix(THRESHOLD_PREFIX)
        rows = [i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        assert rows, name
        for row in rows:
            assert lines[row - 1].lstrip().startswith("#"), name


def test_defaults_become_the_nodes_parameters(declare):
    node, declaration = declare()
    assert declaration.read() == NodeParameters()
    descriptor = node.describe_parameter("imu_depth")
    assert (descriptor.integer_range[0].from_value, descriptor.read_only) == (200, False)
    assert node.describe_parameter("autostart").read_only
    assert "unit s" in node.describe_parameter("estimator.timeout_s").description


def test_given_values_are_taken_and_yaml_integers_become_floats(declare):
    _, declaration = declare(
        time_offset_s=0,
        image_transport="compressed",
        camera_source="artifact",
        base_imu=[0, 0, 1, 0, 0, 0, 1],
        estimator__timeout_s=2,
    )
    parameters = declaration.read()
    assert parameters.time_offset_s == 0.0
    assert parameters.image_transport is ImageTransport.COMPRESSED
    assert parameters.camera_source is CalibrationSource.ARTIFACT
    assert parameters.base_imu == (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert parameters.thresholds.timeout_s == 2.0


def test_a_latency_budget_of_zero_is_none(declare):
    assert declare()[1].read().latency_budget_s is None
    parameters = declare(latency_budget_ms=12, predictive="last_layer")[1].read()
    assert parameters.latency_budget_s == 0.012
    assert parameters.predictive is Predictive.LAST_LAYER


def test_an_empty_or_nan_time_offset_is_the_artifacts(declare):
    for value in ("", math.nan):
        assert declare(time_offset_s=value)[1].read().time_offset_s is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("imu_dept", 400, "unknown"),
        ("estimator.timeout", 0.5, "unknown"),
        ("imu_depth", 5, r"\[200, 10000\]"),
        ("imu_depth", "many", "type int"),
        ("time_offset_s", 0.7, r"\[-0.5, 0.5\]"),
        ("device", "gpu", "must match"),
        ("predictive", "noise", "one of auto, whole, last_layer"),
        ("latency_budget_ms", -1.0, r"\[0.0, 10000.0\]"),
        ("image_transport", "theora", "one of raw, compressed"),
        ("camera_source", "tf_static", "one of camera_info, artifact, parameters"),
        ("base_imu", [0.0, 0.0], "list of 7"),
        ("base_camera", [math.inf] + [0.0] * 6, "finite"),
        ("estimator.coasting_s", -1.0, r"\[0.1, 600.0\]"),
        ("publish_tf", "yes", "type bool"),
    ],
)
def test_a_bad_override_is_refused_by_name(declare, name, value, reason):
    node, declaration = declare(**{name.replace(".", "__"): value})
    with pytest.raises(ValueError, match=f"parameter {name}: .*{reason}"):
        declaration.read()
    default, _ = table_of(NodeParameters).get(name, (None, None))
    if default is not None:
        good = list(default) if isinstance(default, tuple) else default
        assert node.set_parameters([Parameter(name, value=good)])[0].successful
        declaration.read()


def test_a_bad_value_is_refused_at_run_time(declare):
    node, declaration = declare()
    for name, value in (("device", "gpu"), ("time_offset_s", 1.0), ("imu_depth", 10)):
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful
        assert name in result.reason
    assert declaration.read() == NodeParameters()
    assert node.set_parameters([Parameter("time_offset_s", value=-0.02)])[0].successful
    assert declaration.read().time_offset_s == -0.02


def test_an_active_nodes_parameters_are_fixed(declare):
    node, declaration = declare()
    declaration.fixed = True
    result = node.set_parameters([Parameter("device", value="cpu")])[0]
    assert not result.successful
    assert "deactivate" in result.reason


def test_a_table_of_values_needs_every_name():
    table = {name: default for name, (default, _) in table_of(NodeParameters).items()}
    assert of_values(NodeParameters, table) == NodeParameters()
    del table["device"]
    with pytest.raises(KeyError):
        of_values(NodeParameters, table)
