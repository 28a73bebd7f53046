"""Launch files name packages, executables, files and parameters that exist.

`launch` is part of a full ROS 2 and not on PyPI: stand-ins record what a launch file asks of it.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from scipy import special

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))

# What launch and launch_ros have had from Humble on.
NAMES = {
    "launch": ("LaunchDescription",),
    "launch.actions": (
        "DeclareLaunchArgument",
        "EmitEvent",
        "ExecuteProcess",
        "GroupAction",
        "IncludeLaunchDescription",
        "LogInfo",
        "OpaqueFunction",
        "RegisterEventHandler",
        "Shutdown",
    ),
    "launch.conditions": ("IfCondition", "UnlessCondition"),
    "launch.event_handlers": ("OnProcessExit", "OnProcessStart"),
    "launch.events": ("matches_action",),
    "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
    "launch.substitutions": ("LaunchConfiguration", "PathJoinSubstitution"),
    "launch_ros": (),
    "launch_ros.actions": ("LifecycleNode", "Node", "PushRosNamespace", "SetParameter"),
    "launch_ros.event_handlers": ("OnStateTransition",),
    "launch_ros.events": (),
    "launch_ros.events.lifecycle": ("ChangeState",),
    "launch_ros.parameter_descriptions": ("ParameterValue",),
    "lifecycle_msgs": (),
    "lifecycle_msgs.msg": (),
}


class Recorded:
    """What a launch file created: the class's name and its arguments."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs


class Configuration(Recorded):
    def perform(self, context):
        return context[self.args[0]]


class Transition:
    TRANSITION_CONFIGURE, TRANSITION_ACTIVATE = 1, 3


