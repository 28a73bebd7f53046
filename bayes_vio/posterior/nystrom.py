"""Leading directions of the tangent kernel from some of the data, and the curvature along them.

Source: Deng, Zhou, Zhu (2022), section 3: the kernel is looked at in M pairs of an input and one
of its outputs; its K leading eigenvectors give directions in weight space (E18).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.curvature.passes import Pass, Tally, chunks
from bayes_vio.curvature.recorder import Recorder, ordinary, recording_gradients
from bayes_vio.distributed import Workers
from bayes_vio.models.likelihood import cotangents, skip_draws
from bayes_vio.posterior.ella import parameter_tangents, tangent_features

# Numbers that the gradients of one part of the points may hold.
_PART_NUMBERS = 2**26
# Data whose features are computed together.
TANGENT_BATCH = 32


@dataclass(frozen=True)
class Points:
    """Inputs [n, ...] and one output of each [n] at which the tangent kernel is looked at."""

    x: Any
    outputs: Tensor

    def jacobian(self, recorder: Recorder) -> Tensor:
        """Return the gradients [n, p] of the chosen outputs in all covered weights."""
        with recording_gradients():
            recording = recorder.forward(self.x)
        one_hot = torch.nn.functional.one_hot(self.outputs, recording.mean.shape[1])
        gradients = recording.output_gradients(one_hot.to(recording.mean)[None], batched=False)
        columns = []
        for name, layer in recorder.layers.items():
            parts = chunks(layer, recording.inputs[name], gradients[name])
            columns.append(torch.cat([layer.jacobian(a, g).flatten(1) for a, g in parts]))
        return torch.cat(columns, 1).detach()

    def to(self, device: torch.device) -> Points:
        """Return the points on another device."""
        return Points(map_tensors(self.x, lambda t: t.to(device)), self.outputs.to(device))

    def split(self, size: int) -> list[Points]:
        """Return the points in parts of at most ``size``."""
        starts = range(0, len(self.outputs), size)
        return [
            Points(map_tensors(self.x, lambda t, s=s: t[s : s + size]), self.outputs[s : s + size])
            for s in starts
        ]


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions {layer: [K, d_out, d_in]}, and what share of the kernel's trace at
    the points their eigenvalues hold."""

    directions: dict[str, Tensor]
    n_points: int
    kept_trace_share: float


