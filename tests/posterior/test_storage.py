"""Posteriors on disk: equal bits after loading, and one clear sentence where that cannot be."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bayes_vio.posterior import Posterior, PosteriorError, fit_posterior
from tests.cases import CASES, Case, mlp


def fit(case: Case, structure: str = "inf") -> Posterior:
    return fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        rank=6,
    )


@pytest.mark.parametrize("structure", ["inf", "efb", "kfac", "diagonal", "full"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_loaded_posterior_has_equal_bits(structure, name, tmp_path):
    case = CASES[name]()
    posterior = fit(case, structure).with_prior_precision(2.5)
    path = tmp_path / "posterior.safetensors"
    posterior.save(path)
    loaded = Posterior.load(path, case.model)
    for key, tensor in posterior.curvature.tensors().items():
        assert torch.equal(loaded.curvature.tensors()[key], tensor)
    assert loaded.report == posterior.report
    assert loaded.nbytes == posterior.nbytes
    assert loaded.log_marginal_likelihood() == posterior.log_marginal_likelihood()
    ours, theirs = posterior.predict(case.x), loaded.predict(case.x)
    for field in vars(ours):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))
    draws = [next(p.sample(1, torch.Generator().manual_seed(0))) for p in (posterior, loaded)]
    assert all(torch.equal(draws[0][k], draws[1][k]) for k in draws[0])


def test_another_model_is_refused(tmp_path):
    case = mlp()
    fit(case).save(tmp_path / "p")
    other = copy.deepcopy(case.model)
    other[0].weight.data[0, 0] += 1e-12
    with pytest.raises(PosteriorError, match="another model"):
        Posterior.load(tmp_path / "p", other)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    case = mlp()
    path = tmp_path / "p"
    fit(case).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PosteriorError, match="truncated"):
        Posterior.load(path, case.model)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PosteriorError, match="is no file"):
        Posterior.load(tmp_path / "nothing", mlp().model)


def test_another_version_is_refused(tmp_path):
    case, path = mlp(), tmp_path / "p"
    fit(case).save(path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["description"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    description["version"] = 99
    save_file(tensors, path, metadata={"description": json.dumps(description)})
    with pytest.raises(PosteriorError, match="version 99"):
        Posterior.load(path, case.model)


def test_other_safetensors_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "p")
    with pytest.raises(PosteriorError, match="holds no posterior"):
        Posterior.load(tmp_path / "p", mlp().model)


def test_saving_replaces_at_once_or_not_at_all(tmp_path, monkeypatch):
    case, path = mlp(), tmp_path / "p"
    fit(case).save(path)
    before = path.read_bytes()

    def fail(*_args) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        fit(case, "diagonal").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_the_report_is_json(tmp_path):
    report = fit(mlp()).report
    assert type(report).from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_storage_counts_what_is_stored():
    case = mlp()
    for structure in ("inf", "efb", "kfac", "diagonal"):
        posterior = fit(case, structure)
        n_numbers = sum(t.numel() for t in posterior.curvature.tensors().values())
        assert posterior.storage[structure] == n_numbers
        assert posterior.nbytes == 8 * n_numbers
