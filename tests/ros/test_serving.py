"""What a node's process does with ROS arguments that are none."""

import pytest

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

from bayes_vio.ros.serving import run  # noqa: E402 (needs rclpy)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-r", "imu"], "remap rule: '-r imu'"),
        (["-p", "device"], "parameter override rule: '-p device'"),
        (["--params-file", "nowhere.yaml"], "--params-file nowhere.yaml'. Error: Error opening"),
        (["--log-level", "loud"], "log level: '--log-level loud'"),
        (["--device", "cpu"], "does not know the arguments ['--device', 'cpu']"),
    ],
)
def test_a_bad_ros_argument_is_one_line_and_code_2(arguments, told, capsys):
    def no_node():
        pytest.fail("a node was made")

    assert run(no_node, ["estimator", "--ros-args", *arguments]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert " at /" not in line
