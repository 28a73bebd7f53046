# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Start the planner and bring it to the active state.

ros2 launch bayes_vio planner.launch.py namespace:=car
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

CONFIG = Path(__file__).resolve().parent.parent / "config" / "planner.yaml"

ARGUMENTS = {
    "params_file": (str(CONFIG), "YAML file of parameters"),
    "collision_max": ("", "largest probability of a collision; empty: what params_file says"),
    "namespace": ("", "namespace of the node and of its relative topics"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "configure and activate; false leaves that to a lifecycle manager"),
}


def create(context):
    """Return the node and the events that start it, now that the arguments are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides = {"collision_max": float(value["collision_max"])} if value["collision_max"] else {}
    sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    node = LifecycleNode(
        package="bayes_vio",
        executable="planner_node",
        name="planner",
        namespace=value["namespace"],
        # The launch file starts the node by transitions; it must not do so itself as well.
        parameters=[
            value["params_file"],
            {"autostart": False, "use_sim_time": sim_time} | overrides,
        ],
        output="screen",
    )
    autostart = IfCondition(LaunchConfiguration("autostart"))
    configure = RegisterEventHandler(
        OnProcessStart(
            target_action=node, on_start=[change(node, Transition.TRANSITION_CONFIGURE)]
        ),
        condition=autostart,
    )
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[
                LogInfo(msg="planner is configured, activating"),
                change(node, Transition.TRANSITION_ACTIVATE),
            ],
        ),
        condition=autostart,
    )
    # Handlers first: the events that they wait for come as soon as the process runs.
    return [configure, activate, node]


def change(node, transition):
    """Return the action that asks a lifecycle node for a transition."""
    event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
    return EmitEvent(event=event)


def generate_launch_description():
    """Return the description that `ros2 launch` runs."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=create)])
