"""A plan that stands errs no further; a car that is faster than believed stands late."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_scenes import box

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning import Decision, Growth, Planner, PlannerSettings, Route
from bayes_vio.planning.belief import roll_out
from bayes_vio.planning.standing import late_s, moving_steps
from tests.planning_cases import belief, diagonal, street

DT_S, HOLD_S, BRAKING = 0.05, 0.5, 2.5
ROUTE = Route.along(np.array([[-20.0, 0.0], [120.0, 0.0]]))


def braked(speed: float, horizon_s: float = 6.0) -> torch.Tensor:
    """Return the speeds [t] of a plan that holds a speed and then brakes to standstill."""
    times = DT_S * torch.arange(round(horizon_s / DT_S) + 1, dtype=torch.float64)
    return (speed - BRAKING * (times - HOLD_S).clamp(min=0.0)).clamp(0.0, speed)[None]


def ways(speeds: torch.Tensor) -> torch.Tensor:
    """Return the poses [1, t, 3] of driving straight on."""
    steps = 0.5 * DT_S * (speeds[:, 1:] + speeds[:, :-1])
    x = torch.nn.functional.pad(steps.cumsum(1), (1, 0))
    return torch.stack([x, 0 * x, 0 * x], -1)


def alone(speed: float, speed_std: float, state=TrackingState.TRACKING):
    """Return a belief that errs in the speed only, all along."""
    known = replace(belief(1e-4, speed, state), noise_twist_cov=1e-12 * np.eye(3))
    return replace(known, epistemic_twist_cov=diagonal(speed_std, 1e-6, 1e-6))


@settings(deadline=None, max_examples=40)
@given(st.floats(0.0, 8.0), st.floats(0.05, 1.5), st.floats(-3.0, 3.0))
def test_a_car_that_brakes_by_another_speed_is_held_to_three_deviations(speed, std, sigmas):
    speeds, start = braked(speed), alone(speed, std)
    moving = moving_steps(speeds, DT_S, start, BRAKING)
    rolled = roll_out(start, ways(speeds), DT_S, Growth(), moving=moving)
    true = max(speed + sigmas * std, 0.0)
    hold_s = HOLD_S if speed else 0.0  # a plan that stands has the brakes on
    error = true * hold_s + true**2 / (2 * BRAKING) - float(ways(speeds)[0, -1, 0])
    coherent = float(rolled.coherent_gain[0, -1, 0, 0])
    assert abs(error) <= coherent * abs(sigmas) * std + 0.02  # m, by the time steps


def test_nothing_adds_up_once_the_car_stands_for_certain():
    speeds, start = braked(5.0), belief(state=TrackingState.DEGRADED, speed=5.0)
    moving = moving_steps(speeds, DT_S, start, BRAKING)
    covs = roll_out(start, ways(speeds), DT_S, Growth(), moving=moving).cov[0].numpy()
    stood_s = HOLD_S + 5.0 / BRAKING + late_s(start, BRAKING)
    stood = int(np.ceil(stood_s / DT_S)) + 1
    np.testing.assert_allclose(covs[stood:], covs[stood:][:1].repeat(len(covs) - stood, 0))
    assert np.linalg.eigvalsh(covs[stood] - covs[stood - 8]).min() > -1e-12
    without = roll_out(start, ways(speeds), DT_S, Growth()).cov[0].numpy()
    np.testing.assert_allclose(covs[: stood - 3], without[: stood - 3])
    assert without[-1, 0, 0] > 2 * covs[-1, 0, 0]


def test_each_plan_moves_until_it_stands_and_for_as_long_as_it_may_be_late():
    start = alone(0.0, 0.5)
    assert late_s(start, BRAKING) == pytest.approx(0.3)
    speeds = torch.tensor([[0, 0, 0, 0, 0, 0.0], [0, 1, 1, 0, 0, 0], [2, 2, 2, 2, 2, 2]])
    moving = moving_steps(speeds, 0.2, start, BRAKING)
    assert moving is not None
    assert moving.sum(1).tolist() == [2, 5, 5]
    assert moving[0, :2].all()


def test_how_fast_a_lost_car_is_nobody_knows():
    assert moving_steps(braked(5.0), DT_S, belief(state=TrackingState.LOST), BRAKING) is None


@pytest.mark.parametrize("state", [TrackingState.TRACKING, TrackingState.DEGRADED])
def test_a_car_that_stands_in_a_narrow_place_drives_on(state):
    # As the estimator tells a standing car: 0 give or take 0.19 m/s, aside 0.02 m/s.
    start = replace(
        belief(0.5, 0.0, state),
        epistemic_twist_cov=1e-10 * np.eye(3),
        noise_twist_cov=diagonal(0.19, 0.019, 0.0015),
        cov=diagonal(0.1, 0.05, 0.003),
    )
    world = street(*(box(1.5, side * 2.14, 8, 2) for side in (-1, 1)), half_width=4.0)
    settings = PlannerSettings(collision_max=0.05, samples=2000)
    plan = Planner(settings=settings).plan(start, world, ROUTE)
    assert plan.decision in (Decision.FOLLOW, Decision.SLOW)
    assert plan.collision_probability <= plan.collision_bound + 0.02


def test_standing_risks_no_more_the_longer_it_lasts():
    start = replace(belief(1.0, 0.0), noise_twist_cov=diagonal(0.19, 0.019, 0.0015))
    world = street(box(4.3, 0, 1, 4))
    bounds = []
    for horizon_s in (3.0, 12.0):
        lattice = replace(Planner().lattice, horizon_s=horizon_s)
        plan = Planner(lattice=lattice).plan(start, world, ROUTE)
        assert plan.decision is Decision.STOP
        bounds.append(plan.collision_bound)
    assert bounds[0] == pytest.approx(bounds[1])
    assert 0.01 < bounds[0] < 0.9
