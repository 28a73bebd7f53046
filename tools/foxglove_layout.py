"""Write the layout for Foxglove and Lichtblick, config/bayes_vio.foxglove.json.

    python tools/foxglove_layout.py

One panel of each kind: the image, the path with its covariance in 3D, sigmas over time, the state
from the diagnostics. Sigmas are square roots that the panels take of the messages' variances.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "config" / "bayes_vio.foxglove.json"
# Rows of the messages' 6x6 covariances, of which the diagonal is row 7 i.
FORWARD, YAW, X, Y = 0, 35, 0, 7
BLUE, ORANGE, GREEN, GRAY = "#0b62a4", "#d98a00", "#00825f", "#8b95a1"


def sigma(message: str, entry: int, label: str, color: str) -> dict[str, Any]:
    """Return a curve of the square root of one entry of a covariance."""
    return {
        "value": f"{message}.covariance[{entry}].@sqrt",
        "label": label,
        "color": color,
        "enabled": True,
        "timestampMethod": "headerStamp",
    }


def plot(title: str, unit: str, paths: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a panel of curves over time."""
    return {
        "foxglovePanelTitle": title,
        "lichtblickPanelTitle": title,
        "paths": paths,
        "xAxisVal": "timestamp",
        "yAxisLabel": unit,
        "minYValue": 0,
        "showLegend": True,
        "legendDisplay": "floating",
        "isSynced": True,
    }


def trail(color: str) -> dict[str, Any]:
    """Return how an odometry is drawn, with its covariance."""
    return {
        "visible": True,
        "type": "axis",
        "covariance": True,
        "covarianceColor": color + "55",
        "decayTime": 60,
    }


def layout() -> dict[str, Any]:
    """Return the layout: panels by their names, and the tree of their places."""
    twist, epistemic = "/twist.twist", "/twist/epistemic.twist"
    panels = {
        "Image!image": {
            "imageMode": {"imageTopic": "/image", "calibrationTopic": "/camera_info"},
            "followMode": "follow-none",
        },
        "3D!path": {
            "followTf": "odom",
            "followMode": "follow-none",
            "cameraState": {"perspective": False, "distance": 200, "phi": 0, "thetaOffset": 90},
            "topics": {
                "/odometry": trail(BLUE),
                "/reference": trail(GRAY) | {"covariance": False},
            },
        },
        "Plot!forward": plot(
            "Forward speed, sigma",
            "m/s",
            [
                sigma(twist, FORWARD, "both parts", BLUE),
                sigma(epistemic, FORWARD, "epistemic", ORANGE),
            ],
        ),
        "Plot!yaw": plot(
            "Yaw rate, sigma",
            "rad/s",
            [sigma(twist, YAW, "both parts", BLUE), sigma(epistemic, YAW, "epistemic", ORANGE)],
        ),
        "Plot!position": plot(
            "Odometry, sigma of the position",
            "m",
            [sigma("/odometry.pose", X, "x", BLUE), sigma("/odometry.pose", Y, "y", GREEN)],
        ),
        "DiagnosticSummary!state": {
            "minLevel": 0,
            "pinnedIds": [],
            "hardwareIdFilter": "",
            "topicToRender": "/diagnostics",
            "sortByLevel": True,
        },
    }
    curves = column("Plot!forward", column("Plot!yaw", "Plot!position"), 33)
    right = column("Image!image", column(curves, "DiagnosticSummary!state", 75), 30)
    return {
        "configById": panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": {"direction": "row", "first": "3D!path", "second": right, "splitPercentage": 55},
    }


def column(first: Any, second: Any, share: int = 50) -> dict[str, Any]:
    """Return two places above one another; share: of the first (%)."""
    return {"direction": "column", "first": first, "second": second, "splitPercentage": share}


if __name__ == "__main__":
    OUT.write_text(json.dumps(layout(), indent=1) + "\n", encoding="utf-8")
