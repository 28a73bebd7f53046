"""Specks on the lens over a series of images, as the estimator judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_vio.classification.detection import detection
from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.bags import open_streams
from bayes_vio.data.frames import ViewProjector, to_grid_levels
from bayes_vio.data.lens_specks import LensSpecks
from bayes_vio.estimator.tracking import EstimatorSettings
from bayes_vio.models.reliability import Reliability

Image = NDArray[np.uint8]
Spoil = Callable[[Image], Image]
CLEAN = "clean"


def deviations(bag: Path, spoil: Spoil, usual: Reliability) -> NDArray[np.float64]:
    """Return the deviations [n] below the usual after every image of a drive that has a score."""
    streams = open_streams(bag)
    projector = ViewProjector(streams.camera, streams.extrinsics.T_base_camera[:3, :3])
    specks, told = LensSpecks(projector.valid), []
    views = ((t, to_grid_levels(projector.project(spoil(g)))) for t, g in streams.frames())
    for (start_ns, earlier), (end_ns, later) in pairwise(views):
        specks.add(earlier, later, (end_ns - start_ns) / NS_PER_S)
        if specks.least_change is not None:
            told.append(specks.least_change)
    assert usual.least_change is not None
    return (usual.least_change[0] - np.array(told)) / usual.least_change[1]


def measured(
    bags: Sequence[Path], spoilers: Mapping[str, Spoil], usual: Reliability
) -> dict[str, Any]:
    """Return the share told of clean drives and behind specks, and each one's AUROC."""
    bound = EstimatorSettings().speck_deviations_max
    scores = {
        name: [deviations(bag, spoil, usual) for bag in bags]
        for name, spoil in {CLEAN: lambda image: image, **spoilers}.items()
    }
    clean = np.concatenate(scores.pop(CLEAN))
    result: dict[str, Any] = {
        "usual": usual.least_change,
        "bound": bound,
        CLEAN: {"images": len(clean), "told": float((clean > bound).mean())},
    }
    for name, drives in scores.items():
        found = np.concatenate(drives)
        result[name] = {
            "images": len(found),
            "auroc": detection(clean, found).auroc,
            "told": float((found > bound).mean()),
        }
    return result
