"""Gray scenes with texture, pairs of them and a small fitted regime classifier, for tests."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.classification import BayesianClassifier, TrainingSettings
from bayes_vio.conventions import GRAVITY_M_S2
from bayes_vio.models.backbone import ImageEncoder
from bayes_vio.regime import RegimeClassifier, Thresholds
from bayes_vio.regime.classes import EGO_MOTION_CLASSES, IMAGE_CLASSES
from bayes_vio.regime.classifier import ClassHead, EgoMotionHead
from bayes_vio.regime.features import (
    FEATURE_GROUPS,
    ego_motion_features,
    image_features,
    n_ego_motion_features,
)
from bayes_vio.regime.frame_pairs import FramePairs, labelled_features
from bayes_vio.regime.network import RegimeNetwork
from tests.motion_cases import random_motion

WIDTH = 8


def scenes(n: int, seed: int = 0, shift: int = 2) -> tuple[NDArray, NDArray]:
    """Return earlier and later levels [n, 40, 128]: a texture under a flat sky, moved aside."""
    rng = np.random.default_rng(seed)
    earlier, later = [], []
    for _ in range(n):
        texture = cv2.GaussianBlur(rng.normal(size=(40, 160)), (0, 0), 0.8)
        light = np.linspace(60, -30, 40)[:, None] * rng.uniform(0.7, 1.2)
        image = 110 + light + 28 * texture / texture.std() * np.linspace(0.2, 1, 40)[:, None]
        for levels, start in ((earlier, 0), (later, shift)):
            part = image[:, start : start + 128] + rng.normal(size=(40, 128))
            levels.append(np.clip(np.rint(part), 0, 255).astype(np.uint8))
    return np.stack(earlier), np.stack(later)


def imu_windows(n: int, moving: bool = True) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return imu [n, 20, 6] and imu_valid [n, 20] of a car that shakes and turns, or stands."""
    rng = np.random.default_rng(5)
    imu = 0.01 * rng.normal(size=(n, 20, 6)).astype(np.float32)
    imu[..., 2] += GRAVITY_M_S2
    if moving:
        imu[..., :3] += rng.normal(size=(n, 20, 3)).astype(np.float32)
        imu[..., 5] += 0.1
    return imu, np.ones((n, 20), np.float32)


def frame_pairs(n: int, seed: int = 0) -> FramePairs:
    """Return pairs of a moving car."""
    return FramePairs(*scenes(n, seed), *imu_windows(n), np.full(n, 8.0, np.float32))


def fitted_head(x: torch.Tensor, y: torch.Tensor, n_classes: int, groups: tuple = ()) -> ClassHead:
    """Return a small trained head."""
    torch.manual_seed(0)
    network = RegimeNetwork.for_groups(x.shape[1], 12, n_classes, groups)
    network.standardise(x, x[y == 0], groups)
    training = TrainingSettings(epochs=12)
    fitted = BayesianClassifier(
        network, "last_layer", train=True, prior_precision=1.0, training=training
    ).fit((x, y))
    return ClassHead(fitted.posterior)


@cache
def small_classifier() -> RegimeClassifier:
    """Return a classifier of the scenes above and of random motions."""
    features, label = labelled_features(frame_pairs(60), np.random.default_rng(0))
    image = fitted_head(
        torch.from_numpy(features), torch.from_numpy(label), len(IMAGE_CLASSES), FEATURE_GROUPS
    )
    torch.manual_seed(1)
    encoder = ImageEncoder(WIDTH).eval().requires_grad_(False)
    x, target = random_motion(80, seed=2)
    motions = ego_motion_features(encoder, x)
    kinds = (target[:, 5] > 0.005).long() * 2 + (target[:, 5] < -0.005).long() * 3
    kinds[kinds == 0] = 1
    head = fitted_head(motions, kinds, len(EGO_MOTION_CLASSES))
    assert motions.shape[1] == n_ego_motion_features(WIDTH)
    return RegimeClassifier(image, Thresholds(0.5, 0.3, 0.95), EgoMotionHead(head, encoder))


def features_of(n: int, seed: int = 9) -> torch.Tensor:
    """Return the features of nominal pairs."""
    return torch.from_numpy(image_features(*scenes(n, seed), *imu_windows(n)))
