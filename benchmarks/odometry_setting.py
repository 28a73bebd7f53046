"""What methods of odometry are given in the benchmark, and what they give back."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from odometry_runs import Heard, Said, chained, retold

from bayes_vio.artifact import MotionArtifact
from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.samples import MotionInput, Streams
from bayes_vio.evaluation.run import Run
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.training.recordings import EvenSubset

Predict = Callable[[MotionInput], Said]

_TIMED_INPUTS = 30


@dataclass(frozen=True)
class Evaluated:
    """One recording under test: what the estimator was fed, and what it asked with all sensors."""

    streams: Streams
    heard: Heard


@dataclass(frozen=True)
class Setting:
    """What every method may use: the artifact, training and validation data, camera height.

    members: models of other seeds, an ensemble with the artifact's own; training: streams whose
    first frames calibrate the classical odometry; dropout_epochs: of going on under dropout.
    """

    artifact: MotionArtifact
    train: MotionDataset
    validation: MotionDataset
    training: Sequence[Streams]
    camera_height_m: float
    members: Sequence[MotionModel] = ()
    curvature_samples: int = 3000
    calibration_samples: int = 400
    classical_frames: int = 300
    dropout_epochs: int = 3

    @property
    def train_subset(self) -> EvenSubset:
        """Return the training samples that curvatures and constant covariances are fitted on."""
        return EvenSubset(self.train, self.curvature_samples)

    @property
    def unseen(self) -> EvenSubset:
        """Return the validation samples that covariances are calibrated on."""
        return EvenSubset(self.validation, self.calibration_samples)

    @property
    def seen(self) -> EvenSubset:
        """Return the training samples that may widen the noise."""
        return EvenSubset(self.train, self.calibration_samples)


@dataclass(frozen=True)
class Result:
    """A method's runs, how their errors last, and what it chose; predictive_ms: of one input."""

    runs: list[Run]
    correlation_s: float
    noise_correlation: NoiseCorrelation
    chosen: dict = field(default_factory=dict)
    predictive_ms: float | None = None


Method = Callable[[Setting, Sequence[Evaluated]], Result]


def answered(
    setting: Setting, recordings: Sequence[Evaluated], predict: Predict, chosen: dict
) -> Result:
    """Return the runs in which ``predict`` answers the estimator's questions."""
    runs = [
        retold(r.heard, Said.join([predict(x) for x in r.heard.batches()])) for r in recordings
    ]
    return accumulated(setting, runs, chosen, timed(predict, recordings))


def accumulated(setting: Setting, runs: list[Run], chosen: dict, ms: float | None) -> Result:
    """Return runs with their odometry; their errors last as the artifact's do."""
    tau_s, lasting = setting.artifact.epistemic_correlation_s, setting.artifact.noise_correlation
    runs = [chained(run, tau_s, lasting) for run in runs]
    return Result(runs, tau_s, lasting, chosen, ms)


def timed(predict: Callable[[MotionInput], object], recordings: Sequence[Evaluated]) -> float:
    """Return the median wall time (ms) of one prediction of one input."""
    x, seconds = recordings[0].heard.x, []
    for k in range(min(_TIMED_INPUTS, len(x))):
        one = x.map(lambda t, k=k: t[k : k + 1])
        started = time.perf_counter()
        predict(one)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)
