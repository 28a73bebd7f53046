"""The options that several commands of the command line share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Storage(str, Enum):
    """How a bag stores its messages."""

    MCAP = "mcap"
    SQLITE3 = "sqlite3"


def _topic(text: str, default: str | bool) -> Any:
    return typer.Option(
        help=text, show_default=default, rich_help_panel="Topics and frames", metavar="NAME"
    )


ImuTopic = Annotated[str | None, _topic("sensor_msgs/Imu", "the only one")]
ImageTopic = Annotated[str | None, _topic("Image or CompressedImage", "the only one")]
CameraInfoTopic = Annotated[str | None, _topic("CameraInfo", "the image's")]
ReferenceTopic = Annotated[
    str | None, _topic("True poses: Odometry, PoseStamped or TFMessage", "the only one")
]
ReferenceWorld = Annotated[str | None, _topic("Parent frame to read of a TFMessage", False)]
ReferenceFrame = Annotated[
    str | None, _topic("Frame whose pose the reference gives", "the message's")
]
BaseFrame = Annotated[str, _topic("Frame that moves: x forward, y left, z up", True)]
ExtrinsicsFile = Annotated[
    Path | None,
    typer.Option(
        "--extrinsics",
        help="YAML with T_base_imu and T_base_camera (optical frame), in m",
        show_default="/tf_static",
        metavar="FILE",
    ),
]
ArtifactFolder = Annotated[
    Path | None,
    typer.Option(
        "--artifact", help="A fitted artifact", show_default="the installed one", metavar="FOLDER"
    ),
]
Device = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N")]
Bags = Annotated[
    list[Path],
    typer.Argument(help="rosbag2 folders, or bare .mcap / .db3 files", metavar="BAG", exists=True),
]
