"""A tape gives its function's values, or refuses the function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bayes_vio.posterior.tape import Tape

# Operations that are chained at random: views, in place, several outputs, other dtypes, constants.
OPERATIONS = {
    "sine": torch.sin,
    "matmul": lambda t: t @ t.mT,
    "transposed": lambda t: t.mT,
    "row": lambda t: t[1:2].expand(3, 3),
    "flipped": lambda t: t[:, [2, 0, 1]],
    "in place": lambda t: t.clone().mul_(0.5).add_(1.0),
    "into a view": lambda t: _written(t),
    "sorted": lambda t: t.sort(1).values,
    "median": lambda t: t - t.median(1, keepdim=True).values,
    "double": lambda t: (t.double() * 3).float(),
    "constant": lambda t: t + torch.eye(3) * torch.arange(3.0),
    "accumulated": lambda t: _accumulated(t),
    "where": lambda t: torch.where(t > 0, t, 0.1 * t),
    "normed": lambda t: nn.functional.layer_norm(t, (3,)),
    "softmax": lambda t: t.softmax(1),
    "joined": lambda t: torch.cat([t, torch.ones_like(t)])[1:4],
    "split": lambda t: torch.stack(t.unbind(1)[::-1], 1),
}


def _written(t: Tensor) -> Tensor:
    t = t.clone()
    t[:2, 1].copy_(t[1:, 2])
    return t


def _accumulated(t: Tensor) -> Tensor:
    total = t.new_zeros(3, 3)
    for row in t:
        total += row * row[:, None]
    return total


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=9), st.integers(0, 99))
def test_chains_of_operations_are_replayed(chain, seed):
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        t = x
        for name in chain:
            t = OPERATIONS[name](t)
        return t, t.sum(0)

    inputs = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(seed))
    tape = Tape(function, inputs[0])
    found = [tape(x) for x in inputs]
    for got, x in zip(found, inputs, strict=True):
        for a, b in zip(got, function(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_gradients_are_replayed_without_autograd():
    network = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 1))

    def slope(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(network(x).sum(), x)[0]

    xs = torch.randn(3, 4, 5)
    tape = Tape(slope, xs[0])
    for x in xs:
        found = tape(x)
        torch.testing.assert_close(found, slope(x))
        assert not found.requires_grad


def test_what_no_input_varies_is_computed_once():
    basis = torch.randn(6, 6)

    def function(x: Tensor) -> Tensor:
        Q = torch.linalg.qr(basis @ basis.T + torch.eye(6))[0]
        return x @ Q

    x = torch.randn(2, 6)
    tape = Tape(function, x)
    assert len(tape) == 1
    torch.testing.assert_close(tape(x), function(x))


def test_what_no_output_needs_is_left_out():
    def function(x: Tensor) -> Tensor:
        torch.sin(x).cos()
        return x + 1

    assert len(Tape(function, torch.randn(3))) == 1


def test_results_are_the_callers_own():
    x = torch.ones(3)
    tape = Tape(lambda t: (2 * t, t), x)
    first, same = tape(x)
    first.zero_()
    same.zero_()
    x.fill_(5.0)
    assert tape(x)[0].tolist() == [10.0] * 3
    assert x.tolist() == [5.0] * 3


def test_memory_is_used_again():
    def function(x: Tensor) -> Tensor:
        for _ in range(50):
            x = x.sin()
        return x

    tape = Tape(function, torch.randn(1000))
    places = {
        t.untyped_storage().data_ptr() for _, args, kwargs in tape._program
        for t in (*args, *kwargs.values())
    }  # fmt: skip
    assert len(tape) == 50
    assert len(places) <= 4  # input, output, two that take turns


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[x > 0], "dynamic_output_shape"),
        (lambda x: x * 2 if bool((x > 0).any()) else x, "data_dependent_output"),
        (lambda x: x + torch.randn(3), "nondeterministic_seeded"),
        (torch.nonzero, "dynamic_output_shape"),
    ],
)
def test_what_depends_on_values_is_refused(function, message):
    with pytest.raises(ValueError, match=rf"cannot be recorded on a tape \({message}\)"):
        Tape(function, torch.ones(3))


def test_a_function_that_changes_what_is_not_its_own_is_refused():
    count = torch.zeros(())
    with pytest.raises(ValueError, match="writes into a tensor that was there before"):
        Tape(lambda x: x + count.add_(1), torch.ones(3))


def test_a_function_that_goes_another_way_is_refused():
    with pytest.raises(ValueError, match="goes another way on other inputs"):
        Tape(lambda x: x * 2 if x.tolist()[0] == 1.0 else x * 3, torch.ones(3))
