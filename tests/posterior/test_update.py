"""Yesterday's posterior as today's prior: exact where the model is linear, honest elsewhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bayes_vio.posterior import Posterior, fit_posterior
from bayes_vio.posterior.refit import Refit, RefitWatch, refit_mean
from bayes_vio.posterior.refit_state import RefitFile, RefitStateError
from bayes_vio.posterior.update import with_information
from tests.cases import CASES, Case, classifier, mlp, normal, spd

PRIOR = 0.8
X, TRUE = normal(40, 3), normal(3, 2, seed=8)
NOISE_COV = spd(2)
Y = X @ TRUE + 0.5 * normal(40, 2, seed=9)


def most_probable(x: Tensor, y: Tensor, noise_cov: Tensor, bias: bool = True) -> nn.Linear:
    """Return the linear model at its MAP: Bishop (2006), equation 3.53 for several outputs."""
    Phi = torch.cat([x, torch.ones(len(x), 1).double()], 1) if bias else x
    H = torch.linalg.inv(noise_cov)
    P = torch.kron(H.contiguous(), (Phi.mT @ Phi).contiguous())
    P = P + PRIOR * torch.eye(len(P)).double()
    W = torch.linalg.solve(P, (H @ y.mT @ Phi).flatten()).reshape(y.shape[1], -1)
    net = nn.Linear(x.shape[1], y.shape[1], bias=bias).double()
    net.weight.data = W[:, : x.shape[1]].contiguous()
    if bias:
        net.bias.data = W[:, -1].contiguous()
    return net


def fit(x: Tensor, y: Tensor, structure: str, noise_cov=NOISE_COV, bias=True) -> Posterior:
    return fit_posterior(
        most_probable(x, y, noise_cov, bias),
        batches(x, y),
        structure=structure,
        noise_cov=noise_cov,
        prior_precision=PRIOR,
        subset_size=100,
    )


def batches(x: Tensor, y: Tensor) -> list:
    return list(zip(x.split(7), y.split(7), strict=True))


def assert_same(found: Posterior, truth: Posterior, x: Tensor, evidence_rel: float = 1e-9) -> None:
    for (name, p), q in zip(found.model.named_parameters(), truth.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6, msg=name)
    torch.testing.assert_close(found.functional_covariance(x), truth.functional_covariance(x))
    assert found.n_data == truth.n_data
    evidence = truth.log_marginal_likelihood()
    assert found.log_marginal_likelihood() == pytest.approx(evidence, rel=evidence_rel)
    assert found.report.updates[-1].converged


@pytest.mark.parametrize("structure", ["full", "subnetwork"])
def test_updates_of_a_linear_model_are_one_fit_on_all_data(structure):
    first = fit(X[:20], Y[:20], structure)
    second = first.update(batches(X[20:32], Y[20:32]))
    third = second.update(batches(X[32:], Y[32:]))
    assert_same(third, fit(X, Y, structure), X)
    assert [u.n_data for u in third.report.updates] == [12, 8]


def test_updates_of_a_diagonal_posterior_are_exact_where_the_truth_is_diagonal():
    x = torch.eye(4).double().repeat(10, 1) * (1 + normal(40, 1).abs())
    y = x @ normal(4, 2, seed=8) + normal(40, 2, seed=9)
    noise_cov = torch.diag(torch.tensor([0.4, 0.9]).double())
    first = fit(x[:24], y[:24], "diagonal", noise_cov, bias=False)
    updated = first.update(batches(x[24:], y[24:]))
    assert_same(updated, fit(x, y, "diagonal", noise_cov, bias=False), x)
    full = fit(x, y, "full", noise_cov, bias=False)
    torch.testing.assert_close(updated.functional_covariance(x), full.functional_covariance(x))


def test_a_diagonal_posterior_s_information_adds_in_every_linear_model():
    updated = fit(X[:25], Y[:25], "diagonal").update(batches(X[25:], Y[25:]))
    truth = fit(X, Y, "diagonal")
    torch.testing.assert_close(updated.precision_dense(""), truth.precision_dense(""))


@pytest.mark.parametrize("structure", ["inf", "efb"])
def test_in_yesterday_s_eigenbasis_the_same_data_fit(structure):
    """Shown the data again, a linear model has twice their curvature and keeps the basis."""
    noise_cov = 0.3 * torch.eye(2).double()
    first = fit(X, Y, structure, noise_cov)
    updated = first.update(batches(X, Y))
    twice = fit(X.repeat(2, 1), Y.repeat(2, 1), structure, noise_cov)
    torch.testing.assert_close(
        updated.functional_covariance(X), twice.functional_covariance(X), rtol=1e-6, atol=1e-9
    )
    (misfit,) = updated.report.updates[0].misfit.values()
    assert misfit == pytest.approx(0.0, abs=1e-9)


def test_curvature_outside_yesterday_s_low_rank_is_told():
    net = most_probable(X, Y, NOISE_COV)
    # All that is known lies along the first input; all that is new along the others.
    known = X * torch.tensor([1.0, 0.0, 0.0]).double()
    new = X * torch.tensor([0.0, 1.0, 1.0]).double()
    posterior = fit_posterior(net, batches(known, Y), structure="inf", rank=4, noise_cov=NOISE_COV)
    (share,) = posterior.update(batches(known, Y)).report.updates[0].misfit.values()
    (other,) = posterior.update(batches(new, Y)).report.updates[0].misfit.values()
    assert share < 1e-6
    assert other > 0.3
    efb = fit_posterior(net, batches(known, Y), structure="efb", noise_cov=NOISE_COV)
    (same,) = efb.update(batches(known, Y)).report.updates[0].misfit.values()
    (rotated,) = efb.update(batches(new, Y)).report.updates[0].misfit.values()
    assert same == pytest.approx(0.0, abs=1e-9)
    assert rotated > 0.01


@pytest.mark.parametrize("structure", ["inf", "efb", "diagonal", "full", "subnetwork"])
@pytest.mark.parametrize("name", ["mlp", "classifier", "attention", "two_heads", "norms"])
def test_new_data_add_information_and_are_fitted(structure, name):
    case = CASES[name]()
    posterior = fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        rank=6,
        subset_size=12,
    )
    before = {n: p.clone() for n, p in posterior.model.named_parameters()}
    updated = posterior.update(case.loader(3), max_iterations=40)
    (update,) = updated.report.updates
    assert update.loss_after < update.loss_before
    assert update.distance > 0
    for layer in updated.layers:
        more = updated.precision_dense(layer) - posterior.precision_dense(layer)
        eigenvalues = torch.linalg.eigvalsh(more)
        assert eigenvalues.min() > -1e-9 * eigenvalues.max().clamp(min=1.0)
    # The given posterior and what is not covered stay as they were.
    assert all(torch.equal(before[n], p) for n, p in posterior.model.named_parameters())
    stays = [p for u in updated.report.uncovered for p in u.parameters]
    after = dict(updated.model.named_parameters())
    assert all(torch.equal(after[p], before[p]) for p in stays)


def test_the_refit_is_the_minimum_of_loss_and_prior():
    case = classifier()
    posterior = fit_posterior(case.model, case.loader(), case.likelihood, "full")
    updated = posterior.update(case.loader())
    P = posterior.precision.matrix  # pyright: ignore
    gradients, moved = [], []
    model = updated.model.requires_grad_(True)
    loss = nn.functional.cross_entropy(model(case.x), case.y, reduction="sum")
    loss.backward()
    for name, layer in updated.layers.items():
        grads = [dict(model.named_parameters())[p].grad for p in layer.parameter_names]
        gradients.append(torch.cat([grads[0], grads[1][:, None]], 1).flatten())
        moved.append((layer.matrix() - posterior.layers[name].matrix()).detach().flatten())
    gradient = torch.cat(gradients) + P @ torch.cat(moved)
    natural = torch.linalg.solve(P, gradient)
    assert float((gradient * natural).sum()) < 1e-4


def test_what_cannot_be_updated_is_refused():
    case = mlp()
    for structure in ("kfac", "ella"):
        posterior = fit_posterior(
            case.model, case.loader(), structure=structure, noise_cov=case.noise_cov
        )
        with pytest.raises(ValueError, match="cannot be updated"):
            posterior.update(case.loader())
    posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
    with pytest.raises(ValueError, match="iterator"):
        posterior.update(iter(case.loader()))
    with pytest.raises(ValueError, match="empty"):
        posterior.update([])
    few = posterior.update(case.loader(), max_iterations=1)
    assert not few.report.updates[0].converged


def test_an_updated_posterior_is_stored_with_its_model(tmp_path):
    case = mlp()
    updated = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov).update(
        case.loader(), max_iterations=20
    )
    updated.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p", updated.model)
    assert loaded.report == updated.report
    x = case.x
    assert torch.equal(loaded.functional_covariance(x), updated.functional_covariance(x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_updating_works_in_every_autograd_mode(mode):
    case: Case = mlp()
    with mode():
        posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
        inside = posterior.update(case.loader(), max_iterations=5)
    outside = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov).update(
        case.loader(), max_iterations=5
    )
    found = inside.functional_covariance(case.x)
    torch.testing.assert_close(found, outside.functional_covariance(case.x))


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.sampled_from(["full", "subnetwork"]),
)
def test_however_the_data_are_cut_the_end_is_one_fit_on_all(seed, sizes, structure):
    """In a linear Gaussian model, whatever came when."""
    first = 15
    x, y = normal(first + sum(sizes), 3, seed=seed), normal(first + sum(sizes), 2, seed=seed + 1)
    posterior, start = fit(x[:first], y[:first], structure), first
    for size in sizes:
        part = slice(start, start + size)
        posterior, start = posterior.update(batches(x[part], y[part])), start + size
    assert_same(posterior, fit(x, y, structure), x, 1e-7)


@pytest.mark.parametrize("structure", ["full", "inf", "diagonal"])
def test_data_that_stand_for_more_count_as_if_they_came_so_often(structure):
    first = fit(X[:20], Y[:20], structure)
    weighted = first.update(batches(X[20:], Y[20:]), n_data=3 * 20)
    repeated = first.update(batches(X[20:].repeat(3, 1), Y[20:].repeat(3, 1)))
    for p, q in zip(weighted.model.parameters(), repeated.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    found, truth = (u.functional_covariance(X) for u in (weighted, repeated))
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-9)
    assert weighted.n_data == repeated.n_data
    evidence = repeated.log_marginal_likelihood()
    assert weighted.log_marginal_likelihood() == pytest.approx(evidence, rel=1e-7)
    for n_data in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="n_data"):
            first.update(batches(X, Y), n_data=n_data)


class Stopped(Exception):
    """Stands for a process that ends."""


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_watched_refit_that_was_stopped_goes_on_to_the_same_bits(tmp_path, rounds, sign):
    case = mlp()
    posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
    # As many data of another kind: the mean has some way to go.
    loader = [(2 * x, y + 1) for x, y in case.loader()]

    def refit(file: RefitFile | None, stop_after: int | None = None) -> Refit:
        seen: list[int] = []

        def told(history: list[tuple[float, float]]) -> None:
            seen.append(len(history))
            if len(seen) == stop_after:
                raise Stopped

        measure = lambda model: sign * float(model(case.x).sum())  # noqa: E731
        watch = RefitWatch(measure, told, file, steps_per_round=2)
        return refit_mean(posterior, loader, 30, watch=watch)

    file = RefitFile(tmp_path / "refit", "this")
    whole = refit(None)
    assert len(whole.history) > 3
    with pytest.raises(Stopped):
        refit(file, rounds)
    resumed = refit(file)
    assert resumed.history == whole.history
    assert resumed.kept_round == whole.kept_round
    assert resumed.distance == whole.distance
    pairs = zip(
        resumed.recorder.model.parameters(), whole.recorder.model.parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(RefitStateError, match="other data"):
        refit(RefitFile(tmp_path / "refit", "that"))


def test_a_watched_refit_ends_near_the_minimum_of_an_unwatched_one():
    case = mlp()
    posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
    loader = [(2 * x, y + 1) for x, y in case.loader()]
    watch = RefitWatch(lambda model: 0.0, lambda history: None)
    near, exact = (
        refit_mean(posterior, loader, 200, watch=watch),
        refit_mean(posterior, loader, 200),
    )
    n = len(case.y)
    assert 0 <= n * (near.loss_after - exact.loss_after) < 2e-3
    assert near.converged


@pytest.mark.parametrize(
    ("measures", "kept"),
    [
        ([0.0, 1.0, 2.0, 3.0], 0),
        ([3.0, 1.0, 0.5, 2.0], 2),
        ([3.0, 1.0, 1.0, 2.0], 2),
        ([3.0, float("nan"), 2.5, float("inf")], 2),
        ([3.0, 2.0, 1.0, 0.0], 3),
    ],
)
def test_the_round_with_the_smallest_measure_is_kept(measures, kept):
    case = mlp()
    posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
    loader = [(2 * x, y + 1) for x, y in case.loader()]
    left, seen = list(measures), []

    def measure(model: nn.Module) -> float:
        seen.append([p.detach().clone() for p in model.parameters()])
        return left.pop(0)

    watch = RefitWatch(measure, lambda history: None, steps_per_round=2)
    found = refit_mean(posterior, loader, 6, watch=watch)
    assert found.kept_round == kept
    ours = list(found.recorder.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, seen[kept], strict=True))
    others = [weights for i, weights in enumerate(seen) if i != kept]
    assert all(not torch.equal(ours[0], weights[0]) for weights in others)
    assert found.loss_after == found.history[kept][0]
    assert (found.distance == 0.0) == (kept == 0)
    assert not found.converged


def test_where_no_round_is_kept_information_is_added_at_yesterday_s_mean():
    case = mlp()
    posterior = fit_posterior(case.model, case.loader(), noise_cov=case.noise_cov)
    count = iter(range(100))
    watch = RefitWatch(lambda model: float(next(count)), lambda history: None)
    stayed = refit_mean(posterior, [(2 * x, y + 1) for x, y in case.loader()], 20, watch=watch)
    found = with_information(posterior, stayed, case.loader())
    # The same data at the same mean: their likelihood and their curvature twice.
    assert found.log_likelihood == pytest.approx(2 * posterior.log_likelihood)
    for name in posterior.layers:
        more = found.precision_dense(name) - posterior.precision_dense(name)
        assert float(torch.linalg.eigvalsh(more).min()) > -1e-9
    assert not found.report.updates[-1].converged
