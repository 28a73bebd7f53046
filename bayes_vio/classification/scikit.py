"""Bayesian classifiers as scikit-learn estimators (extra ``classification``).

Named parameters, any labels, arrays in and out: for ``clone``, pipelines, ``cross_val_score`` and
``CalibrationDisplay``. Importing this module imports scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bayes_vio.classification.classifier import BayesianClassifier
from bayes_vio.classification.networks import mlp
from bayes_vio.classification.training import TrainingSettings
from bayes_vio.posterior import ClassPrediction

try:
    from sklearn.base import BaseEstimator, ClassifierMixin  # pyright: ignore
    from sklearn.model_selection import train_test_split  # pyright: ignore
    from sklearn.utils.multiclass import check_classification_targets  # pyright: ignore
    from sklearn.utils.validation import check_is_fitted, validate_data  # pyright: ignore
except ImportError as error:
    raise ImportError(
        "the scikit-learn estimator needs scikit-learn 1.6 or newer: "
        "pip install 'bayes_vio[classification]'"
    ) from error


class BayesianNetClassifier(ClassifierMixin, BaseEstimator):
    """A network with uncertainty, as scikit-learn knows classifiers.

    model: a network from [n, features] to logits, which is copied, or None: an MLP with ``hidden``
    layers. validation_fraction: the share of the training data that is kept aside to choose epoch,
    temperature and prior precision on. options: the method's own settings, as {"rank": 50}. The
    others are those of ``BayesianClassifier``. Scale the features, as by ``StandardScaler``.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        method: str = "inf",
        train: bool | None = True,
        hidden: Sequence[int] = (32,),
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-2,
        weight_precision: float = 1.0,
        prior_precision: float | Mapping[str, float] | str | None = None,
        validation_fraction: float = 0.0,
        link: str = "monte_carlo",
        n_samples: int | None = None,
        options: Mapping[str, Any] | None = None,
        device: str | None = None,
        random_state: int = 0,
    ):
        """Keep the parameters as they are; ``weight_precision`` is the training prior's."""
        self.model = model
        self.method = method
        self.train = train
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_precision = weight_precision
        self.prior_precision = prior_precision
        self.validation_fraction = validation_fraction
        self.link = link
        self.n_samples = n_samples
        self.options = options
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> BayesianNetClassifier:
        """Fit to features [n, features] and labels [n] of any kind."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"the data hold one class, {self.classes_[0]!r}: give at least two")
        self.classifier_ = self._classifier(X.shape[1])
        if not self.validation_fraction:
            self.classifier_.fit((X, labels))
            return self
        X, X_held, labels, held = train_test_split(
            X, labels, test_size=self.validation_fraction, random_state=self.random_state,
            stratify=labels,
        )  # fmt: skip
        self.classifier_.fit((X, labels), (X_held, held))
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities [n, classes] in the order of ``classes_``."""
        return self.predictive(X).probs.cpu().numpy()

    def predict(self, X: Any) -> NDArray:
        """Return the most probable labels [n]."""
        # Once the features are checked: an unfitted estimator has no classes_.
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(1)]

    def predictive(self, X: Any) -> ClassPrediction:
        """Return probabilities with entropy, mutual information and the Gaussian of the logits."""
        check_is_fitted(self)
        return self.classifier_.predict(validate_data(self, X, dtype=np.float64, reset=False))

    def _classifier(self, n_features: int) -> BayesianClassifier:
        model = self.model
        if model is None:
            model = mlp(n_features, len(self.classes_), self.hidden, self.random_state)
        training = TrainingSettings(
            self.epochs, self.batch_size, self.learning_rate, self.weight_precision
        )
        return BayesianClassifier(
            model,
            self.method,
            self.train,
            prior_precision=self.prior_precision,
            link=self.link,
            n_samples=self.n_samples,
            training=training,
            seed=self.random_state,
            device=self.device,
            **(self.options or {}),
        )
