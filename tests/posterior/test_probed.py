"""The probed Fisher: unbiased, and the same whatever the batch size or the number of workers."""

import itertools
from unittest import mock

import pytest
import torch
from torch import nn

from bayes_vio.choices import Fisher
from bayes_vio.models import likelihood as likelihoods
from bayes_vio.models.likelihood import cotangents, make_likelihood, random_signs, skip_draws
from bayes_vio.posterior import Posterior, fit_posterior
from tests.cases import Case, classifier, mlp, normal, spd, two_heads


def fit(case: Case, structure: str = "inf", **options) -> Posterior:
    options = {"noise_cov": case.noise_cov, "rank": 6} | options
    loader = options.pop("loader", case.loader())
    return fit_posterior(case.model, loader, case.likelihood, structure, **options)


def gaussian_case():
    mean = normal(5, 3)
    cholesky = torch.stack([torch.linalg.cholesky(spd(3, seed)) for seed in range(5)])
    return make_likelihood("gaussian", None, 3, mean.device), mean, cholesky


def class_case():
    mean = 2 * normal(5, 3)
    return make_likelihood("categorical", None, 3, mean.device), mean, mean.new_zeros(5, 0, 0)


def columns(fisher, likelihood, mean, noise):
    return cotangents(fisher, likelihood, mean, noise, mean, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", [gaussian_case, class_case])
def test_the_mean_over_all_signs_is_the_hessian(case):
    likelihood, mean, noise = case()
    exact = columns(Fisher.TYPE2, likelihood, mean, noise)
    hessian = torch.einsum("cbo,cbp->bop", exact, exact)
    total = torch.zeros_like(hessian)
    for pattern in itertools.product((-1.0, 1.0), repeat=3):
        signs = torch.tensor(pattern, dtype=torch.float64)
        with mock.patch.object(likelihoods, "random_signs", lambda *_, z=signs: z.expand(5, 3)):
            (probed,) = columns(Fisher.PROBED, likelihood, mean, noise)
        torch.testing.assert_close(probed, torch.einsum("r,rbo->bo", signs, exact))
        total += probed[:, :, None] * probed[:, None, :] / 8
    torch.testing.assert_close(total, hessian)


def test_one_output_is_exact():
    case = Case(nn.Linear(3, 1).double(), normal(6, 3), normal(6, 1), 0.5)
    for structure in ("inf", "kfac", "full"):
        exact = fit(case, structure, fisher="type2").functional_covariance(case.x)
        probed = fit(case, structure, fisher="probed").functional_covariance(case.x)
        torch.testing.assert_close(probed, exact)


def test_it_converges_as_the_data_grow_and_ignores_the_batch_size():
    n = 2000
    for case in (classifier(), two_heads()):
        repeat = (n, *[1] * (case.x.dim() - 1))
        y = case.y.repeat(n, *[1] * (case.y.dim() - 1))
        many = Case(case.model, case.x.repeat(repeat), y, case.noise_cov, case.likelihood)
        options = {"fisher": "probed"}
        probed = fit(many, "diagonal", loader=many.loader(500), **options)
        again = fit(many, "diagonal", loader=many.loader(777), **options)
        for name, block in fit(case, "diagonal", fisher="type2").curvature.blocks.items():
            found, truth = probed.curvature.blocks[name].diagonal, block.diagonal
            torch.testing.assert_close(found, again.curvature.blocks[name].diagonal)
            # Entries of a datum are between 0 and n_outputs times the truth's largest.
            atol = 6 * 3 / (n * len(case.x)) ** 0.5 * float(truth.max())
            torch.testing.assert_close(found, truth, rtol=0, atol=atol)


def test_its_error_falls_behind_that_of_drawn_labels():
    """The squares of single columns are exact: only cross terms err."""
    case = mlp()
    exact = fit(case, "diagonal").curvature.blocks

    def error(fisher: str) -> float:
        squares = []
        for seed in range(40):
            found = fit(case, "diagonal", fisher=fisher, seed=seed).curvature.blocks
            squares += [float((found[n].diagonal - exact[n].diagonal).norm() ** 2) for n in exact]
        return sum(squares) ** 0.5

    assert error("probed") < 0.9 * error("mc")


def test_skipped_draws_are_those_of_the_data_before():
    likelihood, mean, _ = gaussian_case()
    for fisher in (Fisher.PROBED, Fisher.MC):
        alone, later = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        draw = (
            random_signs
            if fisher is Fisher.PROBED
            else lambda m, g: likelihood.draw(m, torch.eye(3).double().expand(len(m), 3, 3), g)
        )
        whole = draw(mean, alone)
        skip_draws(fisher, likelihood, 2, 3, later)
        torch.testing.assert_close(draw(mean[2:], later) - mean[2:], whole[2:] - mean[2:])


def test_it_is_told_and_updates_go_on_with_it():
    case = mlp()
    posterior = fit(case, "inf", fisher="probed")
    assert posterior.report.fisher == "probed"
    updated = posterior.update(case.loader(4))
    assert updated.report.fisher == "probed"
    with pytest.raises(ValueError, match="exact Fisher"):
        fit_posterior(case.model, case.loader(4), structure="kflr", fisher="probed", noise_cov=1.0)
