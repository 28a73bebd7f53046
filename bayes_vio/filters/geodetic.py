"""Latitude, longitude and altitude as metres east, north and up of an origin (WGS 84)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SEMI_MAJOR_AXIS_M = 6378137.0
_FLATTENING = 1 / 298.257223563
_ECCENTRICITY_SQUARED = _FLATTENING * (2 - _FLATTENING)


def earth_fixed(latitude_deg: float, longitude_deg: float, altitude_m: float) -> Array:
    """Return the position [3] (m) in the Earth's own frame (ECEF); altitude above the ellipsoid.

    Raises ValueError for numbers that are no place on Earth.
    """
    place = np.array([latitude_deg, longitude_deg, altitude_m])
    if not np.isfinite(place).all() or abs(latitude_deg) > 90 or abs(longitude_deg) > 360:
        raise ValueError(f"latitude, longitude and altitude {place} are no place on Earth")
    lat, lon = np.deg2rad(latitude_deg), np.deg2rad(longitude_deg)
    normal_m = _SEMI_MAJOR_AXIS_M / np.sqrt(1 - _ECCENTRICITY_SQUARED * np.sin(lat) ** 2)
    across_m = (normal_m + altitude_m) * np.cos(lat)
    up_m = (normal_m * (1 - _ECCENTRICITY_SQUARED) + altitude_m) * np.sin(lat)
    return np.array([across_m * np.cos(lon), across_m * np.sin(lon), up_m])


class LocalFrame:
    """East, north, up (m) of an origin given by latitude, longitude (deg) and altitude (m)."""

    def __init__(self, latitude_deg: float, longitude_deg: float, altitude_m: float) -> None:
        self._origin = earth_fixed(latitude_deg, longitude_deg, altitude_m)
        lat, lon = np.deg2rad(latitude_deg), np.deg2rad(longitude_deg)
        east = [-np.sin(lon), np.cos(lon), 0.0]
        north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
        up = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
        self._R_local_earth = np.array([east, north, up])

    def position(self, latitude_deg: float, longitude_deg: float, altitude_m: float) -> Array:
        """Return the position [3] (m) east, north and up of the origin."""
        there = earth_fixed(latitude_deg, longitude_deg, altitude_m)
        return self._R_local_earth @ (there - self._origin)
