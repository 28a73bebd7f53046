"""Streaming estimation without ROS: IMU samples and images in, increments and odometry out."""

from bayes_vio.estimator.estimator import Estimator
from bayes_vio.estimator.tracking import Cause, EstimatorSettings, MotionEstimate, TrackingState

__all__ = ["Cause", "Estimator", "EstimatorSettings", "MotionEstimate", "TrackingState"]
