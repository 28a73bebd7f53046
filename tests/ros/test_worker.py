# ruff: noqa: E402, the imports need what is skipped for
"""The estimator's thread: it ends when it is told to, or it is said that it does not."""

import time
from threading import Event
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from bayes_vio.ros import worker as worker_module
from bayes_vio.ros.diagnostics import Telemetry
from bayes_vio.ros.inbox import Inbox
from bayes_vio.ros.throttle import ChangeLog, ThrottledLog
from bayes_vio.ros.worker import EstimationWorker, StuckError, Surroundings


class Lines:
    def info(self, text):
        pass

    warning = error = info


def started(inbox: Inbox) -> EstimationWorker:
    """Return a worker whose estimator has nothing to say."""
    around = Surroundings(
        now_ns=time.time_ns,
        ros_is_up=lambda: True,
        telemetry=Telemetry(),
        log=ThrottledLog(Lines()),
        states=ChangeLog(Lines(), "waiting"),
    )
    estimator = SimpleNamespace(
        estimate=lambda now_ns: None, awaited_imu_stamp_ns=None, events=list
    )
    worker = EstimationWorker(estimator, inbox, print, around)  # pyright: ignore[reportArgumentType]
    worker.start()
    return worker


def test_an_idle_thread_ends_at_once():
    worker = started(Inbox())
    began_s = time.monotonic()
    worker.stop()
    assert time.monotonic() - began_s < 2.0


def test_a_thread_that_is_stuck_in_a_step_is_told(monkeypatch):
    monkeypatch.setattr(worker_module, "_STOP_S", 0.1)
    inbox, released = Inbox(), Event()
    worker = started(inbox)
    inbox.put_command(lambda: released.wait(10) and None)
    with pytest.raises(StuckError, match=r"still in a step after 0.1 s: stop the process"):
        worker.stop()
    released.set()
    worker.stop()
