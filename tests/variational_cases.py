"""Every variational method with settings for tests, and a short fit of a case."""

from __future__ import annotations

from bayes_vio.variational import (
    VariationalPosterior,
    fit_ensemble,
    fit_mc_dropout,
    fit_mean_field,
    fit_sparse_dropout,
)
from tests.cases import Case

FITS = {
    "mean_field": fit_mean_field,
    "mean_field_weights": lambda *a, **k: fit_mean_field(*a, reparametrisation="weights", **k),
    "mc_dropout": lambda *a, **k: fit_mc_dropout(*a, drop_data=True, **k),
    "sparse_dropout": lambda *a, **k: fit_sparse_dropout(*a, reparametrisation="mixed", **k),
    "ensemble": lambda *a, **k: fit_ensemble(*a, members=2, **k),
}


def fit(name: str, case: Case, epochs: int = 2, **settings) -> VariationalPosterior:
    loader = settings.pop("loader", case.loader())
    model = settings.pop("model", case.model)
    return FITS[name](model, loader, case.likelihood, epochs, noise_cov=case.noise_cov, **settings)
