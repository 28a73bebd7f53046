"""What a posterior's fit needs of memory, counted before anything of it is allocated.

Counted are the arrays that are there at one time, phase by phase: sums in float64, factors and
bases, the recorded activations and gradients of one batch. Work space that libraries take beside
them is not, so that the count is a floor: what is refused would not have fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from bayes_vio.curvature.full import MAX_PARAMETERS
from bayes_vio.curvature.inputs import map_tensors
from bayes_vio.curvature.outer import keeps_rows
from bayes_vio.curvature.passes import COLUMNS_AT_ONCE, Pass, chunk_length
from bayes_vio.curvature.recorder import ordinary, recording_gradients
from bayes_vio.memory import InsufficientMemoryError, gib, saved_bytes
from bayes_vio.posterior.ella import TANGENT_NUMBERS
from bayes_vio.posterior.nystrom import TANGENT_BATCH, points_at_once
from bayes_vio.posterior.structures import Structure, StructureSettings

_DOUBLE = 8
# What the process freed before and still holds is used again: it is not seen as available.
_CERTAIN_SHARE = 0.95


@dataclass(frozen=True)
class LayerSize:
    """A layer's matrix [d_out, d_in], its positions, and how many data are in work at once."""

    d_out: int
    d_in: int
    positions: int
    chunk: int
    is_kronecker: bool

    @property
    def weights(self) -> int:
        """Return d_out * d_in."""
        return self.d_out * self.d_in

    @property
    def shares_weights(self) -> bool:
        """Whether gradients of several positions are summed."""
        return self.is_kronecker and self.positions > 1

    @property
    def factors(self) -> int:
        """Return the numbers of one A and one G."""
        return self.d_in**2 + self.d_out**2 if self.is_kronecker else 0


