"""What the odometry benchmark does between the estimator and the evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from odometry_methods import methods
from odometry_pictures import draw
from odometry_runs import Said, Sensors, chained, hear, retold, with_constant_cov
from odometry_setting import Result
from odometry_tables import distance_table, figures, over_distance, table
from odometry_weights import mixture
from torch import Tensor

from bayes_vio.data.bags import open_streams
from bayes_vio.models.complementary import Crossover, SlowContradiction
from bayes_vio.models.noise import WHITE_NOISE
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.simulation import CameraSettings, SimulationSettings, simulate
from bayes_vio.simulation.drives import DriveSettings
from tests.evaluation.synthetic import synthetic_run
from tests.motion_cases import tiny_artifact


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    out = tmp_path_factory.mktemp("odometry") / "drive"
    settings = SimulationSettings(
        seed=7, drive=DriveSettings(duration_s=3.0), camera=CameraSettings(rate_hz=8)
    )
    simulate(out, settings)
    return open_streams(out)


@pytest.fixture(scope="module", params=[np.inf, 0.5], ids=["network alone", "fused"])
def artifact(request):
    crossover = Crossover((request.param, request.param, request.param))
    return replace(tiny_artifact(), crossover=crossover)


@pytest.fixture(scope="module")
def heard(artifact, streams):
    with pytest.MonkeyPatch.context() as patch:  # an untrained network contradicts every gyro
        patch.setattr(SlowContradiction, "add", lambda *_: np.zeros(3))
        return hear(artifact, streams, Sensors.BOTH)


def test_every_question_is_heard(heard):
    assert len(heard.run) >= 22
    np.testing.assert_array_equal(heard.rows, np.arange(len(heard.run)))
    assert bool((heard.x.camera_valid == 1).all())
    np.testing.assert_allclose(heard.x.dt.numpy(), heard.run.dt_s, rtol=1e-6)


def test_the_artifacts_own_answers_retell_its_run(artifact, heard):
    sketch, parts = FeatureSketch(), []
    for x in heard.batches():
        p, features = artifact.predict_features(x, sketch)
        parts.append(Said(p.mean, p.epistemic_cov, p.noise_cov, features))
    run = retold(heard, Said.join(parts))
    told = heard.run
    np.testing.assert_allclose(run.T_earlier_later, told.T_earlier_later, atol=1e-6)
    scale = np.sqrt(np.diagonal(told.noise_cov, axis1=1, axis2=2))
    scale = scale[:, :, None] * scale[:, None, :]
    np.testing.assert_allclose(run.noise_cov / scale, told.noise_cov / scale, atol=1e-4)
    np.testing.assert_allclose(run.epistemic_cov / scale, told.epistemic_cov / scale, atol=1e-3)
    again = chained(run, artifact.epistemic_correlation_s, artifact.noise_correlation)
    np.testing.assert_allclose(again.T_odom_base, told.T_odom_base, atol=1e-5)
    np.testing.assert_allclose(again.odom_cov, told.odom_cov, rtol=1e-2, atol=1e-7)


def test_one_sensor_alone_reaches_the_model_alone(artifact, streams):
    seeing = hear(artifact, streams, Sensors.CAMERA)
    assert not seeing.x.imu_valid.any()
    assert bool((seeing.x.camera_valid == 1).all())
    feeling = hear(artifact, streams, Sensors.IMU)
    assert bool((feeling.x.camera_valid == 0).all())
    assert len(feeling.run) > 15
    assert set(feeling.run.state) == {"degraded"}


def test_a_mixture_has_the_moments_of_its_members():
    g = torch.Generator().manual_seed(0)
    members = [Said(*_gaussians(g)) for _ in range(8)]
    whole = mixture(members)
    draws = torch.cat([_draws(m, 20_000, g) for m in members], 1)
    torch.testing.assert_close(whole.mean, draws.mean(1), atol=0.05, rtol=0)
    centred = draws - draws.mean(1, keepdim=True)
    # Of n members' means the unbiased covariance is n / (n - 1) times the mixture's.
    expected = centred.mT @ centred / draws.shape[1]
    between = whole.epistemic_cov * 7 / 8
    torch.testing.assert_close(between + whole.noise_cov, expected, atol=0.2, rtol=0.03)
    assert whole.features is not None
    torch.testing.assert_close(whole.features @ whole.features.mT, whole.epistemic_cov)
    assert mixture(members[:6]).features is None


def _gaussians(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    root = torch.randn(2, 6, 6, generator=g, dtype=torch.float64)
    mean = torch.randn(2, 6, generator=g, dtype=torch.float64)
    return mean, torch.zeros(2, 6, 6, dtype=torch.float64), root @ root.mT


def _draws(said: Said, n: int, g: torch.Generator) -> Tensor:
    L = torch.linalg.cholesky(said.noise_cov)
    noise = torch.randn(len(L), n, 6, generator=g, dtype=torch.float64)
    return said.mean[:, None] + noise @ L.mT


def test_a_method_is_found_by_its_beginning_and_a_wrong_one_is_named():
    assert list(methods(["INF (", "noise"], False)) == ["INF (as published)", "noise head alone"]
    assert "ensemble" in methods(None, True)
    assert "ensemble" not in methods(None, False)
    with pytest.raises(ValueError, match="swag"):
        methods(["swag"], True)


def test_a_true_covariance_is_found_true_over_distance_and_a_white_one_too_narrow(tmp_path):
    run = synthetic_run(1500, seed=4, epistemic=0.4, correlation_frames=30)
    result = Result([run], 3.0, WHITE_NOISE)
    told = over_distance(result, (100.0,))
    coherent, white = (told[k]["100 m"]["nees_over_6"] for k in ("coherent", "white"))
    assert 0.6 < coherent < 1.6
    assert white > 1.5 * coherent
    short = Result([synthetic_run(300, seed=4)], 3.0, WHITE_NOISE)
    methods_told = {"it": {**figures(short), "over_distance": told}}
    assert methods_told["it"]["horizons"]["1"]["nees_over_6"] == pytest.approx(1, abs=0.25)
    assert sum(methods_told["it"]["states"].values()) == pytest.approx(1)
    assert any("it" in line for line in table(methods_told))
    draw(tmp_path / "page.png", {"it": result}, methods_told, "synthetic")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert sum("coherent" in line or "white" in line for line in distance_table(methods_told)) == 2


def test_a_constant_covariance_is_noise_alone():
    run = replace(synthetic_run(50, epistemic=0.3), features=(None,) * 50)
    cov = np.diag([1.0, 2, 3, 4, 5, 6])
    constant = with_constant_cov(run, cov)
    np.testing.assert_array_equal(constant.noise_cov, np.tile(cov, (50, 1, 1)))
    assert not constant.epistemic_cov.any()
    assert list(over_distance(Result([constant], 0.0, WHITE_NOISE), ())) == ["coherent"]
