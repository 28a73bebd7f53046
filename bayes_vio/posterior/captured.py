"""Predictions recorded once as a CUDA graph and replayed: one launch, no word from the host.

A prediction is some hundred small kernels, so that on a GPU its time is that of launching them. A
graph launches all at once, on inputs and outputs that stay where they are. Nothing in between may
wait for the host, nor bring numbers from it.

Source: NVIDIA, "CUDA C++ programming guide", section on graphs; torch.cuda.CUDAGraph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bayes_vio.choices import Structure
from bayes_vio.curvature.diagonal_layers import EmbeddingLayer
from bayes_vio.curvature.inputs import map_tensors, tensors
from bayes_vio.models.likelihood import Gaussian
from bayes_vio.posterior.laplace import Posterior
from bayes_vio.posterior.sketch import FeatureSketch

# Calls before the recording: what is computed once (roots, the sketch's map) is there by then.
_WARM_UP = 3


class StaticInput:
    """An input whose tensors keep their place: every new one is copied into them."""

    def __init__(self, example: Any):
        self.value = map_tensors(example, lambda t: t.clone())

    def fill(self, x: Any) -> None:
        """Copy an input into place, without waiting where it comes from pinned memory.

        Raises ValueError where a shape or dtype is not the example's.
        """
        own, new = list(tensors(self.value)), list(tensors(x))
        described = [[(tuple(t.shape), t.dtype) for t in ts] for ts in (own, new)]
        if described[0] != described[1]:
            raise ValueError(
                f"a captured prediction takes inputs of {described[0]}, not of {described[1]}: "
                "capture another one for these"
            )
        for place, t in zip(own, new, strict=True):
            place.copy_(t, non_blocking=True)


class CapturedPredictive:
    """``posterior.predict``, or ``predict_features`` with a sketch, for inputs of one shape.

    Results are the caller's own. The posterior must not be used otherwise at the same time, and
    its tensors must stay: the graph reads them where they were. Not for several threads.
    """

    def __init__(self, posterior: Posterior, example: Any, sketch: FeatureSketch | None = None):
        """Record the prediction at inputs like the example.

        Raises ValueError off CUDA, and for likelihoods whose prediction draws on the host.
        """
        if posterior.device.type != "cuda":
            raise ValueError(
                f"the posterior is on {posterior.device}, only CUDA records graphs: use predict"
            )
        self._call = prediction_call(posterior, sketch)
        self._device = posterior.device
        self._input = StaticInput(map_tensors(example, lambda t: t.to(posterior.device)))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            self._warm_up()
            with torch.cuda.graph(self._graph):
                self._output = self._call(self._input.value)

    def __call__(self, x: Any) -> Any:
        """Return the prediction at x; it is there when the current stream is.

        Raises ValueError where x is not shaped like the example.
        """
        with torch.cuda.device(self._device):
            self._input.fill(x)
            self._graph.replay()
            return copied(self._output)

    def _warm_up(self) -> None:
        """Run the prediction on a stream of its own, as recording wants it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._call(self._input.value)
        torch.cuda.current_stream().wait_stream(stream)


def prediction_call(
    posterior: Posterior, sketch: FeatureSketch | None = None
) -> Callable[[Any], Any]:
    """Return the function that is recorded: from the second call on it never meets the host.

    Raises ValueError where it would: for classes, whose prediction draws on the host, and where
    the shape of what is computed depends on values ("subnetwork", embeddings).
    """
    if not isinstance(posterior.likelihood, Gaussian):
        raise ValueError(
            f"likelihood {posterior.likelihood.name!r} draws its predictions on the host: only "
            "'gaussian' can be captured"
        )
    if posterior.report.structure == Structure.SUBNETWORK.value:
        raise ValueError("structure 'subnetwork' looks up its weights: it cannot be captured")
    embeddings = [name for name, c in posterior.layers.items() if c.kind == EmbeddingLayer.kind]
    if embeddings:
        raise ValueError(f"embeddings look up their tokens: fit without {embeddings} to capture")
    if sketch is None:
        return posterior.predict
    return lambda x: posterior.predict_features(x, sketch)


def copied(output: Any) -> Any:
    """Return a prediction, alone or with features, in memory of its own."""
    return map_tensors(output, lambda t: t.clone())
