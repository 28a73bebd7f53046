"""The lifecycle that the nodes share: transitions that tell why they fail, inputs, diagnostics."""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage] (Humble)
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from bayes_vio.entry import uncollected
from bayes_vio.ros.declaration import Declaration
from bayes_vio.ros.diagnostics import diagnostic_array
from bayes_vio.ros.throttle import ThrottledLog

_DIAGNOSTICS_PERIOD_S = 1.0
# A clock that is published may be discovered a moment after the node.
_CLOCK_COMES_S = 3.0
_NO_CLOCK = "use_sim_time is set, but nothing publishes /clock (ros2 bag play --clock)"


class Publishers(Protocol):
    """A node's publishers, but that of diagnostics."""

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        ...


class Configured(Protocol):
    """What exists from configure to cleanup."""

    @property
    def parameters(self) -> Any:
        """The parameters that it was made of."""
        ...

    @property
    def outputs(self) -> Publishers: ...


class Running(Protocol):
    """What exists while the node is active."""

    def status(self) -> tuple[bytes, str, dict[str, str]]:
        """Return the diagnostic level, a summary and the values by name."""
        ...

    def stop(self) -> None:
        """Stop; nothing is heard any more, publishers still publish."""
        ...


ConfiguredT = TypeVar("ConfiguredT", bound=Configured)
RunningT = TypeVar("RunningT", bound=Running)


@dataclass(frozen=True)
class Input:
    """A topic that is subscribed to while the node is active. raw: as serialised bytes."""

    kind: Any
    topic: str
    callback: Callable[[Any], None]
    qos: QoSProfile | int
    raw: bool = False


class ManagedNode(LifecycleNode, Generic[ConfiguredT, RunningT]):
    """A lifecycle node that says what it makes, what then runs, and what that listens to.

    name: of the node; parameters: the dataclass whose fields are its parameters, ``autostart``
    among them; subject: what its diagnostics are named by, behind the node's name.
    """

    def __init__(
        self,
        name: str,
        parameters: type,
        subject: str,
        **node_arguments: Any,
    ) -> None:
        super().__init__(
            name, automatically_declare_parameters_from_overrides=True, **node_arguments
        )
        self._declaration = Declaration(self, parameters)
        self._configured: ConfiguredT | None = None
        self._running: RunningT | None = None
        self._inputs: list[Subscription] = []
        self._failure = ""
        self._subject = subject
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._clock_log = ThrottledLog(self.get_logger(), period_s=30.0)
        self._clockless_since_s: float | None = None
        # On a clock of its own: diagnostics are wanted most where ROS time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._tell_diagnostics, clock=steady)

    # What a node does in its lifecycle.

    def make(self, parameters: Any) -> ConfiguredT:
        """Return what exists from configure to cleanup.

        Raises ValueError, ImportError, OSError or RuntimeError saying what is missing or does not
        fit, before any publisher has been created.
        """
        raise NotImplementedError

    def begin(self, configured: ConfiguredT) -> RunningT:
        """Return what runs from activate to deactivate; raises as ``make`` does."""
        raise NotImplementedError

    def inputs(self, running: RunningT) -> Iterable[Input]:
        """Yield what is subscribed to as long as it runs."""
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """Return what else the diagnostics say from configure to cleanup, by name."""
        return {}

    @property
    def configured(self) -> ConfiguredT:
        """What was made; RuntimeError where the node is not configured."""
        if self._configured is None:
            raise RuntimeError("the node is not configured")
        return self._configured

    @property
    def now_ns(self) -> int:
        """The node's time (ns)."""
        return self.get_clock().now().nanoseconds

    # Transitions. rclpy hides what a transition raises, so each tells it itself.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and make what they ask for."""
        return self._transition("configure", self._configure, state, super().on_configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin, and subscribe."""
        return self._transition("activate", self._activate, state, super().on_activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and end."""
        return self._transition("deactivate", self._deactivate, state, super().on_deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free what was made."""
        return self._transition("clean up", self._free, state, super().on_cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End, and free everything."""
        return self._transition("shut down", self._free, state, super().on_shutdown)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        return self._transition("recover", self._free, state, super().on_error)

    def _transition(
        self,
        name: str,
        own: Callable[[], None],
        state: LifecycleState,
        inherited: Callable[[LifecycleState], TransitionCallbackReturn],
    ) -> TransitionCallbackReturn:
        try:
            own()
            self._failure = ""
            return inherited(state)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            self._failure = f"cannot {name}: {error}"
            self.get_logger().error(self._failure)
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self._failure = f"cannot {name}: {traceback.format_exc()}"
            self.get_logger().fatal(self._failure)
            return TransitionCallbackReturn.ERROR

    def _configure(self) -> None:
        with uncollected():  # what is made here may import, too
            self._configured = self.make(self._declaration.read())

    def _activate(self) -> None:
        configured = self.configured
        if self._declaration.read() != configured.parameters:
            raise ValueError("parameters changed since configure: clean up and configure first")
        with contextlib.ExitStack() as undo:
            undo.callback(self._deactivate)
            self._running = self.begin(configured)
            for i in self.inputs(self._running):
                self._inputs.append(
                    self.create_subscription(i.kind, i.topic, i.callback, i.qos, raw=i.raw)
                )
            self._declaration.fixed = True
            undo.pop_all()
        # Else a full collection over all that torch has loaded stops every thread for 0.1-0.2 s.
        gc.freeze()

    def _deactivate(self) -> None:
        gc.unfreeze()
        self._declaration.fixed = False
        while self._inputs:
            self.destroy_subscription(self._inputs.pop())
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _free(self) -> None:
        self._deactivate()
        configured, self._configured = self._configured, None
        if configured is not None:
            configured.outputs.destroy()

    # Diagnostics.

    def _tell_diagnostics(self) -> None:
        level, summary, values = self._status()
        if self._configured is not None:
            values = values | self.facts()
        if self._lacks_clock():
            level, summary = max(level, DiagnosticStatus.WARN), f"{_NO_CLOCK}; {summary}"
        name = f"{self.get_fully_qualified_name()}: {self._subject}"
        self._diagnostics.publish(diagnostic_array(self.now_ns, name, level, summary, values))

    def _lacks_clock(self) -> bool:
        """Return whether time has not begun, and say so: a silent sensor cannot be noticed."""
        now_s = time.monotonic()
        if self._running is None or self.now_ns:
            self._clockless_since_s = None
            return False
        if self._clockless_since_s is None:
            self._clockless_since_s = now_s
        if now_s - self._clockless_since_s < _CLOCK_COMES_S:
            return False
        self._clock_log.warn("no_clock", _NO_CLOCK)
        return True

    def _status(self) -> tuple[bytes, str, dict[str, str]]:
        if self._running is not None:
            return self._running.status()
        if self._failure:
            return DiagnosticStatus.ERROR, self._failure, {}
        return DiagnosticStatus.OK, "inactive" if self._configured else "unconfigured", {}

    # Beginning.

    def start(self) -> None:
        """Configure and activate, each where the one before succeeded."""
        if self.trigger_configure() is not TransitionCallbackReturn.SUCCESS:
            text = "stays unconfigured: set the parameter and configure, or stop and start again"
            self.get_logger().error(text)
        elif self.trigger_activate() is not TransitionCallbackReturn.SUCCESS:
            self.get_logger().error("stays inactive: mend the cause and activate")

    @property
    def autostart(self) -> bool:
        """Whether the node is to configure and activate itself."""
        return bool(self.get_parameter("autostart").value)
