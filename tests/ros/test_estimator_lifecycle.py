# ruff: noqa: E402, the imports need what is skipped for
"""The node as a process, over DDS: transitions, parameters, names, a clean end."""

import shutil
import time
from importlib.util import find_spec
from threading import Thread

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from sensor_msgs.msg import CompressedImage

from tests.motion_cases import tiny_artifact
from tests.ros.live import Client, EstimatorProcess, jpeg_message, status_of, wait_until


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


def test_transitions_parameters_and_another_artifact(artifact, tmp_path):
    other = tmp_path / "other"
    tiny_artifact(seed=1).save(other)
    broken = tmp_path / "broken"
    shutil.copytree(artifact, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    client = Client(namespace="car")
    parameters = {"artifact": artifact, "autostart": False, "image_transport": "compressed"}
    node = EstimatorProcess(tmp_path / "log.txt", parameters, "-r", "__ns:=/car")
    try:
        with node:
            walk_through_states(client, node, other, broken, tmp_path / "nowhere")
            run_another_artifact(client, node, artifact)
            driving = Thread(target=client.drive, args=(1.0,), kwargs={"image": jpeg_message})
            driving.start()
            client.send_camera_info()
            time.sleep(0.5)
            assert node.interrupt(times=3) == 0  # as `ros2 launch` does on Ctrl-C
            driving.join()
        for text in ("Traceback", "internal_error", "RCLError"):
            assert text not in node.log
    finally:
        client.close()


def publish_and_look(client, message, node, text) -> bool:
    """Publish an image, give the node a moment, and return whether its log has a text."""
    client.compressed.publish(message)
    time.sleep(0.1)
    return text in node.log


def run_another_artifact(client, node, artifact):
    """Change the artifact by transitions: the same process then says other things."""
    process_id = node.process.pid
    of_the_first = client.recorder.arrays()["twist_mean"]
    for transition in ("deactivate", "cleanup"):
        assert client.change_state(transition)
    assert client.set_parameter("artifact", str(artifact)).successful
    for transition in ("configure", "activate"):
        assert client.change_state(transition)
    assert f"artifact {artifact}" in node.log
    hashes = {line.split("sha256 ")[1][:12] for line in node.log.splitlines() if "sha256 " in line}
    assert len(hashes) == 2
    client.wait_for_inputs()
    client.send_camera_info()
    time.sleep(0.2)
    _, last_ns = client.drive(0.5, image=jpeg_message)
    of_the_second = client.wait_for("odometry", last_ns)["twist_mean"][len(of_the_first) :]
    # The same scene, seen by another network.
    spread = of_the_first[-8:].std(0) + of_the_second[-4:].std(0) + 1e-6
    difference = np.abs(of_the_second[-4:].mean(0) - of_the_first[-8:].mean(0))
    assert (difference > 3 * spread).any()
    assert node.process.pid == process_id


def walk_through_states(client, node, other, broken, missing):
    assert client.state() == "unconfigured"
    for path, reason in ((missing, "no artifact at"), (broken, "damaged")):
        assert client.set_parameter("artifact", str(path)).successful
        assert not client.change_state("configure")
        assert client.state() == "unconfigured"
        assert any(reason in line and str(path) in line for line in node.log.splitlines())
    result = client.set_parameter("device", "gpu")
    assert not result.successful
    assert "device" in result.reason
    assert client.set_parameter("artifact", str(other)).successful
    assert client.change_state("configure")
    assert f"artifact {other}" in node.log
    assert client.change_state("activate")
    assert not client.set_parameter("artifact", str(missing)).successful
    client.wait_for_inputs()
    client.drive(0.3, image=jpeg_message)
    assert "waiting: no camera_info yet" in node.log
    client.send_camera_info()
    empty = jpeg_message(time.time_ns(), 0)
    empty.data = b""
    assert isinstance(empty, CompressedImage)
    wait_until(lambda: publish_and_look(client, empty, node, "image_undecodable"), 10.0)
    _, last_ns = client.drive(1.0, image=jpeg_message)
    out = client.wait_for("odometry", last_ns)
    assert len(out["odometry_T"]) > 10
    assert client.change_state("deactivate")
    count = len(client.recorder.arrays()["odometry_stamp_ns"])
    client.drive(0.3, image=jpeg_message)
    assert len(client.recorder.arrays()["odometry_stamp_ns"]) == count
    assert client.set_parameter("time_offset_s", 0.01).successful
    assert not client.change_state("activate")  # parameters changed since configure
    assert client.state() == "inactive"
    assert client.change_state("cleanup")
    assert client.change_state("configure")
    assert "time offset +0.0100 s" in node.log
    assert client.change_state("activate")
    assert client.state() == "active"


def test_names_are_remappable_and_a_bad_parameter_refuses_configure(artifact, tmp_path):
    client = Client(namespace="bike", target="motion")
    names = ("-r", "__ns:=/bike", "-r", "__node:=motion", "-r", "odometry:=vo/odometry")
    parameters = {"artifact": artifact, "imu_dept": 300, "time_offset_s": 3.0}
    try:
        with EstimatorProcess(tmp_path / "bad.txt", parameters, *names) as node:
            assert client.state() == "unconfigured"
            wait_until(lambda: "stays unconfigured" in node.log, 10.0)
            for name in ("imu_dept", "time_offset_s"):
                assert f"parameter {name}:" in node.log
            wait_until(lambda: status_of(client, "/bike/motion: motion") is not None, 5.0)
            status = status_of(client, "/bike/motion: motion")
            assert status["level"] == 2
            assert "imu_dept" in status["message"]
            assert node.interrupt() == 0
        parameters = {"artifact": artifact, "camera_source": "artifact"}
        with EstimatorProcess(tmp_path / "good.txt", parameters, *names) as node:
            wait_until(lambda: client.node.count_publishers("vo/odometry") == 1, 20.0)
            assert client.node.count_publishers("odometry") == 0
            wait_until(lambda: client.state() == "active", 10.0)
            refuses_what_does_not_fit(client, node)
            assert node.interrupt() == 0
    finally:
        client.close()


def refuses_what_does_not_fit(client, node):
    assert client.change_state("deactivate")
    assert client.change_state("cleanup")
    cases = [
        ("device", "cuda:7", "cpu", "cuda:7"),
        ("extrinsics_source", "parameters", "artifact", "T_base_camera of parameters"),
    ]
    if not find_spec("tf2_ros"):
        cases.append(("publish_tf", True, False, "tf2_ros"))
    if not find_spec("tf2_msgs"):
        cases.append(("extrinsics_source", "tf_static", "artifact", "tf2_msgs"))
    for parameter, value, good, reason in cases:
        assert client.set_parameter(parameter, value).successful
        assert not client.change_state("configure")
        last = [line for line in node.log.splitlines() if "cannot configure" in line][-1]
        assert reason in last
        assert client.set_parameter(parameter, good).successful
    assert client.change_state("configure")
