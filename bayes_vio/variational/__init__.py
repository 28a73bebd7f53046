"""Variational posteriors over the weights of a network, and deep ensembles."""

from bayes_vio.variational.compaction import compacted
from bayes_vio.variational.ensemble import ensemble_of, fit_ensemble
from bayes_vio.variational.mc_dropout import fit_mc_dropout
from bayes_vio.variational.mean_field import fit_mean_field
from bayes_vio.variational.posterior import VariationalPosterior
from bayes_vio.variational.report import VariationalReport
from bayes_vio.variational.sparse_dropout import fit_sparse_dropout
from bayes_vio.variational.storage import VariationalError

__all__ = [
    "VariationalError",
    "VariationalPosterior",
    "VariationalReport",
    "compacted",
    "ensemble_of",
    "fit_ensemble",
    "fit_mc_dropout",
    "fit_mean_field",
    "fit_sparse_dropout",
]
