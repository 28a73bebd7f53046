"""Make an increment of an interval: by the model where it can be asked, else by coasting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, ANGULAR_RATE, LINEAR
from bayes_vio.data.samples import MotionInput
from bayes_vio.data.windows import motion_input
from bayes_vio.estimator.coasting import Coasting
from bayes_vio.estimator.doubt import Doubt, Doubter
from bayes_vio.estimator.inertia import ForwardSpeed, Speed
from bayes_vio.estimator.intervals import Interval
from bayes_vio.estimator.standstill import StandstillSettings
from bayes_vio.estimator.tracking import Cause, EstimatorSettings
from bayes_vio.filters.covariance import CovarianceError, bounded, check_spd
from bayes_vio.geometry import se3
from bayes_vio.models.complementary import ComplementaryFilter, Fused, SlowContradiction
from bayes_vio.models.noise import WHITE_NOISE, NoiseCorrelation
from bayes_vio.posterior.sketch import FeatureSketch
from bayes_vio.posterior.tape import Tape
from bayes_vio.regime.classes import Regime

if TYPE_CHECKING:
    from bayes_vio.artifact import MotionArtifact

Array = NDArray[np.float64]
_ROUNDING = 1e-6  # of intervals, which are whole nanoseconds


@dataclass(frozen=True)
class Increment:
    """T_earlier_later [4, 4], both parts of its right covariance [6, 6], whether it is a guess.

    ``features`` [6, size]: of the epistemic error; None for a guess, which no weights made.
    ``noise_correlation``: how its noise lasts, where not as the artifact says. ``regime``: of the
    image, where the artifact can tell.
    """

    T_earlier_later: Array
    epistemic_cov: Array
    noise_cov: Array
    lost: bool
    causes: tuple[Cause, ...]
    features: Array | None = None
    noise_correlation: NoiseCorrelation | None = None
    regime: Regime | None = None


@dataclass(frozen=True)
class _Prediction:
    """The model's answer in Log coordinates: mean [6], epistemic_cov and noise_cov [6, 6], and
    features [6, size] of the epistemic error where the model gives them."""

    mean: Array
    epistemic_cov: Array
    noise_cov: Array
    features: Array | None


class IncrementPredictor:
    """Ask the model, or coast.

    The covariances are the posterior's, in which a masked sensor already counts. What does not
    show in the model's inputs inflates them: an interval longer (shorter) than any in training by
    a factor r <= dt_margin both parts by r^4, since what an unmodelled acceleration moves grows
    with dt^2.

    What is unusual about the inputs widens the epistemic part (see ``doubt``), where the artifact
    tells what is usual.

    Without camera the forward speed is carried on by the IMU where that is surer (``inertia``).
    Estimates without camera err alike, since speed does not show in an IMU window: their noise
    along the linear axes lasts, for unseen_speed_correlation_s.

    Rotations that both sensors tell are the gyro's where they are slow (E-M2). A car that stands
    has not moved: no model is asked.
    """

    def __init__(
        self,
        artifact: MotionArtifact,
        settings: EstimatorSettings,
        view_valid: NDArray[np.float32],
    ) -> None:
        self._artifact = artifact
        self._settings = settings
        self._view_valid = view_valid
        self._device = next(artifact.model.parameters()).device
        self._std_bound = settings.std_bound
        self._sketch = FeatureSketch()
        usual, unseen_s = artifact.noise_correlation, settings.unseen_speed_correlation_s
        self._unseen_correlation = NoiseCorrelation(
            (unseen_s,) * 3 + usual.time_s[3:], (1.0,) * 3 + usual.share[3:]
        )
        # Recorded: of single small matrices torch's operations take more time than the arithmetic.
        example = torch.full((6,), 0.1, dtype=torch.float64)
        self._moved = Tape(lambda xi: (se3.exp(xi), se3.right_jacobian(xi)), example)
        self._standstill = StandstillSettings()
        self._forward_speed = ForwardSpeed(settings)
        self._complementary = ComplementaryFilter(artifact.crossover)
        self._contradiction = SlowContradiction(artifact.crossover)
        self._doubter: Doubter | None = None
        self._lever_m: Array | None = None
        self._vibration_var: Array = np.zeros(3)
        if (measured := artifact.reliability) is not None:
            self._doubter = Doubter(measured, artifact.model, view_valid, settings)
            self._vibration_var = np.square(measured.vibration_std)
            if measured.rotation_lever_m is not None:
                self._lever_m = np.array(measured.rotation_lever_m)
        self.reset()

    def reset(self) -> None:
        """Forget the velocity."""
        self._newest: Interval | None = None
        self._coasting = Coasting.unknown(self._settings)
        self._coasted_s = 0.0
        self._forward_speed.reset()
        self._complementary.reset()
        self._contradiction.reset()
        if self._doubter is not None:
            self._doubter.reset()

    def predict(self, interval: Interval) -> Increment:
        """Return the increment of an interval; increments must be asked for in order of time."""
        self._newest = interval
        return replace(self._increment(interval), regime=interval.regime)

    def regime(self) -> Regime | None:
        """Return the newest interval's regime with the motion, where a pair of images shows it.

        Worked out on call: no increment needs the motion, and every increment would wait for it.
        """
        classifier, interval = self._artifact.regime, self._newest
        if classifier is None or interval is None or interval.regime is None:
            return None
        if interval.flow is None:
            return interval.regime
        return classifier.with_ego_motion(interval.regime, self._input(interval))

    def catch_up(self) -> None:
        """Do what can wait until an increment is out."""
        if self._doubter is not None:
            self._doubter.catch_up()

    def _increment(self, interval: Interval) -> Increment:
        carried = self._forward_speed.carry(interval.imu, interval.imu_valid, interval.dt_s)
        if self._has_stopped(interval):
            increment = self._stand(interval)
            speed_var = increment.noise_cov[0, 0] / interval.dt_s**2
            self._forward_speed.see(Speed(0.0, speed_var), None, interval.dt_s)
            return increment
        excess = self._excess(interval.dt_s)
        causes = interval.causes
        if excess > self._settings.dt_margin * (1 + _ROUNDING):
            return self._coast(interval, (*causes, Cause.INTERVAL_OUT_OF_RANGE))
        if not self._usable(interval):
            return self._coast(interval, causes)
        try:
            prediction, doubt = self._ask(interval)
        except CovarianceError:
            return self._coast(interval, (*causes, Cause.MODEL_OUTPUT))
        prediction = self._with_speed(interval, prediction, carried)
        causes = (*causes, *doubt.causes)
        if excess > 1:
            causes = (*causes, Cause.INTERVAL_UNUSUAL)
        return self._measured(interval, prediction, excess**4, causes)

    def _excess(self, dt_s: float) -> float:
        """Return by what factor an interval lies beyond those of training; 1 inside."""
        low, high = self._artifact.dt_range_s
        return max(dt_s / high, low / dt_s, 1.0)

    def _usable(self, interval: Interval) -> bool:
        imu_share = float(interval.imu_valid.mean())
        return interval.flow is not None or imu_share >= self._settings.imu_share_min

    def _input(self, interval: Interval) -> MotionInput:
        return motion_input(
            interval.view,
            interval.flow,
            self._view_valid,
            interval.imu,
            interval.imu_valid,
            interval.dt_s,
        )

    def _ask(self, interval: Interval) -> tuple[_Prediction, Doubt]:
        """Return the model's prediction, and what doubt has widened it by.

        Raises CovarianceError if it is no prediction.
        """
        x = self._input(interval).map(lambda t: t.to(self._device))
        p, features = self._artifact.predict_features(x, self._sketch)
        mean, epistemic_cov, noise_cov = (
            t[0].detach().cpu().double().numpy() for t in (p.mean, p.epistemic_cov, p.noise_cov)
        )
        if not (np.abs(mean) < self._std_bound).all():
            raise CovarianceError(f"the model's mean {mean} is no motion within bounds")
        known = self._epistemic_scale(interval)
        features = None if features is None else known[:, None] * features[0].cpu().numpy()
        fused = self._fused(interval, mean, features)
        factor = fused.epistemic_factor * known
        epistemic_cov = factor[:, None] * epistemic_cov * factor
        floor = self._settings.floor_std**2 * np.eye(6)
        epistemic_cov = check_spd(epistemic_cov + floor, "the model's epistemic covariance")
        doubt = Doubt()
        if self._doubter is not None:
            doubt = self._doubter.judge(interval, x, mean, noise_cov.diagonal())
        doubt = doubt.widened(self._contradicted(interval, mean, noise_cov))
        noise_cov = check_spd(self._scaled(interval, noise_cov), "the model's noise covariance")
        added = doubt.added_cov(epistemic_cov + noise_cov, self._lever_m)
        return _Prediction(
            fused.mean,
            check_spd(epistemic_cov + added, "the widened epistemic covariance"),
            noise_cov,
            fused.features,
        ), doubt

    def _with_speed(
        self, interval: Interval, p: _Prediction, carried: Speed | None
    ) -> _Prediction:
        """Return the prediction, without camera with the speed carried on where that is surer."""
        dt_s = interval.dt_s
        var = (p.epistemic_cov[0, 0] + p.noise_cov[0, 0]) / dt_s**2
        if interval.flow is not None:
            self._forward_speed.see(Speed(p.mean[0] / dt_s, var), carried, dt_s)
            return p
        if carried is None or carried.var >= var:
            return p
        mean, features = p.mean.copy(), p.features
        epistemic_cov, noise_cov = p.epistemic_cov.copy(), p.noise_cov.copy()
        for cov in (epistemic_cov, noise_cov):
            cov[0, 1:] = cov[1:, 0] = 0.0
        mean[0] = carried.mean * dt_s
        epistemic_cov[0, 0] = self._settings.floor_std**2
        noise_cov[0, 0] = carried.var * dt_s**2
        if features is not None:
            features = features.copy()
            features[0] = 0.0
        return _Prediction(mean, epistemic_cov, noise_cov, features)

    def _scaled(self, interval: Interval, noise_cov: Array) -> Array:
        """Return the noise covariance [6, 6] under the circumstances of an interval."""
        scale = self._artifact.circumstances.scale(
            camera_sees=interval.flow is not None,
            bias_known=interval.bias_known,
            imu_tells=bool(interval.imu_valid.any()),
        )
        return scale[:, None] * noise_cov * scale

    def _epistemic_scale(self, interval: Interval) -> Array:
        """Return the factors [6] of the epistemic deviations under an interval's circumstances."""
        return self._artifact.circumstances.epistemic_scale(
            camera_sees=interval.flow is not None, imu_tells=bool(interval.imu_valid.any())
        )

    def _fused(self, interval: Interval, mean: Array, features: Array | None) -> Fused:
        """Return the prediction with the gyro's slow rotation, where there are both sensors."""
        if not _has_both_sensors(interval):
            return Fused(mean, features, np.ones(6))
        return self._complementary.add(mean, _gyro_rate(interval), interval.dt_s, features)

    def _contradicted(self, interval: Interval, mean: Array, noise_cov: Array) -> Array:
        """Return the variance [3] (rad^2) of what network and gyro contradict each other by."""
        if not _has_both_sensors(interval):
            return np.zeros(3)
        difference = mean[ANGULAR] - _gyro_rate(interval) * interval.dt_s
        noise_var = noise_cov.diagonal()[ANGULAR]
        return self._contradiction.add(difference, noise_var, interval.dt_s, self._vibration_var)

    def _measured(
        self, interval: Interval, p: _Prediction, inflation: float, causes: tuple[Cause, ...]
    ) -> Increment:
        epistemic_cov, noise_cov = inflation * p.epistemic_cov, inflation * p.noise_cov
        twist_cov = (epistemic_cov + noise_cov) / interval.dt_s**2
        self._coasting = Coasting(p.mean / interval.dt_s, twist_cov, self._settings)
        self._coasted_s = 0.0
        motion, jacobian = self._moved(torch.from_numpy(p.mean))
        J, both = jacobian.numpy(), np.stack([epistemic_cov, noise_cov])
        right = J @ both @ J.T
        right = (right + right.swapaxes(1, 2)) / 2
        return Increment(
            motion.numpy(),
            bounded(right[0], self._std_bound),
            bounded(right[1], self._std_bound),
            False,
            causes,
            None if p.features is None else J @ p.features,
            self._unseen_correlation if interval.flow is None else None,
        )

    def _has_stopped(self, interval: Interval) -> bool:
        """Return whether the car stands and could: a view may be blank, but none stops at once."""
        speed = float(np.linalg.norm(self._coasting.twist[LINEAR]))
        return interval.standing and speed < self._standstill.stopping_speed_m_s

    def _stand(self, interval: Interval) -> Increment:
        """Return the increment of a car that stands, give or take what would not show.

        It may still swing on its springs: rotation is the gyro's. Before the gyro's bias is known
        all of that may be bias.
        """
        twist, twist_cov = np.zeros(6), self._artifact.circumstances.standing_twist_cov
        twist[ANGULAR] = _gyro_rate(interval)
        if not interval.bias_known:
            twist_cov = twist_cov + np.diag(twist**2)
        self._coasting = Coasting(np.zeros(6), twist_cov, self._settings)
        self._coasted_s = 0.0
        xi = torch.from_numpy(interval.dt_s * twist)
        noise_cov = torch.from_numpy(interval.dt_s**2 * twist_cov)
        return Increment(
            se3.exp(xi).numpy(),
            self._settings.floor_std**2 * np.eye(6),
            se3.log_cov_to_right_cov(xi, noise_cov).numpy(),
            False,
            interval.causes,
            noise_correlation=WHITE_NOISE,
        )

    def _coast(self, interval: Interval, causes: tuple[Cause, ...]) -> Increment:
        end_s = self._coasted_s + interval.dt_s
        T_earlier_later, cov = self._coasting.increment(self._coasted_s, end_s)
        self._coasted_s = end_s
        floor = self._settings.floor_std**2 * np.eye(6)
        noise_cov = bounded(cov + floor, self._std_bound)
        return Increment(T_earlier_later, floor, noise_cov, True, causes)


def _has_both_sensors(interval: Interval) -> bool:
    return interval.flow is not None and bool(interval.imu_valid.all())


def _gyro_rate(interval: Interval) -> Array:
    """Return the gyro's mean rate [3] (rad/s, base axes)."""
    return interval.imu[:, ANGULAR_RATE].mean(0).astype(np.float64)
