# ruff: noqa: E402, the imports need what is skipped for
"""What the nodes' common lifecycle promises: nothing half made, nothing left, every cause told."""

import gc
import os
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import ClockType
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.time import Time
from std_msgs.msg import Empty

from bayes_vio.ros.lifecycle import Input, ManagedNode
from bayes_vio.ros.parameter_table import parameter
from bayes_vio.ros.planner_node import PlannerNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@dataclass(frozen=True)
class Parameters:
    autostart: bool = parameter(True, "Start by itself", read_only=True)
    word: str = parameter("good", "What is made")


class Made:
    """What is configured, and its publishers, which there are none of."""

    def __init__(self, parameters, events) -> None:
        self.parameters, self.outputs, self._events = parameters, self, events

    def destroy(self) -> None:
        self._events.append("destroyed")


class Begun:
    def __init__(self, events) -> None:
        self._events = events

    def status(self):
        return DiagnosticStatus.WARN, "at work", {"own": "1"}

    def stop(self) -> None:
        self._events.append("stopped")


class Example(ManagedNode[Made, Begun]):
    """Writes down what happens; raises what a test puts into ``raises`` by step."""

    def __init__(self, **arguments) -> None:
        super().__init__("example", Parameters, "test", **arguments)
        self.events: list[str] = []
        self.raises: dict[str, Exception] = {}

    def _did(self, step: str) -> None:
        if step in self.raises:
            raise self.raises[step]
        self.events.append(step)

    def make(self, parameters):
        self._did("made")
        return Made(parameters, self.events)

    def begin(self, configured):
        self._did("begun")
        return Begun(self.events)

    def inputs(self, running):
        yield Input(Empty, "first", lambda _: None, 1)
        self._did("listening")
        yield Input(Empty, "second", lambda _: None, 1, raw=True)

    def facts(self):
        return {"word": self.configured.parameters.word}

    @property
    def label(self) -> str:
        return self._state_machine.current_state[1]

    @property
    def topics(self) -> set[str]:
        return {s.topic_name for s in self.subscriptions}


