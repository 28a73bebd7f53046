"""Run the network once before it is needed: first calls allocate, compile and load kernels."""

from __future__ import annotations

import torch

from bayes_vio.artifact import MotionArtifact
from bayes_vio.artifact_checks import resting_input
from bayes_vio.posterior.sketch import FeatureSketch

_RUNS = 3


def warm_up(artifact: MotionArtifact, device: torch.device) -> None:
    """Predict from a still scene a few times, and throw the result away."""
    still, sketch = resting_input().map(lambda tensor: tensor.to(device)), FeatureSketch()
    for _ in range(_RUNS):
        artifact.predict_features(still, sketch)
