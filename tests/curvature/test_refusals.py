"""What a fit cannot read is refused in one sentence, early."""

import pytest
import torch
from torch import nn

from bayes_vio.posterior import fit_posterior
from tests.cases import Case, classifier, mlp, tokens

STRUCTURES = ("inf", "diagonal", "kfac", "full")


def fit(case: Case, loader=None, structure: str = "inf", **options):
    options = {"noise_cov": case.noise_cov, "rank": 4} | options
    return fit_posterior(
        case.model, loader or case.loader(), case.likelihood, structure, **options
    )


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("bad", "where"),
    [(float("nan"), "input"), (float("nan"), "target"), (-float("inf"), "target")],
)
def test_a_loss_that_is_not_finite_is_refused_with_its_batch(structure, bad, where):
    case = mlp()
    loader = [(x.clone(), y.clone()) for x, y in case.loader()]
    loader[1][0 if where == "input" else 1][2, 1] = bad
    with pytest.raises(ValueError, match="the loss of batch 1 is not finite"):
        fit(case, loader, structure)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_curvature_that_is_not_finite_is_refused(structure):
    """An activation may hide an infinite input from the loss."""
    case = mlp()
    case.x[3, 0] = float("inf")
    assert torch.isfinite(case.model(case.x)).all()
    with pytest.raises(ValueError, match="is not finite: look for"):
        fit(case, None, structure)


def test_an_infinite_loss_of_classes_is_refused():
    case = classifier()
    with torch.no_grad():
        case.model[2].bias[0] = -float("inf")
    with pytest.raises(ValueError, match="the loss of batch 0 is not finite"):
        fit(case)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_empty_loader_is_refused(structure):
    with pytest.raises(ValueError, match="the loader is empty"):
        fit_posterior(mlp().model, [], structure=structure, noise_cov=1.0)


class OneShot:
    """Not an iterator itself, but always gives the same one."""

    def __init__(self, items: list) -> None:
        self.items = iter(items)

    def __iter__(self):
        return self.items


class Dwindling:
    """Gives nothing after so many readings."""

    def __init__(self, items: list, n_readings: int) -> None:
        self.items, self.n_readings = items, n_readings

    def __iter__(self):
        self.n_readings -= 1
        return iter(self.items if self.n_readings >= 0 else [])


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_loader_that_can_be_read_once_is_refused(structure):
    case = mlp()
    for loader in (iter(case.loader()), OneShot(case.loader()), zip(case.x, case.y, strict=True)):
        with pytest.raises(ValueError, match="the loader is an iterator, but is read twice"):
            fit(case, loader, structure)
    with pytest.raises(ValueError, match="must be re-iterable"):
        fit(case, Dwindling(case.loader(), 3), structure)


def test_a_data_loader_that_keeps_its_workers_is_read_again():
    case = mlp()
    data = torch.utils.data.TensorDataset(case.x, case.y)
    loader = torch.utils.data.DataLoader(data, 4, num_workers=1, persistent_workers=True)
    found, expected = fit(case, loader), fit(case)
    torch.testing.assert_close(
        found.functional_covariance(case.x), expected.functional_covariance(case.x)
    )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_another_dtype_is_refused(structure):
    case = mlp()
    with pytest.raises(ValueError, match=r"an input is torch.float32, the model's parameters are"):
        fit(case, [(x.float(), y) for x, y in case.loader()], structure)
    posterior = fit(case, None, structure)
    with pytest.raises(ValueError, match=r"an input is torch.float32, the model's parameters are"):
        posterior.predict(case.x.float())
    words = tokens()
    with pytest.raises(RuntimeError, match="indices"):  # not a matter of dtype between the two
        fit(words, [(x.double(), y) for x, y in words.loader()])


def test_a_model_that_converts_its_input_is_none_of_our_business():
    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.line(x.double())

    case = mlp()
    loader = [(x.float(), y) for x, y in case.loader()]
    assert fit_posterior(Converting(), loader, noise_cov=1.0).n_data == len(case.y)


def test_another_device_is_refused():
    case = mlp()
    with pytest.raises(ValueError, match="data lie on meta, the model on cpu: move one of them"):
        fit(case, [(x.to("meta"), y) for x, y in case.loader()])
    with pytest.raises(ValueError, match="data lie on meta, the model on cpu"):
        fit(case, [(x, y.to("meta")) for x, y in case.loader()])
    with pytest.raises(ValueError, match="an input lies on meta, the model on cpu"):
        fit(case).predict(case.x.to("meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_data_on_a_gpu_and_a_model_on_the_cpu_are_refused():
    case = mlp()
    with pytest.raises(ValueError, match="data lie on cuda:0, the model on cpu: move one"):
        fit(case, [(x.cuda(), y.cuda()) for x, y in case.loader()])
    with pytest.raises(ValueError, match="an input lies on cpu, the model on cuda:0"):
        fit(case, device="cuda").predict(case.x)


def test_a_negative_rank_is_refused_and_a_large_one_is_bounded():
    case = mlp()
    with pytest.raises(ValueError, match="rank is -1"):
        fit(case, rank=-1)
    largest = fit(case, rank=10**6)
    for covered in largest.report.covered:
        if covered.sparsification:
            assert covered.sparsification.rank_g <= covered.d_out
            assert covered.sparsification.rank_a <= covered.d_in
            assert covered.sparsification.kept_trace_share == pytest.approx(1.0)