def load(path: Path, monkeypatch) -> types.ModuleType:
    """Import a launch file with stand-ins for launch and launch_ros."""
    for module_name, names in NAMES.items():
        module = types.ModuleType(module_name)
        for name in names:
            setattr(module, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module_name, module)
    sys.modules["launch.substitutions"].LaunchConfiguration = Configuration
    sys.modules["lifecycle_msgs.msg"].Transition = Transition
    spec = importlib.util.spec_from_file_location(path.name.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(module) -> tuple[dict[str, str], object]:
    """Return the default of every argument, and the function that creates the actions."""
    actions = module.generate_launch_description().args[0]
    arguments = [a for a in actions if type(a).__name__ == "DeclareLaunchArgument"]
    assert all(a.kwargs["description"] for a in arguments)
    opaque = [a for a in actions if type(a).__name__ == "OpaqueFunction"]
    return {a.args[0]: a.kwargs["default_value"] for a in arguments}, opaque[0].kwargs["function"]


def created(module, **given: str) -> list:
    defaults, create = described(module)
    assert set(given) <= set(defaults)
    return create({**defaults, **given})


@pytest.fixture
def estimator(monkeypatch):
    return load(ROOT / "launch" / "estimator.launch.py", monkeypatch)


@pytest.fixture
def car(monkeypatch):
    return load(ROOT / "launch" / "car.launch.py", monkeypatch)


@pytest.fixture
def planner(monkeypatch):
    return load(ROOT / "launch" / "planner.launch.py", monkeypatch)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_every_launch_file_describes_its_arguments(path, monkeypatch):
    arguments, _ = described(load(path, monkeypatch))
    assert {"namespace", "use_sim_time", "autostart"} <= set(arguments)


def test_the_estimators_arguments_are_those_of_the_readme(estimator):
    arguments, _ = described(estimator)
    expected = {"params_file", "artifact", "device", "namespace", "use_sim_time", "autostart"}
    assert set(arguments) == expected
    assert Path(arguments["params_file"]) == ROOT / "config" / "estimator.yaml"
    assert Path(arguments["params_file"]).is_file()


def test_the_estimators_executable_exists(estimator):
    node = created(estimator)[-1]
    assert type(node).__name__ == "LifecycleNode"
    assert (node.kwargs["package"], node.kwargs["name"]) == ("bayes_vio", "estimator")
    script = ROOT / "scripts" / node.kwargs["executable"]
    assert script.is_file()
    assert os.access(script, os.X_OK)
    assert "bayes_vio.entry" in script.read_text()
    assert (ROOT / "resource" / "bayes_vio").is_file()


def test_overrides_are_given_only_where_asked_for(estimator):
    file, overrides = created(estimator)[-1].kwargs["parameters"]
    assert file == str(ROOT / "config" / "estimator.yaml")
    assert set(overrides) == {"autostart", "use_sim_time"}
    node = created(estimator, artifact="/a", device="cpu", namespace="car")[-1]
    overrides = node.kwargs["parameters"][1]
    assert (overrides["artifact"], overrides["device"]) == ("/a", "cpu")
    assert node.kwargs["namespace"] == "car"
    # The launch file's transitions start the node; both doing it would fail the second.
    assert overrides["autostart"] is False


@pytest.mark.ros
def test_every_parameter_that_is_named_is_declared(estimator):
    pytest.importorskip("rcl_interfaces", reason="rclpy is not installed: the extra `ros`")
    from bayes_vio.ros.parameter_table import table_of
    from bayes_vio.ros.parameters import NodeParameters

    overrides = created(estimator, artifact="/a", device="cpu")[-1].kwargs["parameters"][1]
    assert set(overrides) - {"use_sim_time"} <= set(table_of(NodeParameters))
    table = YAML(typ="safe").load((ROOT / "config" / "estimator.yaml").read_text())
    assert list(table) == ["/**/estimator"]


def test_the_planner_is_started_with_its_own_file_and_executable(planner):
    file, overrides = created(planner)[-1].kwargs["parameters"]
    assert Path(file) == ROOT / "config" / "planner.yaml"
    assert set(overrides) == {"autostart", "use_sim_time"}
    assert overrides["autostart"] is False
    node = created(planner, collision_max="0.02", namespace="car")[-1]
    assert node.kwargs["parameters"][1]["collision_max"] == 0.02
    assert (node.kwargs["name"], node.kwargs["namespace"]) == ("planner", "car")
    script = ROOT / "scripts" / node.kwargs["executable"]
    assert os.access(script, os.X_OK)
    assert "bayes_vio.entry" in script.read_text()


@pytest.mark.parametrize("name", ["estimator", "planner"])
def test_the_transitions_follow_one_another(name, request):
    configure, activate, node = created(request.getfixturevalue(name))
    started, reached = configure.args[0], activate.args[0]
    assert type(started).__name__ == "OnProcessStart"
    assert started.kwargs["target_action"] is node
    assert event(started.kwargs["on_start"][-1]) == Transition.TRANSITION_CONFIGURE
    assert reached.kwargs["target_lifecycle_node"] is node
    assert reached.kwargs["goal_state"] == "inactive"
    assert reached.kwargs["start_state"] == "configuring"
    assert event(reached.kwargs["entities"][-1]) == Transition.TRANSITION_ACTIVATE
    for handler in (configure, activate):
        assert handler.kwargs["condition"].args[0].args == ("autostart",)


def event(action) -> int:
    """Return the transition that an EmitEvent action asks for."""
    return action.kwargs["event"].kwargs["transition_id"]


def test_the_car_starts_the_estimator_with_its_own_arguments(car, estimator):
    include, node = created(car, artifact="/a", namespace="car")
    (source,) = include.args
    assert source.args == (str(ROOT / "launch" / "estimator.launch.py"),)
    passed = dict(include.kwargs["launch_arguments"])
    defaults, _ = described(estimator)
    assert set(passed) == set(defaults)
    assert (passed["artifact"], passed["namespace"]) == ("/a", "car")
    assert passed["params_file"] == defaults["params_file"]
    assert node.kwargs["namespace"] == "car"


def test_the_cars_filter_is_installed_or_named(car):
    ekf = created(car, artifact="/a", use_fixes="true")[1]
    assert type(ekf).__name__ == "Node"
    script = ROOT / "scripts" / ekf.kwargs["executable"]
    assert os.access(script, os.X_OK)
    assert "bayes_vio.entry" in script.read_text()
    file, overrides = ekf.kwargs["parameters"]
    assert file == str(ROOT / "config" / "ekf.yaml")
    assert (overrides["artifact"], overrides["use_fixes"]) == ("/a", True)
    assert set(created(car)[1].kwargs["parameters"][1]) == {"use_sim_time"}
    other = created(car, filter="robot_localization")[1]
    assert (other.kwargs["package"], other.kwargs["executable"]) == (
        "robot_localization",
        "ekf_node",
    )
    assert other.kwargs["parameters"][0] == str(ROOT / "config" / "robot_localization.yaml")
    assert len(created(car, filter="none")) == 1
    with pytest.raises(ValueError, match="ekf, robot_localization, none"):
        created(car, filter="ukf")


@pytest.mark.ros
def test_every_parameter_of_the_cars_filter_is_declared(car):
    pytest.importorskip("rcl_interfaces", reason="rclpy is not installed: the extra `ros`")
    from bayes_vio.ros.ekf_parameters import EkfParameters
    from bayes_vio.ros.parameter_table import table_of

    node = created(car, artifact="/a", use_fixes="true")[1]
    assert set(node.kwargs["parameters"][1]) - {"use_sim_time"} <= set(table_of(EkfParameters))
    table = YAML(typ="safe").load((ROOT / "config" / "ekf.yaml").read_text())
    assert list(table) == [f"/**/{node.kwargs['name']}"]


def test_other_filters_gates_are_those_of_chi_square():
    """robot_localization's is a distance of the fused axes, Autoware's are squared ones."""
    table = YAML(typ="safe").load((ROOT / "config" / "robot_localization.yaml").read_text())
    given = table["/**/ekf_filter_node"]["ros__parameters"]
    assert given["twist0"] == "twist"
    assert not [name for name in given if name.endswith("_differential")]
    fused = given["twist0_config"]
    assert len(fused) == 15
    expected = special.chdtri(sum(fused), 1e-3) ** 0.5
    assert given["twist0_rejection_threshold"] == pytest.approx(expected, abs=0.01)
    assert given["smooth_lagged_data"]
    table = YAML(typ="safe").load((ROOT / "config" / "autoware.yaml").read_text())
    given = table["/**"]["ros__parameters"]
    squared = given["twist_measurement"]["twist_gate_dist"]
    assert special.chdtrc(2, squared) == pytest.approx(1e-10, rel=0.1)
    assert special.chdtrc(3, given["pose_measurement"]["pose_gate_dist"]) < 2e-10
