# ruff: noqa: E402, the imports need what is skipped for
"""The filter's parameters are described, ranged, in its file, and become its settings."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install the extra `ros`")
pytestmark = pytest.mark.ros

from ruamel.yaml import YAML

from bayes_vio.filters.ekf_settings import EkfSettings
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.ros.ekf_parameters import EkfParameters
from bayes_vio.ros.parameter_table import of_values, table_of

CONFIG = Path(__file__).parents[2] / "config" / "ekf.yaml"


def test_every_parameter_is_described_and_its_default_is_accepted():
    for name, (default, spec) in table_of(EkfParameters).items():
        assert len(spec.description) > 10, name
        assert not spec.refusal(default, default), name
        numeric = isinstance(default, float) or type(default) is int
        assert not numeric or (spec.minimum is not None and spec.unit), name


def test_the_configuration_file_holds_and_explains_every_parameter():
    table = YAML(typ="safe").load(CONFIG.read_text())["/**/ekf"]["ros__parameters"]
    known, lines = table_of(EkfParameters), CONFIG.read_text().splitlines()
    assert set(table) == set(known)
    for name, value in table.items():
        default = known[name][0]
        value = tuple(value) if isinstance(value, list) else value
        assert type(value) is type(default), name
        assert value == default or (math.isnan(value) and math.isnan(default)), name
        (row,) = [i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:")]
        assert lines[row - 1].lstrip().startswith("#"), name


def test_every_setting_of_the_filter_comes_from_a_parameter_or_the_artifact():
    """Each setting is changed by one source and no other: none is forgotten, none crossed."""
    noise, default = NoiseCorrelation((1.0,) * 6, (0.5,) * 6), EkfParameters()
    settings = default.settings(3.0, noise)
    assert settings == replace(EkfSettings(), epistemic_correlation_s=3.0, noise_correlation=noise)
    assert replace(default, epistemic_correlation_s=0.0).settings(3.0, noise) == replace(
        settings, epistemic_correlation_s=0.0
    )
    own = {f.name for f in fields(EkfParameters)}
    bounds = {"position_std_bound_m", "angle_std_bound_rad"}
    for f in fields(EkfSettings):
        if f.name in {"noise_correlation", "epistemic_correlation_s"} | bounds:
            continue
        assert f.name in own
        value = getattr(settings, f.name)
        other = tuple(2 * v + 1 for v in value) if isinstance(value, tuple) else value / 2
        other = 7 if isinstance(value, int) else other
        changed = replace(default, **{f.name: other}).settings(3.0, noise)
        assert changed == replace(settings, **{f.name: other})


def test_an_origin_is_given_whole_or_not_at_all():
    assert EkfParameters().origin is None
    given = EkfParameters(
        origin_latitude_deg=49.0, origin_longitude_deg=8.0, origin_altitude_m=1.0
    )
    assert given.origin == (49.0, 8.0, 1.0)
    with pytest.raises(ValueError, match="or none"):
        _ = EkfParameters(origin_latitude_deg=49.0).origin


def test_a_table_of_values_needs_every_name():
    table = {name: default for name, (default, _) in table_of(EkfParameters).items()}
    assert of_values(EkfParameters, table) == EkfParameters()
    del table["artifact"]
    with pytest.raises(KeyError):
        of_values(EkfParameters, table)
