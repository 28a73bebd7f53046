"""Show a recording as the estimator sees it, in a browser: image, path, sigmas, state.

Rerun draws (an extra): its wheel brings the viewer that a browser loads from this machine, so that
nothing else is needed, no ROS tools and no network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import LINEAR, NS_PER_S, ROT_Z, X
from bayes_vio.data.samples import Streams
from bayes_vio.data.sync import pose_at
from bayes_vio.estimator import Estimator, MotionEstimate
from bayes_vio.evaluation.play import Event, estimates, events
from bayes_vio.filters.published import fixed_axes_cov
from bayes_vio.geometry import so3

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

ELLIPSOID_SIGMAS = 3.0
# One ellipsoid about every so many metres of the path; the newest is always drawn.
_ELLIPSOID_EVERY_M = 10.0
_SMALLEST_HALF_AXIS_M = 1e-3
_COLORS = {"estimate": (11, 98, 164), "reference": (139, 149, 161), "ellipsoid": (86, 180, 233)}


@dataclass(frozen=True)
class Ports:
    """Where a browser finds the page (web) and the page its data (data)."""

    web: int = 9090
    data: int = 9876

    def __post_init__(self) -> None:
        if self.web == self.data:
            raise ValueError(f"page and data cannot both be served at port {self.web}")


def position_ellipsoid(T_world_base: Array, cov: Array) -> tuple[Array, Array]:
    """Return the half axes [3] (m) and the quaternion [4] (x, y, z, w) of the 3-sigma ellipsoid.

    cov [6, 6]: of the right perturbation of T_world_base [4, 4]; the ellipsoid's axes are given in
    the world.
    """
    position_cov = fixed_axes_cov(T_world_base, cov)[LINEAR, LINEAR]
    variance, axes = np.linalg.eigh(position_cov)
    axes[:, 0] *= np.sign(np.linalg.det(axes))  # a rotation, not a reflection
    half_m = ELLIPSOID_SIGMAS * np.sqrt(np.maximum(variance, 0.0))
    quaternion = so3.quaternion(torch.from_numpy(axes)).numpy()
    return np.maximum(half_m, _SMALLEST_HALF_AXIS_M), quaternion


class Pictures:
    """Draw estimates into a Rerun recording. Raises ImportError where Rerun is missing."""

    def __init__(self, name: str) -> None:
        try:
            import rerun  # pyright: ignore[reportMissingImports]
            from rerun import blueprint  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "pictures in a browser need Rerun: pip install 'bayes_vio[view]' (CPython 3.11 or "
                "newer)"
            ) from error
        self._rr, self._rrb = rerun, blueprint
        self.recording: Any = rerun.RecordingStream(f"bayes_vio {name}")
        self._last: dict[str, Array] = {}
        self._since_ellipsoid_m = np.inf
        self._said = ""
        self._start()

    def _start(self) -> None:
        rr, rec = self._rr, self.recording
        rec.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for sigma, unit in (("forward", "m"), ("yaw", "rad")):
            for part in ("noise", "epistemic"):
                line = rr.SeriesLines(names=f"{part}, {unit}")
                rec.log(f"sigma/{sigma}/{part}", line, static=True)
        rec.log("sigma/position", rr.SeriesLines(names="odometry, m"), static=True)

    def layout(self) -> Any:
        """Return the arrangement of views."""
        rrb = self._rrb
        everything = rrb.VisibleTimeRange(
            "stamp",
            start=rrb.TimeRangeBoundary.infinite(),
            end=rrb.TimeRangeBoundary.cursor_relative(),
        )
        path = rrb.Spatial3DView(
            origin="world", name="Path, 3-sigma ellipsoids", time_ranges=everything
        )
        series = [
            rrb.TimeSeriesView(origin="sigma/forward", name="Sigma of an increment, forward"),
            rrb.TimeSeriesView(origin="sigma/yaw", name="Sigma of an increment, yaw"),
            rrb.TimeSeriesView(origin="sigma/position", name="Sigma of the odometry's position"),
        ]
        beside = rrb.Vertical(
            rrb.Spatial2DView(origin="image", name="Image"),
            *series,
            rrb.StateTimelineView(origin="state", name="State"),
            row_shares=[3, 2, 2, 2, 2],
        )
        return rrb.Blueprint(
            rrb.Horizontal(path, beside, column_shares=[3, 2]), collapse_panels=True
        )

    def show(
        self,
        estimate: MotionEstimate,
        T_world_odom: Array,
        gray: Image | None = None,
        T_world_base: Array | None = None,
    ) -> None:
        """Draw an estimate, the image [h, w] it came from, and the true pose [4, 4], if known."""
        rr, rec = self._rr, self.recording
        rec.set_time("stamp", timestamp=np.datetime64(estimate.stamp_ns, "ns"))
        if gray is not None:
            rec.log("image", rr.Image(gray).compress(jpeg_quality=80))
        T = T_world_odom @ estimate.T_odom_base
        step_m = self._segment("estimate", T[:3, 3])
        if T_world_base is not None:
            self._segment("reference", T_world_base[:3, 3])
        self._ellipsoid(T, estimate.odom_cov, step_m)
        self._sigmas(estimate)
        said = f"{estimate.state.value} {estimate.cause}".strip()
        if said != self._said:
            self._said = said
            rec.log("state", rr.StateChange(state=[said]))

    def _segment(self, name: str, position: Array) -> float:
        """Draw the way from the last position [3] to this one; return its length (m)."""
        last = self._last.get(name, position)
        self._last[name] = position
        strip = self._rr.LineStrips3D([[last, position]], colors=[_COLORS[name]])
        self.recording.log(f"world/{name}", strip)
        return float(np.linalg.norm(position - last))

    def _ellipsoid(self, T_world_base: Array, cov: Array, step_m: float) -> None:
        self._since_ellipsoid_m += step_m
        if self._since_ellipsoid_m < _ELLIPSOID_EVERY_M:
            return
        self._since_ellipsoid_m = 0.0
        half_m, quaternion = position_ellipsoid(T_world_base, cov)
        drawn = self._rr.Ellipsoids3D(
            centers=[T_world_base[:3, 3]],
            half_sizes=[half_m],
            quaternions=[quaternion],
            colors=[_COLORS["ellipsoid"]],
        )
        self.recording.log("world/ellipsoid", drawn)

    def _sigmas(self, estimate: MotionEstimate) -> None:
        rr, rec = self._rr, self.recording
        for name, axis in (("forward", X), ("yaw", ROT_Z)):
            for part, cov in (
                ("noise", estimate.noise_cov),
                ("epistemic", estimate.epistemic_cov),
            ):
                rec.log(f"sigma/{name}/{part}", rr.Scalars(np.sqrt(cov[axis, axis])))
        position_m = np.sqrt(np.trace(estimate.odom_cov[LINEAR, LINEAR]))
        rec.log("sigma/position", rr.Scalars(position_m))

    def save(self, path: Path) -> None:
        """Write what is drawn from now on into a file that Rerun opens."""
        self.recording.save(path, default_blueprint=self.layout())

    def serve(self, ports: Ports) -> str:
        """Offer what is drawn to browsers; return the address of the page."""
        source = self.recording.serve_grpc(grpc_port=ports.data, default_blueprint=self.layout())
        self._rr.serve_web_viewer(web_port=ports.web, open_browser=False, connect_to=source)
        return f"http://localhost:{ports.web}/?url={source.replace('+', '%2B')}"

    def wait(self) -> None:
        """Keep the page until the process is interrupted."""
        while True:
            time.sleep(3600)

    def close(self) -> None:
        """Hand over what is still buffered."""
        self.recording.flush()


def draw(
    pictures: Pictures,
    estimator: Estimator,
    streams: Streams,
    rate: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Play a recording to an estimator and draw every estimate; return how many there were.

    rate: seconds of the recording per second; 0: as fast as it goes. The path begins at the
    reference's pose, where there is one, so that both can be compared.
    """
    images: dict[int, Image] = {}
    T_world_odom, count = None, 0
    stream = _paced(_kept(events(streams, progress), images), rate)
    for one in estimates(estimator, stream):
        said = one.estimate
        if T_world_odom is None:
            T_world_odom = _true_pose(streams, said.earlier_stamp_ns)
            T_world_odom = np.eye(4) if T_world_odom is None else T_world_odom
        gray = images.get(said.stamp_ns)
        for stamp_ns in [ns for ns in images if ns <= said.stamp_ns]:
            del images[stamp_ns]
        pictures.show(said, T_world_odom, gray, _true_pose(streams, said.stamp_ns))
        count += 1
    pictures.close()
    return count


