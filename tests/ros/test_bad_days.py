# ruff: noqa: E402, the imports need what is skipped for
"""What a team's days bring, over DDS: silences, floods, wrong clocks, kills, two cars, bags."""

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

from bayes_vio.conventions import NS_PER_S
from bayes_vio.ros.messages import time_of
from tests.motion_cases import tiny_artifact
from tests.ros.live import (
    CAMERA_HZ,
    IMU_HZ,
    Client,
    EstimatorProcess,
    image_message,
    imu_message,
    jpeg_message,
    wait_until,
)
from tests.ros.test_soak import resident_mib, start_sensors

FRAME_NS = NS_PER_S // CAMERA_HZ


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


@pytest.fixture(scope="module")
def running(artifact, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "node.txt"
    parameters = {"artifact": artifact, "camera_source": "artifact", "device": "cpu"}
    with EstimatorProcess(log, parameters) as node:
        yield node


@pytest.fixture
def driven(running):
    client = Client()
    client.wait_for_inputs()
    assert client.trigger("reset").success
    yield client
    client.close()


def counts(client: Client) -> dict[str, int]:
    """Return what the node's next diagnostics say was left out, by cause."""
    seen = len(client.recorder.arrays().get("diagnostics_json", []))
    wait_until(lambda: len(client.recorder.arrays().get("diagnostics_json", [])) > seen + 1, 5.0)
    values = json.loads(str(client.recorder.arrays()["diagnostics_json"][-1]))["values"]
    return {k: int(v) for k, v in values.items() if "dropped, " in k or k.endswith(" count")}


def added(client: Client, before: dict[str, int]) -> dict[str, int]:
    return {k: n - before.get(k, 0) for k, n in counts(client).items() if n != before.get(k, 0)}


def speed_std(out: dict, earlier_ns: int) -> float:
    """Return how well the speed of the increment that begins there is known (m/s)."""
    index = np.flatnonzero(out["relative_pose_earlier_stamp_ns"] == earlier_ns)
    assert len(index) == 1
    return _speed_std_at(out, index[0])


def newest_speed_std(out: dict, since_ns: int) -> float:
    """Return the same of the newest increment, on a machine so busy that frames are overtaken."""
    index = np.flatnonzero(out["relative_pose_earlier_stamp_ns"] >= since_ns)
    assert len(index) > 0
    return _speed_std_at(out, index[-1])


def _speed_std_at(out: dict, index: int) -> float:
    earlier_ns, later_ns = (out[f"relative_pose_{s}stamp_ns"][index] for s in ("earlier_", ""))
    return float(
        np.sqrt(out["relative_pose_cov"][index, 0, 0]) * NS_PER_S / (later_ns - earlier_ns)
    )


def test_after_two_silent_seconds_the_second_frame_is_tracked(running, driven):
    _, last_ns = driven.drive(1.0)
    usual = speed_std(driven.wait_for("odometry", last_ns), last_ns - 2 * FRAME_NS)
    time.sleep(2.0)
    first_ns, last_ns = driven.drive(0.5)
    out = driven.wait_for("odometry", last_ns)
    # The first frame has nothing to be compared with; the second one makes a pair.
    assert speed_std(out, first_ns) < 1.5 * usual
    silent = np.flatnonzero(out["relative_pose_stamp_ns"] == first_ns)
    assert len(silent) == 1  # the odometry goes on to the first frame, and less surely so
    assert np.sqrt(out["twist_cov"][silent[0], 0, 0]) > 2 * usual
    assert np.all(np.diff(out["odometry_stamp_ns"]) > 0)
    assert len(running.log.split("reset: ")) == 2  # the fixture's alone
    wait_until(lambda: re.search(r"state lost -> \w+", running.log) is not None, 5.0)


def test_stamps_of_another_time_change_nothing(driven):
    before = counts(driven)
    start_ns = time.time_ns()
    # Message number -> how far off it is: an hour ahead, a year ahead, an hour back.
    strays_s = {6: 3600, 10: 365 * 86400, 14: -3600}

    def stray(stamp_ns: int, period_ns: int) -> int:
        number, rest = divmod(stamp_ns - start_ns, FRAME_NS)
        off = rest < period_ns // 2
        return stamp_ns + strays_s.get(int(number), 0) * off * NS_PER_S

    _, last_ns = driven.drive(
        1.0,
        start_ns,
        image=lambda t, k: image_message(stray(t, FRAME_NS), k),
        imu=lambda t: imu_message(stray(t, NS_PER_S // IMU_HZ)),
    )
    stamps = driven.wait_for("odometry", last_ns)["odometry_stamp_ns"]
    assert np.all(np.diff(stamps) > 0)
    assert np.all(np.abs(stamps - start_ns) < 60 * NS_PER_S)
    new = added(driven, before)
    assert new.pop("dropped, imu_stamp_ahead") == 2
    assert new.pop("dropped, imu_stamp_backwards") == 1
    overtaken = new.get("dropped, image_overtaken", 0)
    left_out = sum(new.get(f"dropped, image_stamp_{side}", 0) for side in ("ahead", "backwards"))
    assert 3 - overtaken <= left_out <= 3
    assert not [k for k in new if "jump" in k or "reset" in k]


def test_a_clock_that_jumps_ahead_is_followed(driven):
    driven.drive(0.5)
    ahead_ns = time.time_ns() + 3600 * NS_PER_S
    first_ns, last_ns = driven.drive(0.7, ahead_ns)
    out = driven.wait_for("odometry", last_ns)
    tracked = out["relative_pose_earlier_stamp_ns"] >= first_ns
    # Three messages, and as many frames as a busy machine overtakes.
    assert tracked.sum() >= 5
    assert out["relative_pose_earlier_stamp_ns"][tracked][0] <= first_ns + 6 * FRAME_NS
    # The same clock goes back: a bag that loops. Nothing is lost but the frame to begin with.
    first_ns, last_ns = driven.drive(0.5)
    wait_until(lambda: driven.recorder.arrays()["odometry_stamp_ns"][-1] == last_ns, 5.0)
    out = driven.recorder.arrays()
    back = np.flatnonzero(np.diff(out["odometry_stamp_ns"]) < 0)
    assert len(back) == 1
    assert out["odometry_stamp_ns"][back[0] + 1] <= first_ns + 2 * FRAME_NS


def test_a_flood_is_thinned_out_and_every_message_accounted_for(running, driven):
    first_ns, last_ns = driven.drive(0.5)
    usual = newest_speed_std(driven.wait_for("odometry", last_ns), first_ns)
    before, before_mib = counts(driven), resident_mib(running.process.pid)
    n_samples = flood(driven, 2.0)
    _, last_ns = driven.drive(1.0)
    out = driven.wait_for("odometry", last_ns)
    assert newest_speed_std(out, last_ns - NS_PER_S // 4) < 1.5 * usual
    new = added(driven, before)
    sent = n_samples + 201
    lost = sent - new["imu count"]
    # What DDS has overwritten before the node came to read it shows in the stamps.
    assert lost <= 1.2 * new.get("dropped, imu_samples_missing", 0) + 0.01 * sent
    unused = ("image_overtaken", "frames_too_soon", "frames_skipped")
    left_out = sum(new.get(f"dropped, {cause}", 0) for cause in unused)
    assert left_out > 0.5 * new["image count"]
    assert resident_mib(running.process.pid) < before_mib + 100
    assert "internal_error" not in running.log


def flood(client: Client, seconds: float) -> int:
    """Publish at ten times the rates, as far as this process can; return how many samples."""
    images = [image_message(0, k) for k in range(20)]
    start_ns, n_images, n_samples = time.time_ns(), 0, 0
    while (elapsed_ns := time.time_ns() - start_ns) < seconds * NS_PER_S:
        while n_samples * NS_PER_S < elapsed_ns * 2000:
            client.imu.publish(imu_message(start_ns + n_samples * NS_PER_S // 2000))
            n_samples += 1
        if n_images * NS_PER_S < elapsed_ns * 200:
            image = images[n_images % 20]
            image.header.stamp = time_of(start_ns + n_images * NS_PER_S // 200)
            client.image.publish(image)
            n_images += 1
        time.sleep(0.0005)
    return n_samples


def test_two_cars_one_of_them_a_bag_that_loops_and_a_publisher_killed(artifact, tmp_path):
    live = {"artifact": artifact, "device": "cpu"}
    bag = {**live, "camera_source": "artifact", "use_sim_time": True}
    bag |= {"image_transport": "compressed"}
    a, b = Client(namespace="a"), Client(namespace="b")
    names = [("-r", f"__ns:=/{name}") for name in "ab"]
    try:
        with (
            EstimatorProcess(tmp_path / "a.txt", live, *names[0]) as node_a,
            EstimatorProcess(tmp_path / "b.txt", bag, *names[1]) as node_b,
        ):
            wait_until(lambda: a.node.count_publishers("odometry") == 1, 30.0)
            sensors = start_sensors(60.0, "/a")
            try:
                b.wait_for_inputs()
                wait_until(lambda: len(odometry_ns(a)) > 0, 20.0)
                seen = len(odometry_ns(a))
                loops_of_a_bag(b)
                assert len(odometry_ns(a)) > seen + 20  # both run at once
            finally:
                sensors.send_signal(signal.SIGKILL)
                sensors.communicate()
            wait_until(lambda: "-> lost" in node_a.log, 5.0)
            told = len(node_a.log)
            sensors = start_sensors(2.0, "/a")
            sensors.communicate()
            wait_until(lambda: re.search("-> (tracking|degraded)", node_a.log[told:]), 8.0)
            assert_start_is_told(node_a.log, artifact)
            node_a.process.send_signal(signal.SIGTERM)
            node_b.process.send_signal(signal.SIGINT)
            assert node_a.process.wait(10) == 0
            assert node_b.process.wait(10) == 0
            for log in (node_a.log, node_b.log):
                assert "Traceback" not in log
    finally:
        a.close()
        b.close()


def assert_start_is_told(log: str, artifact: Path) -> None:
    line = next(line for line in log.splitlines() if f"artifact {artifact}" in line)
    for text in (r"sha256 [0-9a-f]{12}", "device cpu", "1 threads", "predictive 'inf' over"):
        assert re.search(text, line), line
    assert "time offset +0.0000 s" in line
    assert "odom -> base_link" in line


def odometry_ns(client: Client) -> np.ndarray:
    return client.recorder.arrays().get("odometry_stamp_ns", np.zeros(0, np.int64))


def wait_for_newest(client: Client, seen: int, stamp_ns: int) -> None:
    wait_until(lambda: list(odometry_ns(client)[seen:][-1:]) == [stamp_ns], 5.0)


def loops_of_a_bag(client: Client) -> None:
    """Play the same second three times with its clock: two frames later all is as before."""
    clock = client.node.create_publisher(Clock, "/clock", QoSProfile(depth=50))
    start_ns = 100 * NS_PER_S

    def sample(stamp_ns):
        clock.publish(Clock(clock=time_of(stamp_ns)))
        return imu_message(stamp_ns)

    def same_number() -> bool:
        out = client.recorder.arrays()
        topics = ("relative_pose_stamp_ns", "odometry_stamp_ns")
        return len({len(out.get(name, [])) for name in topics}) == 1

    for loop in range(3):
        wait_until(same_number, 5.0)  # odometry comes first, relative_pose right after it
        before = client.recorder.arrays()
        seen = len(odometry_ns(client))
        seen_relative = len(before.get("relative_pose_stamp_ns", []))
        client._frames = 0
        _, last_ns = client.drive(1.0, start_ns, image=jpeg_message, imu=sample)
        wait_for_newest(client, seen, last_ns)
        out = client.recorder.arrays()
        if loop == 0:
            continue  # the first messages may come before the connection stands
        earlier_ns = out["relative_pose_earlier_stamp_ns"][seen_relative]
        assert start_ns <= earlier_ns <= start_ns + FRAME_NS
        assert out["odometry_stamp_ns"][seen] <= start_ns + 2 * FRAME_NS
        np.testing.assert_allclose(
            out["odometry_T"][seen], out["relative_pose_T"][seen_relative], atol=1e-9
        )
        first, last = out["relative_pose_cov"][[seen_relative, -1], 0, 0]
        assert first < 2 * last
