"""Eight-bit floats without a sign: their values, the nearest of them, and their range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayes_vio.posterior.unsigned_float8 import CODES, ScaledCodes, nearest_codes

ONE = torch.ones(1, 1, dtype=torch.float64)


def all_values() -> Tensor:
    """Return what the codes stand for by the definition of a float of five and three bits."""
    codes = torch.arange(256)
    exponent, mantissa = (codes // 8).double(), (codes % 8).double() / 8
    normal = (1 + mantissa) * 2 ** (exponent + 2)
    return torch.where(exponent > 0, normal, mantissa * 8)


def test_codes_are_those_of_a_float_of_five_and_three_bits():
    codes = torch.arange(256).to(CODES)[None]
    found = ScaledCodes(codes, ONE, ONE.expand(1, 256)).values(torch.float64)
    assert torch.equal(found[0], all_values())


def test_they_hold_every_signed_float8_that_is_not_negative():
    signed = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    assert bool(torch.isin(signed * 2**9, all_values()).all())


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    octaves=st.floats(0.0, 29.0),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_numbers_within_thirty_octaves_are_a_sixteenth_off_at_most(seed, octaves, dtype):
    g = torch.Generator().manual_seed(seed)
    matrix = (-octaves * torch.rand(7, 9, generator=g, dtype=torch.float64)).exp2().to(dtype)
    found = nearest_codes(matrix).values(dtype)
    assert float((found / matrix - 1).abs().max()) <= 1 / 16


def test_the_code_is_the_nearest():
    values = all_values()
    g = torch.Generator().manual_seed(0)
    row = torch.cat([torch.rand(500, generator=g).double() * 2**34, values[-1:]])[:, None]
    row = row.clamp(max=values[-1])
    # One column whose largest is the largest value: its scale and those of rows above half of it
    # are one, the others' are powers of two, under which the values are the same.
    found = nearest_codes(row).values(torch.float64)
    scale = (row / values[-1]).log2().ceil().exp2()
    nearest = (row / scale - values).abs().amin(1, keepdim=True) * scale
    assert torch.allclose((found - row).abs(), nearest, rtol=1e-12, atol=0.0)


def test_rounding_is_not_biased():
    g = torch.Generator().manual_seed(0)
    matrix = (10 * torch.randn(400, 400, generator=g, dtype=torch.float64)).clamp(-14, 14).exp2()
    ratio = nearest_codes(matrix).values(torch.float64) / matrix
    # Errors of up to 1/16 in 160000 numbers: a mean of 1e-4 is more than two standard errors.
    assert abs(float(ratio.mean()) - 1) < 1e-3
    assert abs(float(ratio.reciprocal().mean()) - 1) < 3e-3


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_scales_are_no_matter(scale):
    matrix = torch.tensor([[1.0, 3e-5], [2.0, 0.0], [7e-9, 0.5]], dtype=torch.float64)
    found = nearest_codes(matrix * scale).values(torch.float64)
    assert torch.allclose(found, matrix * scale, rtol=1 / 16, atol=0.0)
    assert torch.equal(found == 0, matrix == 0)


def test_what_is_too_small_beside_its_row_and_column_becomes_zero():
    matrix = torch.tensor([[1.0, 1.0], [1.0, 2.0**-40]], dtype=torch.float64)
    assert nearest_codes(matrix).values(torch.float64).tolist() == [[1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("value", [float("inf"), 1e300])
def test_what_no_scale_holds_is_refused(value):
    with pytest.raises(ValueError, match="too large"):
        nearest_codes(torch.tensor([[1.0, value]], dtype=torch.float64))
