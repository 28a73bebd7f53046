"""Curvature of the loss in the weights, layer by layer."""
