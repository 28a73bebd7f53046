"""Meaning, unit and range of the estimator's thresholds, by field of `EstimatorSettings`."""

from __future__ import annotations

from bayes_vio.ros.parameter_spec import ParameterSpec

THRESHOLDS: dict[str, ParameterSpec] = {
    "imu_buffer_s": ParameterSpec("IMU history that is kept", "s", 0.5, 60.0),
    "imu_rate_max_hz": ParameterSpec("Highest IMU rate; sizes the buffer", "Hz", 50.0, 20000.0),
    "imu_stuck_s": ParameterSpec(
        "Samples that repeat to the last bit, or tell rates of exactly zero, for so long are left "
        "out; large for a simulated IMU without noise",
        "s",
        0.01,
        1e6,
    ),
    "imu_wait_s": ParameterSpec(
        "How long an image waits for the IMU samples of its interval before it does without",
        "s",
        0.01,
        5.0,
    ),
    "timeout_s": ParameterSpec(
        "Time without an image after which an increment is emitted without one", "s", 0.05, 10.0
    ),
    "stamp_jump_s": ParameterSpec(
        "A stamp that steps back, or ahead of the time that has passed, by more is a jump; by "
        "less, back, it is left out",
        "s",
        0.001,
        10.0,
    ),
    "stamp_jump_messages": ParameterSpec(
        "Messages in a row that must agree before a jump of stamps is followed (back: the "
        "estimator resets); fewer are left out",
        "messages",
        1,
        1000,
    ),
    "pending_images": ParameterSpec("Images that may wait for IMU samples", "images", 1, 1000),
    "specific_force_bound_m_s2": ParameterSpec(
        "Specific force per axis above which an IMU sample is refused", "m/s^2", 20.0, 10000.0
    ),
    "angular_rate_bound_rad_s": ParameterSpec(
        "Angular rate per axis above which an IMU sample is refused", "rad/s", 1.0, 1000.0
    ),
    "imu_share_min": ParameterSpec(
        "Share of an interval that IMU samples must cover for an estimate from the IMU alone",
        "1",
        0.01,
        1.0,
    ),
    "dropped_frame_ratio": ParameterSpec(
        "An interval longer than the median by this factor counts as a dropped frame",
        "1",
        1.0,
        10.0,
    ),
    "dt_margin": ParameterSpec(
        "Factor beyond the intervals seen in training up to which the network is asked",
        "1",
        1.0,
        10.0,
    ),
    "frozen_difference": ParameterSpec(
        "Mean absolute difference of two views below which the image is frozen",
        "gray levels",
        0.001,
        255.0,
    ),
    "moving_rate_rad_s": ParameterSpec(
        "Mean angular rate above which the vehicle moves", "rad/s", 0.0001, 10.0
    ),
    "moving_specific_force_std_m_s2": ParameterSpec(
        "Standard deviation of the specific force above which the vehicle moves",
        "m/s^2",
        0.001,
        100.0,
    ),
    "interval_min_s": ParameterSpec(
        "Shorter intervals between images are left out", "s", 1e-6, 0.1
    ),
    "unseen_speed_correlation_s": ParameterSpec(
        "For how long errors of the speed stay alike where only the IMU is there", "s", 0.01, 600.0
    ),
    "unseen_acceleration_std_m_s2": ParameterSpec(
        "By how much the IMU's forward acceleration errs for seconds, without a camera",
        "m/s^2",
        0.001,
        100.0,
    ),
    "level_memory_s": ParameterSpec(
        "Over which time with a camera it is learned what the IMU says at constant speed",
        "s",
        0.5,
        600.0,
    ),
    "unfamiliar_inflation": ParameterSpec(
        "By how much the variance grows per squared distance of the street from training's "
        "beyond the one that a street left out exceeds in 5 % of the time, which is the unit",
        "1",
        1e-6,
        100.0,
    ),
    "unfamiliar_memory_s": ParameterSpec(
        "Over which time pictures and gyro tell of a street", "s", 0.01, 600.0
    ),
    "unfamiliar_distance": ParameterSpec(
        "Squared distance of a picture or of the street from training's, in those units, above "
        "which the state is degraded",
        "1",
        0.1,
        1e6,
    ),
    "blind_inflation": ParameterSpec(
        "By how much the variance grows per blind share of the view (covered, or outside the "
        "camera's image)",
        "1",
        1e-6,
        1000.0,
    ),
    "blind_share_max": ParameterSpec(
        "Blind share of the view above which the state is degraded", "1", 0.001, 1.0
    ),
    "speck_inflation": ParameterSpec(
        "By how much translation's variance grows per standard deviation, beyond two, by which "
        "spots of the view change less than behind a clean lens",
        "1",
        1e-6,
        100.0,
    ),
    "speck_deviations_max": ParameterSpec(
        "Standard deviations, of clean lenses, by which spots of the view may change less than "
        "all around them before the state is degraded",
        "1",
        0.5,
        1000.0,
    ),
    "agreement_memory_s": ParameterSpec(
        "Within which time a contradiction of camera and gyro is forgotten", "s", 0.5, 600.0
    ),
    "agreement_interval_s": ParameterSpec(
        "The network is asked no more often for the rotation that the camera alone tells",
        "s",
        0.001,
        10.0,
    ),
    "disagreement_max": ParameterSpec(
        "Contradiction of camera and gyro, over what validation shows, above which the state is "
        "degraded",
        "1",
        0.1,
        1000.0,
    ),
    "acceleration_std_m_s2": ParameterSpec(
        "What the vehicle may accelerate while nothing is seen, standard deviation",
        "m/s^2",
        0.01,
        100.0,
    ),
    "angular_acceleration_std_rad_s2": ParameterSpec(
        "As acceleration_std_m_s2, angular", "rad/s^2", 0.001, 100.0
    ),
    "speed_error_bound_m_s": ParameterSpec(
        "Largest standard deviation of the speed while nothing is seen", "m/s", 0.1, 200.0
    ),
    "angular_rate_error_bound_rad_s": ParameterSpec(
        "Largest standard deviation of the angular rate while nothing is seen", "rad/s", 0.01, 20.0
    ),
    "coasting_s": ParameterSpec(
        "Time without a usable window after which the mean stands still", "s", 0.1, 600.0
    ),
    "initial_position_std_m": ParameterSpec(
        "Standard deviation of the position at which odometry starts", "m", 1e-9, 1e5
    ),
    "initial_angle_std_rad": ParameterSpec(
        "Standard deviation of the angles at which odometry starts", "rad", 1e-9, 3.1416
    ),
    "floor_std": ParameterSpec("Smallest standard deviation ever reported", "m, rad", 1e-12, 0.1),
    "position_std_bound_m": ParameterSpec(
        "Largest standard deviation of a position ever reported; means unknown", "m", 1.0, 1e7
    ),
    "angle_std_bound_rad": ParameterSpec(
        "Largest standard deviation of an angle ever reported; means unknown", "rad", 0.1, 3.1416
    ),
}
