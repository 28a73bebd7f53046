"""The regime classifier's part of an artifact: three files, and thresholds in its description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from bayes_vio.artifact_checks import resting_input
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH
from bayes_vio.models.backbone import ImageEncoder
from bayes_vio.posterior import storage as posterior_storage
from bayes_vio.regime.classifier import ClassHead, EgoMotionHead, RegimeClassifier, Thresholds
from bayes_vio.regime.network import RegimeNetwork, check_weights
from bayes_vio.sealed import pack, unpack

FORMAT, VERSION = "bayes_vio.regime", 1
WEIGHTS = "regime.safetensors"
IMAGE, EGO_MOTION = "regime_image.safetensors", "regime_ego_motion.safetensors"
FILES = (WEIGHTS, IMAGE, EGO_MOTION)
LARGEST_BYTES = 2**26


def describe(regime: RegimeClassifier) -> dict[str, Any]:
    """Return what the artifact's description says of it."""
    return {"thresholds": asdict(regime.thresholds), "files": sorted(to_files(regime))}


def to_files(regime: RegimeClassifier) -> dict[str, bytes]:
    """Return the files' content by name: all weights, and each head's posterior."""
    weights = _prefixed("image.", regime.image.network.state_dict())
    files = {IMAGE: posterior_storage.to_bytes(regime.image.posterior)}
    if regime.ego_motion is not None:
        head, encoder = regime.ego_motion.head, regime.ego_motion.encoder
        weights |= _prefixed("ego_motion.", head.network.state_dict())
        weights |= _prefixed("encoder.", encoder.state_dict())
        files[EGO_MOTION] = posterior_storage.to_bytes(head.posterior)
    return {WEIGHTS: pack(weights, {"format": FORMAT, "version": VERSION}), **files}


def from_files(
    description: Mapping[str, Any], files: Mapping[str, bytes], source: str
) -> RegimeClassifier:
    """Return the classifier that ``describe`` and ``to_files`` told, on the CPU.

    ``source`` names the folder. Raises ValueError, LookupError, TypeError or RuntimeError for what
    is none.
    """
    _, weights = unpack(files[WEIGHTS], FORMAT, VERSION)
    ego_motion = None
    if EGO_MOTION in files:
        head = _head("ego_motion.", weights, files[EGO_MOTION], f"{source}/{EGO_MOTION}")
        ego_motion = EgoMotionHead(head, _encoder(weights))
    regime = RegimeClassifier(
        image=_head("image.", weights, files[IMAGE], f"{source}/{IMAGE}"),
        thresholds=Thresholds(**{k: float(v) for k, v in description["thresholds"].items()}),
        ego_motion=ego_motion,
    )
    _check_beliefs(regime)
    return regime


def _check_beliefs(regime: RegimeClassifier) -> None:
    """Raise ValueError where a car at rest before a gray wall gives no probabilities."""
    still = resting_input()
    wall = np.full((GRID_HEIGHT, GRID_WIDTH), 128, np.uint8)
    image = regime.judge_image(wall, wall, still.imu[0].numpy(), still.imu_valid[0].numpy())
    judged = regime.with_ego_motion(image, still)
    for belief in (judged.image, judged.ego_motion):
        if belief is not None and not np.isfinite([*belief.probs, *belief.doubts]).all():
            raise ValueError("the regime that it tells at rest has probabilities that are none")


def _head(prefix: str, weights: Mapping[str, Tensor], posterior: bytes, source: str) -> ClassHead:
    network = RegimeNetwork.of_weights(_own(prefix, weights))
    return ClassHead(posterior_storage.from_bytes(posterior, network, source))


def _encoder(weights: Mapping[str, Tensor]) -> ImageEncoder:
    own = _own("encoder.", weights)
    encoder = ImageEncoder(len(own["top.weight"]))
    check_weights(encoder, own)
    encoder.load_state_dict(own)
    return encoder.eval().requires_grad_(False)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _own(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
