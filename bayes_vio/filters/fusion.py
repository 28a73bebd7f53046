"""Fuse twists and position fixes: the order of stamps, gates, gaps and restarts of the EKF."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bayes_vio.conventions import NS_PER_S
from bayes_vio.filters.accumulate import check_pose
from bayes_vio.filters.alignment import FixAlignment
from bayes_vio.filters.covariance import check_spd
from bayes_vio.filters.ekf import after_gap, mahalanobis_squared, predict, update
from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.filters.ekf_state import POSE, POSITION, TWIST, EkfState
from bayes_vio.filters.measurements import Innovation, Measurement, PositionFix, Source

Array = NDArray[np.float64]


class Outcome(Enum):
    """What became of a measurement."""

    APPLIED = "applied"
    GATED = "gated"  # left out: farther off than the gate
    INSISTED = "insisted"  # gated so often that the filter gave way
    LATE = "late"  # left out: before everything that is kept
    AHEAD = "ahead"  # left out: a stamp far ahead, not confirmed yet
    FOLLOWED = "followed"  # a jump of stamps that was confirmed
    ALIGNING = "aligning"  # a fix that helps to find the heading in the fixes' frame
    WAITING = "waiting"  # a fix before the first twist


@dataclass(frozen=True)
class Fed:
    """What became of a measurement; where it was compared, its innovation [d] and S [d, d]."""

    outcome: Outcome
    innovation: Array | None = None
    innovation_cov: Array | None = None
    nis: float | None = None


@dataclass(frozen=True)
class _Step:
    """One measurement in order of time, whether it was applied, and the state after it."""

    measurement: Measurement
    applied: bool
    state: EkfState


class MotionFilter:
    """Estimate pose and twist of base_link from twists and fixes, in any order within a history.

    T_world_base [4, 4] and pose_cov [6, 6] (right perturbation): where the first twist finds the
    vehicle; without them the identity, with the settings' deviations. With an alignment the world
    frame is that of the fixes, and ``aligned`` says whether the pose stands in it yet.
    """

    def __init__(
        self,
        settings: EkfSettings,
        T_world_base: Array | None = None,
        pose_cov: Array | None = None,
        alignment: FixAlignment | None = None,
    ) -> None:
        self.settings = settings
        self._start = (
            check_pose(np.eye(4) if T_world_base is None else T_world_base),
            check_spd(settings.initial_pose_cov if pose_cov is None else pose_cov, "pose_cov"),
        )
        self._alignment = alignment
        self.outcomes: Counter[tuple[Source, Outcome]] = Counter()
        self._history_ns = round(settings.history_s * NS_PER_S)
        self._max_gap_ns = round(settings.max_gap_s * NS_PER_S)
        self.reset()

    def reset(self) -> None:
        """Forget everything that was measured; start again where the filter started."""
        self._before: EkfState | None = None
        self._steps: list[_Step] = []
        self._strays: list[int] = []
        self._rejected: Counter[Source] = Counter()
        if self._alignment is not None:
            self._alignment.clear()

    @property
    def state(self) -> EkfState | None:
        """Return the newest state; None before the first twist."""
        return self._steps[-1].state if self._steps else self._before

    @property
    def aligned(self) -> bool:
        """Whether the pose stands in the fixes' frame, where an alignment was asked for."""
        return self._alignment is None or self._alignment.done

    def set_pose(self, T_world_base: Array, pose_cov: Array) -> None:
        """Go on from a pose [4, 4] with its right covariance [6, 6]; the twist stays.

        Raises ValueError for no pose and CovarianceError for no covariance.
        """
        T, cov = check_pose(T_world_base), check_spd(pose_cov, "the given pose covariance")
        if self._alignment is not None:
            self._alignment.done = True
        if self.state is None:
            self._start = (T, cov)
            return
        moved = self.state.forgotten(POSE, cov)
        self._restart_from(replace(moved, T_world_base=T))

    def feed(self, measurement: Measurement) -> Fed:
        """Take a measurement, and say what became of it."""
        fed = self._feed(measurement)
        self.outcomes[measurement.source, fed.outcome] += 1
        return fed

    def _feed(self, measurement: Measurement) -> Fed:
        if self.state is None:
            if measurement.source is not Source.TWIST:
                return Fed(Outcome.WAITING)
            self._before = EkfState.started(
                measurement.stamp_ns, *self._start, self.settings.twist_std_bound
            )
        stray = self._stray(measurement)
        if stray is not None and not self._confirmed(measurement.stamp_ns):
            return Fed(stray)
        if stray is not None:
            self._follow(measurement.stamp_ns)
        self._strays = []
        if isinstance(measurement, PositionFix) and not self.aligned:
            return self._align(measurement)
        fed = self._insert(measurement)
        return replace(fed, outcome=Outcome.FOLLOWED) if stray is not None else fed

    # Stamps.

    def _stray(self, measurement: Measurement) -> Outcome | None:
        """Say how a stamp lies outside what is expected; None inside.

        Fixes do not lead the time: one whose clock is ahead would make every twist late.
        """
        oldest, newest = self._kept
        twist = measurement.source is Source.TWIST
        if measurement.stamp_ns < oldest.stamp_ns:
            return Outcome.LATE
        lead_ns = self._max_gap_ns if twist else self._history_ns
        return Outcome.AHEAD if measurement.stamp_ns - newest.stamp_ns > lead_ns else None

    def _confirmed(self, stamp_ns: int) -> bool:
        """Return whether enough stray stamps in a row belong together."""
        if self._strays and abs(stamp_ns - self._strays[-1]) > self._max_gap_ns:
            self._strays = []
        self._strays.append(stamp_ns)
        return len(self._strays) >= self.settings.jump_messages

    def _follow(self, stamp_ns: int) -> None:
        """Go on at a stamp that lies elsewhere: back, all starts anew; ahead, over the gap."""
        state = self._kept[1]
        if stamp_ns < state.stamp_ns:
            self.reset()
            started = EkfState.started(stamp_ns, *self._start, self.settings.twist_std_bound)
            self._restart_from(started)
        elif stamp_ns - state.stamp_ns > self._max_gap_ns:
            self._restart_from(after_gap(state, stamp_ns, self.settings))

    @property
    def _kept(self) -> tuple[EkfState, EkfState]:
        """The oldest and the newest state; there are some from the first twist on."""
        assert self._before is not None
        return self._before, self._steps[-1].state if self._steps else self._before

    def _restart_from(self, state: EkfState) -> None:
        self._before, self._steps = state, []

    # Measurements in order of time.

    def _insert(self, measurement: Measurement) -> Fed:
        """Apply a measurement at its place, and again all that came behind it."""
        stamps = [step.state.stamp_ns for step in self._steps]
        place = bisect_right(stamps, measurement.stamp_ns)
        later, self._steps = self._steps[place:], self._steps[:place]
        fed = self._judge(measurement)
        for step in later:
            state = step.measurement.told(self._at(step.measurement.stamp_ns), self.settings)
            innovation = step.measurement.innovation(state, self.settings)
            self._append(step.measurement, state, innovation if step.applied else None)
        self._drop_old()
        return fed

    def _at(self, stamp_ns: int) -> EkfState:
        return predict(self._kept[1], stamp_ns, self.settings)

    def _state_at(self, stamp_ns: int) -> EkfState:
        """Return the state at a stamp within the history, of what came before it."""
        place = bisect_right([step.state.stamp_ns for step in self._steps], stamp_ns)
        before = self._steps[place - 1].state if place else self._kept[0]
        return predict(before, stamp_ns, self.settings)

    def _judge(self, measurement: Measurement) -> Fed:
        source = measurement.source
        state = measurement.told(self._at(measurement.stamp_ns), self.settings)
        innovation = measurement.innovation(state, self.settings)
        nis, S = mahalanobis_squared(innovation, state), innovation.cov(state)
        outcome = self._verdict(nis, len(innovation.value), source)
        if outcome is Outcome.INSISTED:
            state = _given_way(state, source, innovation, self.settings)
        self._append(measurement, state, None if outcome is Outcome.GATED else innovation)
        return Fed(outcome, innovation.value, S, nis)

    def _verdict(self, nis: float, degrees: int, source: Source) -> Outcome:
        # scipy.stats would add half a second to a node's start.
        if nis <= special.chdtri(degrees, self.settings.gate_probability):
            self._rejected[source] = 0
            return Outcome.APPLIED
        self._rejected[source] += 1
        if self._rejected[source] <= self.settings.rejections_max:
            return Outcome.GATED
        self._rejected[source] = 0
        return Outcome.INSISTED

    def _append(
        self, measurement: Measurement, state: EkfState, innovation: Innovation | None
    ) -> None:
        after = state if innovation is None else update(state, innovation)
        self._steps.append(_Step(measurement, innovation is not None, after))

    def _drop_old(self) -> None:
        oldest_ns = self._steps[-1].state.stamp_ns - self._history_ns
        while self._steps[0].state.stamp_ns < oldest_ns:
            self._before = self._steps.pop(0).state

    # Alignment.

    def _align(self, fix: PositionFix) -> Fed:
        """Collect a fix; once they tell the heading, move the pose into their frame."""
        assert self._alignment is not None
        there, newest = self._state_at(fix.stamp_ns), self._kept[1]
        newest = max(there, newest, key=lambda state: state.stamp_ns)
        aligned = self._alignment.add(fix, there, newest, self.settings)
        if aligned is None:
            return Fed(Outcome.ALIGNING)
        self._restart_from(aligned)
        return Fed(Outcome.APPLIED)


def _given_way(
    state: EkfState, source: Source, innovation: Innovation, settings: EkfSettings
) -> EkfState:
    """Return the state less certain of what a source has contradicted for long."""
    if source is Source.TWIST:
        return state.forgotten(TWIST, np.diag(settings.twist_std_bound**2))
    distance_m = float(np.linalg.norm(innovation.value))
    return state.forgotten(POSITION, distance_m**2 * np.eye(3))
