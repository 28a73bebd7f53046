"""A fit that is killed at any moment and started again ends with the same bits as one that is not.

``bayes-vio fit`` is this function and an argument parser (tests/test_cli_faults.py kills the
command itself).
"""

import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bayes_vio.artifact import MotionArtifact
from bayes_vio.simulation import DriveSettings, SimulationSettings, simulate
from bayes_vio.whole_files import sole_use
from tests.training.kill_cases import REFUSED, SERVER, Fit, Point, content_of, save_anew


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, float]:
    """Return an uninterrupted fit and the seconds that it took."""
    folder = tmp_path_factory.mktemp("kills")
    fit = Fit(folder / "train", folder / "validation", folder / "artifact")
    for seed, bag in enumerate((fit.train, fit.validation)):
        simulate(bag, SimulationSettings(seed=500 + seed, drive=DriveSettings(duration_s=3.0)))
    warm = SERVER.Process(target=time.time)  # the server's imports are not the fit's time
    warm.start()
    warm.join()
    begin = time.monotonic()
    assert fit.finish() == 0
    return fit, time.monotonic() - begin


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def kill_at_random(fit: Fit, whole_s: float, kills: int, seed: int) -> int:
    """Kill a fit at random moments, begin anew whenever one is through; return how many were."""
    rng, struck, finished = np.random.default_rng(seed), 0, 0
    folder = fit.out.parent
    while struck < kills:
        fit = replace(fit, out=folder / f"artifact_{finished}")
        if fit.killed_after(float(rng.uniform(0.0, whole_s))):
            struck += 1
        else:
            finished += 1
    assert fit.finish() == 0 or fit.out.exists()
    return finished


def compare(folder: Path, expected: dict[str, bytes]) -> int:
    """Hold every artifact of a folder equal to the expected one; return their number."""
    artifacts = [path for path in folder.glob("artifact_*") if not path.suffix]
    for path in artifacts:
        assert content_of(path) == expected, path
        MotionArtifact.load(path)
    return len(artifacts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_fit_killed_at_random_ends_with_the_same_bits(
    reference: tuple[Fit, float], tmp_path: Path, seed: int
) -> None:
    """Ten kills each: a hundred in all."""
    whole, whole_s = reference
    kill_at_random(replace(whole, out=tmp_path / "a"), whole_s, kills=10, seed=10 + seed)
    assert compare(tmp_path, whole.content()) >= 1
    assert leftovers(tmp_path) == []


STAGES = [
    Point("bayes_vio.data.frame_table:_publish"),  # the frame cache is whole, without its name
    Point("os:fsync"),  # the first checkpoint is half-written
    Point("bayes_vio.training.map_fit:_train_epoch", 2),
    Point("bayes_vio.fit:fit_posterior", 2),
    Point("bayes_vio.whole_files:_swap_in"),  # the artifact is whole, without its name
]
MORE_STAGES = [
    Point("bayes_vio.data.frame_table:_Measurement._save"),
    Point("bayes_vio.data.frame_table:_publish"),
    Point("os:replace"),
    Point("os:fsync", 2),
    Point("bayes_vio.fit:fit_posterior"),
    Point("bayes_vio.fit:calibrate"),
    Point("bayes_vio.fit:correlations"),
    Point("os:replace"),
    Point("os:replace", 3),
]


@pytest.mark.parametrize(
    "stages", [STAGES, pytest.param(MORE_STAGES, marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_a_fit_killed_at_every_stage_ends_with_the_same_bits(
    reference: tuple[Fit, float], tmp_path: Path, stages: list[Point]
) -> None:
    """One fit, killed within each stage in turn, each time going on where it had come to."""
    whole, _ = reference
    fit = replace(whole, out=tmp_path / "artifact_0")
    for point in stages:
        assert fit.finish(point) == -signal.SIGKILL, point
        assert not fit.out.exists(), point
    assert fit.finish() == 0
    assert compare(tmp_path, whole.content()) == 1
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("os:fsync", 1),
        ("os:replace", 3),
        ("bayes_vio.whole_files:_swap_in", 1),
        ("bayes_vio.whole_files:_remove", 1),  # the new one is in place, the old one beside it
    ],
)
def test_an_artifact_that_is_replaced_is_there_throughout(
    reference: tuple[Fit, float], tmp_path: Path, place: str, count: int
) -> None:
    whole = reference[0].content()
    folder = tmp_path / "artifact_0"
    folder.mkdir()
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    for point, code in ((Point(place, count), -signal.SIGKILL), (None, 0)):
        process = SERVER.Process(target=save_anew, args=(folder, point))
        process.start()
        process.join(60)
        assert process.exitcode == code
        assert compare(tmp_path, whole) == 1
    assert leftovers(tmp_path) == []


def test_two_fits_in_one_work_folder_are_refused(
    reference: tuple[Fit, float], tmp_path: Path
) -> None:
    fit = replace(reference[0], out=tmp_path / "artifact_0")
    with sole_use(tmp_path / "artifact_0.work", "fit", tmp_path / "artifact_0.work" / "frames"):
        assert fit.finish() == REFUSED
    assert not fit.out.exists()


@pytest.mark.slow
def test_of_two_fits_at_once_one_is_through(reference: tuple[Fit, float], tmp_path: Path) -> None:
    fit = replace(reference[0], out=tmp_path / "artifact_0")
    first, second = fit.start(), fit.start()
    first.join(60)
    second.join(60)
    assert sorted([first.exitcode, second.exitcode], key=str) == [0, REFUSED]
    assert compare(tmp_path, reference[0].content()) == 1
