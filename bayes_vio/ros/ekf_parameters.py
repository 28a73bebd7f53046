"""The filter node's parameters: one field of `EkfParameters` is one ROS parameter."""

from __future__ import annotations

from dataclasses import dataclass

from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.ros.parameter_table import number, parameter, shared_values

_DEFAULT = EkfSettings()


@dataclass(frozen=True)
class EkfParameters:
    """The filter node's parameters, as checked; read when the node starts."""

    artifact: str = parameter(
        "",
        "Folder of the artifact that the estimator runs: how long its errors last is read "
        "from it; empty: the packaged one",
    )
    epistemic_correlation_s: float | None = number(
        None,
        "For how long the epistemic error stays alike; 0: treat it as white",
        "s",
        0.0,
        1e6,
        nan_means="the artifact's",
    )
    split_covariance: bool = parameter(
        True,
        "Wait for twist/epistemic of every twist's stamp; false: take all of twist's "
        "covariance for noise, and do not listen to twist/epistemic",
    )
    use_fixes: bool = parameter(
        False,
        "Listen to fix and fix_odometry; world_frame is then that of the fixes, and nothing "
        "is published until they have told the heading",
    )
    world_frame: str = parameter("map", "Frame in which the filtered pose stands")
    base_frame: str = parameter("base_link", "Frame that moves")
    acceleration_density: tuple[float, ...] = parameter(
        _DEFAULT.acceleration_density,
        "By how much the twist changes by itself: density of a white acceleration along and "
        "about x, y, z",
        unit="m/s^2/sqrt(Hz), rad/s^2/sqrt(Hz)",
    )
    speed_bound_m_s: float = number(
        _DEFAULT.speed_bound_m_s,
        "Largest standard deviation of the speed, reached without measurements",
        "m/s",
        0.1,
        200.0,
    )
    angular_rate_bound_rad_s: float = number(
        _DEFAULT.angular_rate_bound_rad_s,
        "Largest standard deviation of the angular rate, reached without measurements",
        "rad/s",
        0.01,
        20.0,
    )
    initial_position_std_m: float = number(
        _DEFAULT.initial_position_std_m,
        "Standard deviation of the position at the start",
        "m",
        1e-9,
        1e5,
    )
    initial_angle_std_rad: float = number(
        _DEFAULT.initial_angle_std_rad,
        "Standard deviation of the angles at the start",
        "rad",
        1e-9,
        3.1416,
    )
    antenna_position_m: tuple[float, ...] = parameter(
        _DEFAULT.antenna_position_m, "Place in base_frame to which the fixes belong", unit="m"
    )
    fix_lasting_std_m: float = number(
        _DEFAULT.fix_lasting_std_m,
        "Standard deviation of the slowly varying part of the fixes' error, beside the white "
        "one in their messages",
        "m",
        0.0,
        1000.0,
    )
    fix_correlation_s: float = number(
        _DEFAULT.fix_correlation_s, "For how long that part stays alike", "s", 0.0, 1e6
    )
    fix_unknown_std_m: float | None = number(
        None,
        "Standard deviation of a NavSatFix that says its covariance is unknown",
        "m",
        0.001,
        1000.0,
        nan_means="such fixes are left out",
    )
    alignment_distance_m: float = number(
        20.0, "How far the first fixes must spread to tell the heading", "m", 1.0, 10000.0
    )
    alignment_yaw_std_rad: float = number(0.15, "How well they must tell it", "rad", 0.001, 1.0)
    origin_latitude_deg: float | None = number(
        None,
        "Latitude of world_frame's origin, for NavSatFix",
        "deg",
        -90.0,
        90.0,
        nan_means="the first fix's",
    )
    origin_longitude_deg: float | None = number(
        None, "Longitude of the origin", "deg", -180.0, 180.0, nan_means="the first fix's"
    )
    origin_altitude_m: float | None = number(
        None,
        "Altitude of the origin above the ellipsoid",
        "m",
        -1e4,
        1e5,
        nan_means="the first fix's",
    )
    gate_probability: float = number(
        _DEFAULT.gate_probability,
        "A measurement is left out where less than this share of true ones is farther off",
        "1",
        1e-12,
        0.5,
    )
    rejections_max: int = number(
        _DEFAULT.rejections_max,
        "After so many left out in a row the filter, and not they, is taken to be wrong",
        "messages",
        1,
        100000,
    )
    history_s: float = number(
        _DEFAULT.history_s, "By how much a measurement may come late", "s", 0.01, 60.0
    )
    max_gap_s: float = number(
        _DEFAULT.max_gap_s,
        "A longer time without twists is bridged as one in which anything may have happened",
        "s",
        0.1,
        600.0,
    )
    jump_messages: int = number(
        _DEFAULT.jump_messages,
        "Messages in a row that must agree before a jump of stamps is followed",
        "messages",
        1,
        1000,
    )
    nis_window: int = number(
        300, "Innovations in the NIS of the diagnostics", "innovations", 10, 100000
    )
    input_depth: int = number(100, "QoS history depth of the inputs", "messages", 1, 10000)

    def settings(
        self, epistemic_correlation_s: float, noise_correlation: NoiseCorrelation
    ) -> EkfSettings:
        """Return the filter's settings; given is what the artifact says. Raises ValueError."""
        settings = shared_values(self, EkfSettings)
        settings["noise_correlation"] = noise_correlation
        if self.epistemic_correlation_s is None:
            settings["epistemic_correlation_s"] = epistemic_correlation_s
        return EkfSettings(**settings)

    @property
    def origin(self) -> tuple[float, float, float] | None:
        """Latitude and longitude (deg) and altitude (m) of the origin; None: the first fix's.

        Raises ValueError where only some of the three are given.
        """
        given = (self.origin_latitude_deg, self.origin_longitude_deg, self.origin_altitude_m)
        known = [value for value in given if value is not None]
        if known and len(known) < 3:
            raise ValueError(
                "give all of origin_latitude_deg, _longitude_deg, _altitude_m or none"
            )
        return (known[0], known[1], known[2]) if known else None
