"""Each approximation where theory makes it exact, and in the order that theory demands."""

import math

import pytest
import torch
from torch import Tensor, nn

from bayes_vio.posterior import fit_posterior
from bayes_vio.posterior.information import InformationCurvature
from tests import reference
from tests.cases import (
    Case,
    attention,
    classifier,
    encoder,
    grouped,
    heads,
    linear_chain,
    mlp,
    normal,
    randomise,
    recurrent,
    shared,
    spd,
    terms_of,
)


class PerPosition(nn.Module):
    """A deep linear network applied to every token; the outputs of all tokens side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).flatten(1)


class Pooled(nn.Module):
    """A deep linear network applied to every token, then averaged over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean(1)


def per_position() -> Case:
    return Case(randomise(PerPosition()), normal(6, 3, 3), normal(6, 6, seed=5), 0.3)


def pooled() -> Case:
    return Case(randomise(Pooled()), normal(6, 5, 3), normal(6, 2, seed=5), spd(2))


class Linears(nn.Module):
    """Deep linear networks of modules that are more than a layer, ends ``end`` apart or summed."""

    def __init__(self, kind: str, end: str) -> None:
        super().__init__()
        self.kind, self.end = kind, end
        self.first = {
            "group": lambda: nn.Conv1d(4, 6, 2, stride=2, groups=2),
            "twice": lambda: nn.Linear(3, 4),
            "attention": lambda: nn.MultiheadAttention(4, 2, kdim=5, vdim=3),
            "time": lambda: nn.Linear(3, 4),
        }[kind]()
        self.last = nn.Linear(6 if kind == "group" else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "group":
            h = self.first(x).mT
        elif self.kind == "twice":
            h = torch.stack([self.first(x[:, i]) for i in range(x.shape[1])], 1)
        elif self.kind == "time":
            h = self.first(x.transpose(0, 1)).transpose(0, 1)
        else:  # one key: the weights of attention are ones, q and k have no gradient
            h = self.first(*(x[None, :, :n] for n in (4, 5, 3)))[0].transpose(0, 1)
        h = self.last(h)
        return h.flatten(1) if self.end == "apart" else h.mean(1)


def linears(kind: str, end: str) -> Case:
    shape = {"group": (6, 4, 6), "twice": (6, 3, 3), "time": (6, 3, 3), "attention": (6, 5)}[kind]
    model, x = randomise(Linears(kind, end)), normal(*shape)
    return Case(model, x, model(x).detach(), 0.3)


def fit(case: Case, structure: str, **options):
    return fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        **options,
    )


def curvature(posterior, layer: str) -> Tensor:
    P = posterior.precision_dense(layer)
    return (P - torch.eye(len(P), dtype=P.dtype)) / posterior.n_data