def _kept(stream: Iterator[Event], images: dict[int, Image]) -> Iterator[Event]:
    """Pass events on, keeping images until the estimate that they lead to is drawn."""
    for event in stream:
        if event.gray is not None:
            images[event.stamp_ns] = event.gray
        yield event


def _paced(stream: Iterator[Event], rate: float) -> Iterator[Event]:
    """Pass events on at so many seconds of their stamps per second."""
    start_s, start_ns = time.monotonic(), None
    for event in stream:
        start_ns = event.stamp_ns if start_ns is None else start_ns
        if rate > 0:
            due_s = start_s + (event.stamp_ns - start_ns) / NS_PER_S / rate
            time.sleep(max(0.0, due_s - time.monotonic()))
        yield event


def _true_pose(streams: Streams, stamp_ns: int) -> Array | None:
    if streams.reference is None:
        return None
    T, known = pose_at(streams.reference, np.array([stamp_ns], np.int64))
    return T[0] if known[0] else None


def make_estimator(artifact: Path, streams: Streams, device: str) -> Estimator:
    """Return an estimator of a recording; one thread for the network, as in the node."""
    torch.set_num_threads(1)
    loaded = MotionArtifact.load(artifact, device)
    return Estimator(loaded, camera=streams.camera, extrinsics=streams.extrinsics)