@dataclass(frozen=True)
class NetworkSize:
    """What memory depends on: the layers, and what one batch leaves behind.

    ``activation_bytes`` and ``gradient_numbers`` are per datum, the latter per column of the
    Fisher; ``item`` is the bytes of a number in the network's dtype. ``stacks``: columns are
    pulled back one by one and put together, not in one vectorised pass.
    """

    layers: tuple[LayerSize, ...]
    activation_bytes: int
    gradient_numbers: int
    columns: int
    stacks: bool
    item: int
    batch: int
    n_batches: int | None

    @property
    def weights(self) -> int:
        """Return the number of covered weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def factors(self) -> int:
        """Return the numbers of one A and one G of every layer."""
        return sum(layer.factors for layer in self.layers)

    def outer_sums(self, layer: LayerSize) -> tuple[tuple[int, float], ...]:
        """Return (d, rows added up) of a layer's A and G, under both settings of sharing."""
        if not layer.is_kronecker:
            return ()
        least = math.inf if self.n_batches is None else (self.n_batches - 1) * self.batch + 1
        per_datum = ((layer.d_in, 1), (layer.d_out, self.columns))
        return tuple(
            (d, least * n * positions) for positions in (layer.positions, 1) for d, n in per_datum
        )

    def added_up(self, layer: LayerSize) -> int:
        """Return the bytes of a layer's sums: its factors, as rows where these are few, and its
        diagonal."""
        factors = [
            int(n_rows) * d * self.item if keeps_rows(n_rows, d) else d**2 * _DOUBLE
            for d, n_rows in self.outer_sums(layer)
        ]
        return sum(factors) + layer.weights * _DOUBLE

    def widths(self, layer: LayerSize) -> tuple[int, int]:
        """Return the numbers of columns of a layer's Q_a and Q_g."""
        r_a, r_g = (
            int(n_rows) if keeps_rows(n_rows, d) else d for d, n_rows in self.outer_sums(layer)[:2]
        )
        return r_a, r_g

    def basis(self, layer: LayerSize) -> int:
        """Return the numbers of a layer's Q_a and Q_g."""
        if not layer.is_kronecker:
            return 0
        r_a, r_g = self.widths(layer)
        return layer.d_in * r_a + layer.d_out * r_g

    def recorded(self) -> int:
        """Return the bytes of a batch's activations and of its gradients, of those once."""
        gradients = self.columns * self.gradient_numbers * self.item
        return self.batch * (self.activation_bytes + gradients)

    def reading(self) -> int:
        """Return the bytes that reading one batch takes: gradients are put together, then used."""
        stacking = self.batch * self.columns * self.gradient_numbers * self.item * self.stacks
        return self.recorded() + max(stacking, *(self._chunk(layer) for layer in self.layers))

    def _chunk(self, layer: LayerSize) -> int:
        """Return the bytes of a layer's temporary arrays for as many data as are in work at once.

        Features, gradients and where positions share weights the Jacobian and its square; or a
        product of the layer's size, cast where the sums are in float64 and the network is not.
        """
        n_data = min(self.batch, layer.chunk)
        numbers = n_data * layer.positions * (layer.d_in + self.columns * layer.d_out)
        jacobian = n_data * self.columns * layer.weights if layer.shares_weights else 0
        cast = _DOUBLE if self.item < _DOUBLE else 0
        product = layer.weights * (self.item + cast)
        return numbers * self.item + max(2 * jacobian * self.item, product)

    def tangents(self, n_directions: int) -> int:
        """Return the bytes of the tangents of one layer's output at once, in and out of it."""
        n_data = min(self.batch, TANGENT_BATCH)
        recorded = 2 * self.gradient_numbers * n_data
        at_once = min(n_directions, max(1, TANGENT_NUMBERS // recorded))
        largest = max(layer.positions * layer.d_out for layer in self.layers)
        return 2 * at_once * n_data * largest * self.item


def network_size(data: Pass, first: Any, batch: int) -> NetworkSize:
    """Look at one and two data going through the network; ``first``: an input of at least one."""
    kinds = data.recorder.layers
    one = ordinary(map_tensors(first, lambda t: t[:1]))
    two = map_tensors(one, lambda t: torch.cat([t, t]))
    weights = next(iter(kinds.values())).matrix()
    with recording_gradients():
        recording = data.recorder.forward(one)
        kept = [saved_bytes(lambda x=x: data.recorder.forward(x)) for x in (one, two)]
    n_outputs = recording.mean.shape[1]
    columns = min(data.fisher.n_columns(n_outputs), COLUMNS_AT_ONCE)
    numbers = {name: sum(t.numel() for t in uses) for name, uses in recording.outputs.items()}
    sizes = []
    for name, layer in kinds.items():
        d_out, d_in = layer.shape
        at_once = chunk_length(layer, numbers[name], columns, weights.device)
        positions = max(1, numbers[name] // d_out)
        sizes.append(LayerSize(d_out, d_in, positions, at_once, layer.is_kronecker))
    return NetworkSize(
        layers=tuple(sizes),
        activation_bytes=max(0, kept[1] - kept[0]),
        gradient_numbers=sum(numbers.values()),
        columns=columns,
        stacks=columns == 1 or not data.can_batch,
        item=weights.element_size(),
        batch=batch,
        n_batches=_length(data.loader) if data.workers.size == 1 else None,
    )


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # of an iterable data set
        return None


def needed_bytes(size: NetworkSize, structure: Structure, settings: StructureSettings) -> int:
    """Return the bytes of the phase that needs most."""
    return max(phases(size, structure, settings).values())


def phases(
    size: NetworkSize, structure: Structure, settings: StructureSettings
) -> Mapping[str, int]:
    """Return the bytes of every phase of a structure's fit, by name."""
    if structure is Structure.DIAGONAL:
        return _diagonal(size)
    if structure is Structure.FULL:
        return _joint(size, size.weights)
    if structure is Structure.SUBNETWORK:
        whole = settings.subset_size is None
        chosen = size.weights if whole else min(settings.subset_size or 0, size.weights)
        return _joint(size, chosen) | ({} if whole else _selection(size))
    if structure is Structure.ELLA:
        return _ella(size, settings)
    found = _kronecker(size, thin=structure is Structure.INF)
    if structure is Structure.KFAC:
        return found
    return found | _corrected(size) | (_sparse(size) if structure is Structure.INF else {})


def _diagonal(size: NetworkSize) -> dict[str, int]:
    sums = size.weights * _DOUBLE
    return {"reading": sums + size.reading(), "means": 2 * sums}


def _selection(size: NetworkSize) -> dict[str, int]:
    # Diagonals, variances and their concatenation; its order and its float32 copy.
    sums = {f"variances' {name}": n for name, n in _diagonal(size).items()}
    return sums | {"selection": size.weights * (4 * _DOUBLE + 4)}


def _joint(size: NetworkSize, n_weights: int) -> dict[str, int]:
    """Return what a dense curvature over some weights takes: its sum, a product added to it."""
    matrix = n_weights**2 * _DOUBLE
    rows = size.batch * size.columns * n_weights
    jacobians = rows * (size.item + _DOUBLE)
    return {"reading": 2 * matrix + size.recorded() + jacobians, "means": 2 * matrix}


def _kronecker(size: NetworkSize, thin: bool) -> dict[str, int]:
    """Return what factors under both settings of sharing take, and their eigenvectors.

    Layer by layer: the sums of those behind, the bases of those before. ``thin``: bases stay as
    narrow as few data leave them.
    """
    sums = sum(map(size.added_up, size.layers))
    left, found, largest = sums, 0, 0
    for layer in size.layers:
        if layer.is_kronecker:
            left -= size.added_up(layer)
            own = (size.basis(layer) + layer.weights) * _DOUBLE
            largest = max(largest, left + found + own + _diagonalising(size, layer))
            found += own
    narrow = [n for layer in size.layers if (n := size.basis(layer)) < layer.factors]
    squares = 0 if thin else (size.factors + sum(narrow)) * _DOUBLE
    return {"reading": sums + size.reading(), "eigenvectors": largest, "squares": squares}


def _diagonalising(size: NetworkSize, layer: LayerSize) -> int:
    """Return what eigenvectors of a layer's factors take beside these, the input's first."""
    (r_a, r_g), (d_out, d_in) = size.widths(layer), (layer.d_out, layer.d_in)
    # LAPACK's divide and conquer: the vectors, and twice as much to work in.
    inputs = 3 * d_in**2 if r_a == d_in else 2 * d_in * r_a
    outputs = 3 * d_out**2 if r_g == d_out else 2 * d_out * r_g
    return max(inputs, d_in * r_a + outputs) * _DOUBLE


def _corrected(size: NetworkSize) -> dict[str, int]:
    """Return what the second reading takes, in eigenbases that are there in two dtypes."""
    bases = sum(map(size.basis, size.layers))
    kronecker = [layer for layer in size.layers if layer.is_kronecker]
    eigenvalues = sum(math.prod(size.widths(layer)) for layer in kronecker) * _DOUBLE
    there = bases * _DOUBLE + size.weights * _DOUBLE
    cast = bases * size.item if size.item < _DOUBLE else 0
    return {
        "second reading": there + cast + eigenvalues + size.reading(),
        "corrected": there + cast + 2 * eigenvalues,
    }


def _sparse(size: NetworkSize) -> dict[str, int]:
    """Return what low ranks and their diagonals take beside the exact ones, layer by layer."""
    largest = max(layer.weights for layer in size.layers)
    bases = sum(map(size.basis, size.layers))
    # A layer's correction, the diagonals of all, of the kept and of the other eigenvalues.
    return {"low ranks": (bases + 2 * size.weights + 4 * largest) * _DOUBLE}


def _ella(size: NetworkSize, settings: StructureSettings) -> dict[str, int]:
    n_points, n_eigen = settings.n_points, settings.n_eigen
    if size.n_batches is not None:
        n_points = min(n_points, size.n_batches * size.batch * settings.n_outputs)
    # Of a worker without data: it helps with the others' points.
    n_points = max(1, n_points)
    rows = min(points_at_once(size.weights), max(1, n_points // (size.n_batches or n_points)))
    kernel, direction = n_points**2 * _DOUBLE, size.weights * min(n_eigen, n_points)
    # Put together from its layers' parts.
    gradients = 2 * rows * size.weights * size.item
    other = 0 if rows >= n_points else rows * size.weights * size.item
    return {
        "kernel": kernel + gradients + other,
        "eigenvectors": 4 * kernel,
        # Their sum, and what is added to it or what it is made orthonormal in.
        "directions": 2 * kernel + direction * _DOUBLE + max(gradients, direction * _DOUBLE),
        "tangents": direction * (_DOUBLE + 2 * size.item) + size.tangents(n_eigen),
    }


def check_memory(
    size: NetworkSize, structure: Structure, settings: StructureSettings, available: float
) -> None:
    """Raise InsufficientMemoryError where a fit would not fit, naming what would."""
    if structure in (Structure.KFLR, Structure.KFRA):
        return  # BackPACK's own
    needed = needed_bytes(size, structure, settings)
    if _CERTAIN_SHARE * needed <= available:
        return
    fitting = list(_fitting(size, structure, settings, available))
    advice = "; or ".join(fitting[:2]) if fitting else "a machine with more memory"
    raise InsufficientMemoryError(
        f"structure {structure.value!r} over {size.weights} weights needs at least "
        f"{gib(needed)} of memory, {gib(available)} are free: use {advice}"
    )


def _fitting(
    size: NetworkSize, structure: Structure, settings: StructureSettings, available: float
) -> Iterator[str]:
    """Yield what would fit, nearest to what was asked for first."""
    for words, other, changed, layers in _candidates(size, structure, settings, available):
        for batch in _halves(size.batch):
            tried = replace(size, batch=batch, layers=layers)
            needed = needed_bytes(tried, other, changed)
            if needed <= available:
                smaller = f"batches of at most {batch} data"
                named = words if batch == size.batch else f"{words} with {smaller}"
                yield f"{named or smaller} ({gib(needed)})"
                break


def _candidates(
    size: NetworkSize, structure: Structure, settings: StructureSettings, available: float
) -> Iterator[tuple[str, Structure, StructureSettings, tuple[LayerSize, ...]]]:
    if structure is Structure.ELLA:
        for n_points in _halves(settings.n_points)[1:]:
            fewer = replace(settings, n_points=n_points)
            if needed_bytes(size, structure, fewer) <= available:
                yield f"n_points={n_points}", structure, fewer, size.layers
                break
    else:
        yield f"structure {structure.value!r}", structure, settings, size.layers
    others = [Structure.INF, Structure.KFAC, Structure.SUBNETWORK, Structure.DIAGONAL]
    if structure in (Structure.FULL, Structure.SUBNETWORK):
        others.sort(key=lambda s: s is not Structure.SUBNETWORK)
    for other in others:
        if other is Structure.SUBNETWORK:
            side = _largest_subset(size, available)
            words = f"structure 'subnetwork' with subset_size={side}"
            yield words, other, replace(settings, subset_size=side), size.layers
        elif other is not structure:
            yield f"structure {other.value!r}", other, settings, size.layers
    words = f"structure {structure.value!r} with layers='last'"
    yield words, structure, settings, size.layers[-1:]


def _largest_subset(size: NetworkSize, available: float) -> int:
    """Return how many weights a dense curvature may have, in round numbers, at least one."""
    side = int(math.sqrt(max(0.0, available) / (2 * _DOUBLE)))
    low, high = 1, max(1, min(side, size.weights, MAX_PARAMETERS))
    while low < high:
        middle = (low + high + 1) // 2
        fits = max(_joint(size, middle).values()) <= available
        low, high = (middle, high) if fits else (low, middle - 1)
    digits = 10 ** max(0, len(str(low)) - 2)
    return low // digits * digits


def _halves(n: int) -> list[int]:
    """Return n, n / 2, n / 4 ... 1."""
    return [n >> k for k in range(max(1, n).bit_length()) if n >> k]
