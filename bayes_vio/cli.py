"""The command line, ``bayes-vio``: parse, import the module that does the work, call it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_vio import __version__
from bayes_vio.choices import NumberFormat, Predictive, Structure
from bayes_vio.cli_bags import convert, simulate
from bayes_vio.cli_errors import explain
from bayes_vio.cli_options import (
    ArtifactFolder,
    Bags,
    BaseFrame,
    CameraInfoTopic,
    ContinueFrom,
    Device,
    ExtrinsicsFile,
    ImageTopic,
    ImuTopic,
    LatencyBudget,
    PosteriorLayers,
    PosteriorStructure,
    ReferenceFrame,
    ReferenceTopic,
    ReferenceWorld,
    StartFrom,
    ValidationBags,
    WorkFolder,
    check_continued,
    check_creatable,
    check_writable_folder,
    number,
)
from bayes_vio.entry import INTERRUPTED, uncollected

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 a run failed, 2 bad usage or bad input. "
    "BAYES_VIO_TRACEBACK=1 shows where an error was raised.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error becomes one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(arguments, prog_name="bayes-vio", standalone_mode=False) or 0
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED  # by typers that do not return it themselves
    except Exception as error:
        if os.environ.get("BAYES_VIO_TRACEBACK") == "1":
            raise
        code, line = explain(error)
        print(f"bayes-vio: {line}", file=sys.stderr)
        _drop_unwritten_output()
        return code
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _drop_unwritten_output() -> None:
    """Keep the interpreter from failing once more over an output that takes nothing any more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bayes_vio {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Motion from IMU and camera, with a covariance that says what the model does not know."""


app.command()(simulate)
app.command()(convert)


@app.command()
def fit(
    context: typer.Context,
    train: Bags,
    validation: ValidationBags,
    out: Annotated[Path, typer.Option(help="The artifact to write", metavar="FOLDER")],
    epochs: Annotated[int, typer.Option(help="Largest number of epochs", min=1)] = 60,
    batch_size: Annotated[int, typer.Option(help="Samples per step", min=1)] = 64,
    structure: PosteriorStructure = Structure.INF,
    rank: Annotated[int, typer.Option(help="Eigenvectors kept per layer", min=1)] = 100,
    number_format: Annotated[
        NumberFormat,
        typer.Option(help="What inf and diagonal are stored in; native: float32"),
    ] = NumberFormat.NATIVE,
    no_regime: Annotated[
        bool, typer.Option("--no-regime", help="Leave out the classifier of images and motion")
    ] = False,
    time_offset: Annotated[
        float | None,
        number("IMU stamp minus image stamp, s", -10, 10, show_default="estimated"),
    ] = None,
    start_from: StartFrom = None,
    continue_from: ContinueFrom = None,
    learning_rate: Annotated[
        float, number("Its peak; a quarter of it with --start-from", 1e-9, 10)
    ] = 2e-3,
    seed: Annotated[int, typer.Option(help="Of everything random", min=0, max=2**31)] = 0,
    device: Device = "auto",
    work_dir: WorkFolder = None,
    imu_topic: ImuTopic = None,
    image_topic: ImageTopic = None,
    camera_info_topic: CameraInfoTopic = None,
    reference_topic: ReferenceTopic = None,
    reference_world: ReferenceWorld = None,
    reference_frame: ReferenceFrame = None,
    base_frame: BaseFrame = "base_link",
    extrinsics_file: ExtrinsicsFile = None,
) -> None:
    """Fit an artifact from bags that carry IMU, images, calibration and a reference pose.

    A fit that was stopped continues where it was when it is started again. On N CPUs or GPUs:
    torchrun --nproc-per-node=N -m bayes_vio fit ... (docs/large.md).

    With --continue yesterday's posterior is today's prior: no old data are needed, what the new
    ones say is added to what is known, and OUT records its ancestry.
    """
    from bayes_vio.continual import ContinueSettings, continue_fit
    from bayes_vio.data.bags import Topics
    from bayes_vio.distributed import launched_workers
    from bayes_vio.fit import FitSettings
    from bayes_vio.fit import fit as fit_artifact
    from bayes_vio.progress import FitDisplay
    from bayes_vio.training.map_fit import MapFitSettings

    topics = Topics(
        imu_topic, image_topic, camera_info_topic, reference_topic,
        reference_world, reference_frame, base_frame,
    )  # fmt: skip
    extrinsics = _extrinsics(extrinsics_file)
    check_creatable(out)
    if continue_from is not None:
        check_continued(context)
        again = ContinueSettings(epochs, time_offset_s=time_offset, seed=seed, device=device)
        with FitDisplay() as display:
            continue_fit(
                continue_from, train, validation, out, again, topics, extrinsics, work_dir, display
            )
        return
    settings = FitSettings(
        map=MapFitSettings(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
        ),
        structure=structure.value,
        rank=rank,
        number_format=number_format.value,
        regime=not no_regime,
        time_offset_s=time_offset,
        start_from=start_from,
        seed=seed,
        device=device,
    )
    with launched_workers(device), FitDisplay() as display:
        fit_artifact(train, validation, out, settings, topics, extrinsics, work_dir, display)


@app.command()
def evaluate(
    bags: Bags,
    out: Annotated[
        Path, typer.Option(help="Where report.json and report.html go", metavar="FOLDER")
    ],
    artifact: ArtifactFolder = None,
    device: Device = "auto",
    predictive: PosteriorLayers = Predictive.AUTO,
    latency_budget: LatencyBudget = 0.0,
    imu_topic: ImuTopic = None,
    image_topic: ImageTopic = None,
    camera_info_topic: CameraInfoTopic = None,
    reference_topic: ReferenceTopic = None,
    reference_world: ReferenceWorld = None,
    reference_frame: ReferenceFrame = None,
    base_frame: BaseFrame = "base_link",
    extrinsics_file: ExtrinsicsFile = None,
) -> None:
    """Play bags through an artifact, as the node would, and judge drift and covariance."""
    from bayes_vio.artifact import default_artifact_path
    from bayes_vio.data.bags import Topics
    from bayes_vio.device import choose_device
    from bayes_vio.evaluation import evaluate as evaluate_artifact
    from bayes_vio.progress import Bars

    topics = Topics(
        imu_topic, image_topic, camera_info_topic, reference_topic,
        reference_world, reference_frame, base_frame,
    )  # fmt: skip
    extrinsics = _extrinsics(extrinsics_file)
    check_writable_folder(out)
    with Bars() as bars:
        evaluate_artifact(
            artifact or default_artifact_path(), bags, out, topics,
            device=str(choose_device(device)), extrinsics=extrinsics, progress=bars.show,
            predictive=predictive, latency_budget_s=latency_budget / 1e3 or None,
        )  # fmt: skip
    print(f"wrote {out / 'report.json'} and {out / 'report.html'}")


@app.command()
def view(
    bag: Annotated[
        Path, typer.Argument(help="rosbag2 folder, or bare file", metavar="BAG", exists=True)
    ],
    artifact: ArtifactFolder = None,
    device: Device = "auto",
    rate: Annotated[float, number("Speed of the playback; 0: as fast as it goes", 0, 1000)] = 1.0,
    port: Annotated[
        int, typer.Option(help="Of the page; data: the next", min=1, max=65534)
    ] = 9090,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write a file for Rerun instead", metavar="FILE.rrd", show_default=False
        ),
    ] = None,
    imu_topic: ImuTopic = None,
    image_topic: ImageTopic = None,
    camera_info_topic: CameraInfoTopic = None,
    reference_topic: ReferenceTopic = None,
    reference_world: ReferenceWorld = None,
    reference_frame: ReferenceFrame = None,
    base_frame: BaseFrame = "base_link",
    extrinsics_file: ExtrinsicsFile = None,
) -> None:
    """Play a bag through an artifact and show it in a browser: image, path, sigmas, state.

    Needs no ROS tools, but the extra `view` (Rerun). Pages and data are offered to the network
    that this machine is in; the page stays until Ctrl-C.
    """
    from bayes_vio.artifact import default_artifact_path
    from bayes_vio.data.bags import Topics, open_streams
    from bayes_vio.device import choose_device
    from bayes_vio.progress import Bars
    from bayes_vio.view import Pictures, Ports, draw, make_estimator

    topics = Topics(
        imu_topic, image_topic, camera_info_topic, reference_topic,
        reference_world, reference_frame, base_frame,
    )  # fmt: skip
    pictures = Pictures(bag.name)
    streams = open_streams(bag, topics, _extrinsics(extrinsics_file))
    estimator = make_estimator(
        artifact or default_artifact_path(), streams, str(choose_device(device))
    )
    if save is not None:
        check_creatable(save)
        pictures.save(save)
    else:
        print(f"open {pictures.serve(Ports(port, port + 1))} (Ctrl-C ends it)", flush=True)
    with Bars() as bars:
        pace = 0.0 if save is not None else rate
        count = draw(
            pictures, estimator, streams, pace,
            lambda done, total: bars.show(bag.name, done, total),
        )  # fmt: skip
    print(f"{count} estimates drawn" + (f" into {save}" if save else ""), flush=True)
    if save is None:
        pictures.wait()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    artifact: ArtifactFolder = None,
    device: Annotated[
        str | None, typer.Option(help="As the parameter device", show_default="auto")
    ] = None,
    predictive: PosteriorLayers = Predictive.AUTO,
    latency_budget: LatencyBudget = 0.0,
) -> int:
    """Run the ROS 2 node on live topics until it is interrupted.

    Whatever follows goes to ROS: -r image:=/camera/image_raw remaps a topic,
    -p image_transport:=compressed sets a parameter, --params-file FILE many.
    Parameters with their units, ranges and defaults: config/estimator.yaml.
    """
    with uncollected():
        from bayes_vio.ros.estimator_node import main as run_node

    parameters = [] if device is None else ["-p", f"device:={device}"]
    if predictive is not Predictive.AUTO:
        parameters += ["-p", f"predictive:={predictive.value}"]
    if latency_budget:
        parameters += ["-p", f"latency_budget_ms:={latency_budget}"]
    if artifact is not None:
        from bayes_vio.artifact import read_description

        read_description(artifact)  # said now, rather than by a node that stays unconfigured
        parameters += ["-p", f"artifact:={artifact.resolve()}"]
    extra = [argument for argument in context.args if argument != "--ros-args"]
    return run_node(["bayes-vio", "--ros-args", *parameters, *extra])


@app.command()
def inspect(artifact: ArtifactFolder = None) -> None:
    """Show what an artifact is: origin, accuracy, posterior, storage, shares of the layers."""
    from bayes_vio.artifact import default_artifact_path
    from bayes_vio.inspection import inspect_artifact

    inspect_artifact(artifact or default_artifact_path())


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Bags, artifact and report; kept ones are used", metavar="FOLDER")
    ] = Path("out/demo"),
) -> None:
    """Simulate drives, fit an artifact, run the node on a drive held out, and judge it."""
    from bayes_vio.demo import demo as run_demo

    check_writable_folder(out)
    run_demo(out)


@app.command()
def doctor() -> int:
    """Tell what this machine has, what is missing for which command, and what mends it."""
    from bayes_vio import doctor as machine

    return 0 if machine.report() else 1


def _extrinsics(file: Path | None) -> Any:
    if file is None:
        return None
    from bayes_vio.data.mounting import read_extrinsics

    return read_extrinsics(file)
