"""Run the estimator node: ``python -m bayes_vio.ros --ros-args ...``."""

from bayes_vio.entry import estimator_node

raise SystemExit(estimator_node())