@pytest.fixture
def make(monkeypatch):
    """Return a function that makes a node on a context of its own."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    context, nodes = rclpy.Context(), []
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)

    def made(kind, **parameters):
        given = [Parameter(name, value=value) for name, value in parameters.items()]
        nodes.append(kind(context=context, parameter_overrides=given))
        return nodes[-1]

    yield made
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)
    gc.unfreeze()


@pytest.fixture
def node(make):
    return make(Example)


def told(node) -> tuple[bytes, str, dict[str, str]]:
    """Return level, message and values of the diagnostics as published."""
    published = []
    node._diagnostics.publish, real = published.append, node._diagnostics.publish
    node._tell_diagnostics()
    node._diagnostics.publish = real
    (status,) = published[0].status
    assert status.name == "/example: test"
    return status.level, status.message, {v.key: v.value for v in status.values}


def test_every_step_is_undone_in_the_reverse_order(node):
    assert (node.autostart, told(node)) == (True, (b"\x00", "unconfigured", {}))
    gc.unfreeze()
    node.start()
    assert node.label == "active"
    assert node.topics == {"/first", "/second"}
    assert told(node) == (b"\x01", "at work", {"own": "1", "word": "good"})
    assert gc.get_freeze_count() > 0
    assert node.trigger_deactivate() is SUCCESS
    assert not node.topics
    assert gc.get_freeze_count() == 0
    assert told(node) == (b"\x00", "inactive", {"word": "good"})
    assert node.trigger_cleanup() is SUCCESS
    assert node.events == ["made", "begun", "listening", "stopped", "destroyed"]
    with pytest.raises(RuntimeError, match="not configured"):
        _ = node.configured


def test_time_that_does_not_begin_is_told(make, monkeypatch):
    """Diagnostics go on without a clock, and name what is missing while the node runs."""
    node = make(Example, use_sim_time=True)
    assert [timer.clock.clock_type for timer in node.timers] == [ClockType.STEADY_TIME]
    seconds = iter([10.0, 12.9, 13.1, 14.0])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("bayes_vio.ros.lifecycle.time", clock)
    node.start()
    assert told(node)[:2] == (b"\x01", "at work")
    assert told(node)[1] == "at work"
    level, message, _ = told(node)
    assert level == b"\x01"
    assert message.startswith("use_sim_time is set, but nothing publishes /clock")
    assert message.endswith("; at work")
    node.get_clock().set_ros_time_override(Time(seconds=5, clock_type=ClockType.ROS_TIME))
    assert told(node)[1] == "at work"


def test_shutting_down_from_active_stops_and_frees(node):
    node.start()
    assert node.trigger_shutdown() is SUCCESS
    assert node.events[-2:] == ["stopped", "destroyed"]
    assert not node.topics


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError, RuntimeError])
def test_what_does_not_configure_says_why_and_can_be_tried_again(node, error):
    node.raises["made"] = error("no such thing")
    assert node.trigger_configure() is FAILURE
    assert node.label == "unconfigured"
    assert told(node) == (b"\x02", "cannot configure: no such thing", {})
    node.raises.clear()
    node.start()
    assert node.label == "active"
    assert told(node)[1] == "at work"


def test_a_fault_in_the_code_is_told_with_its_place_and_leaves_an_unconfigured_node(node):
    assert node.trigger_configure() is SUCCESS
    node.raises["begun"] = KeyError("surprise")
    node.trigger_activate()
    assert node.label == "unconfigured"
    assert node.events == ["made", "destroyed"]


@pytest.mark.parametrize("step", ["begun", "listening"])
def test_an_activation_that_fails_is_undone(node, step):
    assert node.trigger_configure() is SUCCESS
    node.raises[step] = ValueError("not now")
    assert node.trigger_activate() is FAILURE
    assert node.label == "inactive"
    assert not node.topics
    assert ("stopped" in node.events) == (step == "listening")
    assert node.set_parameters([Parameter("word", value="good")])[0].successful  # not fixed
    node.raises.clear()
    assert node.trigger_activate() is SUCCESS


def test_parameters_are_fixed_while_active_and_as_they_were_configured(node):
    node.start()
    change = [Parameter("word", value="other")]
    assert "deactivate" in node.set_parameters(change)[0].reason
    node.trigger_deactivate()
    assert node.set_parameters(change)[0].successful
    assert node.trigger_activate() is FAILURE
    assert "clean up and configure first" in told(node)[1]
    node.trigger_cleanup()
    node.start()
    assert told(node)[2]["word"] == "other"


def test_a_refused_parameter_refuses_to_configure(make):
    node = make(Example, wrod="good")
    node.start()
    assert node.label == "unconfigured"
    assert told(node)[1] == "cannot configure: parameter wrod: unknown parameter"


def test_a_planner_without_its_commands_message_leaves_no_publisher(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "ackermann_msgs", None)
    node = make(PlannerNode, command="ackermann")
    before = {p.topic_name for p in node.publishers}
    assert node.trigger_configure() is FAILURE
    assert {p.topic_name for p in node.publishers} == before
    assert node.set_parameters([Parameter("command", value="twist")])[0].successful
    assert node.trigger_configure() is SUCCESS
    assert {p.topic_name for p in node.publishers} == before | {"/plan", "/cmd_vel"}


def test_a_planner_that_is_deactivated_stops_the_car(make, monkeypatch):
    node = make(PlannerNode, samples=10)
    node.start()
    sent = []
    monkeypatch.setattr(node.configured.outputs._command, "publish", sent.append)
    timers = len(list(node.timers))
    assert node.trigger_deactivate() is SUCCESS
    (command,) = sent
    assert (command.linear.x, command.angular.z) == (0.0, 0.0)
    assert len(list(node.timers)) == timers - 1