@pytest.mark.parametrize(
    ("make", "sharing"), [(linear_chain, "none"), (per_position, "expand"), (pooled, "reduce")]
)
def test_kfac_is_the_ggn_of_deep_linear_networks(make, sharing):
    case = make()
    posterior = fit(case, "kfac")
    for covered in posterior.report.covered:
        assert covered.sharing == sharing
        truth = reference.ggn(case, [covered.name])
        torch.testing.assert_close(curvature(posterior, covered.name), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "end", "sharing"),
    [
        ("group", "apart", "expand"),
        ("group", "pooled", "reduce"),
        ("twice", "apart", "expand"),
        ("twice", "pooled", "reduce"),
        ("time", "apart", "expand"),
        ("time", "pooled", "reduce"),
        ("attention", "apart", "none"),
    ],
)
def test_kfac_is_the_ggn_of_groups_and_uses_and_values(kind, end, sharing):
    case = linears(kind, end)
    posterior = fit(case, "kfac")
    names = {"group": ["first.group0", "first.group1"], "attention": ["first.v", "first.out_proj"]}
    covered = {c.name: c for c in posterior.report.covered}
    for name in [*names.get(kind, ["first"]), "last"]:
        assert covered[name].sharing == sharing
        truth = reference.ggn(case, [name])
        torch.testing.assert_close(curvature(posterior, name), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_kfac_is_exact_for_one_datum_and_one_step(make):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = make(3, 4, batch_first=True), nn.Linear(4, 2)
            self.start = normal(1, 1, 4, seed=9)

        def forward(self, x: Tensor) -> Tensor:
            state = self.start.expand(-1, len(x), -1).contiguous()
            hx = (state, 2 * state) if make is nn.LSTM else state
            return self.head(self.net(x, hx)[0][:, -1])

    one = Case(randomise(Last()), normal(1, 1, 3), normal(1, 2, seed=5), spd(2))
    posterior = fit(one, "kfac")
    assert [c.sharing for c in posterior.report.covered] == ["none"] * 3
    for layer in ("net.ih_l0", "net.hh_l0", "head"):
        truth = reference.ggn(one, [layer])
        torch.testing.assert_close(curvature(posterior, layer), truth, rtol=1e-9, atol=1e-9)


def test_the_other_setting_is_far_off_behind_pooling():
    case = pooled()
    A, G = reference.kfac_factors(case, "first", "expand")
    truth = reference.ggn(case, ["first"])
    assert (torch.kron(G, A) - truth).norm() > 0.1 * truth.norm()


def test_kfac_is_exact_for_one_datum_without_sharing():
    case = mlp()
    one = Case(case.model, case.x[:1], case.y[:1], case.noise_cov)
    posterior = fit(one, "kfac")
    for layer in ("0", "3"):
        truth = reference.ggn(one, [layer])
        torch.testing.assert_close(curvature(posterior, layer), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "make", [mlp, classifier, attention, grouped, heads, encoder, recurrent, shared]
)
def test_correcting_the_eigenvalues_never_hurts(make):
    case = make()
    kfac, efb = fit(case, "kfac"), fit(case, "efb")
    for covered in efb.report.covered:
        truth = reference.ggn(case, [covered.name])
        error = (curvature(efb, covered.name) - truth).norm()
        assert error <= (curvature(kfac, covered.name) - truth).norm() + 1e-10 * truth.norm()


@pytest.mark.parametrize("make", [mlp, classifier, attention, linear_chain, heads, recurrent])
def test_inf_has_the_exact_diagonal_where_nothing_was_clamped(make):
    case = make()
    posterior = fit(case, "inf", rank=4)
    n_exact = 0
    for covered in posterior.report.covered:
        if covered.kind == "norm":
            continue
        block = posterior.curvature.blocks[covered.name]
        found = curvature(posterior, covered.name).diagonal()
        truth = reference.exact_diagonal(case, covered.name).flatten()
        unclamped = truth >= found - block.diagonal.flatten()
        torch.testing.assert_close(found[unclamped], truth[unclamped], rtol=1e-9, atol=1e-12)
        assert (found >= truth - 1e-12).all()
        share = 1 - unclamped.double().mean()
        assert covered.sparsification.clamped_share == pytest.approx(float(share))
        n_exact += int(unclamped.sum())
    assert n_exact > 0


@pytest.mark.parametrize("make", [mlp, classifier, attention, recurrent])
def test_where_the_low_rank_exceeds_the_diagonal_inf_has_what_efb_leaves_to_it(make):
    case = make()
    inf, efb = fit(case, "inf", rank=4), fit(case, "efb")
    n_clamped = 0
    for covered in inf.report.covered:
        if covered.kind == "norm":
            continue
        block = inf.curvature.blocks[covered.name]
        found = curvature(inf, covered.name).diagonal()
        low_rank = found - block.diagonal.flatten()
        clamped = reference.exact_diagonal(case, covered.name).flatten() < low_rank
        truth = curvature(efb, covered.name).diagonal()
        torch.testing.assert_close(found[clamped], truth[clamped], rtol=1e-9, atol=1e-12)
        n_clamped += int(clamped.sum())
    assert n_clamped > 0


def test_inf_at_full_rank_without_correction_is_efb():
    case = mlp()
    inf, efb = fit(case, "inf", rank=10**6), fit(case, "efb")
    for layer in ("0", "3"):
        block, sibling = inf.curvature.blocks[layer], efb.curvature.blocks[layer]
        bare = InformationCurvature(
            torch.zeros_like(block.diagonal), block.U_g, block.U_a, block.eigenvalues
        )
        ours, theirs = bare.precision(11, 0.5), sibling.precision(11, 0.5)
        torch.testing.assert_close(ours.dense(), theirs.dense(), rtol=1e-9, atol=1e-9)
        J = reference.jacobian(case.model, case.x, layer)
        found, truth = ours.covariance(terms_of(J)), theirs.covariance(terms_of(J))
        torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(ours.logdet(), theirs.logdet())


def test_inf_at_rank_zero_is_diagonal():
    case = mlp()
    inf, diagonal = fit(case, "inf", rank=0), fit(case, "diagonal")
    found, truth = inf.functional_covariance(case.x), diagonal.functional_covariance(case.x)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=0)
    assert inf.log_marginal_likelihood() == pytest.approx(diagonal.log_marginal_likelihood())
    draws = [next(p.sample(1, torch.Generator().manual_seed(0))) for p in (inf, diagonal)]
    torch.testing.assert_close(draws[0], draws[1])


