# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Start the estimator and a filter that fuses its twists.

ros2 launch bayes_vio car.launch.py artifact:=/data/my_artifact namespace:=car use_fixes:=true
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parent.parent
CONFIG = SHARE / "config"
FILTERS = ("ekf", "robot_localization", "none")
ROBOT_LOCALIZATION = {
    "package": "robot_localization",
    "executable": "ekf_node",
    "name": "ekf_filter_node",
}

# What is passed on to the estimator's launch file as it is.
PASSED_ON = {
    "params_file": (str(CONFIG / "estimator.yaml"), "YAML file of the estimator's parameters"),
    "artifact": ("", "folder of the fitted artifact; empty: the packaged one"),
    "device": ("", "auto, cpu, cuda or cuda:N; empty: what params_file says"),
    "namespace": ("", "namespace of the nodes and of their relative topics"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "configure and activate the estimator"),
}
ARGUMENTS = PASSED_ON | {
    "filter": ("ekf", "what fuses the twists: " + ", ".join(FILTERS)),
    "filter_params_file": ("", "YAML file of the filter's parameters; empty: the one in config"),
    "use_fixes": ("", "ekf listens to fix and fix_odometry; empty: what its file says"),
}


def create(context):
    """Return the estimator and the filter, now that the arguments are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "estimator.launch.py"))
    arguments = [(name, value[name]) for name in PASSED_ON]
    return [IncludeLaunchDescription(source, launch_arguments=arguments), *filter_nodes(value)]


def filter_nodes(value):
    """Return the filter's node, or none."""
    chosen = value["filter"]
    if chosen not in FILTERS:
        raise ValueError(f"filter is '{chosen}': give one of {', '.join(FILTERS)}")
    if chosen == "none":
        return []
    sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    file = value["filter_params_file"] or str(CONFIG / f"{chosen}.yaml")
    overrides = {"use_sim_time": sim_time}
    common = {"namespace": value["namespace"], "output": "screen"}
    if chosen == "robot_localization":
        return [Node(**ROBOT_LOCALIZATION, parameters=[file, overrides], **common)]
    if value["artifact"]:
        overrides["artifact"] = value["artifact"]
    if value["use_fixes"]:
        overrides["use_fixes"] = value["use_fixes"].lower() == "true"
    parameters = [file, overrides]
    return [
        Node(package="bayes_vio", executable="ekf", name="ekf", parameters=parameters, **common)
    ]


def generate_launch_description():
    """Return the description that `ros2 launch` runs."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=create)])
