# ruff: noqa: E402, the imports need what is skipped for
"""What the diagnostics tell of images and ego-motion."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.regime import ClassBelief, ImageVerdict, Regime
from bayes_vio.ros.diagnostics import regime_values

IMAGE = ClassBelief(np.array([0.05, 0.8, 0.05, 0.06, 0.04]), 0.77, 0.125)
MOTION = ClassBelief(np.array([0.1, 0.2, 0.65, 0.05]), 0.97, 0.25)


def test_probabilities_entropy_and_mutual_information_are_told_by_name():
    values = regime_values(Regime(IMAGE, ImageVerdict.DOUBTFUL, MOTION))
    assert values["image class"] == "blurred"
    assert values["image verdict"] == "doubtful"
    assert values["image P(nominal)"] == "0.050"
    assert values["image P(frozen)"] == "0.040"
    assert values["image entropy (nats)"] == "0.770"
    assert values["image mutual information (nats)"] == "0.125"
    assert values["ego-motion class"] == "left"
    assert values["ego-motion P(right)"] == "0.050"
    assert values["ego-motion mutual information (nats)"] == "0.250"


def test_without_a_pair_of_images_nothing_is_told_of_the_motion():
    values = regime_values(Regime(IMAGE, ImageVerdict.UNUSABLE))
    assert not [name for name in values if name.startswith("ego-motion")]
    assert regime_values(None) == {}
