"""The filter node's parameters: one field of `EkfParameters` is one ROS parameter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.ros.parameter_spec import ParameterSpec
from bayes_vio.ros.parameter_table import about, own_values, table_of

_DEFAULT = EkfSettings()


def _quantity(
    description: str, unit: str, minimum: float, maximum: float, **more: Any
) -> dict[str, ParameterSpec]:
    return about(description, unit=unit, minimum=minimum, maximum=maximum, **more)


@dataclass(frozen=True)
class EkfParameters:
    """The filter node's parameters, as checked; read when the node starts."""

    artifact: str = field(
        default="",
        metadata=about(
            "Folder of the artifact that the estimator runs: how long its errors last is read "
            "from it; empty: the packaged one"
        ),
    )
    epistemic_correlation_s: float | None = field(
        default=None,
        metadata=_quantity(
            "For how long the epistemic error stays alike; 0: treat it as white",
            "s",
            0.0,
            1e6,
            nan_means="the artifact's",
        ),
    )
    split_covariance: bool = field(
        default=True,
        metadata=about(
            "Wait for twist/epistemic of every twist's stamp; false: take all of twist's "
            "covariance for noise, and do not listen to twist/epistemic"
        ),
    )
    use_fixes: bool = field(
        default=False,
        metadata=about(
            "Listen to fix and fix_odometry; world_frame is then that of the fixes, and nothing "
            "is published until they have told the heading"
        ),
    )
    world_frame: str = field(
        default="map", metadata=about("Frame in which the filtered pose stands")
    )
    base_frame: str = field(default="base_link", metadata=about("Frame that moves"))
    acceleration_density: tuple[float, ...] = field(
        default=_DEFAULT.acceleration_density,
        metadata=about(
            "By how much the twist changes by itself: density of a white acceleration along and "
            "about x, y, z",
            unit="m/s^2/sqrt(Hz), rad/s^2/sqrt(Hz)",
        ),
    )
    speed_bound_m_s: float = field(
        default=_DEFAULT.speed_bound_m_s,
        metadata=_quantity(
            "Largest standard deviation of the speed, reached without measurements",
            "m/s",
            0.1,
            200.0,
        ),
    )
    angular_rate_bound_rad_s: float = field(
        default=_DEFAULT.angular_rate_bound_rad_s,
        metadata=_quantity(
            "Largest standard deviation of the angular rate, reached without measurements",
            "rad/s",
            0.01,
            20.0,
        ),
    )
    initial_position_std_m: float = field(
        default=_DEFAULT.initial_position_std_m,
        metadata=_quantity("Standard deviation of the position at the start", "m", 1e-9, 1e5),
    )
    initial_angle_std_rad: float = field(
        default=_DEFAULT.initial_angle_std_rad,
        metadata=_quantity("Standard deviation of the angles at the start", "rad", 1e-9, 3.1416),
    )
    antenna_position_m: tuple[float, ...] = field(
        default=_DEFAULT.antenna_position_m,
        metadata=about("Place in base_frame to which the fixes belong", unit="m"),
    )
    fix_lasting_std_m: float = field(
        default=_DEFAULT.fix_lasting_std_m,
        metadata=_quantity(
            "Standard deviation of the slowly varying part of the fixes' error, beside the white "
            "one in their messages",
            "m",
            0.0,
            1000.0,
        ),
    )
    fix_correlation_s: float = field(
        default=_DEFAULT.fix_correlation_s,
        metadata=_quantity("For how long that part stays alike", "s", 0.0, 1e6),
    )
    fix_unknown_std_m: float | None = field(
        default=None,
        metadata=_quantity(
            "Standard deviation of a NavSatFix that says its covariance is unknown",
            "m",
            0.001,
            1000.0,
            nan_means="such fixes are left out",
        ),
    )
    alignment_distance_m: float = field(
        default=20.0,
        metadata=_quantity(
            "How far the first fixes must spread to tell the heading", "m", 1.0, 10000.0
        ),
    )
    alignment_yaw_std_rad: float = field(
        default=0.15,
        metadata=_quantity("How well they must tell it", "rad", 0.001, 1.0),
    )
    origin_latitude_deg: float | None = field(
        default=None,
        metadata=_quantity(
            "Latitude of world_frame's origin, for NavSatFix",
            "deg",
            -90.0,
            90.0,
            nan_means="the first fix's",
        ),
    )
    origin_longitude_deg: float | None = field(
        default=None,
        metadata=_quantity(
            "Longitude of the origin", "deg", -180.0, 180.0, nan_means="the first fix's"
        ),
    )
    origin_altitude_m: float | None = field(
        default=None,
        metadata=_quantity(
            "Altitude of the origin above the ellipsoid",
            "m",
            -1e4,
            1e5,
            nan_means="the first fix's",
        ),
    )
    gate_probability: float = field(
        default=_DEFAULT.gate_probability,
        metadata=_quantity(
            "A measurement is left out where less than this share of true ones is farther off",
            "1",
            1e-12,
            0.5,
        ),
    )
    rejections_max: int = field(
        default=_DEFAULT.rejections_max,
        metadata=about(
            "After so many left out in a row the filter, and not they, is taken to be wrong",
            unit="messages",
            minimum=1,
            maximum=100000,
        ),
    )
    history_s: float = field(
        default=_DEFAULT.history_s,
        metadata=_quantity("By how much a measurement may come late", "s", 0.01, 60.0),
    )
    max_gap_s: float = field(
        default=_DEFAULT.max_gap_s,
        metadata=_quantity(
            "A longer time without twists is bridged as one in which anything may have happened",
            "s",
            0.1,
            600.0,
        ),
    )
    jump_messages: int = field(
        default=_DEFAULT.jump_messages,
        metadata=about(
            "Messages in a row that must agree before a jump of stamps is followed",
            unit="messages",
            minimum=1,
            maximum=1000,
        ),
    )
    nis_window: int = field(
        default=300,
        metadata=about(
            "Innovations in the NIS of the diagnostics",
            unit="innovations",
            minimum=10,
            maximum=100000,
        ),
    )
    input_depth: int = field(
        default=100,
        metadata=about(
            "QoS history depth of the inputs", unit="messages", minimum=1, maximum=10000
        ),
    )

    def settings(
        self, epistemic_correlation_s: float, noise_correlation: NoiseCorrelation
    ) -> EkfSettings:
        """Return the filter's settings; given is what the artifact says. Raises ValueError."""
        own = self.epistemic_correlation_s
        return EkfSettings(
            epistemic_correlation_s=epistemic_correlation_s if own is None else own,
            noise_correlation=noise_correlation,
            acceleration_density=self.acceleration_density,
            speed_bound_m_s=self.speed_bound_m_s,
            angular_rate_bound_rad_s=self.angular_rate_bound_rad_s,
            initial_position_std_m=self.initial_position_std_m,
            initial_angle_std_rad=self.initial_angle_std_rad,
            antenna_position_m=self.antenna_position_m,
            fix_lasting_std_m=self.fix_lasting_std_m,
            fix_correlation_s=self.fix_correlation_s,
            gate_probability=self.gate_probability,
            rejections_max=self.rejections_max,
            history_s=self.history_s,
            max_gap_s=self.max_gap_s,
            jump_messages=self.jump_messages,
        )

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


def specs() -> dict[str, tuple[Any, ParameterSpec]]:
    """Return every ROS parameter's default and specification, by name."""
    return table_of(EkfParameters)


def from_values(values: dict[str, Any]) -> EkfParameters:
    """Return the parameters of a complete table of ROS values, by name."""
    return EkfParameters(**own_values(EkfParameters, values))
