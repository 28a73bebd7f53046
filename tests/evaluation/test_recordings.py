import json

import cv2
import numpy as np
import pytest

from bayes_vio.artifact import ArtifactError
from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S
from bayes_vio.data.bag_writer import BagWriter
from bayes_vio.data.messages import BagError
from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.evaluation import evaluate
from bayes_vio.evaluation.recordings import json_value
from tests.motion_cases import camera_model, extrinsics, tiny_artifact

START_NS = 1_700_000_000 * NS_PER_S
N_IMAGES = 16


def write_bag(path, with_reference=True):
    """Write a bag of a car at 5 m/s before a texture that shifts, with 100 Hz IMU samples."""
    camera, mounting = camera_model(), extrinsics()
    noise = np.random.default_rng(0).integers(0, 255, (camera.height, 2 * camera.width), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 2) * 2
    with BagWriter(path) as bag:
        frames = {"imu_link": mounting.T_base_imu, "camera_optical": mounting.T_base_camera}
        bag.tf_static(START_NS, frames)
        for k in range(10 * N_IMAGES):
            stamp_ns = START_NS + k * NS_PER_S // 100
            bag.imu(stamp_ns, np.array([0, 0, GRAVITY_M_S2, 0, 0, 0.0]))
            if k % 10 == 0:
                shift = 2 * k // 10
                image = np.ascontiguousarray(texture[:, shift : shift + camera.width])
                bag.camera_info(stamp_ns, camera)
                bag.image(stamp_ns, image)
                pose = np.eye(4)
                pose[0, 3] = 0.05 * k
                if with_reference:
                    bag.odometry(stamp_ns, pose)


@pytest.fixture(scope="module")
def artifact_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "tiny"
    tiny_artifact().save(path)
    return path


def test_a_bag_goes_in_and_a_report_comes_out(tmp_path, artifact_path):
    write_bag(tmp_path / "drive")
    told = []
    described = evaluate(
        artifact_path,
        [tmp_path / "drive"],
        tmp_path / "out",
        progress=lambda name, done, total: told.append((name, done, total)),
    )
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == described
    part = described["recordings"][0]
    assert part["frames"] == N_IMAGES - 1
    assert part["path_length_m"] == pytest.approx(0.5 * (N_IMAGES - 1))
    assert part["source"]["images"] == N_IMAGES
    assert part["source"]["extrinsics"]
    assert len(part["source"]["sha256"]) == 64
    assert sum(state["count"] for state in part["states"].values()) == N_IMAGES - 1
    assert told[-1][1:] == (N_IMAGES, N_IMAGES)
    artifact = described["artifact"]
    assert artifact["posterior"]["structure"] == "inf"
    assert artifact["metadata"] == {"made_for": "tests"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert artifact["posterior"]["covered"][0]["name"] in page


def test_bad_input_is_refused_before_anything_is_written(tmp_path, artifact_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="at least one bag"):
        evaluate(artifact_path, [], out)
    with pytest.raises(ArtifactError, match="no artifact"):
        evaluate(tmp_path / "nothing", [tmp_path / "drive"], out)
    with pytest.raises(BagError, match="does not exist"):
        evaluate(artifact_path, [tmp_path / "drive"], out)
    with pytest.raises(BagError, match="drive: given twice"):
        evaluate(artifact_path, [tmp_path / "drive", tmp_path / "." / "drive"], out)
    write_bag(tmp_path / "blind", with_reference=False)
    with pytest.raises(ValueError, match="no reference"):
        evaluate(artifact_path, [tmp_path / "blind"], out)
    assert not out.exists()


def test_json_value_knows_what_the_posterior_reports():
    value = {
        1: (np.float64(2.0), float("nan"), np.array([1, 2])),
        "state": TrackingState.LOST,
        "fine": [True, None, 3, "x"],
    }
    expected = {"1": [2.0, None, [1, 2]], "state": "lost", "fine": [True, None, 3, "x"]}
    assert json_value(value) == expected
