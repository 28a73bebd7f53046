"""The network of a regime head: standardised features, distances, one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Groups = Sequence[slice]
# A feature that hardly varies must not be scaled to nothing but noise.
LEAST_SCALE = 1e-2
# Share of the mean variance that is added to every direction of a group.
_SHRINKAGE = 0.05
# No trained network comes near.
_LARGEST_WEIGHT, _SMALLEST_SCALE = 1e6, 1e-6


class RegimeNetwork(nn.Module):
    """Map features [batch, n_features] to logits [batch, classes]; one hidden layer.

    ``offset`` and ``scale`` [n_features] standardise the features to z. Beside z the hidden layer
    reads, for each group of features, log(1 + m^2 / d), m^2 the squared Mahalanobis distance of
    its d features from a reference class: without it the network, linear far away, would take
    whatever lies beyond that class, seen from the others, for the class itself.
    ``whitening`` [rows, n_features] and ``grouping`` [groups, rows] give all m^2 / d at once.
    """

    offset: Tensor
    scale: Tensor
    centre: Tensor
    whitening: Tensor
    grouping: Tensor

    def __init__(
        self, n_features: int, hidden: int, n_classes: int, n_groups: int = 0, n_rows: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("whitening", torch.zeros(n_rows, n_features))
        self.register_buffer("grouping", torch.zeros(n_groups, n_rows))
        self.hidden = nn.Linear(n_features + n_groups, hidden)
        self.head = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, classes]."""
        return self.head(self.activations(x))

    def activations(self, x: Tensor) -> Tensor:
        """Return what the last layer reads [batch, hidden]."""
        z = (x - self.offset) / self.scale
        distances = ((z - self.centre) @ self.whitening.T).square() @ self.grouping.T
        return torch.relu(self.hidden(torch.cat([z, distances.log1p()], 1)))

    @staticmethod
    def for_groups(n_features: int, hidden: int, n_classes: int, groups: Groups) -> RegimeNetwork:
        """Return an untrained network that reads the distances in these groups of features."""
        rows = sum(len(range(n_features)[group]) for group in groups)
        return RegimeNetwork(n_features, hidden, n_classes, len(groups), rows)

    @staticmethod
    def of_weights(weights: Mapping[str, Tensor]) -> RegimeNetwork:
        """Return the network with these weights; ValueError where they are of no such network."""
        n_groups, n_rows = weights["grouping"].shape
        hidden, n_classes = len(weights["hidden.weight"]), len(weights["head.weight"])
        network = RegimeNetwork(len(weights["offset"]), hidden, n_classes, n_groups, n_rows)
        check_weights(network, weights)
        if not bool((weights["scale"] >= _SMALLEST_SCALE).all()):
            raise ValueError("a scale of the regime's features is not positive")
        network.load_state_dict(dict(weights))
        return network.eval().requires_grad_(False)

    @torch.no_grad()
    def standardise(self, x: Tensor, reference: Tensor, groups: Groups) -> None:
        """Take the scales from features x [n, n_features], distances from the reference class's.

        reference [m, n_features], m > 0 where there are groups. A group's covariance is drawn
        towards a multiple of the identity, so that directions that hardly vary do not rule.
        """
        self.offset.copy_(x.mean(0))
        self.scale.copy_(x.std(0).clamp(min=LEAST_SCALE))
        if not groups:
            return
        z = (reference - self.offset) / self.scale
        self.centre.copy_(z.mean(0))
        first = 0
        for number, group in enumerate(groups):
            rows = torch.linalg.inv(spread((z - self.centre)[:, group]))
            last = first + len(rows)
            self.whitening[first:last, group] = rows
            self.grouping[number, first:last] = 1 / len(rows)
            first = last


def spread(z: Tensor) -> Tensor:
    """Return L [d, d], L L^T the shrunk covariance of centred rows z [n, d]."""
    cov = (z.mT @ z).double() / len(z)
    d = len(cov)
    floor = _SHRINKAGE * cov.diagonal().mean() + 1e-6
    shrunk = cov + floor * torch.eye(d, dtype=cov.dtype)
    return torch.linalg.cholesky(shrunk).float()


def check_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless these are finite weights of this network, by name, shape, type."""
    expected = {name: (t.shape, t.dtype) for name, t in network.state_dict().items()}
    if expected != {name: (t.shape, t.dtype) for name, t in weights.items()}:
        raise ValueError("the regime's weights are of another network")
    for name, tensor in weights.items():
        if not bool((tensor.abs() <= _LARGEST_WEIGHT).all()):  # False for NaN, too
            raise ValueError(f"the regime's weights {name} are not finite, or beyond any use")
