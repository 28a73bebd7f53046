"""Make features of images such as nobody has seen, so that the classifier has heard of them.

A network trained on known classes alone is sure of whatever lies beyond one of them, seen from
the others: salt noise, the opposite of blur, counts as more than nominal. Outliers around the
nominal class, labelled with every fault alike, teach it that far away nothing is nominal and
which fault it is cannot be told. After Du et al. (2022), "VOS: learning what you don't know by
virtual outlier synthesis", with outliers of one group of features at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bayes_vio.regime.network import Groups, spread

# How far, in standard deviations of the nominal class: from its border to far beyond any camera.
_DISTANCES = (2.5, 12.0)


def outliers(
    nominal: Tensor, scale: Tensor, groups: Groups, count: int, rng: np.random.Generator
) -> Tensor:
    """Return features [count, d] of nominal ones [n, d] moved away in one group of features each.

    Half move along the group's covariance in a random direction; half all features of the group
    to one side, as noise, fog or glare do. scale [d]: by which features are comparable.
    """
    z = nominal / scale
    centred = z - z.mean(0)
    spreads = [spread(centred[:, group]) for group in groups]
    moved = z[torch.from_numpy(rng.integers(len(z), size=count))]
    for row, kind in zip(moved, rng.integers(len(groups), size=count), strict=True):
        distance = float(np.exp(rng.uniform(*np.log(_DISTANCES))))
        row[groups[kind]] += distance * _direction(spreads[kind], rng)
    return moved * scale


def _direction(L: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a step [d] of about one standard deviation per feature, of covariance L L^T."""
    d = len(L)
    if rng.random() < 0.5:
        return L @ torch.from_numpy(rng.standard_normal(d)).float()
    size = torch.from_numpy(rng.choice([-1, 1]) * rng.uniform(0.5, 1.0, d)).float()
    return L.square().sum(1).sqrt() * size
