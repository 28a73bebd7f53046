"""The scikit-learn estimator among scikit-learn's own tools."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from bayes_vio.classification.networks import mlp
from tests.classification.blobs import blobs

sklearn = pytest.importorskip("sklearn")


def estimator(**parameters):
    from bayes_vio.classification.scikit import BayesianNetClassifier

    return BayesianNetClassifier(**{"hidden": (8,), "epochs": 20} | parameters)


def iris():
    from sklearn.datasets import load_iris

    data = load_iris()
    return data.data, data.target_names[data.target]


def test_clone_keeps_every_parameter():
    from sklearn.base import clone

    first = estimator(
        model=mlp(4, 3), method="kfac", prior_precision=2.0, options={"fisher": "mc"}
    )
    copied = clone(first)
    ours, theirs = first.get_params(), copied.get_params()
    assert ours.pop("model") is not theirs.pop("model")
    assert ours == theirs
    assert first.set_params(method="inf").method == "inf"


def test_cross_validation_in_a_pipeline_with_labels_that_are_words():
    from sklearn.model_selection import cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = iris()
    pipeline = make_pipeline(StandardScaler(), estimator(epochs=100, validation_fraction=0.2))
    found = cross_validate(pipeline, x, y, cv=3, scoring=("accuracy", "neg_log_loss"))
    assert found["test_accuracy"].mean() > 0.9
    assert found["test_neg_log_loss"].mean() > -0.35


def test_grid_search_over_methods():
    from sklearn.model_selection import GridSearchCV

    x, y = (t.numpy() for t in blobs(90, 0))
    search = GridSearchCV(
        estimator(), {"method": ["map", "diagonal", "mc_dropout"]}, cv=2, scoring="neg_log_loss"
    ).fit(x, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_calibration_display():
    from matplotlib.figure import Figure
    from sklearn.calibration import CalibrationDisplay

    x, y = (t.numpy() for t in blobs(120, 0))
    fitted = estimator().fit(x[y < 2], y[y < 2])
    axes = Figure().subplots()
    display = CalibrationDisplay.from_estimator(fitted, x[y < 2], y[y < 2], ax=axes)
    assert ((display.prob_true >= 0) & (display.prob_true <= 1)).all()


def test_predictions_agree_with_each_other():
    x, y = iris()
    x = (x - x.mean(0)) / x.std(0)
    fitted = estimator(method="last_layer").fit(x, y)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    probs = fitted.predict_proba(x)
    assert np.array_equal(fitted.predict(x), fitted.classes_[probs.argmax(1)])
    assert np.array_equal(fitted.predictive(x).probs.numpy(), probs)
    assert np.array_equal(estimator(method="last_layer").fit(x, y).predict_proba(x), probs)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((6, 2)), np.zeros(6), "one class"),
        (np.full((6, 2), np.nan), np.arange(6) % 2, "NaN"),
        (np.ones((6, 2)), np.arange(5), "inconsistent"),
        (np.zeros((0, 2)), np.zeros(0), "0 sample"),
    ],
)
def test_refusals(x, y, message):
    with pytest.raises(ValueError, match=message):
        estimator().fit(x, y)


@pytest.mark.slow
def test_scikit_learn_s_own_checks():
    """Everything that scikit-learn asks of a classifier."""
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator(epochs=40), on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed


def test_the_package_imports_without_scikit_learn():
    code = """if True:
        import sys
        sys.modules["sklearn"] = None
        import bayes_vio.classification, bayes_vio.classification.detection
        try:
            import bayes_vio.classification.scikit
        except ImportError as error:
            assert "bayes_vio[classification]" in str(error)
        else:
            raise SystemExit("scikit-learn was blocked")
    """
    subprocess.run([sys.executable, "-c", code], check=True)