def test_a_linear_model_gives_bayesian_linear_regression():
    """Bishop (2006), equations 3.53, 3.54, 3.59 and 3.86, with the evidence at the MAP."""
    x, prior, noise = normal(20, 3), 0.8, 0.3
    y = x @ normal(3, 1, seed=8) + 0.5 * normal(20, 1, seed=9)
    Phi = torch.cat([x, torch.ones(20, 1).double()], 1)
    S_inverse = prior * torch.eye(4).double() + Phi.mT @ Phi / noise
    m = torch.linalg.solve(S_inverse, Phi.mT @ y / noise)[:, 0]
    net = nn.Linear(3, 1).double()
    net.weight.data, net.bias.data = m[None, :3].clone(), m[3:].clone()
    for structure in ("full", "kfac", "efb"):
        case = Case(net, x, y, noise)
        posterior = fit(case, structure, prior_precision=prior)
        torch.testing.assert_close(posterior.precision_dense(""), S_inverse)
        prediction = posterior.predict(x[:5])
        variance = (Phi[:5] * torch.linalg.solve(S_inverse, Phi[:5].mT).mT).sum(1)
        torch.testing.assert_close(prediction.epistemic_cov[:, 0, 0], variance)
        torch.testing.assert_close(prediction.noise_cov, torch.full((5, 1, 1), noise).double())
        evidence = torch.distributions.MultivariateNormal(
            torch.zeros(20).double(), noise * torch.eye(20).double() + Phi @ Phi.mT / prior
        ).log_prob(y[:, 0])
        assert posterior.log_marginal_likelihood() == pytest.approx(float(evidence), rel=1e-9)


@pytest.mark.parametrize("structure", ["inf", "efb", "full", "diagonal", "kfac"])
def test_sampled_predictions_of_a_linear_network_have_the_linearised_covariance(structure):
    case = Case(randomise(nn.Linear(3, 2)), normal(9, 3), normal(9, 2, seed=5), spd(2))
    posterior = fit(case, structure, rank=3)
    x, n = case.x[:1], 6000
    outputs = torch.cat(
        [
            torch.func.functional_call(posterior.model, draw, (x,))
            for draw in posterior.sample(n, torch.Generator().manual_seed(3))
        ]
    )
    truth = posterior.functional_covariance(x)[0]
    bound = 6 * math.sqrt(2 / n) * float(truth.diagonal().max())
    torch.testing.assert_close(outputs.T.cov(), truth, rtol=0, atol=bound)
