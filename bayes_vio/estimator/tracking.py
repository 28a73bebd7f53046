"""What the streaming estimator says about one interval, and the settings it works by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from bayes_vio.regime.classes import Regime


class TrackingState(Enum):
    """How far the increments can be trusted; the covariance says the same in numbers."""

    WAITING = "waiting"  # no interval yet
    TRACKING = "tracking"
    DEGRADED = "degraded"  # a sensor is missing, or outside what the model was trained on
    LOST = "lost"  # no usable window: the increment is a guess by constant velocity


class Cause(Enum):
    """Why an input was left out or an interval is not nominal; also the counters' keys."""

    # Inputs left out when they are fed.
    IMU_SHAPE = "imu_shape"
    IMU_NOT_FINITE = "imu_not_finite"
    IMU_OUT_OF_RANGE = "imu_out_of_range"
    IMU_STAMP_INVALID = "imu_stamp_invalid"
    IMU_STAMP_DUPLICATE = "imu_stamp_duplicate"
    IMU_STAMP_BACKWARDS = "imu_stamp_backwards"
    IMU_STAMP_AHEAD = "imu_stamp_ahead"
    IMU_STAMP_JUMP = "imu_stamp_jump"
    IMU_SAMPLES_MISSING = "imu_samples_missing"  # never came, as the stamps of the others tell
    IMAGE_TYPE = "image_type"
    IMAGE_SIZE = "image_size"
    IMAGE_LATE = "image_late"
    IMAGE_STAMP_INVALID = "image_stamp_invalid"
    IMAGE_STAMP_DUPLICATE = "image_stamp_duplicate"
    IMAGE_STAMP_BACKWARDS = "image_stamp_backwards"
    IMAGE_STAMP_AHEAD = "image_stamp_ahead"
    IMAGE_STAMP_JUMP = "image_stamp_jump"
    CLOCK_BACKWARDS = "clock_backwards"
    FRAMES_SKIPPED = "frames_skipped"
    FRAMES_TOO_SOON = "frames_too_soon"
    RESET = "reset"
    # Intervals that are not nominal.
    FRAMES_DROPPED = "frames_dropped"
    IMU_GAP = "imu_gap"
    IMU_MISSING = "imu_missing"
    IMU_FROZEN = "imu_frozen"  # one sample again and again: left out
    GYRO_DEAD = "gyro_dead"  # nothing but zeros: the sample is left out, specific force and all
    IMAGE_MISSING = "image_missing"
    EARLIER_IMAGE_UNUSABLE = "earlier_image_unusable"
    IMAGE_FROZEN = "image_frozen"
    IMAGE_DARK = "image_dark"
    IMAGE_BRIGHT = "image_bright"
    IMAGE_BLURRED = "image_blurred"
    IMAGE_UNFAMILIAR = "image_unfamiliar"  # it, or the street, is unlike those of training
    VIEW_BLIND = "view_blind"  # a part of it is covered, or outside the camera's image
    LENS_SPECKLED = "lens_speckled"  # spots of the view change less than all around them, for long
    SENSORS_DISAGREE = "sensors_disagree"  # camera and gyro tell different rotations
    IMAGE_OCCLUDED = "image_occluded"
    IMAGE_DOUBTFUL = "image_doubtful"  # unlike the images of training, but used
    INTERVAL_UNUSUAL = "interval_unusual"
    INTERVAL_OUT_OF_RANGE = "interval_out_of_range"
    MODEL_OUTPUT = "model_output"
    ODOMETRY_COVARIANCE = "odometry_covariance"
    POSE_UNKNOWN = "pose_unknown"  # a standard deviation has reached its bound


@dataclass(frozen=True)
class MotionEstimate:
    """The motion of base_link over one interval, and the odometry at its end.

    earlier_stamp_ns, stamp_ns: the interval in the images' clock; dt_s its length.
    T_earlier_later [4, 4]: the increment. epistemic_cov, noise_cov [6, 6]: the two parts of the
    covariance of its right perturbation (m, rad). cause: why the state is what it is, "" when
    tracking. T_odom_base [4, 4], odom_cov [6, 6] (right perturbation): accumulated up to stamp_ns.
    regime: what is believed of the later image, where the artifact can tell.
    """

    earlier_stamp_ns: int
    stamp_ns: int
    dt_s: float
    T_earlier_later: NDArray[np.float64]
    epistemic_cov: NDArray[np.float64]
    noise_cov: NDArray[np.float64]
    state: TrackingState
    cause: str
    T_odom_base: NDArray[np.float64]
    odom_cov: NDArray[np.float64]
    regime: Regime | None = None

    @property
    def cov(self) -> NDArray[np.float64]:
        """Return the covariance [6, 6] of the increment's right perturbation, both parts."""
        return self.epistemic_cov + self.noise_cov


