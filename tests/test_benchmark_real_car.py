"""How the real car's benchmark judges a recording."""

from dataclasses import replace

import numpy as np
import pytest
from real_car import figures, verdicts, zero_shot_verdicts

from bayes_vio.conventions import ROT_Z
from bayes_vio.evaluation.report import describe
from tests.evaluation.synthetic import synthetic_run


def test_figures_of_a_run_whose_covariance_is_true():
    run = synthetic_run(2000)
    told = figures(describe([run], {}, 0.0), run)
    error = run.increment_errors().error
    step_m = np.linalg.norm(run.true_increments()[:, :3, 3], axis=1)
    speed = 100 * np.sqrt(np.mean(error[:, 0] ** 2) / np.mean(step_m**2))
    assert told["speed_rms_percent"] == pytest.approx(speed, rel=1e-3)
    yaw = np.rad2deg(np.sqrt(np.mean(error[:, ROT_Z] ** 2)))
    assert told["yaw_rms_deg"] == pytest.approx(yaw)
    assert verdicts(told)["intervals_hold_90_to_98_percent"]
    assert zero_shot_verdicts(told)["interval_holds_90"]
    for axis in told["axes"].values():
        assert axis["in_95_percent_interval"] < axis["coverage_2_sigma"] + 1e-9


def test_too_wide_and_too_narrow_are_both_told():
    run = synthetic_run(500)
    for scale in (9.0, 0.1):
        wrong = replace(
            run, noise_cov=scale * run.noise_cov, epistemic_cov=scale * run.epistemic_cov
        )
        told = figures(describe([wrong], {}, 0.0), wrong)
        assert not verdicts(told)["intervals_hold_90_to_98_percent"]
        assert zero_shot_verdicts(told)["interval_holds_90"] == (scale > 1)
