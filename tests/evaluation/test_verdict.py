import numpy as np
import pytest

from bayes_vio.evaluation import calibration, verdict
from bayes_vio.evaluation.calibration import Errors
from bayes_vio.evaluation.verdict import Verdict
from tests.evaluation.synthetic import synthetic_run


def judged(errors):
    return verdict.judge(calibration.measure(errors))


def scaled(errors, axis_factors):
    """Return errors whose covariance is claimed with each axis' sigma times a factor."""
    D = np.diag(axis_factors)
    epistemic, noise = D @ errors.epistemic_cov @ D, D @ errors.noise_cov @ D
    return Errors(errors.error, epistemic, noise, errors.sequence)


@pytest.mark.parametrize("seed", range(5))
def test_a_true_covariance_is_called_consistent(seed):
    errors = synthetic_run(1500, seed=seed, epistemic=0.2).increment_errors()
    assert judged(errors)["verdict"] == Verdict.CONSISTENT.value


@pytest.mark.parametrize(
    ("claimed", "expected"), [(0.5, Verdict.OVERCONFIDENT), (2.0, Verdict.CAUTIOUS)]
)
@pytest.mark.parametrize("n", [150, 1500])
def test_a_halved_or_doubled_covariance_is_flagged(claimed, expected, n):
    judgement = judged(synthetic_run(n, seed=1, claimed=claimed).increment_errors())
    assert judgement["verdict"] == expected.value
    assert judgement["parts"]["joint"] == expected.value
    factor = calibration.measure(synthetic_run(n, seed=1, claimed=claimed).increment_errors())[
        "joint"
    ]["sigma_factor"]
    assert f"{factor:.2f} times" in judgement["evidence"]


def test_a_certain_but_small_deviation_is_near():
    errors = synthetic_run(3000, seed=2).increment_errors()
    assert judged(scaled(errors, np.full(6, 0.9)))["verdict"] == Verdict.NEAR.value


def test_one_false_axis_is_named():
    errors = synthetic_run(1500, seed=3).increment_errors()
    factors = np.ones(6)
    factors[5] = 0.6
    judgement = judged(scaled(errors, factors))
    assert judgement["verdict"] == Verdict.OVERCONFIDENT.value
    assert judgement["parts"]["rotZ"] == Verdict.OVERCONFIDENT.value
    assert judgement["parts"]["x"] == Verdict.CONSISTENT.value
    assert "rotZ" in judgement["evidence"]


@pytest.mark.parametrize(("n", "expected"), [(40, Verdict.UNDECIDED), (3000, Verdict.NEAR)])
def test_an_axis_that_is_too_wide_does_not_speak_for_the_whole(n, expected):
    errors = synthetic_run(n, seed=6).increment_errors()
    judgement = judged(scaled(errors, [1, 1, 1, 2.5, 1, 1]))
    assert judgement["parts"]["rotX"] == Verdict.CAUTIOUS.value
    assert judgement["verdict"] == expected.value
    assert "rotX" in judgement["evidence"]


def test_faults_of_both_kinds_do_not_cancel():
    errors = synthetic_run(1500, seed=4).increment_errors()
    judgement = judged(scaled(errors, [0.5, 2, 1, 1, 1, 1]))
    assert judgement["verdict"] == Verdict.MIXED.value


def test_wrong_correlations_alone_are_found():
    errors = synthetic_run(3000, seed=5).increment_errors()
    variance = np.diagonal(errors.cov, axis1=1, axis2=2)
    whitened = np.random.default_rng(0).standard_normal((len(errors), 6))
    whitened[:, 1] = 0.95 * whitened[:, 0] + np.sqrt(1 - 0.95**2) * whitened[:, 1]
    claimed = np.eye(6) - 0.9 * (np.eye(6)[[1, 0, 2, 3, 4, 5]] - np.diag([0, 0, 1, 1, 1, 1.0]))
    root = np.sqrt(variance)
    cov = root[:, :, None] * claimed * root[:, None, :]
    judgement = judged(Errors(whitened * root, 0.1 * cov, 0.9 * cov, errors.sequence))
    assert judgement["verdict"] == Verdict.OVERCONFIDENT.value
    assert "correlations" in judgement["evidence"]


def test_few_errors_leave_it_undecided():
    assert judged(synthetic_run(25, seed=0).increment_errors())["verdict"] == "undecided"


def test_heavy_tails_are_told():
    errors = synthetic_run(1500, seed=6).increment_errors()
    outliers = errors.error.copy()
    outliers[::50] *= 8
    notes = judged(Errors(outliers, errors.epistemic_cov, errors.noise_cov, errors.sequence))[
        "notes"
    ]
    assert any("Tails" in note for note in notes)
    assert not any("Tails" in note for note in judged(errors)["notes"])


def test_a_blind_but_wide_covariance_loses_to_a_constant_one():
    errors = synthetic_run(1500, seed=7).increment_errors()
    notes = judged(scaled(errors, np.full(6, 6.0)))["notes"]
    assert any("constant covariance" in note for note in notes)


def test_pooling_does_not_hide_a_faulty_recording():
    parts = {
        name: synthetic_run(1000, seed=seed, claimed=claimed).increment_errors()
        for seed, (name, claimed) in enumerate({"town": 1.0, "dusk": 0.5, "park": 2.0}.items())
    }
    pooled = judged(calibration.concatenate(list(parts.values())))
    by_recording = {name: judged(errors) for name, errors in parts.items()}
    both = verdict.combine(pooled, by_recording)
    assert both["verdict"] == Verdict.MIXED.value
    assert "overconfident on dusk" in both["evidence"]
    assert "too cautious on park" in both["evidence"]
    fine = {"town": by_recording["town"]}
    assert verdict.combine(by_recording["town"], fine) == by_recording["town"]


def test_headline_tells_coverage_drift_tracking_and_faulty_horizons():
    def measured(claimed):
        found = calibration.measure(synthetic_run(800, claimed=claimed).increment_errors())
        return {**found, "judgement": verdict.judge(found)}

    horizons = {"1": measured(1.0), "10": measured(0.3), "100": None}
    drift = {"t_rel_percent": 2.345}
    text = verdict.headline(horizons["1"]["judgement"], horizons, drift, 0.987)
    assert text.startswith("The covariance is true here.")
    assert "of 800 frame errors" in text
    assert "2.35 %" in text or "2.34 %" in text
    assert "98.7 %" in text
    assert "Over 10 frames it is overconfident" in text
    assert horizons["10"]["judgement"]["evidence"][1:] in text
    assert "drift" not in verdict.headline(
        horizons["1"]["judgement"], horizons, {"t_rel_percent": None}, 1.0
    )