def points_at_once(n_weights: int) -> int:
    """Return the gradients of how many points are computed together."""
    return max(1, _PART_NUMBERS // n_weights)


def leading_directions(data: Pass, n_outputs: int, n_points: int, n_eigen: int) -> Directions:
    """Return the ``n_eigen`` leading directions of the kernel at ``n_points`` random points.

    Fewer where the kernel has a lower rank. The gradients of all points are never held at once:
    they are computed anew for every part of the kernel. Workers know all points and have the rows
    of some parts each.
    """
    recorder, workers = data.recorder, data.workers
    shapes = {name: layer.shape for name, layer in recorder.layers.items()}
    sizes = [d_out * d_in for d_out, d_in in shapes.values()]
    step = points_at_once(sum(sizes))
    points = _draw_points(data, n_outputs, n_points)
    parts = [part for chosen in points for part in chosen.split(step)]
    with workers.together():
        kernel = _kernel(recorder, parts, workers)
    workers.sum([kernel])
    eigenvalues, vectors = torch.linalg.eigh(kernel)
    workers.copy([eigenvalues, vectors])
    resolution = next(iter(recorder.layers.values())).resolution
    resolved = eigenvalues > len(kernel) * resolution * eigenvalues[-1]
    kept = torch.nonzero(resolved)[:, 0][-n_eigen:].flip(0)
    weights = vectors[:, kept] * eigenvalues[kept].rsqrt()
    with workers.together():
        V = _combined(recorder, parts, weights, workers)
    workers.sum([V])
    Q = torch.linalg.qr(V).Q
    workers.copy([Q])
    split = Q.mT.split(sizes, 1)
    return Directions(
        {name: p.unflatten(1, s) for (name, s), p in zip(shapes.items(), split, strict=True)},
        len(kernel),
        float(eigenvalues[kept].sum() / eigenvalues.sum()),
    )


def estimate_along(data: Pass, directions: dict[str, Tensor]) -> tuple[Tensor, Tally]:
    """Return the curvature [K, K] along directions; reads the data once (E18)."""
    tangents = parameter_tangents(data.recorder, directions)
    first, tally = next(iter(directions.values())), Tally()
    total = first.new_zeros(len(first), len(first), dtype=torch.float64)
    likelihood = data.likelihood
    with data.workers.together():
        for i, (x, target, generator) in enumerate(_batches(data, tally)):
            at = tangent_features(data.recorder, tangents, x)
            noise = likelihood.noise_cholesky(at.mean, at.noise_cholesky)
            tally.log_likelihood += float(likelihood.log_likelihood(at.mean, noise, target).sum())
            if i == 0:
                skip_draws(data.fisher, likelihood, data.start, at.mean.shape[1], generator)
            roots = cotangents(data.fisher, likelihood, at.mean, noise, target, generator)
            columns = torch.einsum("cbo,bok->cbk", roots, at.features).flatten(0, 1).double()
            total += columns.mT @ columns
    tally = data.total(tally, [total])
    return total / tally.n_data, tally


def _batches(data: Pass, tally: Tally) -> Iterator[tuple[Any, Tensor, torch.Generator]]:
    generator = torch.Generator().manual_seed(data.seed)
    for whole, targets in data.loader:
        tally.add(whole, targets)
        for start in range(0, len(targets), TANGENT_BATCH):
            rows = slice(start, start + TANGENT_BATCH)
            x = map_tensors(whole, lambda t, rows=rows: t[rows].to(data.device))
            yield ordinary(x), targets[rows].to(data.device), generator


def _draw_points(data: Pass, n_outputs: int, n_points: int) -> list[Points]:
    """Return distinct pairs of datum and output, drawn evenly; all where there are fewer."""
    generator = torch.Generator().manual_seed(data.seed)
    with data.workers.together():
        n_own = sum(batch_size(x) for x, _ in data.loader)
    n_data = sum(data.workers.gather(n_own))
    drawn = torch.randperm(n_data * n_outputs, generator=generator)[:n_points].sort().values
    datum, output = drawn // n_outputs, drawn % n_outputs
    found, start = [], data.start
    with data.workers.together():
        for x, _ in data.loader:
            stop = start + batch_size(x)
            here = (datum >= start) & (datum < stop)
            index = datum[here] - start
            if len(index):
                chosen = map_tensors(x, lambda t, index=index: t[index.to(t.device)].cpu())
                found.append(Points(ordinary(chosen), output[here]))
            start = stop
    return [p.to(data.device) for own in data.workers.gather(found) for p in own]


def _kernel(recorder: Recorder, parts: list[Points], workers: Workers) -> Tensor:
    """Return J J^T [M, M] at the points in float64, of that this worker's rows."""
    sizes = [len(p.outputs) for p in parts]
    kernel = parts[0].outputs.new_zeros(sum(sizes), sum(sizes), dtype=torch.float64)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    for i, part in enumerate(parts):
        if not workers.owns(i):
            continue
        rows, J = slice(starts[i], starts[i] + sizes[i]), part.jacobian(recorder)
        kernel[rows, rows] = (J @ J.mT).double()
        for j in range(i):
            columns = slice(starts[j], starts[j] + sizes[j])
            kernel[rows, columns] = (J @ parts[j].jacobian(recorder).mT).double()
            kernel[columns, rows] = kernel[rows, columns].mT
    return kernel


def _combined(
    recorder: Recorder, parts: list[Points], weights: Tensor, workers: Workers
) -> Tensor:
    """Return J^T weights [p, K] in float64, of that this worker's parts."""
    n_weights = sum(layer.matrix().numel() for layer in recorder.layers.values())
    total = weights.new_zeros(n_weights, weights.shape[1])
    pieces = weights.split([len(p.outputs) for p in parts])
    for i, (part, piece) in enumerate(zip(parts, pieces, strict=True)):
        if workers.owns(i):
            total += part.jacobian(recorder).mT @ piece.to(_dtype(recorder))
    return total


def _dtype(recorder: Recorder) -> torch.dtype:
    return next(iter(recorder.layers.values())).matrix().dtype
