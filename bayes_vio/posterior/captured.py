"""Predictions recorded once and replayed: what surrounds the arithmetic is left behind.

A prediction is some hundred small operations, so that its time is that of starting them. On CUDA
they are recorded as a graph that is launched at once, on inputs and outputs that stay where they
are, and nothing in between may wait for the host or bring numbers from it; on a CPU as a tape.

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
from bayes_vio.posterior.tape import StaticInput, Tape

_NOT_RECORDED = {
    Structure.SUBNETWORK: "looks up its weights: it cannot be captured",
    Structure.ELLA: "differentiates forward, whose zeros have no memory: it cannot be captured",
}
# Calls before the recording: what is computed once (roots, the sketch's map) is there by then.
_WARM_UP = 3


class CapturedPredictive:
    """``posterior.predict``, or ``predict_features`` with a sketch, for inputs of one shape.

    Results are the caller's own. The posterior must not be used otherwise at the same time, and
    its tensors must stay: they are read where they were. Not for several threads.
    """

    def __init__(self, posterior: Posterior, example: Any, sketch: FeatureSketch | None = None):
        """Record the prediction at inputs like the example, on the posterior's device.

        Raises ValueError on devices other than CPU and CUDA, and where a prediction cannot be
        recorded (see ``prediction_call``).
        """
        self.posterior, self.sketch = posterior, sketch
        call, device = prediction_call(posterior, sketch), posterior.device
        if device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"the posterior is on {device}, predictions are captured on CPU and CUDA only: "
                "use predict"
            )
        example = map_tensors(example, lambda t: t.to(device))
        if device.type == "cuda":
            self._replay = CudaGraph(call, example)
        else:
            for _ in range(_WARM_UP):
                call(example)
            self._replay = Tape(call, example)

    def __call__(self, x: Any) -> Any:
        """Return the prediction at x; on CUDA it is there when the current stream is.

        Raises ValueError where x is not shaped like the example.
        """
        return self._replay(x)


class CudaGraph:
    """A function of one input on a CUDA device, recorded as a graph.

    Raises ValueError where it cannot be: something in it waits for the host.
    """

    def __init__(self, function: Callable[[Any], Any], example: Any):
        self._function = function
        self._input = StaticInput(example)
        self._graph = torch.cuda.CUDAGraph()
        self._device = next(iter(tensors(example))).device
        with torch.cuda.device(self._device):
            self._warm_up()
            try:
                with torch.cuda.graph(self._graph):
                    self._output = function(self._input.value)
            except RuntimeError as error:
                raise ValueError(f"no CUDA graph can be made of it: {error}") from error

    def __call__(self, x: Any) -> Any:
        """Return the function's value in memory of the caller's own, without waiting for it."""
        with torch.cuda.device(self._device):
            self._input.fill(x)
            self._graph.replay()
            return copied(self._output)

    def _warm_up(self) -> None:
        """Run the function on a stream of its own, as recording wants it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._function(self._input.value)
        torch.cuda.current_stream().wait_stream(stream)


def prediction_call(
    posterior: Posterior, sketch: FeatureSketch | None = None
) -> Callable[[Any], Any]:
    """Return the function that is recorded: from the second call on it never meets the host.

    Raises ValueError where it would: for classes, whose prediction draws on the host, where the
    shape of what is computed depends on values ("subnetwork", embeddings), and under "ella".
    """
    if not isinstance(posterior.likelihood, Gaussian):
        raise ValueError(
            f"likelihood {posterior.likelihood.name!r} draws its predictions on the host: only "
            "'gaussian' can be captured"
        )
    structure = Structure(posterior.report.structure)
    if structure in _NOT_RECORDED:
        raise ValueError(f"structure '{structure.value}' {_NOT_RECORDED[structure]}")
    embeddings = [name for name, c in posterior.layers.items() if c.kind == EmbeddingLayer.kind]
    if embeddings:
        raise ValueError(f"embeddings look up their tokens: fit without {embeddings} to capture")
    if sketch is None:
        return posterior.predict
    return lambda x: posterior.predict_features(x, sketch)


def copied(output: Any) -> Any:
    """Return a prediction, alone or with features, in memory of its own."""
    return map_tensors(output, lambda t: t.clone())
