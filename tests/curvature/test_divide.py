"""Divided modules compute what torch's do: every option, masks, states; names stay."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from bayes_vio.curvature.divide import MAX_GROUPS
from bayes_vio.curvature.parts import Divided
from bayes_vio.curvature.recorder import frozen_copy
from tests.cases import normal, randomise


def divided(module: nn.Module) -> nn.Module:
    copy = frozen_copy(module)
    assert isinstance(copy, Divided)
    assert list(copy.state_dict()) == list(module.state_dict())
    assert [n for n, _ in copy.named_parameters()] == [n for n, _ in module.named_parameters()]
    return copy


def assert_same(found, truth) -> None:
    assert type(found) is type(truth)
    if isinstance(truth, tuple):
        for f, t in zip(found, truth, strict=True):
            assert_same(f, t)
    elif truth is not None:
        torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    ("n_layers", "both", "batch_first", "bias"),
    [*itertools.product((1, 2), (False, True), (False, True), (False, True))],
)
def test_recurrent_networks(kind, n_layers, both, batch_first, bias):
    module = kind(3, 4, n_layers, bias=bias, batch_first=batch_first, bidirectional=both)
    module = randomise(module)
    copy, x = divided(module), normal(5, 6, 3)
    assert_same(copy(x), module(x))
    state = normal(n_layers * (1 + both), 5 if batch_first else 6, 4)
    state = (state, state + 0.1) if kind is nn.LSTM else state
    assert_same(copy(x, state), module(x, state))
    assert_same(copy(x[0]), module(x[0]))


def test_projected_relu_and_packed_networks():
    module = randomise(nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True))
    assert_same(divided(module)(normal(5, 6, 3)), module(normal(5, 6, 3)))
    module = randomise(nn.RNN(3, 4, nonlinearity="relu"))
    assert_same(divided(module)(normal(5, 6, 3)), module(normal(5, 6, 3)))
    packed = pack_padded_sequence(normal(5, 3, 3), [5, 4, 2])
    assert_same(divided(module)(packed)[1], module(packed)[1])


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind, bias):
    module = randomise(kind(3, 4, bias=bias))
    copy, x = divided(module), normal(5, 3)
    state = module(x)
    assert_same(copy(x), state)
    assert_same(copy(x, state), module(x, state))
    assert_same(copy(x[0]), module(x[0]))


@pytest.mark.parametrize(
    ("batch_first", "bias", "add_bias_kv", "add_zero_attn", "other_widths"),
    [*itertools.product(*[(False, True)] * 5)],
)
def test_attention(batch_first, bias, add_bias_kv, add_zero_attn, other_widths):
    k_width, v_width = (5, 6) if other_widths else (4, 4)
    module = nn.MultiheadAttention(
        4,
        2,
        bias=bias,
        add_bias_kv=add_bias_kv,
        add_zero_attn=add_zero_attn,
        kdim=k_width,
        vdim=v_width,
        batch_first=batch_first,
    )
    module = randomise(module)
    copy = divided(module)
    inputs = (normal(3, 7, 4), normal(3, 5, k_width, seed=9), normal(3, 5, v_width, seed=10))
    if not batch_first:
        inputs = tuple(x.transpose(0, 1) for x in inputs)
    for options in _options():
        assert_same(copy(*inputs, **options), module(*inputs, **options))
    lone = tuple(x[:, 0] if not batch_first else x[0] for x in inputs)
    assert_same(copy(*lone), module(*lone))


def _options() -> list[dict]:
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    causal = torch.ones(7, 5).triu(1).bool()
    return [
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"key_padding_mask": padding},
        {"key_padding_mask": -2.0 * padding.double()},
        {"attn_mask": normal(7, 5)},
        {"attn_mask": normal(6, 7, 5), "need_weights": False},
        {"attn_mask": causal, "key_padding_mask": padding},
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
    ]


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoders_and_decoders(norm_first):
    options = {"dim_feedforward": 5, "batch_first": True, "norm_first": norm_first}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, **options), 2, enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoderLayer(4, 2, **options)
    encoder, decoder, x = randomise(encoder), randomise(decoder), normal(3, 5, 4)
    with torch.no_grad():
        memory = encoder(x)
        assert_same(frozen_copy(encoder)(x), memory)
        assert_same(frozen_copy(decoder)(x, memory), decoder(x, memory))
        padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
        found = frozen_copy(encoder)(x, src_key_padding_mask=padding)
        torch.testing.assert_close(
            found[~padding], encoder(x, src_key_padding_mask=padding)[~padding]
        )


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoders_take_no_fused_path(activation):
    """Frozen, in eval mode and without hooks it would be open; it knows no forward mode."""
    options = {"dim_feedforward": 5, "batch_first": True, "activation": activation}
    layer = randomise(nn.TransformerEncoderLayer(4, 2, **options))
    copy, x = frozen_copy(layer), normal(3, 5, 4)
    parameters = {n: p.detach() for n, p in copy.named_parameters()}
    change = {n: torch.ones_like(p) for n, p in parameters.items()}

    def output(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(copy, weights, (x,))

    with torch.no_grad():
        found, derivative = torch.func.jvp(output, (parameters,), (change,))
        step = {n: p + 1e-6 * change[n] for n, p in parameters.items()}
        torch.testing.assert_close(found, layer(x))
        torch.testing.assert_close(derivative, (output(step) - found) / 1e-6, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Conv1d(6, 9, 3, stride=2, padding=1, groups=3), normal(2, 6, 7)),
        (nn.Conv2d(4, 6, (2, 3), padding="same", groups=2, bias=False), normal(2, 4, 5, 6)),
        (nn.Conv2d(3, 3, 2, dilation=2, padding_mode="circular", padding=1, groups=3),
         normal(2, 3, 5, 6)),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_grouped_convolutions(module, x):
    module = randomise(module)
    copy = divided(module)
    assert_same(copy(x), module(x))
    assert_same(copy(x[0]), module(x[0]))


def test_what_stays_whole():
    class Changed(nn.LSTM):
        """A subclass."""

    many = nn.Conv1d(MAX_GROUPS + 1, MAX_GROUPS + 1, 1, groups=MAX_GROUPS + 1)
    for module in (Changed(3, 4), many, nn.Conv1d(4, 4, 1), nn.Linear(3, 4)):
        assert type(frozen_copy(module)) is type(module)


def test_dividing_twice_is_dividing_once():
    module = randomise(nn.GRU(3, 4))
    once = frozen_copy(module)
    twice = frozen_copy(once)
    assert [n for n, _ in twice.named_modules()] == [n for n, _ in once.named_modules()]
    assert_same(twice(normal(5, 6, 3)), module(normal(5, 6, 3)))


def test_other_parameters_reach_the_parts():
    """As functional calls do, for draws from a posterior."""
    module = randomise(nn.MultiheadAttention(4, 2))
    copy, x = divided(module), normal(3, 5, 4)
    other: dict[str, Tensor] = {n: 1.3 * p.detach() for n, p in module.named_parameters()}
    found, truth = (torch.func.functional_call(m, other, (x, x, x)) for m in (copy, module))
    assert_same(found, truth)
