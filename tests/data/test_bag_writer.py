"""Bags are whole or absent, latch /tf_static and carry their message definitions."""

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import MessageDefinitionFormat, QosDurability

from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.messages import BagError
from tests.data.drives import VIEW_CAMERA


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_static_transforms_are_latched_and_definitions_embedded(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage) as bag:
        bag.tf_static(5, {"imu_link": np.eye(4)})
        bag.camera_info(5, VIEW_CAMERA)
    with AnyReader([tmp_path / "bag"]) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        assert [q.durability for q in qos["/tf_static"]] == [QosDurability.TRANSIENT_LOCAL]
        formats = {c.msgdef.format for c in reader.connections}
        assert formats == {MessageDefinitionFormat.MSG}


def test_log_time_is_the_stamp_unless_given(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.imu(7, np.zeros(6))
        bag.imu(8, np.zeros(6), log_ns=1_000)
    with AnyReader([tmp_path / "bag"]) as reader:
        assert [log_ns for _, log_ns, _ in reader.messages()] == [7, 1_000]


def test_an_existing_path_is_refused(tmp_path):
    (tmp_path / "bag").mkdir()
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "bag")


def test_a_failure_leaves_nothing_behind(tmp_path):
    def write():
        with BagWriter(tmp_path / "bag") as bag:
            bag.imu(1, np.zeros(6))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_topic_keeps_its_type(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.imu(1, np.zeros(6), topic="a")
        with pytest.raises(BagError, match="already carries sensor_msgs/msg/Imu"):
            bag.odometry(1, np.eye(4), topic="a")


def test_an_unknown_storage_is_refused(tmp_path):
    with pytest.raises(BagError, match="storage 'rosbag1'"):
        BagWriter(tmp_path / "bag", "rosbag1")  # type: ignore[arg-type]
