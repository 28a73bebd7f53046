"""One estimator of classes over every method: fit, predict, evaluate, update, save and load."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.choices import NumberFormat
from bayes_vio.classification.batches import Batches, as_batches, as_inputs, as_labels, survey
from bayes_vio.classification.fits import Fit, LaplaceFit, PointFit, predict_in_full
from bayes_vio.classification.methods import (
    FitRequest,
    Method,
    PriorChoice,
    PriorPrecision,
    check_options,
    fit_method,
    named,
)
from bayes_vio.classification.metrics import ClassificationMetrics, classification_metrics
from bayes_vio.classification.probe import (
    checked_logits,
    input_shapes,
    parameter_device,
    parameter_dtype,
    probe,
)
from bayes_vio.classification.training import OnProgress, TrainingSettings, moved, train_map
from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.device import choose_device
from bayes_vio.posterior import ClassPrediction, Link, LinkSettings, Posterior
from bayes_vio.posterior.predictive import join


class BayesianClassifier:
    """A network with class probabilities that know what it does not know.

    It works on a deep copy: the given model keeps its weights, mode and gradient flags.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method = "inf",
        train: bool | None = None,
        *,
        prior_precision: PriorPrecision | str = None,
        link: str | Link = Link.MONTE_CARLO,
        n_samples: int | None = None,
        training: TrainingSettings | None = None,
        batch_size: int = 256,
        seed: int = 0,
        device: torch.device | str | None = None,
        on_progress: OnProgress | None = None,
        **options: Any,
    ):
        """Name the method and its settings; nothing is computed yet.

        model(x) returns logits [batch, classes]; x is a tensor or a frozen dataclass, tuple or
        dict of tensors with a batch axis. method: see ``Method``. train: None lets post-hoc
        methods take the weights as they are and the others train; True or False say so.
        prior_precision of a Laplace method: a number, one per layer, "marginal_likelihood",
        "validation_nll", or None: the latter where ``fit`` is given validation data, else the
        former; "validation_nll_joint" chooses the number of data that multiplies the curvature
        with it, see ``minimize_nll_jointly``. link: how a Gaussian over logits becomes
        probabilities, "monte_carlo" or "probit". n_samples: draws of logits (None: 512) or, under
        a variational method, of networks (None: 32). batch_size: of data in memory. device: where
        to work ("auto", "cpu", "cuda"), None for the model's.
        on_progress(stage, done, total) is told what is being done. options: the method's own
        settings, as ``fit_posterior``'s ``rank`` or ``fit_ensemble``'s ``members``.

        Raises ValueError for a method, setting or combination that does not exist.
        """
        self.method = named(Method, method, "method")
        check_options(self.method, options)
        if train is False and not self.method.is_post_hoc:
            raise ValueError(
                f"method {self.method.value!r} is a way to train: train=False is none"
            )
        if prior_precision is not None and not self.method.is_laplace:
            raise ValueError(f"method {self.method.value!r} takes no prior_precision")
        if batch_size < 1 or (n_samples is not None and n_samples < 1):
            raise ValueError("batch_size and n_samples must be at least 1")
        chooses = isinstance(prior_precision, str)
        self._prior_precision: PriorPrecision = (
            named(PriorChoice, prior_precision, "prior_precision") if chooses else prior_precision
        )  # pyright: ignore
        self._start = model
        own = parameter_device(model)
        self._device = own if device is None else choose_device(str(device))
        self._trains = train if train is not None else not self.method.is_post_hoc
        self._training = training or TrainingSettings()
        default = LinkSettings().n_samples if self.method.is_post_hoc else 32
        self._link = LinkSettings(named(Link, link, "link"), n_samples or default, seed)
        self._batch_size, self._seed, self._options = batch_size, seed, options
        self._on_progress = on_progress
        self._fit: Fit | None = None
        self._n_classes = 0
        self._shapes: list[tuple[int, ...]] = []

    def fit(self, train: Any, validation: Any = None) -> BayesianClassifier:
        """Fit to (x, y) or a re-iterable loader of such batches, and return itself.

        x: tensors or arrays, y: class indices [n]. validation, like train, chooses what is chosen:
        the epoch, the temperature, the prior precision. Raises ValueError for data that are empty,
        not finite, of one class only, or do not fit the network.
        """
        model = copy.deepcopy(self._start).to(self._device)
        batches = self._batches(train)
        n_classes, shapes = probe(model, batches)
        seen = survey(batches, n_classes, "training")
        if len(seen.classes) == 1:
            raise ValueError(
                f"all {seen.n_data} training labels are {seen.classes[0]}: give two classes"
            )
        held_out = None if validation is None else self._batches(validation)
        if held_out is not None:
            survey(held_out, n_classes, "validation")
        if self._trains and self.method.is_post_hoc:
            train_map(
                model, batches, held_out, seen.n_data, self._training, self._seed,
                self._on_progress,
            )  # fmt: skip
        request = FitRequest(
            model=model.eval(),
            method=self.method,
            train=batches,
            validation=held_out,
            prior_precision=self._prior_precision,
            link=self._link,
            training=self._training,
            options=self._options,
            seed=self._seed,
            on_progress=self._on_progress,
        )
        self._fit, self._n_classes, self._shapes = fit_method(request), n_classes, shapes
        return self

    def predict(self, x: Any) -> ClassPrediction:
        """Return probs [n, classes], entropy and mutual information [n] (nats), and the logits'
        Gaussian; on the classifier's device.

        Raises ValueError before ``fit``, and for inputs that are empty, not finite or of a shape
        that the network cannot take.
        """
        fit = self.fitted
        x = as_inputs(x, parameter_dtype(fit.network()))
        self._check_shapes(x)
        parts = []
        for start in range(0, batch_size(x), self._batch_size):
            rows = slice(start, start + self._batch_size)
            part = moved(map_tensors(x, lambda t, rows=rows: t[rows]), self._device)
            parts.append(predict_in_full(fit, part, self._link))
        joined = join(parts)
        assert isinstance(joined, ClassPrediction)
        return joined

    def predict_proba(self, x: Any) -> Tensor:
        """Return class probabilities [n, classes], in float64."""
        return self.predict(x).probs

    def evaluate(self, x: Any, y: Any) -> ClassificationMetrics:
        """Return accuracy, NLL, Brier score and calibration errors on labelled data."""
        probs, target = self.predict(x).probs, as_labels(y)
        if len(target) != len(probs):
            raise ValueError(f"there are {len(probs)} inputs but {len(target)} labels")
        return classification_metrics(probs, target)

    def update(self, data: Any, max_iterations: int = 200) -> BayesianClassifier:
        """Add new labelled data to the posterior, today's being their prior, and return itself.

        Raises ValueError for a method that cannot, naming it. See ``Posterior.update``.
        """
        fit = self.fitted
        if not isinstance(fit, LaplaceFit):
            raise ValueError(f"method {self.method.value!r} cannot be updated: fit it on all data")
        batches = self._batches(data)
        survey(batches, self._n_classes, "new")
        self._fit = LaplaceFit(fit.posterior.update(batches, max_iterations, self._seed))
        return self

    @property
    def fitted(self) -> Fit:
        """Return what ``fit`` left; raise ValueError before it."""
        if self._fit is None:
            raise ValueError("this classifier is not fitted: call fit or load first")
        return self._fit

    @property
    def network(self) -> nn.Module:
        """Return the fitted network, at its mean."""
        return self.fitted.network()

    @property
    def posterior(self) -> Posterior:
        """Return the Laplace posterior; raise ValueError for a method that has none."""
        fit = self.fitted
        if not isinstance(fit, LaplaceFit):
            raise ValueError(f"method {self.method.value!r} has no Laplace posterior")
        return fit.posterior

    @property
    def n_classes(self) -> int:
        """Return how many classes the network tells apart; 0 before ``fit``."""
        return self._n_classes

    @property
    def nbytes(self) -> int:
        """Return the bytes of all that is stored: weights, and what the method adds."""
        return self.fitted.nbytes

    def to(self, device: torch.device | str) -> BayesianClassifier:
        """Return the fitted classifier on another device; this one stays."""
        other = copy.copy(self)
        other._device = choose_device(str(device))
        other._fit = self.fitted.to(device)
        return other

    def with_number_format(self, value: NumberFormat | str) -> BayesianClassifier:
        """Return the fitted classifier, its posterior rounded to what is stored; this one stays.

        value: "bfloat16" or "float8", see ``Posterior.with_number_format``. Raises ValueError
        under methods other than "inf" and "diagonal".
        """
        other = copy.copy(self)
        other._fit = LaplaceFit(self.posterior.with_number_format(value))
        return other

    def save(self, path: Path | str) -> None:
        """Write a folder, whole or not at all; see ``bayes_vio.classification.storage``."""
        from bayes_vio.classification.storage import save

        save(self, Path(path))

    @staticmethod
    def load(path: Path | str, model: nn.Module) -> BayesianClassifier:
        """Read a classifier; ``model`` lends its architecture and device, its weights stay."""
        from bayes_vio.classification.storage import load

        return load(Path(path), model)

    def describe(self) -> dict[str, Any]:
        """Return what the files of a fitted classifier say of it, as values for JSON."""
        fit = self.fitted
        return {
            "method": self.method.value,
            "options": self._options,
            "link": self._link.link.value,
            "n_samples": self._link.n_samples,
            "batch_size": self._batch_size,
            "seed": self._seed,
            "n_classes": self._n_classes,
            "input_shapes": [list(shape) for shape in self._shapes],
            "temperature": fit.temperature if isinstance(fit, PointFit) else None,
        }

    @staticmethod
    def restored(fit: Fit, description: Mapping[str, Any]) -> BayesianClassifier:
        """Return the fitted classifier that ``describe`` described."""
        settings = ("link", "n_samples", "batch_size", "seed")
        classifier = BayesianClassifier(
            fit.network(),
            description["method"],
            **{name: description[name] for name in settings},
            **description["options"],
        )
        classifier._fit, classifier._n_classes = fit, int(description["n_classes"])
        classifier._shapes = [tuple(shape) for shape in description["input_shapes"]]
        return classifier

    def _batches(self, data: Any) -> Batches:
        return as_batches(data, parameter_dtype(self._start), self._batch_size)

    def _check_shapes(self, x: Any) -> None:
        """Raise ValueError where inputs of another shape than fitted do not pass the network."""
        if input_shapes(x) == self._shapes:
            return
        part = moved(map_tensors(x, lambda t: t[:1]), self._device)
        checked_logits(self.fitted.network(), part)