@dataclass(frozen=True)
class EstimatorSettings:
    """Thresholds and bounds of the estimator, in SI units; the last letters name the unit."""

    # Clocks and buffers.
    imu_buffer_s: float = 5.0
    imu_rate_max_hz: float = 2000.0  # sizes the buffer, allocated once
    imu_stuck_s: float = 0.25  # samples that repeat, or tell no rate, for longer are left out
    imu_wait_s: float = 0.1  # an image waits this long for the IMU samples of its interval
    timeout_s: float = 0.5  # without an image for so long, an increment is emitted without one
    stamp_jump_s: float = 0.5  # a stamp that steps back, or ahead of time, by more is a jump:
    stamp_jump_messages: int = 3  # followed once so many messages in a row agree, else left out
    pending_images: int = 8

    # Values no sensor of a car reports.
    specific_force_bound_m_s2: float = 400.0
    angular_rate_bound_rad_s: float = 40.0

    # When a sensor counts as unusable or an interval as out of the ordinary.
    imu_share_min: float = 0.5  # of an interval's bins, for an estimate from the IMU alone
    dropped_frame_ratio: float = 1.5  # of the median interval
    dt_margin: float = 1.5  # beyond the artifact's dt_range_s by this factor: not asked
    frozen_difference: float = 0.3  # mean absolute difference of two views, gray levels
    moving_rate_rad_s: float = 0.05  # the IMU says motion: mean angular rate above this, or
    moving_specific_force_std_m_s2: float = 0.3  # specific force shaking by more than this

    interval_min_s: float = 1e-3  # shorter ones are left out

    # Speed is hardly seen by an IMU alone: such estimates err alike for about this long.
    unseen_speed_correlation_s: float = 5.0
    # It is carried on by what the IMU feels beyond its mean over the last seconds with a camera.
    unseen_acceleration_std_m_s2: float = 0.3
    level_memory_s: float = 10.0

    # Inputs unlike those of training and validation (see models.reliability): how the covariance
    # grows, and beyond what an interval is not nominal.
    unfamiliar_inflation: float = 10.0  # per distance that 5 % of a usual street exceeds
    unfamiliar_memory_s: float = 5.0  # one strange picture is not a strange street
    unfamiliar_distance: float = 4.0  # squared, of a street or a single picture
    blind_inflation: float = 15.0  # times the blind share of the view
    blind_share_max: float = 0.1
    speck_inflation: float = 0.3  # of translation, per deviation beyond two below the usual
    speck_deviations_max: float = 2.5
    agreement_memory_s: float = 10.0
    agreement_interval_s: float = 0.5  # the camera alone is asked no more often
    disagreement_max: float = 3.0  # standard deviations of validation

    # What the car could have done meanwhile (constant velocity; see Coasting).
    acceleration_std_m_s2: float = 3.0
    angular_acceleration_std_rad_s2: float = 0.5
    speed_error_bound_m_s: float = 30.0
    angular_rate_error_bound_rad_s: float = 1.0
    coasting_s: float = 10.0  # afterwards the mean stands still

    # Standard deviations: of an odometry just started, of what counts as exactly known, and the
    # largest ever reported ("unknown").
    initial_position_std_m: float = 1e-3
    initial_angle_std_rad: float = 1e-4
    floor_std: float = 1e-6  # m and rad
    position_std_bound_m: float = 1e5
    angle_std_bound_rad: float = float(np.pi)

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that is not a positive, finite number."""
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"estimator setting {name} is {value}: give a number above 0")
        for name in ("dt_margin", "dropped_frame_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"estimator setting {name} must be at least 1")

    @property
    def std_bound(self) -> NDArray[np.float64]:
        """Return the largest standard deviations [6] (m, rad) ever reported."""
        return np.repeat([self.position_std_bound_m, self.angle_std_bound_rad], 3)
