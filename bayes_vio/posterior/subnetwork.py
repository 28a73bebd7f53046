"""Full covariance over a subset of the weights, the rest at the MAP.

Source: Daxberger, Nalisnick, Allingham, Antoran, Hernandez-Lobato (2021), "Bayesian deep learning
via subnetwork inference", section 5: the weights of largest marginal variance under a diagonal
posterior are kept, which loses least in Wasserstein distance among the diagonal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_vio.curvature.full import MAX_PARAMETERS
from bayes_vio.curvature.passes import Pass, Tally, chunks
from bayes_vio.posterior.full import FullPrecision, joint_precision, rows_of
from bayes_vio.posterior.linearisation import LayerTerms
from bayes_vio.posterior.network import NetworkCurvature

Selection = Mapping[str, Tensor]


@dataclass(frozen=True)
class SubnetworkPrecision(FullPrecision):
    """P [S, S] over the selected weights; ``selection`` holds flat indices into each layer's W."""

    selection: Selection

    @property
    def sizes(self) -> dict[str, int]:  # pyright: ignore
        """Return how many weights of every layer are selected."""
        return {name: len(index) for name, index in self.selection.items()}

    def _jacobian(self, name: str, terms: LayerTerms) -> Tensor:
        return selected_jacobian(terms, self.selection[name])

    def _gathered(self, name: str, weights: Tensor) -> Tensor:
        return weights.flatten(-2)[..., self.selection[name]]

    def _placed(self, name: str, part: Tensor) -> Tensor:
        d_out, d_in = self.shapes[name]
        whole = part.new_zeros(*part.shape[:-1], d_out * d_in)
        whole[..., self.selection[name]] = part
        return whole.unflatten(-1, (d_out, d_in))


@dataclass(frozen=True)
class SubnetworkCurvature(NetworkCurvature):
    """The joint curvature [S, S] of the selected weights, a mean over data."""

    matrix: Tensor
    selection: Selection
    shapes: Mapping[str, tuple[int, int]]
    is_joint = True

    def precision(self, n_data: float, prior: Mapping[str, float | Tensor]) -> SubnetworkPrecision:
        """Return P = n_data * curvature + prior precision over the selected weights."""
        sizes = {name: len(index) for name, index in self.selection.items()}
        matrix = joint_precision(self.matrix, sizes, n_data, prior)
        return SubnetworkPrecision(matrix, self.shapes, self.selection)

    def map(self, function: Callable[[Tensor], Tensor]) -> SubnetworkCurvature:
        """Apply a function to the matrix; of the indices only the device follows."""
        matrix = function(self.matrix)
        device = matrix.device
        selection = {name: i.to(device, copy=True) for name, i in self.selection.items()}
        return SubnetworkCurvature(matrix, selection, self.shapes)

    def tensors(self) -> dict[str, Tensor]:
        """Return every stored tensor by name."""
        indices = {f"{name}/index": index for name, index in self.selection.items()}
        return {"matrix": self.matrix} | indices

    def only(self, layers: Sequence[str]) -> SubnetworkCurvature:
        """Return the rows and columns of some layers: the others are given their MAP."""
        sizes = {name: len(index) for name, index in self.selection.items()}
        places = {n: torch.arange(r.start, r.stop) for n, r in rows_of(sizes).items()}
        kept = [name for name in self.selection if name in layers]
        rows = torch.cat([places[name] for name in kept])
        return SubnetworkCurvature(
            self.matrix[rows][:, rows],
            {name: self.selection[name] for name in kept},
            {name: self.shapes[name] for name in kept},
        )

    def covered(self, layer: str, matrix: Tensor) -> Tensor:
        """Return the selected ones of a layer's weights."""
        return matrix.flatten()[self.selection[layer]]


def select_weights(variances: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Return flat indices of the ``size`` largest variances by layer; ties go to the first.

    Layers of which nothing is selected are left out. Raises ValueError for a size that no dense
    matrix can have.
    """
    if not 1 <= size <= MAX_PARAMETERS:
        raise ValueError(
            f"structure 'subnetwork' over {size} weights: use between 1 and {MAX_PARAMETERS}"
        )
    flat = torch.cat([v.flatten() for v in variances.values()])
    # What rounding alone tells apart is a tie: the choice must not depend on the batch size.
    order = torch.argsort(flat.float(), descending=True, stable=True)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[order[:size]] = True
    parts = chosen.split([v.numel() for v in variances.values()])
    found = {name: part.nonzero()[:, 0] for name, part in zip(variances, parts, strict=True)}
    return {name: index for name, index in found.items() if len(index)}


def selected_jacobian(terms: LayerTerms, index: Tensor) -> Tensor:
    """Return the columns of J at flat indices of W: [batch, outputs, len(index)].

    Only the rows of W that have selected weights are formed, and none at one position (E17).
    """
    if terms.is_rank_one:
        d_in = terms.features.shape[2]
        rows, columns = index // d_in, index % d_in
        return terms.gradients[:, :, 0, rows] * terms.features[:, None, 0, columns]
    d_in = terms.layer.shape[1]
    if not terms.layer.is_kronecker:
        return terms.jacobian().flatten(2)[:, :, index]
    rows, place = (index // d_in).unique(return_inverse=True)
    J = terms.layer.jacobian(terms.features, terms.gradients[..., rows])
    return J[:, :, place, index % d_in]


def estimate_selected(data: Pass, selection: Selection) -> tuple[Tensor, Tally]:
    """Return the dense curvature [S, S] of the selected weights; reads the data once (E17).

    The Jacobian is gathered layer by layer, a few data at a time.
    """
    layers, tally = data.recorder.layers, Tally()
    size = sum(len(index) for index in selection.values())
    total = next(iter(layers.values())).zeros(size, size)
    with data.workers.together():
        for _, recording, gradients in data.columns(tally):
            blocks = []
            for name, index in selection.items():
                parts = chunks(layers[name], recording.inputs[name], gradients[name])
                terms = (LayerTerms(layers[name], features, g) for features, g in parts)
                blocks.append(torch.cat([selected_jacobian(t, index) for t in terms]))
            J = torch.cat(blocks, 2).flatten(0, 1).to(total.dtype)
            total += J.mT @ J
    tally = data.total(tally, [total])
    return total / tally.n_data, tally
