"""Rendered sensors report the course and the motion; the estimator follows the car by them."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.conventions import GRAVITY_M_S2
from bayes_vio.estimator.tracking import TrackingState
from bayes_vio.planning import Vehicle
from bayes_vio.planning.car import Car, Command
from bayes_vio.planning.course import Condition, random_course
from bayes_vio.planning.estimated import belief_of
from bayes_vio.planning.rendered import RenderedEstimator, RenderedSensors, RenderedSettings
from bayes_vio.planning.sampled import planar_matrix
from bayes_vio.simulation import PERFECT_IMU, CameraSettings

VEHICLE = Vehicle(speed_max_m_s=8.0)
COURSE = random_course(np.random.default_rng(0))


def sensors_on(obstacles: int) -> RenderedSensors:
    """Return perfect sensors on the course with only its first obstacles."""
    settings = RenderedSettings(camera=CameraSettings(noise_std=0.0), imu=PERFECT_IMU)
    course = replace(COURSE, polygons=COURSE.polygons[: COURSE.walls + obstacles])
    return RenderedSensors(course, VEHICLE, np.random.default_rng(0), settings)


@pytest.fixture(scope="module")
def sensors():
    return sensors_on(2)


def column_of(sensors, point: np.ndarray, pose: np.ndarray) -> float:
    """Return the column at which the camera sees a point [2] of the ground's plane."""
    world = np.array([*point, 0.5, 1.0])
    T_world_camera = planar_matrix(pose) @ sensors.extrinsics.T_base_camera
    T_world_camera[2, 3] += 0.5
    x, _, z = (sensors.camera.K @ (np.linalg.inv(T_world_camera) @ world)[:3]).tolist()
    assert z > 0
    return x / z


def test_the_gates_edges_are_where_the_map_says(sensors):
    pose = COURSE.start.copy()
    images = [s.image(pose, Condition.CLEAR).astype(float) for s in (sensors, sensors_on(0))]
    differs = np.abs(images[0] - images[1])[35:50] > 3
    changed = np.asarray(np.any(differs, axis=0))
    right, left = (COURSE.obstacles[k] for k in (0, 1))
    edges = [column_of(sensors, block[k], pose) for block, k in ((left, 0), (right, 3))]
    found = np.flatnonzero(changed)
    before, after = found[found < np.mean(edges)], found[found > np.mean(edges)]
    # The gap between the blocks shows what is behind; its borders are the map's.
    np.testing.assert_allclose([before[-1], after[0]], edges, atol=2.0)
    assert changed[int(edges[0]) - 12 : int(edges[0]) - 1].mean() > 0.8
    assert changed[int(edges[1]) + 2 : int(edges[1]) + 13].mean() > 0.8


def test_a_tunnel_is_darker(sensors):
    bright, dark = (sensors.image(COURSE.start, c) for c in (Condition.CLEAR, Condition.DARK))
    share = RenderedSettings().tunnel_light
    assert dark.mean() == pytest.approx(share * bright.mean(), rel=0.05)


def test_the_imu_reports_what_the_car_did(sensors):
    car = Car(VEHICLE, COURSE.start, speed_m_s=4.0)
    motions = [car.drive(Command(8.0, 1.2, 0.08), 0.1) for _ in range(20)]
    samples = np.concatenate([sensors.imu(m) for m in motions])
    # What force and rate add up to is speed and heading.
    assert 4.0 + 0.01 * samples[:, 0].sum() == pytest.approx(car.speed_m_s, abs=1e-9)
    turned = car.pose[2] - COURSE.start[2]
    assert 0.01 * samples[:, 5].sum() == pytest.approx(turned, abs=1e-9)
    np.testing.assert_allclose(samples[:, 2], GRAVITY_M_S2)
    bend = np.tan(0.08) / VEHICLE.wheelbase_m
    assert samples[-1, 1] == pytest.approx(car.speed_m_s**2 * bend, rel=0.01)


def test_the_estimator_follows_the_car_within_what_it_says():
    artifact = MotionArtifact.load(default_artifact_path(), "cpu")
    estimator = RenderedEstimator(COURSE, artifact, VEHICLE, np.random.default_rng(1))
    estimator.set_pose(planar_matrix(COURSE.start), 1e-6 * np.eye(6))
    car = Car(VEHICLE, COURSE.start, speed_m_s=COURSE.start_speed_m_s)
    for _ in range(12):
        motion = car.drive(Command(8.0, 1.0, 0.0), 0.1)
        estimate = estimator.observe(motion, Condition.CLEAR)
    assert estimate is not None
    belief = belief_of(estimate)
    error = belief.pose - car.pose
    assert error @ np.linalg.solve(belief.cov, error) < 30  # chi-square, 3: 1e-6
    assert np.abs(error[:2]).max() < 1.5
    assert belief.speed_m_s == pytest.approx(car.speed_m_s, abs=2.0)
    silent = [estimator.observe(car.drive(Command(8.0, 0.0, 0.0), 0.1), Condition.OUTAGE)
              for _ in range(8)]  # fmt: skip
    told = [e for e in silent if e is not None]
    assert told
    assert {e.state for e in told} == {TrackingState.DEGRADED}
    assert told[-1].odom_cov[0, 0] > estimate.odom_cov[0, 0]
