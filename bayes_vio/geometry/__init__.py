"""Rotations and rigid motions: exponential, logarithm, adjoint, covariance on the group."""

from bayes_vio.geometry import se3, so3

__all__ = ["se3", "so3"]
