import numpy as np
import pytest

from bayes_vio.filters.geodetic import LocalFrame, earth_fixed

# Of WGS 84: semi-minor axis, and the lengths of one degree (NIMA TR8350.2 and its formulas).
POLAR_RADIUS_M = 6356752.3142
DEGREE_OF_LATITUDE_M = {0.0: 110574.28, 45.0: 111131.75, 60.0: 111412.24}
DEGREE_OF_LONGITUDE_M = {0.0: 111319.49, 45.0: 78846.84, 60.0: 55800.06}


def test_axes_of_the_earth():
    np.testing.assert_allclose(earth_fixed(0, 0, 0), [6378137.0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(earth_fixed(0, 90, 10), [0, 6378147.0, 0], atol=1e-6)
    np.testing.assert_allclose(earth_fixed(90, 0, 0), [0, 0, POLAR_RADIUS_M], atol=1e-4)


@pytest.mark.parametrize("latitude", [0.0, 45.0, 60.0])
def test_small_steps_have_the_lengths_of_degrees(latitude):
    frame, h = LocalFrame(latitude, 8.4, 100.0 - 100.0), 1e-3
    north = frame.position(latitude + h / 2, 8.4, 0) - frame.position(latitude - h / 2, 8.4, 0)
    east = frame.position(latitude, 8.4 + h, 0)
    assert north[1] / h == pytest.approx(DEGREE_OF_LATITUDE_M[latitude], rel=2e-5)
    assert east[0] / h == pytest.approx(DEGREE_OF_LONGITUDE_M[latitude], rel=2e-5)
    np.testing.assert_allclose(frame.position(latitude, 8.4, 25.0), [0, 0, 25], atol=1e-6)


def test_distances_are_kept():
    a, b = (49.01, 8.40, 115.0), (49.03, 8.45, 140.0)
    direct = np.linalg.norm(earth_fixed(*a) - earth_fixed(*b))
    assert np.linalg.norm(LocalFrame(*a).position(*b)) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("place", [(91, 0, 0), (0, np.nan, 0), (0, 0, np.inf), (0, 400, 0)])
def test_no_place_on_earth(place):
    with pytest.raises(ValueError, match="no place on Earth"):
        earth_fixed(*place)
