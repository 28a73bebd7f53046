"""Count what happens, and say it once a second on /diagnostics."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.filters.consistency import NeesWindow
from bayes_vio.predictive_choice import PredictiveChoice
from bayes_vio.regime.classes import EGO_MOTION_CLASSES, IMAGE_CLASSES, ClassBelief, Regime
from bayes_vio.ros.messages import time_of

_LATENCY_WINDOW = 300
_LEVEL = {
    TrackingState.WAITING: DiagnosticStatus.WARN,
    TrackingState.TRACKING: DiagnosticStatus.OK,
    TrackingState.DEGRADED: DiagnosticStatus.WARN,
    TrackingState.LOST: DiagnosticStatus.ERROR,
}


class Telemetry:
    """What the node counted since it was activated.

    ``counts`` holds messages by topic, ``refused`` what was left out by cause; latencies are from
    an image's stamp to its odometry, by the node's clock.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._latency_s: deque[float] = deque(maxlen=_LATENCY_WINDOW)
        self._last_counts: Counter[str] = Counter()
        self._last_s = time.monotonic()

    def add_latency(self, latency_s: float) -> None:
        """Take the age of an image when its odometry was published."""
        self._latency_s.append(latency_s)

    def rates_hz(self) -> dict[str, float]:
        """Return messages per second by topic since the last call."""
        now_s, counts = time.monotonic(), Counter(self.counts)
        elapsed_s = max(now_s - self._last_s, 1e-6)
        rates = {k: (n - self._last_counts[k]) / elapsed_s for k, n in counts.items()}
        self._last_s, self._last_counts = now_s, counts
        return rates

    def values(self) -> dict[str, str]:
        """Return rates, latency and counts as texts by name."""
        values = {f"{k} rate (Hz)": f"{rate:.1f}" for k, rate in self.rates_hz().items()}
        values |= {f"{k} count": str(n) for k, n in sorted(self.counts.items())}
        latency_s = np.array(list(self._latency_s))
        if latency_s.size:
            values["latency mean (s)"] = f"{latency_s.mean():.4f}"
            values["latency p99 (s)"] = f"{np.quantile(latency_s, 0.99):.4f}"
        return values | counted(self.refused)


def counted(counts: Mapping[str, int]) -> dict[str, str]:
    """Return counts by cause as texts, under names that start with `dropped`."""
    return {f"dropped, {cause}": str(n) for cause, n in sorted(counts.items())}


def nees_values(window: NeesWindow) -> dict[str, str]:
    """Return the online NEES per axis, its chi-square band and whether it lies within."""
    if not len(window):
        return {}
    low, high = (bound / window.degrees for bound in window.band)
    return {
        "NEES / 6": f"{window.mean / window.degrees:.3f}",
        "NEES / 6 band (95 %)": f"{low:.3f} to {high:.3f}",
        "NEES increments": str(len(window)),
        "NEES consistent": str(window.consistent),
    }


def memory_values(device: torch.device) -> dict[str, str]:
    """Return the process's resident memory, and the device's where it has its own."""
    values = {"device": str(device)}
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated(device) / 2**20
        values["device memory (MiB)"] = f"{allocated:.1f}"
    pages = Path("/proc/self/statm")
    if pages.exists():
        resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        values["memory (MiB)"] = f"{resident:.1f}"
    return values


def predictive_values(choice: PredictiveChoice) -> dict[str, str]:
    """Return what a prediction uses of the posterior, and what it was measured to take."""
    values = {
        "predictive": choice.predictive.value,
        "predictive layers": f"{choice.n_layers} of {choice.n_all}",
        "epistemic variance kept": f"{choice.kept_variance_share:.3f}",
        "prediction time (ms)": f"{1e3 * choice.duration_s:.2f}",
    }
    if choice.budget_s is not None:
        values["latency budget (ms)"] = f"{1e3 * choice.budget_s:.2f}"
        values["latency budget holds"] = str(choice.holds)
    return values


def regime_values(regime: Regime | None) -> dict[str, str]:
    """Return what is believed of the last image and the motion; nothing where none can tell."""
    if regime is None:
        return {}
    values = {"image class": regime.image_class.value, "image verdict": regime.verdict.value}
    values |= _belief_values("image", [c.value for c in IMAGE_CLASSES], regime.image)
    motion, kind = regime.ego_motion, regime.ego_motion_class
    if motion is not None and kind is not None:
        values["ego-motion class"] = kind.value
        values |= _belief_values("ego-motion", [c.value for c in EGO_MOTION_CLASSES], motion)
    return values


def _belief_values(what: str, classes: list[str], belief: ClassBelief) -> dict[str, str]:
    pairs = zip(classes, belief.probs.tolist(), strict=True)
    values = {f"{what} P({name})": f"{probability:.3f}" for name, probability in pairs}
    values[f"{what} entropy (nats)"] = f"{belief.entropy:.3f}"
    values[f"{what} mutual information (nats)"] = f"{belief.mutual_information:.3f}"
    return values


def level_of(state: TrackingState) -> bytes:
    """Return the diagnostic level of a tracking state."""
    return _LEVEL[state]


def diagnostic_array(
    stamp_ns: int, name: str, level: bytes, summary: str, values: Mapping[str, Any]
) -> DiagnosticArray:
    """Return the message of one status, its values in the given order."""
    status = DiagnosticStatus(
        level=level,
        name=name,
        message=summary,
        hardware_id="",
        values=[KeyValue(key=k, value=str(v)) for k, v in values.items()],
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = time_of(stamp_ns)
    return message
