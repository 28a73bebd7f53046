"""The options that several commands of the command line share."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_vio.choices import Predictive, Structure
from bayes_vio.data.convert import Layout


class Storage(str, Enum):
    """How a bag stores its messages."""

    MCAP = "mcap"
    SQLITE3 = "sqlite3"


def number(text: str, low: float, high: float, show_default: str | bool = True) -> Any:
    """Return an option for a number in [low, high], units in the text; NaN is in no range."""

    def check(value: float | None) -> float | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value} is not in the range {low:g} to {high:g}")
        return value

    return typer.Option(
        help=text, callback=check, show_default=show_default, metavar=f"{low:g}..{high:g}"
    )


def check_creatable(path: Path) -> None:
    """Raise PermissionError where nothing could be written to ``path``, before work is done."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder, so {path} cannot be written")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable, so {path} cannot be written")


def check_writable_folder(path: Path) -> None:
    """Raise an OSError where files could not be written into the folder ``path``.

    Raises ValueError for a folder that is one thing: files beside an artifact's or a bag's own
    would keep it from being replaced, or change what it is known by.
    """
    for name, what in (("artifact.json", "an artifact"), ("metadata.yaml", "a bag")):
        if (path / name).exists():
            raise ValueError(f"{path} is {what}; choose another folder to write to")
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} exists and is no folder; choose another path")
    check_creatable(path / "file")


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
PosteriorStructure = Annotated[
    Structure,
    typer.Option(
        help="The posterior's structure: inf, diagonal, kfac or efb; the others say why not"
    ),
]
PosteriorLayers = Annotated[
    Predictive,
    typer.Option(
        "--predictive", help="Layers whose posterior is used; auto: what --latency-budget leaves"
    ),
]
ArtifactFolder = Annotated[
    Path | None,
    typer.Option(
        "--artifact", help="A fitted artifact", show_default="the installed one", metavar="FOLDER"
    ),
]


StartFrom = Annotated[
    Path | None,
    typer.Option(
        help="An artifact whose weights to begin with",
        show_default="random weights",
        metavar="FOLDER",
        exists=True,
    ),
]
ContinueFrom = Annotated[
    Path | None,
    typer.Option(
        "--continue",
        help="An artifact whose posterior is the prior: it learns from BAG without its own data, "
        "epochs are steps of the refit; the rest is the artifact's",
        show_default="a new fit",
        metavar="FOLDER",
        exists=True,
    ),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(help="Decoded frames, checkpoint", show_default="OUT.work", metavar="FOLDER"),
]
# What a fit chooses and a continued one has from its artifact.
_OF_A_NEW_FIT = ("batch_size", "structure", "rank", "no_regime", "start_from", "learning_rate")


def check_continued(context: typer.Context) -> None:
    """Raise BadParameter for an option that has no meaning beside --continue."""
    for name in _OF_A_NEW_FIT:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise typer.BadParameter(f"--{option} has no meaning with --continue; leave it out")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("--continue runs in one process: start it without torchrun")


def _device_name(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value) is None:
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda and cuda:N")
    return value


LatencyBudget = Annotated[
    float, number("Of a prediction on this machine, ms", 0, 10_000, show_default="none")
]
Device = Annotated[
    str,
    typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N", callback=_device_name),
]
Bags = Annotated[
    list[Path],
    typer.Argument(help="rosbag2 folders, or bare .mcap / .db3 files", metavar="BAG", exists=True),
]
ValidationBags = Annotated[
    list[Path],
    typer.Option(
        help="A bag on which choices are made; repeat for more", metavar="BAG", exists=True
    ),
]
SourceLayout = Annotated[Layout, typer.Argument(help="How SOURCE is laid out", metavar="LAYOUT")]
KittiSequence = Annotated[
    str | None, typer.Option(help="kitti-odometry: which one, 00 to 21", metavar="NN")
]
SourceCamera = Annotated[
    str | None,
    typer.Option(
        help="kitti-odometry, kitti-raw, euroc: folder of images, like image_2 or cam1",
        show_default="the left gray one",
        metavar="NAME",
    ),
]
KittiRawFolder = Annotated[
    Path | None,
    typer.Option(
        help="kitti-odometry: folder of the raw drive's day, for IMU and true stamps",
        show_default="no IMU",
        metavar="FOLDER",
        exists=True,
    ),
]
VideoJpegQuality = Annotated[
    int | None,
    typer.Option(help="comma2k19: of the frames, 1-100", show_default="95", min=1, max=100),
]
