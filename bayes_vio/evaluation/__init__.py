"""Evaluation on held-out recordings: is the covariance true, and how far does the path drift?"""

from bayes_vio.evaluation.recordings import evaluate

__all__ = ["evaluate"]
