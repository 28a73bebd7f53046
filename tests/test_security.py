"""No file that is read can run code, and what ships to secure the node names what the node has."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "bayes_vio").rglob("*.py"))
# Modules whose loaders execute what they read, and calls that run text as code.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"), ("torch", "save"), ("torch", "compile"), ("jit", "load"), ("os", "system"),
    ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
}  # fmt: skip


def findings(source: str) -> list[str]:
    """Return what a module does that could run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            found += [module] if module in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            found += _calls(node)
    return found


def _calls(node: ast.Call) -> list[str]:
    function = node.func
    options = {k.arg: k.value for k in node.keywords}
    found = []
    if isinstance(function, ast.Name) and function.id in FORBIDDEN_CALLS:
        found.append(function.id)
    if isinstance(function, ast.Attribute):
        owner = function.value
        name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
        if (name, function.attr) in FORBIDDEN_ATTRIBUTES:
            found.append(f"{name}.{function.attr}")
    for option in ("allow_pickle", "shell"):
        value = options.get(option)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
            found.append(option)
    if getattr(function, "id", "") == "YAML":
        kind = options.get("typ")
        if not (isinstance(kind, ast.Constant) and kind.value == "safe"):
            found.append("YAML without typ='safe'")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_runs_code_out_of_a_file(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('a')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "eval('1')",
        "exec(text)",
        "import yaml\nyaml.load(text)",
        "from ruamel.yaml import YAML\nYAML()",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert len(findings(source)) == 1


def test_numpy_does_not_unpickle_a_frame_cache(tmp_path: Path) -> None:
    """The frame cache is NumPy's own format, whose loader refuses objects."""
    import numpy as np

    np.savez(tmp_path / "table.npz", a=np.array([{}], dtype=object), allow_pickle=True)
    with np.load(tmp_path / "table.npz") as table, pytest.raises(ValueError, match="pickle"):
        table["a"]


POLICY = ROOT / "config" / "sros2" / "policy.xml"
ROS = ROOT / "bayes_vio" / "ros"
# Where each node says what it listens to and what it publishes.
SOURCES = {
    "estimator": ("estimator_node", "outputs", "lifecycle"),
    "ekf": ("ekf_node",),
    "planner": ("planner_node", "planner_outputs", "lifecycle"),
}
# What rclpy itself publishes, and tf2_ros where publish_tf is set.
BY_OTHERS = {
    "estimator": {"/rosout", "/parameter_events", "~/transition_event", "/tf"},
    "ekf": {"/rosout", "/parameter_events"},
    "planner": {"/rosout", "/parameter_events", "~/transition_event"},
}


def permissions(node: str, kind: str, action: str) -> set[str]:
    """Return the names that a node's profile may use, as in ("topic", "subscribe")."""
    profile = ElementTree.parse(POLICY).getroot().find(f".//profile[@node='{node}']")
    assert profile is not None
    groups = profile.findall(f"{kind}s[@{action}='ALLOW']")
    names = [(leaf.text or "").strip() for group in groups for leaf in group.findall(kind)]
    assert len(names) == len(set(names))
    return set(names)


def source_of(node: str) -> str:
    return "\n".join((ROS / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES[node])


def test_the_policy_denies_nothing_and_allows_by_name() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert root.get("version") == "0.2.0"
    for enclave, node in zip(root.findall("enclaves/enclave"), SOURCES, strict=True):
        assert enclave.get("path") == f"/{node}"
        assert [p.get("node") for p in enclave.iter("profile")] == [node]
    values = {v for e in root.iter() for k, v in e.items() if k not in ("version", "path")}
    assert "DENY" not in values
    assert not [leaf.text for leaf in root.iter() if "*" in (leaf.text or "")]


@pytest.mark.parametrize("node", SOURCES)
def test_the_policy_names_every_input_of_the_node(node: str) -> None:
    """Every topic that the node's source subscribes to, and none besides the clock's."""
    calls = r'(?:Input|self\._listen|create_subscription)\(\s*[\w()]+, "([a-z_/]+)"'
    inputs = set(re.findall(calls, source_of(node)))
    known = {
        "estimator": {"imu", "image", "image/compressed", "camera_info", "/tf_static"},
        "ekf": {"twist", "twist/epistemic", "fix", "fix_odometry", "set_pose"},
        "planner": {"odometry", "map", "goal_pose", "route", "/diagnostics"},
    }
    assert known[node] <= inputs
    assert permissions(node, "topic", "subscribe") == inputs | {"/clock"}


@pytest.mark.parametrize("node", SOURCES)
def test_the_policy_names_every_output_of_the_node(node: str) -> None:
    """Every topic that the node's source publishes, and what comes with a ROS node."""
    calls = r'(?:_publisher\(\s*|topic = )[\w()]+, "([a-z_/]+)"'
    outputs = set(re.findall(calls, source_of(node)))
    known = {
        "estimator": {"odometry", "relative_pose", "twist", "twist/epistemic"},
        "ekf": {"filtered/odometry"},
        "planner": {"plan", "cmd_vel", "ackermann_cmd"},
    }
    assert outputs == known[node] | {"/diagnostics"}
    assert permissions(node, "topic", "publish") == outputs | BY_OTHERS[node]


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what rclpy imports late
@pytest.mark.parametrize("name", SOURCES)
def test_the_policy_names_what_a_running_node_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics and services of a live, active node are allowed, and services are no more."""
    import rclpy

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    kind, given = live_node(name, tmp_path)
    parameters = [part for p in given for part in ("-p", p)]
    rclpy.init(args=["node", "--ros-args", *parameters])
    node = kind()
    try:
        if name != "ekf":  # which has no transitions
            node.start()
        full_name = (node.get_name(), node.get_namespace())
        services = {n for n, _ in node.get_service_names_and_types_by_node(*full_name)}
        published = {n for n, _ in node.get_publisher_names_and_types_by_node(*full_name)}
        subscribed = {n for n, _ in node.get_subscriber_names_and_types_by_node(*full_name)}
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    some = {"estimator": ("/twist", "/imu"), "ekf": ("/filtered/odometry", "/fix")}
    output, given_input = some.get(name, ("/plan", "/odometry"))
    assert output in published
    assert given_input in subscribed
    assert services == absolute(name, permissions(name, "service", "reply"))
    assert published <= absolute(name, permissions(name, "topic", "publish"))
    assert subscribed <= absolute(name, permissions(name, "topic", "subscribe"))


def live_node(name: str, folder: Path) -> tuple[Any, list[str]]:
    """Return a node's class, and parameters under which it has all its inputs."""
    from bayes_vio.ros.ekf_node import EkfNode
    from bayes_vio.ros.estimator_node import EstimatorNode
    from bayes_vio.ros.planner_node import PlannerNode
    from tests.motion_cases import tiny_artifact

    if name == "planner":
        return PlannerNode, []
    tiny_artifact().save(folder / "artifact")
    artifact = f"artifact:={folder / 'artifact'}"
    if name == "ekf":
        return EkfNode, [artifact, "use_fixes:=true"]
    return EstimatorNode, [artifact, "device:=cpu"]


def absolute(node: str, names: set[str]) -> set[str]:
    """Resolve the names of a profile in the root namespace."""
    full = {name.replace("~", f"/{node}") for name in names}
    return {name if name.startswith("/") else f"/{name}" for name in full}
