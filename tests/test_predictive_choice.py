"""What of a posterior a prediction uses: all, the last layer, or what a latency budget leaves."""

import json
from dataclasses import replace

import pytest
import torch

from bayes_vio.artifact import MotionArtifact
from bayes_vio.choices import Predictive, Structure, check_structure
from bayes_vio.cli import main
from bayes_vio.posterior import budget, fit_posterior
from bayes_vio.posterior.budget import variance_shares
from bayes_vio.posterior.captured import CapturedPredictive
from bayes_vio.predictive_choice import choose_predictive
from tests.data.drives import Drive, write_drive
from tests.motion_cases import Samples, random_motion, tiny_artifact

MS = 1e-3
FITTED = ["inf", "diagonal", "kfac", "efb"]


@pytest.fixture(scope="module")
def artifact() -> MotionArtifact:
    return tiny_artifact()


@pytest.fixture
def clock(monkeypatch) -> None:
    """Let every layer of a prediction take a millisecond."""
    now_s = 0.0
    predict = CapturedPredictive.__call__

    def timed(self: CapturedPredictive, x):
        nonlocal now_s
        now_s += MS * len(self.posterior.layers)
        return predict(self, x)

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return now_s

    monkeypatch.setattr(CapturedPredictive, "__call__", timed)
    monkeypatch.setattr(budget, "time", Clock)


def with_structure(artifact: MotionArtifact, structure: str) -> MotionArtifact:
    loader = Samples.random(32).loader(16)
    return replace(
        artifact, posterior=fit_posterior(artifact.model, loader, structure=structure, n_points=60)
    )


def test_without_a_budget_everything_is_used_and_timed(artifact, clock):
    choice = choose_predictive(artifact)
    assert choice.artifact.posterior is artifact.posterior
    assert choice.artifact.captured is not None
    assert (choice.n_layers, choice.n_all) == (len(artifact.posterior.layers),) * 2
    assert choice.duration_s == pytest.approx(MS * choice.n_all)
    assert choice.kept_variance_share == 1.0
    assert choice.holds
    text = f"{choice.n_all}.0 ms, no latency budget"
    assert text in choice.describe()
    assert "(auto)" in choice.describe()


def test_the_last_layer_alone_has_its_own_share(artifact, clock):
    choice = choose_predictive(artifact, Predictive.LAST_LAYER, 10 * MS)
    assert list(choice.artifact.posterior.layers) == ["mean_head"]
    assert choice.duration_s == pytest.approx(MS)
    assert "within the latency budget of 10.0 ms" in choice.describe()
    x, _ = random_motion(4)
    whole, part = artifact.predict(x), choice.artifact.predict(x)
    torch.testing.assert_close(part.mean, whole.mean)
    torch.testing.assert_close(part.noise_cov, whole.noise_cov)
    own = artifact.posterior.layer_contributions(x)["mean_head"]
    torch.testing.assert_close(part.epistemic_cov.diagonal(dim1=1, dim2=2), own)


@pytest.mark.parametrize("n_layers", [1, 4, 10])
def test_auto_keeps_what_the_budget_holds_of_the_shares_of_validation(artifact, clock, n_layers):
    names = list(artifact.posterior.layers)
    # The first layers have the most: another order than at rest, so that it is seen to be used.
    shares = {name: [2.0 ** -(i + 1)] * 6 for i, name in enumerate(names)}
    told = replace(artifact, metadata={"variance_share": shares})
    choice = choose_predictive(told, Predictive.AUTO, MS * (n_layers + 0.5))
    assert list(choice.artifact.posterior.layers) == names[:n_layers]
    assert choice.duration_s == pytest.approx(MS * n_layers)
    assert choice.kept_variance_share == pytest.approx(
        sum(s[0] for s in list(shares.values())[:n_layers])
    )
    assert choice.holds


def test_an_artifact_without_shares_is_asked_at_rest(artifact, clock):
    choice = choose_predictive(artifact, Predictive.LAST_LAYER)
    assert 0.0 < choice.kept_variance_share < 1.0
    assert sum(variance_shares(artifact.posterior, random_motion(1)[0]).values()) == pytest.approx(
        1
    )


def test_a_budget_that_nothing_holds_is_told(artifact, clock):
    choice = choose_predictive(artifact, Predictive.AUTO, 0.1 * MS)
    assert choice.n_layers == 1
    assert not choice.holds
    assert "OVER the latency budget of 0.1 ms" in choice.describe()
    assert not choose_predictive(artifact, Predictive.WHOLE, MS).holds


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_a_budget_must_be_positive(artifact, budget_s):
    with pytest.raises(ValueError, match="must be positive"):
        choose_predictive(artifact, Predictive.AUTO, budget_s)


def test_what_mixes_all_layers_is_used_whole_or_refused(artifact):
    ella = with_structure(artifact, "ella")
    for predictive, budget_s in ((Predictive.LAST_LAYER, None), (Predictive.AUTO, 1.0)):
        with pytest.raises(ValueError, match=r"'ella' mixes all layers.*predictive to whole"):
            choose_predictive(ella, predictive, budget_s)
    assert choose_predictive(ella).artifact.posterior is ella.posterior
    assert choose_predictive(ella, Predictive.WHOLE, 100.0).holds


@pytest.mark.parametrize("structure", [*FITTED, "ella"])
def test_a_structure_is_carried_by_an_artifact(artifact, tmp_path, structure):
    made = with_structure(artifact, structure)
    made.save(tmp_path / structure)
    loaded = choose_predictive(MotionArtifact.load(tmp_path / structure)).artifact
    x, _ = random_motion(5)
    torch.testing.assert_close(loaded.predict(x).epistemic_cov, made.predict(x).epistemic_cov)
    assert bool((torch.linalg.eigvalsh(loaded.predict(x).epistemic_cov) > 0).all())


def test_every_other_structure_is_refused_with_a_reason():
    for structure in FITTED:
        check_structure(structure)
    for structure in {s.value for s in Structure} - set(FITTED):
        with pytest.raises(ValueError, match=f"'{structure}' is not for .*use one of inf, diag"):
            check_structure(structure)
    with pytest.raises(ValueError, match="'magic' is not known: use one of inf"):
        check_structure("magic")


def test_evaluate_judges_the_predictive_asked_for(tmp_path, artifact):
    write_drive(tmp_path / "drive", Drive(duration_s=6.0))
    artifact.save(tmp_path / "artifact")
    command = ["evaluate", str(tmp_path / "drive"), "--artifact", str(tmp_path / "artifact")]
    command += ["--out", str(tmp_path / "out"), "--device", "cpu", "--latency-budget", "10000"]
    assert main([*command, "--predictive", "last_layer"]) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())["artifact"]["predictive"]
    n_layers = len(artifact.posterior.layers)
    assert (told["name"], told["layers"], told["layers_in_all"]) == ("last_layer", 1, n_layers)
    assert told["latency_budget_s"] == 10.0
    assert 0.0 < told["duration_s"] < 10.0
    assert 0.0 < told["kept_variance_share"] < 1.0
