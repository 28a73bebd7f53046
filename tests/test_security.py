"""No file that is read can run code, and what ships to secure the node names what the node has."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

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
NODE = ROOT / "bayes_vio" / "ros" / "estimator_node.py"


def permissions(kind: str, action: str) -> set[str]:
    """Return the names that the estimator's profile may use, as in ("topic", "subscribe")."""
    profile = ElementTree.parse(POLICY).getroot().find(".//profile[@node='estimator']")
    assert profile is not None
    groups = profile.findall(f"{kind}s[@{action}='ALLOW']")
    return {(leaf.text or "").strip() for group in groups for leaf in group.findall(kind)}


def test_the_policy_denies_nothing_and_allows_by_name() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert root.get("version") == "0.2.0"
    assert [e.get("path") for e in root.findall("enclaves/enclave")] == ["/estimator"]
    values = {v for e in root.iter() for k, v in e.items() if k not in ("version", "path")}
    assert "DENY" not in values
    for kind, actions in (("topic", ("publish", "subscribe")), ("service", ("reply", "request"))):
        for action in actions:
            assert not [name for name in permissions(kind, action) if "*" in name]


def test_the_policy_names_every_input_of_the_node() -> None:
    """Every topic that the node's source subscribes to, and none besides the clock's."""
    text = NODE.read_text(encoding="utf-8")
    inputs = set(re.findall(r'Input\([\w()]+, "([a-z_/]+)"', text))
    assert {"imu", "camera_info", "reference", "set_pose", "image"} <= inputs
    assert permissions("topic", "subscribe") == inputs | {"/clock"}


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what rclpy imports late
def test_the_policy_names_what_a_running_node_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics and services of a live, active node are allowed, and services are no more."""
    import rclpy

    from bayes_vio.ros.estimator_node import EstimatorNode
    from tests.motion_cases import tiny_artifact

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    tiny_artifact().save(tmp_path / "artifact")
    parameters = ["-p", f"artifact:={tmp_path / 'artifact'}", "-p", "device:=cpu"]
    rclpy.init(args=["node", "--ros-args", *parameters])
    node = EstimatorNode()
    try:
        node.start()
        name = (node.get_name(), node.get_namespace())
        services = {n for n, _ in node.get_service_names_and_types_by_node(*name)}
        published = {n for n, _ in node.get_publisher_names_and_types_by_node(*name)}
        subscribed = {n for n, _ in node.get_subscriber_names_and_types_by_node(*name)}
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    assert {"/odometry", "/twist"} <= published
    assert {"/imu", "/image"} <= subscribed
    assert services == absolute(permissions("service", "reply"))
    assert published <= absolute(permissions("topic", "publish"))
    assert subscribed <= absolute(permissions("topic", "subscribe"))


def absolute(names: set[str]) -> set[str]:
    """Resolve the names of a profile in the root namespace."""
    full = {name.replace("~", "/estimator") for name in names}
    return {name if name.startswith("/") else f"/{name}" for name in full}
