"""The Laplace posterior over a network's weights: N(MAP, P^-1), and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.choices import NumberFormat
from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.curvature.layers import Layer
from bayes_vio.curvature.recorder import Recorder
from bayes_vio.models.likelihood import Gaussian, Likelihood
from bayes_vio.posterior.linearisation import Linearisation
from bayes_vio.posterior.network import NetworkCurvature, NetworkPrecision
from bayes_vio.posterior.number_format import check_format, encode, rounded
from bayes_vio.posterior.predictive import (
    GaussianPrediction,
    LinkSettings,
    Prediction,
    class_prediction,
    join,
)
from bayes_vio.posterior.report import PosteriorReport
from bayes_vio.posterior.samples import draw_weights, sampled_outputs
from bayes_vio.posterior.sketch import FeatureSketch

# Numbers that one layer's Jacobian may hold at once; larger batches are predicted in parts.
CHUNK_NUMBERS = 2**24


@dataclass(frozen=True)
class Posterior:
    """A Gaussian over the covered weights of a frozen copy of a model; made by ``fit_posterior``.

    ``prior_precision`` is per layer; ``log_likelihood`` is that of all n_data data at the MAP;
    ``can_batch`` tells whether the model's backward pass can be vectorised over outputs.
    Its recorder keeps the last batch, so a posterior is not for several threads at once.
    """

    recorder: Recorder
    curvature: NetworkCurvature
    likelihood: Likelihood
    prior_precision: Mapping[str, float]
    log_likelihood: float
    can_batch: bool
    report: PosteriorReport

    @property
    def model(self) -> nn.Module:
        """Return the frozen copy of the model, at the MAP."""
        return self.recorder.model

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Return the covered layers by name, in the order of the forward pass."""
        return self.recorder.layers

    @property
    def n_data(self) -> float:
        """Return the number of data that multiplies the curvature."""
        return self.report.n_data

    @cached_property
    def precision(self) -> NetworkPrecision:
        """Return the information matrix P; what prediction needs of it is computed once."""
        return self.curvature.precision(self.n_data, self.prior_precision)

    @property
    def device(self) -> torch.device:
        """Return where the model and the curvature are."""
        return next(self.model.parameters()).device

    def predict(self, x: Any, link: LinkSettings | None = None) -> Prediction:
        """Return the predictive distribution at x, by the network linearised in its weights.

        ``link`` belongs to classes. Works inside a caller's no_grad and inference_mode; x must be
        on the posterior's device.
        """
        parts = [self.prediction(at, link) for at, _ in self.linearisations(x)]
        return parts[0] if len(parts) == 1 else join(parts)

    def predict_features(
        self, x: Any, sketch: FeatureSketch, link: LinkSettings | None = None
    ) -> tuple[Prediction, Tensor]:
        """Return ``predict(x)`` and features Z [batch, outputs, sketch.size] in float64.

        Z_i Z_j^T estimates the covariance J_i P^-1 J_j^T of the epistemic errors of two inputs,
        also of different calls (E23).
        """
        predictions, features = [], []
        for at, _ in self.linearisations(x):
            with torch.inference_mode(False), torch.no_grad():
                cov, part = sketch.project(self.precision, at)
            predictions.append(self._prediction(at, (cov + cov.mT) / 2, link))
            features.append(part)
        if len(predictions) == 1:
            return predictions[0], features[0]
        return join(predictions), torch.cat(features)

    def prediction(self, at: Linearisation, link: LinkSettings | None = None) -> Prediction:
        """Return the predictive distribution where the network was linearised."""
        return self._prediction(at, self._covariance(at), link)

    def _prediction(self, at: Linearisation, cov: Tensor, link: LinkSettings | None) -> Prediction:
        if isinstance(self.likelihood, Gaussian):
            cholesky = self.likelihood.noise_cholesky(at.mean, at.noise_cholesky)
            return GaussianPrediction(at.mean, cov, cholesky @ cholesky.mT)
        return class_prediction(at.mean, cov, link or LinkSettings())

    def functional_covariance(self, x: Any) -> Tensor:
        """Return J P^-1 J^T [batch, outputs, outputs], the epistemic covariance, in float64."""
        return torch.cat([self._covariance(at) for at, _ in self.linearisations(x)])

    def layer_contributions(self, x: Any) -> dict[str, Tensor]:
        """Return every layer's part [batch, outputs] of the epistemic variances.

        The parts sum to the diagonal of ``functional_covariance``. Under "full" a layer's part
        includes its correlation with the others, and may be negative.
        """
        parts = [self.precision.layer_covariances(at) for at, _ in self.linearisations(x)]
        return {
            name: torch.cat([part[name].diagonal(dim1=-2, dim2=-1) for part in parts])
            for name in self.layers
        }

    def _covariance(self, at: Linearisation) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            total = self.precision.covariance(at)
            return (total + total.mT) / 2

    def linearisations(self, x: Any) -> Iterator[tuple[Linearisation, slice]]:
        """Linearise the model at x in parts whose Jacobians fit in memory; yield each's rows."""
        n_batch = batch_size(x)
        step = max(1, CHUNK_NUMBERS // self._largest_jacobian)
        for start in range(0, n_batch, step):
            rows = slice(start, min(start + step, n_batch))
            part = x if step >= n_batch else map_tensors(x, lambda t, rows=rows: t[rows])
            yield self.curvature.linearise(self.recorder, part, self.can_batch), rows

    @cached_property
    def _largest_jacobian(self) -> int:
        sizes = [d_out * d_in for d_out, d_in in (c.shape for c in self.layers.values())]
        joint = sum(sizes) if self.curvature.is_joint else max(sizes)
        return joint * self.report.n_outputs

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield n draws of all parameters by name, for ``torch.func.functional_call``.

        Parameters that are not covered stay at the MAP. Raises ValueError under "ella".
        """
        return draw_weights(self, n, generator)

    def predict_samples(self, x: Any, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return the means [n, batch, outputs] of n networks drawn from the posterior.

        Not linearised: the other way to a predictive distribution. Vectorised over networks.
        """
        return sampled_outputs(self, x, n, generator)

    def log_marginal_likelihood(self) -> float:
        """Return the Laplace approximation of log p(data), the prior centred on zero (E16)."""
        prior = {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in self.prior_precision.items()
        }
        return float(self.log_evidence(prior))

    def log_evidence(self, prior_precision: Mapping[str, Tensor]) -> Tensor:
        """Return log p(data) under other prior precisions, differentiable in them (E16).

        log p(y | MAP) - 1/2 (log det P - log det P_0 + w^T P_0 w), over the covered weights w.
        """
        logdet = self.curvature.precision(self.n_data, prior_precision).logdet()
        matrices = {name: layer.matrix() for name, layer in self.layers.items()}
        penalty = self.curvature.prior_penalty(prior_precision, matrices)
        return self.log_likelihood - 0.5 * (logdet + penalty)

    def with_prior_precision(self, value: float | Mapping[str, float]) -> Posterior:
        """Return the posterior under another prior precision, a number or one per layer.

        Layers that a mapping leaves out keep theirs; nothing is refitted.
        """
        prior = per_layer(value, self.layers, self.prior_precision)
        self.curvature.check_prior(prior)
        return replace(self, prior_precision=prior)

    def with_n_data(self, n_data: float) -> Posterior:
        """Return the posterior as if each datum counted ``n_data`` / self.n_data times."""
        if not 0.0 < n_data < float("inf"):
            raise ValueError(f"n_data must be positive, it is {n_data}")
        if not self.n_data > 0.0:
            raise ValueError("this posterior has no data whose number could be changed")
        return replace(
            self,
            report=replace(self.report, n_data=float(n_data)),
            log_likelihood=self.log_likelihood * n_data / self.n_data,
        )

    def update(
        self,
        loader: Iterable,
        max_iterations: int = 200,
        seed: int = 0,
        n_data: float | None = None,
    ) -> Posterior:
        """Return the posterior after new data, this one being their prior (E20, E21).

        The mean is refitted, then the new data's information is added: exact for "full" in a
        linear Gaussian model, and for "diagonal" where the truth is diagonal. loader is like
        ``fit_posterior``'s, and read once per step of the refit; n_data is how many its data stand
        for, None for their own number. ``report.updates`` tells whether the refit converged and
        what does not fit yesterday's basis. Raises ValueError for
        structures that cannot add information. See ``bayes_vio.posterior.update``.
        """
        from bayes_vio.posterior.update import updated

        return updated(self, loader, max_iterations, seed, n_data)

    def precision_dense(self, layer: str) -> Tensor:
        """Return a layer's information matrix [d_out * d_in, d_out * d_in], vec row-major."""
        if layer not in self.layers:
            raise ValueError(f"no layer {layer!r} is covered: {list(self.layers)}")
        return self.precision.dense(layer)

    @property
    def nbytes(self) -> int:
        """Return the bytes that the stored curvature takes in its number format."""
        return sum(t.numel() * t.element_size() for t in self.encoded().values())

    @property
    def number_format(self) -> NumberFormat:
        """Return what the curvature's numbers are rounded to, and stored in."""
        return NumberFormat(self.report.number_format)

    def encoded(self) -> dict[str, Tensor]:
        """Return the curvature's tensors as they are stored, by ``layer/field``."""
        return encode(self.curvature.tensors(), self.number_format)

    def with_number_format(self, value: NumberFormat | str) -> Posterior:
        """Return the posterior with its curvature rounded to "bfloat16" or "float8".

        Memory and arithmetic keep the network's dtype: what is saved is smaller, and loads to the
        same bits. "native" takes no rounding back. Raises ValueError under structures other than
        "inf" and "diagonal".
        """
        chosen = NumberFormat(value)
        check_format(chosen, self.report.structure)
        values = rounded(self.curvature.tensors(), chosen)
        in_order = iter(values.values())
        return replace(
            self,
            curvature=self.curvature.map(lambda _: next(in_order)),
            report=replace(self.report, number_format=chosen.value),
        )

    @property
    def storage(self) -> dict[str, int]:
        """Return how many numbers each structure stores for the covered layers."""
        return self.report.numbers_stored()

    def to(self, device: torch.device | str) -> Posterior:
        """Return the posterior on another device, with its own copy of the model."""
        return replace(
            self,
            recorder=self.recorder.to(device),
            curvature=self.curvature.map(lambda t: t.to(device)),
            likelihood=self.likelihood.to(device),
        )

    def save(self, path: Path | str, number_format: NumberFormat | str | None = None) -> None:
        """Write one safetensors file, atomically; see ``storage``.

        ``number_format`` rounds first, see ``with_number_format``; None: as the numbers are.
        """
        from bayes_vio.posterior.storage import save

        whole = self if number_format is None else self.with_number_format(number_format)
        save(whole, Path(path))

    @staticmethod
    def load(path: Path | str, model: nn.Module) -> Posterior:
        """Read a posterior of exactly this model, onto the model's device; see ``storage``."""
        from bayes_vio.posterior.storage import load

        return load(Path(path), model)


def per_layer(
    value: float | Mapping[str, float],
    layers: Mapping[str, Layer],
    default: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return a prior precision for every layer; raise ValueError for a bad name or number."""
    given = value if isinstance(value, Mapping) else dict.fromkeys(layers, value)
    unknown = set(given) - set(layers)
    if unknown:
        raise ValueError(f"prior_precision names {sorted(unknown)}, covered are {list(layers)}")
    prior = {name: float(given.get(name, (default or {}).get(name, 1.0))) for name in layers}
    for name, precision in prior.items():
        if not 0.0 < precision < float("inf"):
            raise ValueError(f"prior_precision of {name!r} must be positive, it is {precision}")
    return prior
