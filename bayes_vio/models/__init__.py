"""The motion network: image and IMU encoders, attention fusion, mean and noise covariance."""

from bayes_vio.models.motion import MotionModel, MotionModelSettings

__all__ = ["MotionModel", "MotionModelSettings"]
