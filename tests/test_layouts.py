"""Layouts for RViz, Foxglove and Lichtblick show topics that the node has."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
ROS = ROOT / "bayes_vio" / "ros"


@pytest.fixture(scope="module")
def node_topics() -> set[str]:
    """Return every topic that the node's code names as a whole string."""
    names = {"camera_info", "reference", "set_pose", "image", "/diagnostics"}
    for file in ROS.glob("*.py"):
        for piece in ast.walk(ast.parse(file.read_text())):
            if isinstance(piece, ast.Constant) and isinstance(piece.value, str):
                names.add(piece.value)
    return names


def test_rviz_shows_topics_of_the_node_relative_to_its_namespace(node_topics):
    layout = YAML(typ="safe").load((ROOT / "config" / "bayes_vio.rviz").read_text())
    manager = layout["Visualization Manager"]
    parts = [*manager["Displays"], *manager["Tools"]]
    topics = {part["Topic"]["Value"] for part in parts if "Topic" in part}
    assert {"odometry", "image", "reference", "set_pose"} == topics
    assert topics <= node_topics
    assert manager["Global Options"]["Fixed Frame"] == "odom"
    shown = next(p for p in parts if p.get("Topic", {}).get("Value") == "odometry")
    assert shown["Covariance"]["Value"]
    assert shown["Covariance"]["Position"]["Scale"] == 3


@pytest.fixture(scope="module")
def foxglove() -> dict:
    return json.loads((ROOT / "config" / "bayes_vio.foxglove.json").read_text())


def test_foxglove_layout_is_what_its_tool_writes(foxglove, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import foxglove_layout  # pyright: ignore[reportMissingImports]

    assert foxglove_layout.layout() == foxglove
    sys.modules.pop("foxglove_layout")


def test_foxglove_places_every_panel_once_and_shows_topics_of_the_node(foxglove, node_topics):
    def leaves(place):
        if isinstance(place, str):
            return [place]
        return leaves(place["first"]) + leaves(place["second"])

    assert sorted(leaves(foxglove["layout"])) == sorted(foxglove["configById"])
    text = json.dumps(foxglove["configById"])
    found = set(re.findall(r'"/([a-z_/]+)[".]', text))
    assert {"image", "camera_info", "odometry", "reference", "diagnostics"} <= found
    assert {"twist", "twist/epistemic"} <= found
    assert {t for t in found if t != "diagnostics"} <= node_topics


def test_foxglove_draws_standard_deviations_of_the_diagonal(foxglove):
    for panel in foxglove["configById"].values():
        for path in panel.get("paths", []):
            entry = re.search(r"\.covariance\[(\d+)\]\.@sqrt$", path["value"])
            assert entry, path["value"]
            assert int(entry[1]) % 7 == 0
