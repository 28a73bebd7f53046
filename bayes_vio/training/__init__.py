"""From motion samples to a maximum a posteriori fit, and the noise calibration on validation."""

from bayes_vio.training.map_fit import MapEstimate, MapFitSettings, fit_map

__all__ = ["MapEstimate", "MapFitSettings", "fit_map"]
