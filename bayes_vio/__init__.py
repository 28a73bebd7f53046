"""Motion from IMU and camera, with a covariance that says what the model does not know."""

__version__ = "0.1.0"
