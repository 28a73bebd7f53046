"""The whole way on a GPU gives what the CPU gives: fit, posterior, artifact. Skips without one."""

from pathlib import Path

import pytest
import torch

from bayes_vio.artifact import MotionArtifact
from bayes_vio.posterior import fit_posterior
from bayes_vio.training.calibration import calibrate
from bayes_vio.training.map_fit import MapFitSettings, fit_map
from tests.motion_cases import TINY, Samples, random_motion, tiny_artifact

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_an_artifact_predicts_on_the_gpu_what_it_predicts_on_the_cpu(tmp_path: Path) -> None:
    artifact = tiny_artifact()
    artifact.save(tmp_path / "artifact")
    on_gpu = MotionArtifact.load(tmp_path / "artifact", device="cuda")
    x, _ = random_motion(8, seed=3)
    ours, theirs = artifact.predict(x), on_gpu.predict(x.map(lambda t: t.cuda()))
    for name in ("mean", "epistemic_cov", "noise_cov"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(theirs, name).cpu(), rtol=1e-3, atol=1e-8
        )


def test_fit_and_calibration_on_the_gpu(tmp_path: Path) -> None:
    device = torch.device("cuda")
    train, validation = Samples.random(64, 0), Samples.random(32, 1)
    settings = MapFitSettings(epochs=2, batch_size=16)
    estimate = fit_map(
        train, validation, settings, tmp_path / "c", "d", device, model_settings=TINY
    )
    posterior = fit_posterior(estimate.model, train.loader(16), rank=8, device=device)
    found = calibrate(posterior, validation.loader(16), train.loader(16), (1e2, 1e4))
    assert found.prior_precision in (1e2, 1e4)
    assert bool(found.noise_scale.isfinite().all())
