import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from bayes_vio.geometry import so3

EXAMPLES = settings(max_examples=40, deadline=None)


def not_tiny(vector: list[float]) -> bool:
    return float(np.linalg.norm(vector)) > 1e-3


@st.composite
def rotation_vectors(draw: st.DrawFn, largest: float = np.pi - 1e-6) -> torch.Tensor:
    """Draw a direction, and an angle from everything between 1e-12 and ``largest`` rad."""
    direction = draw(st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(not_tiny))
    axis = np.array(direction) / np.linalg.norm(direction)
    angle = draw(st.one_of(st.floats(0, largest), st.floats(-12, 0).map(lambda p: 10**p)))
    return torch.from_numpy(axis * min(angle, largest))


@EXAMPLES
@given(rotation_vectors(10.0))
def test_exp_is_the_matrix_exponential(w):
    np.testing.assert_allclose(so3.exp(w), expm(so3.hat(w).numpy()), atol=1e-13)


@EXAMPLES
@given(rotation_vectors())
def test_log_inverts_exp(w):
    np.testing.assert_allclose(so3.log(so3.exp(w)), w, rtol=1e-9, atol=1e-14)


@EXAMPLES
@given(rotation_vectors())
def test_log_agrees_with_scipy(w):
    R = so3.exp(w)
    ours, theirs = so3.log(R).numpy(), Rotation.from_matrix(R.numpy()).as_rotvec()
    np.testing.assert_allclose(ours, theirs, atol=1e-7 if np.linalg.norm(w) > 3.14 else 1e-12)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -2, 2]])
def test_log_at_half_a_turn(axis):
    w = np.pi * np.array(axis, float) / np.linalg.norm(axis)
    R = torch.from_numpy(Rotation.from_rotvec(w).as_matrix())
    np.testing.assert_allclose(so3.exp(so3.log(R)), R, atol=1e-12)


@EXAMPLES
@given(rotation_vectors())
def test_quaternion_agrees_with_scipy_and_inverts(w):
    R = so3.exp(w)
    q = so3.quaternion(R).numpy()
    expected = Rotation.from_matrix(R.numpy()).as_quat()
    assert min(np.abs(q - expected).max(), np.abs(q + expected).max()) < 1e-12
    np.testing.assert_allclose(so3.from_quaternion(torch.from_numpy(3.0 * q)), R, atol=1e-12)


@EXAMPLES
@given(rotation_vectors(3.0), rotation_vectors(1.0).filter(lambda d: d.norm() > 1e-3))
def test_left_jacobian_by_central_differences(w, direction):
    step = 1e-5 * direction / direction.norm()
    difference = so3.exp(w + step) @ so3.exp(w - step).mT
    np.testing.assert_allclose(so3.log(difference), 2 * so3.left_jacobian(w) @ step, atol=1e-12)


@EXAMPLES
@given(rotation_vectors(6.0))
def test_left_jacobian_inverse(w):
    product = so3.left_jacobian(w) @ so3.left_jacobian_inverse(w)
    np.testing.assert_allclose(product, np.eye(3), atol=1e-10)


@pytest.mark.parametrize("function", [so3.exp, so3.left_jacobian, so3.left_jacobian_inverse])
def test_series_meets_closed_form(function):
    axis = torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64)
    below, above = function(axis * (1e-3 - 1e-12)), function(axis * (1e-3 + 1e-12))
    np.testing.assert_allclose(below, above, atol=1e-10)


def test_hat_is_the_cross_product_and_batches():
    a, b = torch.randn(2, 5, 4, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    crossed = (so3.hat(a) @ b[..., None]).squeeze(-1)
    np.testing.assert_allclose(crossed, np.cross(a, b), atol=1e-14)
    np.testing.assert_array_equal(so3.vee(so3.hat(a)), a)
    np.testing.assert_allclose(so3.exp(a)[2, 1], so3.exp(a[2, 1]), atol=1e-15)
