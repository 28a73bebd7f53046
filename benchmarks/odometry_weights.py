"""Covariances of motion from what is not known of a network's weights, and from its noise alone.

All are fitted on training and calibrated on training and validation by one rule (prior precision
and noise scale by the likelihood, E-C1), so that what differs is the distribution of the weights
alone.
Curvatures are taken under the artifact's calibrated noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from odometry_runs import Said
from odometry_setting import Evaluated, Method, Predict, Result, Setting, answered
from torch import Tensor

from bayes_vio.data.samples import MotionInput
from bayes_vio.fit import FitSettings
from bayes_vio.models.motion import MotionModel
from bayes_vio.posterior import GaussianPrediction, Posterior, fit_posterior
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.training.calibration import Residuals, calibrate, noise_scale_for_new_drives
from bayes_vio.training.recordings import EvenSubset
from bayes_vio.variational import fit_mc_dropout

N_SAMPLES = 30
_BATCH, _DROPOUT_RATE, _DROPOUT_LEARNING_RATE, _GRADIENT_CLIP = 64, 0.1, 3e-4, 5.0


def noise_head(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
    """Return the network's own noise covariance alone, scaled."""
    return _calibrated(setting, recordings, lambda x: forward(setting.artifact.model, x), {})


def posterior(
    structure: str, layers: Sequence[str] | None = None, samples: bool = False
) -> Method:
    """Return a Laplace posterior of another structure, or of some layers.

    samples: as the spread of networks drawn from it, about their own mean, with the MAP's mean;
    else linearised. Either way errors of different frames are coherent through the weights.
    """

    def method(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
        fitted = fit_posterior(
            setting.artifact.model,
            setting.train_subset,
            structure=structure,
            layers=layers,
            n_data=len(setting.train),
        )
        return recalibrated(setting, recordings, fitted, samples)

    return method


def recalibrated(
    setting: Setting, recordings: Sequence[Evaluated], fitted: Posterior, samples: bool = False
) -> Result:
    """Return the runs of a posterior whose prior and noise scale are chosen anew."""
    chosen = calibrate(fitted, setting.unseen, setting.seen, FitSettings().prior_precisions)
    fitted, scale = fitted.with_prior_precision(chosen.prior_precision), chosen.noise_scale
    answer = _sampled(fitted, setting.artifact.model) if samples else _linearised(fitted)
    told = {"prior_precision": chosen.prior_precision, "noise_scale": scale.tolist()}
    return answered(setting, recordings, lambda x: _scaled(answer(x), scale), told)


def ensemble(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
    """Return the mixture of networks trained from several seeds, as one Gaussian.

    Source: Lakshminarayanan et al. (2017), "Simple and scalable predictive uncertainty
    estimation", section 2.4.
    """
    models = [setting.artifact.model, *setting.members]

    def predict(x: MotionInput) -> Said:
        return mixture([forward(m, x) for m in models])

    return _calibrated(setting, recordings, predict, {"members": len(models)})


def mc_dropout(setting: Setting, recordings: Sequence[Evaluated]) -> Result:
    """Return the mixture of networks under dropout, training of the MAP gone on under it."""
    fitted = fit_mc_dropout(
        setting.artifact.model,
        setting.train.loader(_BATCH, shuffle_seed=0),
        epochs=setting.dropout_epochs,
        rate=_DROPOUT_RATE,
        learning_rate=_DROPOUT_LEARNING_RATE,
        gradient_clip=_GRADIENT_CLIP,
    )
    draws = list(fitted.sample(N_SAMPLES, torch.Generator().manual_seed(0)))

    def predict(x: MotionInput) -> Said:
        return mixture([forward(setting.artifact.model, x, w) for w in draws])

    told = {"rate": _DROPOUT_RATE, "epochs": setting.dropout_epochs, "samples": N_SAMPLES}
    return _calibrated(setting, recordings, predict, told)


def _calibrated(
    setting: Setting,
    recordings: Sequence[Evaluated],
    predict: Predict,
    chosen: dict,
) -> Result:
    """Return the runs of a prediction whose noise is scaled as E-C1 does."""
    scale, _ = noise_scale_for_new_drives(
        _residuals(predict, setting.unseen), _residuals(predict, setting.seen)
    )
    told = {**chosen, "noise_scale": scale.tolist()}
    return answered(setting, recordings, lambda x: _scaled(predict(x), scale), told)


def _residuals(predict: Predict, subset: EvenSubset) -> Residuals:
    said, errors = [], []
    for x, target in subset:
        said.append(predict(x))
        errors.append(target.double() - said[-1].mean)
    whole = Said.join(said)
    return Residuals(torch.cat(errors), whole.epistemic_cov, whole.noise_cov)


def mixture(members: Sequence[Said]) -> Said:
    """Return the Gaussian with the moments of equally weighted members.

    Epistemic is the unbiased covariance of their means, whose deviations are its features: a
    member errs alike in every frame. Six members or fewer span no covariance of six axes, and
    have no features.
    """
    means = torch.stack([m.mean for m in members], -1)  # [n, 6, members]
    deviation = (means - means.mean(-1, keepdim=True)) / (len(members) - 1) ** 0.5
    noise_cov = torch.stack([m.noise_cov for m in members]).mean(0)
    features = deviation if len(members) > means.shape[1] else None
    return Said(means.mean(-1), deviation @ deviation.mT, noise_cov, features)


def forward(model: MotionModel, x: MotionInput, weights: dict[str, Tensor] | None = None) -> Said:
    """Return what the network says, with other weights where given; nothing is epistemic."""
    with torch.no_grad():
        mean, cholesky = torch.func.functional_call(model, weights or {}, (x,))
    L = cholesky.double()
    return Said(mean.double(), torch.zeros_like(L), L @ L.mT)


def _linearised(fitted: Posterior) -> Predict:
    sketch = FeatureSketch()

    def predict(x: MotionInput) -> Said:
        p, features = fitted.predict_features(x, sketch)
        assert isinstance(p, GaussianPrediction)
        return Said(p.mean.double(), p.epistemic_cov.double(), p.noise_cov.double(), features)

    return predict


def _sampled(fitted: Posterior, model: MotionModel) -> Predict:
    weights = list(fitted.sample(N_SAMPLES, torch.Generator().manual_seed(0)))

    def predict(x: MotionInput) -> Said:
        said = forward(model, x)
        spread = mixture([forward(model, x, w) for w in weights])
        return Said(said.mean, spread.epistemic_cov, said.noise_cov, spread.features)

    return predict


def _scaled(said: Said, noise_scale: Tensor) -> Said:
    s = noise_scale.double()
    noise_cov = s[:, None] * said.noise_cov * s
    return Said(said.mean, said.epistemic_cov, noise_cov, said.features)
