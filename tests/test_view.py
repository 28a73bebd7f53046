import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bayes_vio.cli import main
from bayes_vio.data.bags import open_streams
from bayes_vio.estimator import Estimator
from bayes_vio.geometry import so3
from bayes_vio.view import Pictures, Ports, draw, position_ellipsoid
from tests.browser import CHROMIUM, browser, free_port, picture
from tests.data.drives import Drive, write_drive
from tests.estimator_cases import KnownArtifact
from tests.filters.smoother_cases import exp, random_cov
from tests.motion_cases import tiny_artifact

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("seed", range(5))
def test_ellipsoid_is_the_3_sigma_surface_of_the_position_in_the_world(seed):
    rng = np.random.default_rng(seed)
    T, cov = exp(rng.normal(size=6)), random_cov(rng, np.array([1.0, 0.2, 0.5, 0.1, 0.1, 0.1]))
    half_m, quaternion = position_ellipsoid(T, cov)
    axes = so3.from_quaternion(torch.from_numpy(quaternion)).numpy()
    R = T[:3, :3]
    np.testing.assert_allclose(
        axes @ np.diag(half_m**2) @ axes.T, 9 * R @ cov[:3, :3] @ R.T, atol=1e-10
    )


def test_a_position_known_exactly_still_has_an_ellipsoid():
    half_m, _ = position_ellipsoid(np.eye(4), np.zeros((6, 6)))
    assert (half_m > 0).all()


def test_ports_must_differ():
    with pytest.raises(ValueError, match="9000"):
        Ports(9000, 9000)


def test_without_rerun_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    write_drive(tmp_path / "bag", Drive(duration_s=1.0))
    assert main(["view", str(tmp_path / "bag"), "--save", str(tmp_path / "x.rrd")]) == 1
    error = capsys.readouterr().err
    assert "bayes_vio[view]" in error
    assert error.count("\n") == 1


class Spy:
    """A recording that remembers what is drawn."""

    def __init__(self):
        self.drawn, self.stamps = {}, []

    def set_time(self, timeline, timestamp):
        self.stamps.append(int(timestamp.astype(np.int64)))

    def log(self, path, archetype, static=False):
        self.drawn.setdefault(path, []).append(archetype)

    def flush(self):
        pass


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("view") / "drive"
    write_drive(path, Drive(duration_s=4.0))
    return path


def numbers(components) -> np.ndarray:
    return np.concatenate([np.ravel(c.as_arrow_array().to_pylist()) for c in components])


def test_every_estimate_is_drawn_with_its_image_sigmas_and_truth(bag):
    pytest.importorskip("rerun", reason="Rerun is not installed: pip install the extra `view`")
    streams = open_streams(bag)
    estimator = Estimator(KnownArtifact(), camera=streams.camera, extrinsics=streams.extrinsics)
    pictures = Pictures("test")
    pictures.recording = spy = Spy()
    count = draw(pictures, estimator, streams)
    assert count > 20
    assert len(spy.stamps) == count
    assert set(spy.stamps) <= set(streams.image_stamp_ns.tolist())
    for path in ("image", "world/estimate", "world/reference", "sigma/forward/noise",
                 "sigma/yaw/epistemic", "sigma/position"):  # fmt: skip
        assert len(spy.drawn[path]) == count, path
    position = numbers([s.scalars for s in spy.drawn["sigma/position"]])
    assert (np.diff(position) > 0).all()  # an odometry knows less and less
    assert 1 <= len(spy.drawn["world/ellipsoid"]) < count
    assert len(spy.drawn["state"]) >= 1


def test_the_path_begins_at_the_reference(bag):
    rerun = pytest.importorskip("rerun", reason="Rerun is not installed")
    assert rerun.__version__
    pictures = Pictures("test")
    pictures.recording = spy = Spy()
    T_world_odom = exp(np.array([5.0, 6, 7, 0, 0, 1.0]))
    T_odom_base = exp(np.array([1.0, 0, 0, 0, 0, 0]))
    said = SimpleNamespace(
        stamp_ns=1, T_odom_base=T_odom_base, odom_cov=np.eye(6), noise_cov=np.eye(6),
        epistemic_cov=np.eye(6), cause="", state=SimpleNamespace(value="tracking"),
    )  # fmt: skip
    pictures.show(said, T_world_odom)  # pyright: ignore[reportArgumentType]
    (strip,) = spy.drawn["world/estimate"]
    end = np.array(strip.strips.as_arrow_array().to_pylist())[0][-1]
    np.testing.assert_allclose(end, (T_world_odom @ T_odom_base)[:3, 3], atol=1e-6)


def test_a_file_for_rerun_is_written(bag, tmp_path):
    pytest.importorskip("rerun", reason="Rerun is not installed: pip install the extra `view`")
    tiny_artifact().save(tmp_path / "tiny")
    out = tmp_path / "x.rrd"
    assert main(["view", str(bag), "--artifact", str(tmp_path / "tiny"), "--save", str(out)]) == 0
    content = out.read_bytes()
    assert content[:3] == b"RRF"
    assert len(content) > 50_000


@contextmanager
def served(bag: Path, artifact: Path):
    """Run the command; yield the address of its page once all is drawn."""
    port = free_port()
    command = [sys.executable, "-m", "bayes_vio", "view", str(bag), "--artifact", str(artifact),
               "--rate", "0", "--port", str(port)]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "estimates drawn" in line:
                break
        found = re.search(r"open (\S+)", "".join(lines))
        assert found, lines
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


def test_the_page_is_served_until_it_is_interrupted(bag, tmp_path):
    pytest.importorskip("rerun", reason="Rerun is not installed: pip install the extra `view`")
    tiny_artifact().save(tmp_path / "tiny")
    with served(bag, tmp_path / "tiny") as address:
        with urllib.request.urlopen(address, timeout=10) as answer:
            page = answer.read()
        assert b"<html" in page.lower()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_without_gpu_shows_path_and_curves(bag, tmp_path):
    pytest.importorskip("rerun", reason="Rerun is not installed: pip install the extra `view`")
    tiny_artifact().save(tmp_path / "tiny")
    with served(bag, tmp_path / "tiny") as address, browser(address, tmp_path / "chrome") as port:
        deadline, shown = time.monotonic() + 240, 0.0
        while shown < 0.001 and time.monotonic() < deadline:
            time.sleep(5)
            shown = share_of_estimate_color(picture(port))
    assert shown >= 0.001, f"after 240 s {shown:.2%} of the page is the path's colour"


def share_of_estimate_color(page: np.ndarray) -> float:
    """Return the share of pixels that are as blue as the path and its ellipsoids."""
    blue, green, red = (page[..., k].astype(int) for k in range(3))
    return float(np.mean((blue - red > 80) & (blue > green) & (page[..., 0] > 120)))
