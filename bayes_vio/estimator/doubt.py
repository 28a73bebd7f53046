"""Doubt a prediction whose inputs are unusual: what must be added to its covariance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bayes_vio.conventions import ANGULAR, LINEAR
from bayes_vio.data.blind_view import StillCells, blind_share, unseen_share
from bayes_vio.data.frames import to_grid_levels, to_unit
from bayes_vio.data.lens_specks import LensSpecks
from bayes_vio.data.samples import MotionInput
from bayes_vio.estimator.intervals import Interval
from bayes_vio.estimator.tracking import Cause, EstimatorSettings
from bayes_vio.models.agreement import (
    GyroWindow,
    Network,
    SensorAgreement,
    camera_rotation,
    rotation_cov_of,
)
from bayes_vio.models.reliability import Reliability, picture_statistics
from bayes_vio.models.street import FadingMean, GyroRoughness, expected_roughness, street_distance

Array = NDArray[np.float64]

_USUAL_DEVIATIONS = 2.0  # of the least change behind a clean lens


@dataclass(frozen=True)
class Doubt:
    """What is unusual about an interval: a share of the covariance to add, and a rotation's.

    linear_share: of translation's block alone, besides. rotation_cov [3, 3] (rad^2): of what
    camera and gyro contradict each other by.
    """

    share: float = 0.0
    rotation_cov: Array = field(default_factory=lambda: np.zeros((3, 3)))
    causes: tuple[Cause, ...] = ()
    linear_share: float = 0.0

    def widened(self, rotation_var: Array) -> Doubt:
        """Return the doubt with another contradiction about rotation [3] (rad^2) added."""
        if not rotation_var.any():
            return self
        causes = tuple(dict.fromkeys((*self.causes, Cause.SENSORS_DISAGREE)))
        rotation_cov = self.rotation_cov + np.diag(rotation_var)
        return replace(self, rotation_cov=rotation_cov, causes=causes)

    def added_cov(self, cov: Array, lever_m: Array | None = None) -> Array:
        """Return what to add to a covariance [6, 6]: positive semi-definite.

        lever_m [3, 3]: how far a rotation's error moves the translation (m per rad). Where that is
        not known, translation's standard deviations grow with the square root of rotation's.
        """
        added = self.share * cov
        added[LINEAR, LINEAR] += self.linear_share * cov[LINEAR, LINEAR]
        added[ANGULAR, ANGULAR] += self.rotation_cov
        if lever_m is not None:
            added[LINEAR, LINEAR] += np.diag(lever_m**2 @ self.rotation_cov.diagonal())
        else:
            excess = np.trace(np.linalg.solve(cov[ANGULAR, ANGULAR], self.rotation_cov)) / 3
            added[LINEAR, LINEAR] += (np.sqrt(1 + excess) - 1) * cov[LINEAR, LINEAR]
        return added


class Doubter:
    """Judge the inputs of successive intervals against what is usual (E-R1, E-R2).

    view_valid [40, 128]: the share of each cell of the view that the camera sees.
    """

    def __init__(
        self,
        reliability: Reliability,
        network: Network,
        view_valid: NDArray[np.float32],
        settings: EstimatorSettings,
    ) -> None:
        self._usual, self._network = reliability, network
        self._view_valid, self._settings = view_valid, settings
        self._unseen = unseen_share(view_valid)
        self._still = StillCells(view_valid)
        self._specks = LensSpecks(view_valid)
        self._agreement = SensorAgreement(settings.agreement_memory_s, reliability.vibration_std)
        self._lasting = FadingMean(settings.unfamiliar_memory_s)
        self._roughness = GyroRoughness()
        self.reset()

    def reset(self) -> None:
        """Forget the intervals before."""
        self._still.reset()
        self._specks.reset()
        self._agreement.reset()
        self._lasting.reset()
        self._roughness.reset()
        self._last_stamp_ns = -1
        self._picture: NDArray[np.uint8] | None = None
        self._unasked_s = np.inf
        self._to_compare: tuple[GyroWindow, MotionInput] | None = None

    def judge(self, interval: Interval, x: MotionInput, mean: Array, noise_var: Array) -> Doubt:
        """Return the doubt about an interval, whose input to the network is x [1, ...].

        mean, noise_var [6] (Log coordinates, m and rad): what the network answered.
        What camera and gyro tell of it counts from the next interval on: asking the network once
        more would keep this one waiting.
        """
        self.catch_up()
        share, causes = self._of_view(interval, self._rough(interval, mean, noise_var))
        linear_share, speckled = self._of_lens(interval)
        causes += speckled
        rotation_cov = np.zeros((3, 3))
        if interval.imu_valid.all():
            gyro = GyroWindow.of(interval.imu, interval.dt_s)
            if interval.flow is not None:
                self._to_compare = gyro, x
            var, unusual = self._disagreement()
            rotation_cov = rotation_cov_of(var, gyro)
            causes += (Cause.SENSORS_DISAGREE,) if unusual else ()
        return Doubt(share, rotation_cov, causes, linear_share)

    def catch_up(self) -> None:
        """Compare camera and gyro over the interval that was judged last, if it still waits."""
        if self._to_compare is not None:
            self._compare(*self._to_compare)
            self._to_compare = None

    def _of_view(self, interval: Interval, rough: Array | None) -> tuple[float, tuple[Cause, ...]]:
        if interval.view is None:
            self._picture = None
            return 0.0, ()
        usual, s = self._usual, self._settings
        levels = to_grid_levels(interval.view)
        if self._picture is not None:
            self._still.add(self._picture, levels)
            self._specks.add(self._picture, levels, interval.dt_s)
        self._picture = levels
        picture = picture_statistics(to_unit(levels)[None], self._view_valid)[0]
        strangeness = self._strangeness_of(interval, picture, rough)
        blind = self._blind_share()
        causes = ()
        if max(float(usual.picture_distance(picture)), strangeness) > s.unfamiliar_distance:
            causes += (Cause.IMAGE_UNFAMILIAR,)
        if blind > s.blind_share_max:
            causes += (Cause.VIEW_BLIND,)
        beyond = max(strangeness - 1.0, 0.0)  # what is usual is in the calibrated noise
        return s.unfamiliar_inflation * beyond + s.blind_inflation * blind, causes

    def _strangeness_of(self, interval: Interval, picture: Array, rough: Array | None) -> float:
        """Return m of E-R1: of the street, or of its pictures where no more was measured."""
        usual = self._usual
        if usual.street_mean is None or usual.street_precision is None:
            return float(self._lasting.add(usual.picture_distance(picture), interval.dt_s))
        mean, precision = np.array(usual.street_mean), np.array(usual.street_precision)
        if rough is None:
            rough = expected_roughness(mean, precision, picture)
        street = self._lasting.add(np.concatenate([picture, rough])[None], interval.dt_s)
        seconds = np.array([self._lasting.averaged_s])
        return float(street_distance(mean, precision, (street, seconds))[0])

    def _rough(self, interval: Interval, mean: Array, noise_var: Array) -> Array | None:
        """Return how roughly network and gyro depart, None where that is not known."""
        both = interval.flow is not None and bool(interval.imu_valid.all())
        if interval.earlier_stamp_ns != self._last_stamp_ns or not both:
            self._roughness.reset()
        self._last_stamp_ns = interval.stamp_ns
        if not both:
            return None
        rotation = GyroWindow.of(interval.imu, interval.dt_s).rotation
        return self._roughness.add(mean, rotation, noise_var)

    def _of_lens(self, interval: Interval) -> tuple[float, tuple[Cause, ...]]:
        if interval.view is None:
            return 0.0, ()
        s = self._settings
        deviations = self._usual.speck_deviations(self._specks.least_change)
        causes = (Cause.LENS_SPECKLED,) if deviations > s.speck_deviations_max else ()
        # What covers cells wholly is not counted twice.
        added = s.speck_inflation * max(deviations - _USUAL_DEVIATIONS, 0.0)
        return max(added - s.blind_inflation * self._blind_share(), 0.0), causes

    def _blind_share(self) -> float:
        usual, still = self._usual, self._still.share
        return blind_share(still, self._unseen, usual.still_share, usual.unseen_share)

    def _compare(self, gyro: GyroWindow, x: MotionInput) -> None:
        """Ask the network what the camera alone tells of the rotation, now and then."""
        self._unasked_s += gyro.dt_s
        if self._unasked_s < self._settings.agreement_interval_s:
            return
        rotation, cov = camera_rotation(self._network, x)
        elapsed_s = min(self._unasked_s, self._settings.agreement_interval_s)
        self._agreement.add(rotation[0], cov[0], gyro, max(elapsed_s, gyro.dt_s))
        self._unasked_s = 0.0

    def _disagreement(self) -> tuple[Array, bool]:
        usual, usual_std = self._usual, np.array(self._usual.disagreement_std)
        response = np.array(usual.disagreement_response)
        var = self._agreement.estimate.unusual_var(usual_std, usual.disagreement_bound, response)
        return var, bool((var > (self._settings.disagreement_max * usual_std) ** 2).any())
