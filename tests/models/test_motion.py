"""The motion model's promises: units, missing sensors, a valid noise covariance."""

from dataclasses import replace

import pytest
import torch

from bayes_vio.models.attention import Attention
from bayes_vio.models.motion import MotionModel, MotionModelSettings
from bayes_vio.training.augmentation import without_camera, without_imu
from tests.motion_cases import TINY, random_motion


@pytest.fixture
def model() -> MotionModel:
    torch.manual_seed(0)
    model = MotionModel(TINY).eval()
    torch.nn.init.normal_(model.noise_head.weight, std=0.5)
    return model


def test_size_is_within_the_budget() -> None:
    assert sum(p.numel() for p in MotionModel().parameters()) <= 700_000


def test_noise_covariance_is_positive_definite(model: MotionModel) -> None:
    x, _ = random_motion(16)
    _, L = model(x)
    assert L.shape == (16, 6, 6)
    noise_cov = L.double() @ L.double().mT
    assert bool((torch.linalg.eigvalsh(noise_cov) > 0).all())
    assert torch.equal(L, L.tril())


def test_without_a_camera_the_image_does_not_matter(model: MotionModel) -> None:
    x, _ = random_motion(4)
    chosen = torch.ones(4, dtype=torch.bool)
    absent = without_camera(x, chosen)
    other = replace(absent, gray=torch.rand_like(x.gray), flow=torch.randn_like(x.flow))
    torch.testing.assert_close(model(absent)[0], model(other)[0], rtol=0, atol=0)


def test_without_an_imu_its_values_do_not_matter(model: MotionModel) -> None:
    x, _ = random_motion(4)
    absent = without_imu(x, torch.ones(4, dtype=torch.bool))
    other = replace(absent, imu=torch.randn_like(x.imu))
    torch.testing.assert_close(model(absent)[0], model(other)[0], rtol=0, atol=0)


def test_a_black_frame_and_absent_sensors_give_finite_values(model: MotionModel) -> None:
    x, _ = random_motion(2)
    both = without_imu(without_camera(x, torch.tensor([True, True])), torch.tensor([True, True]))
    black = replace(x, gray=torch.zeros_like(x.gray), flow=torch.zeros_like(x.flow))
    for case in (both, black):
        mean, L = model(case)
        assert bool(mean.isfinite().all())
        assert bool(L.isfinite().all())


def test_angular_mean_follows_the_gyro_when_the_net_says_nothing(model: MotionModel) -> None:
    torch.nn.init.zeros_(model.mean_head.weight)
    torch.nn.init.zeros_(model.mean_head.bias)
    x, _ = random_motion(4)
    expected = x.imu[..., 3:].mean(1) * x.dt[:, None]
    torch.testing.assert_close(model(x)[0][:, 3:], expected)


def test_forward_mean_follows_the_road_when_the_net_says_nothing(model: MotionModel) -> None:
    torch.nn.init.zeros_(model.mean_head.weight)
    torch.nn.init.zeros_(model.mean_head.bias)
    model.set_road(1.65, 3.0)
    x, _ = random_motion(4)
    way = model.stabiliser(x).way
    expected = 1.65 * model.road(way, x.dt)[:, 0] * x.dt
    torch.testing.assert_close(model(x)[0][:, 0], expected)
    blind = without_camera(x, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(model(blind)[0][:, 0], torch.full((4,), 1.65 * 3.0) * x.dt)


def test_batch_members_do_not_see_each_other(model: MotionModel) -> None:
    x, _ = random_motion(5)
    one = x.map(lambda t: t[2:3])
    torch.testing.assert_close(model(x)[0][2:3], model(one)[0], rtol=1e-5, atol=1e-7)


def test_attention_equals_torch_multihead_attention() -> None:
    torch.manual_seed(1)
    ours, theirs = Attention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        weights = [ours.query.weight, ours.key.weight, ours.value.weight]
        theirs.in_proj_weight.copy_(torch.cat(weights))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    queries, tokens = torch.randn(2, 3, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(queries, tokens), theirs(queries, tokens, tokens)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        MotionModel(MotionModelSettings(width=30, heads=4))
