"""Runs that the benchmarks of filter and smoother keep belong to one artifact and its fusion."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import filter as filter_benchmark
import numpy as np
import pytest
import smoother_runs

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.models.complementary import Crossover
from tests.evaluation.synthetic import synthetic_run


@pytest.mark.parametrize(
    ("module", "played"),
    [
        (filter_benchmark, lambda a, bag, work: filter_benchmark.recorded(bag, a, work)),
        (smoother_runs, lambda a, bag, work: vars(smoother_runs.recorded_run(a, bag, work))),
    ],
)
def test_a_run_is_kept_for_one_artifact_and_its_fusion(module, played, tmp_path, monkeypatch):
    runs = (synthetic_run(n) for n in (20, 30))
    monkeypatch.setattr(
        module, "open_streams", lambda bag: SimpleNamespace(camera=1, extrinsics=1)
    )
    monkeypatch.setattr(module, "Estimator", lambda artifact, **given: artifact)
    monkeypatch.setattr(module, "play", lambda estimator, streams: next(runs))
    packaged, bag = default_artifact_path(), Path("drive")
    first = played(packaged, bag, tmp_path)
    again = played(packaged, bag, tmp_path)
    np.testing.assert_array_equal(again["noise_cov"], first["noise_cov"])
    assert len(first["noise_cov"]) == 20
    artifact = MotionArtifact.load(packaged)
    replace(artifact, crossover=Crossover((1.0, 1.0, 1.0))).save(tmp_path / "fused")
    assert len(played(tmp_path / "fused", bag, tmp_path)["noise_cov"]) == 30
