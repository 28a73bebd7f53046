"""What is usual for a motion model's inputs, and by how much its covariance grows beyond it.

The posterior over weights hardly notices that a picture is unlike those of training: directions of
the inputs that training left empty are told by no weight. So the inputs are judged beside it:

- the picture, by the logarithms of its contrast and of its edges, and by its brightness: their
  squared Mahalanobis distance D^2 from those that training was shown, darker and brighter ones
  included, in units of the one that 5 % of validation exceeds;
- the street, over seconds, by its pictures and by how roughly the network's rotation departs from
  the gyro's (see ``models.street``);
- the view, by the share of it that is blind: covered, or outside the camera's image;
- the lens, by how much less than its surroundings a spot changes (see ``data.lens_specks``);
- camera and gyro, by whether they contradict each other (see ``models.agreement``).

The covariance C of a prediction becomes, the addition being epistemic,

    C' = C (1 + u max(m - 1, 0) + b blind),                                                  (E-R1)

with m of E-R3, the squared distance of a street, in units of what one that is like training's
exceeds in a twentieth of the time (where that was not measured: the mean of D^2 over the last
seconds). If errors are linear in how far inputs lie, their variance grows so. What is usual counts
in C already: it was calibrated on the same drives. Specks on the lens move no
rotation, so max(p max(z - 2, 0) - b blind, 0) of translation's block alone is added, too, z being
by how many deviations the least change is below the usual. u was chosen by the likelihood of real
frames and of new worlds together (docs/decisions/0088), b on validation drives under faults
(`benchmarks/bad_days.py`), p behind specks (docs/decisions/0067).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_vio.models.street import STREET_STATISTICS

Array = NDArray[np.float64]
Matrix = tuple[tuple[float, ...], ...]

PICTURE_STATISTICS = 4  # contrast, edges across, edges along (logarithms), brightness
DISAGREEMENTS = 5  # gyro bias [3] (rad/s), rotation scale (1), time offset (s)
# A picture without any contrast keeps a finite logarithm; levels are in [0, 1].
_LEAST_CONTRAST = 2.5e-4
_SEEN = 0.99  # of a grid cell
# Far beyond any fit: a damaged number must not become a covariance.
_LARGEST = 1e6


@dataclass(frozen=True)
class Reliability:
    """What is usual for a model, measured when it was fitted.

    picture_mean [4] and picture_precision [4, 4] of training's statistics, the latter scaled
    so that 5 % of validation lie beyond a distance of one; still_share, the share of cells
    that do not change for a while which drives exceed in 5 % of the time; unseen_share, the
    largest share of the view that a camera of training did not see; disagreement_std [5], of
    what drives without an error, beyond their own uncertainty, make camera and gyro seem to
    contradict each other by, disagreement_response [5], which share of such an error shows,
    and disagreement_bound, how many deviations are usual on a drive that was left out (where
    it was not measured: what it was for others); rotation_lever_m [3, 3], how far (m per rad)
    an error of the gyro's rotation about each axis (columns) moves the translation, None where
    it was not measured; vibration_std [3] (rad), what an interval's rotation by the gyro
    differs by from the camera's beyond the latter's own noise; least_change, mean and standard
    deviation of how little a spot of the view changes behind a clean lens, None where it was
    not measured: then specks are not looked for; street_mean [6] and street_precision [6, 6]
    of E-R3, None where they were not measured: then pictures alone tell a street.
    """

    picture_mean: tuple[float, ...]
    picture_precision: Matrix
    still_share: float
    unseen_share: float
    disagreement_std: tuple[float, ...]
    disagreement_response: tuple[float, ...]
    disagreement_bound: float = 3.0
    rotation_lever_m: Matrix | None = None
    vibration_std: tuple[float, ...] = (0.0, 0.0, 0.0)
    least_change: tuple[float, ...] | None = None
    street_mean: tuple[float, ...] | None = None
    street_precision: Matrix | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that no fit measures."""
        _check_ellipsoid("picture", PICTURE_STATISTICS, self.picture_mean, self.picture_precision)
        if (self.street_mean is None) != (self.street_precision is None):
            raise ValueError("reliability has a mean of its streets or a precision, not both")
        if self.street_mean is not None and self.street_precision is not None:
            _check_ellipsoid("street", STREET_STATISTICS, self.street_mean, self.street_precision)
        if not (0 <= self.still_share < 1 and 0 <= self.unseen_share < 1):
            raise ValueError("reliability has shares outside 0 to 1")
        if len(self.disagreement_std) != DISAGREEMENTS or not _positive(self.disagreement_std):
            raise ValueError("reliability needs five positive deviations of disagreement")
        response = self.disagreement_response
        if len(response) != DISAGREEMENTS or not _positive(response) or max(response) > 1:
            raise ValueError("reliability needs five responses of disagreement in (0, 1]")
        if not 1 <= self.disagreement_bound <= _LARGEST:
            raise ValueError("reliability needs a bound of disagreement of at least 1 deviation")
        lever_m = np.array(self.rotation_lever_m or np.zeros((3, 3)), np.float64)
        if lever_m.shape != (3, 3) or not (lever_m.min() >= 0 and lever_m.max() <= _LARGEST):
            raise ValueError("reliability needs nine levers of rotation, none below 0 m per rad")
        vibration = np.array(self.vibration_std, np.float64)
        if vibration.shape != (3,) or not (vibration.min() >= 0 and vibration.max() <= np.pi):
            raise ValueError("reliability needs three deviations of vibration from 0 to pi rad")
        change = self.least_change
        if change is not None and not (len(change) == 2 and _positive(change) and max(change) < 2):
            raise ValueError("reliability needs a least change and its deviation, both in (0, 2)")

    def picture_distance(self, statistics: Array) -> Array:
        """Return D^2 [...] of picture statistics [..., 4]; above 1 for 5 % of validation."""
        away = np.asarray(statistics, np.float64) - np.array(self.picture_mean)
        return np.einsum("...i,ij,...j->...", away, np.array(self.picture_precision), away)

    def speck_deviations(self, least_change: float | None) -> float:
        """Return how many deviations a least change lies below the usual; 0 where none is told."""
        if self.least_change is None or least_change is None:
            return 0.0
        usual, std = self.least_change
        return max(0.0, (usual - least_change) / std)


def _check_ellipsoid(what: str, size: int, mean: tuple[float, ...], precision: Matrix) -> None:
    """Raise ValueError unless a mean [size] and a precision [size, size] are some fit's."""
    matrix = np.array(precision, np.float64)
    shapes = (len(mean), matrix.shape)
    if shapes != (size, (size, size)):
        raise ValueError(f"reliability has {what} statistics of shapes {shapes}")
    largest = max(np.abs(mean).max(), np.abs(matrix).max())
    if not largest <= _LARGEST:  # False for NaN, too
        raise ValueError(f"reliability has {what} statistics up to {largest}")
    if np.abs(matrix - matrix.T).max() > 1e-6 * np.abs(matrix).max():
        raise ValueError(f"reliability has a {what} precision that is not symmetric")
    if np.linalg.eigvalsh(matrix).min() <= 0:
        raise ValueError(f"reliability has a {what} precision that is not positive definite")


def _positive(values: tuple[float, ...]) -> bool:
    return bool(np.isfinite(values).all()) and min(values) > 1 / _LARGEST


def picture_statistics(gray: NDArray[np.floating], view_valid: NDArray[np.floating]) -> Array:
    """Return statistics [n, 4] of pictures [n, 40, 128] in [0, 1], over cells that are seen.

    view_valid [40, 128]: share of each cell that the camera sees. Log standard deviation, log mean
    absolute difference of neighbours across and along, mean. Raises ValueError where fewer than
    two neighbouring cells are seen.
    """
    seen = view_valid > _SEEN
    across, along = seen[:, 1:] & seen[:, :-1], seen[1:] & seen[:-1]
    if not (across.any() and along.any()):
        raise ValueError("the camera sees no two neighbouring cells of the view")
    levels = np.asarray(gray, np.float64)
    scales = [
        levels[:, seen].std(1),
        np.abs(np.diff(levels, axis=2))[:, across].mean(1),
        np.abs(np.diff(levels, axis=1))[:, along].mean(1),
    ]
    logs = [np.log(scale + _LEAST_CONTRAST) for scale in scales]
    return np.stack([*logs, levels[:, seen].mean(1)], axis=1)


def fit_picture(training: Array, validation: Array) -> tuple[Array, Array]:
    """Return mean [4] and scaled precision [4, 4] of picture statistics [n, 4], [m, 4].

    Scaled so that 95 % of validation lie within a distance of one, or of training where that has
    the longer tail: a few drives of one kind may be all that validation is.
    """
    mean, std = training.mean(0), training.std(0) + 1e-2
    white = (training - mean) / std
    # Some variance in every direction: few drives do not fill them all.
    cov = white.T @ white / len(white) + 0.05 * np.eye(PICTURE_STATISTICS)
    precision = np.linalg.inv(cov) / std / std[:, None]
    precision = 0.5 * (precision + precision.T)
    away = validation - mean
    usual = float(np.quantile(np.einsum("ni,ij,nj->n", away, precision, away), 0.95))
    return mean, precision / max(usual, float(PICTURE_STATISTICS))


def widened(a: Reliability, b: Reliability) -> Reliability:
    """Return what is usual for either of two sets of recordings.

    The ellipsoids of distance one hold both means, and are as wide as both together.
    """
    picture_mean, picture_precision = _around(
        (a.picture_mean, a.picture_precision), (b.picture_mean, b.picture_precision)
    )
    street_mean = street_precision = None
    if a.street_mean and a.street_precision and b.street_mean and b.street_precision:
        street_mean, street_precision = _around(
            (a.street_mean, a.street_precision), (b.street_mean, b.street_precision)
        )
    std, response = (
        np.array([getattr(r, name) for r in (a, b)])
        for name in ("disagreement_std", "disagreement_response")
    )
    return Reliability(
        picture_mean=picture_mean,
        picture_precision=picture_precision,
        still_share=max(a.still_share, b.still_share),
        unseen_share=max(a.unseen_share, b.unseen_share),
        disagreement_std=tuple(std.max(0).tolist()),
        disagreement_response=tuple(response.min(0).tolist()),
        disagreement_bound=max(a.disagreement_bound, b.disagreement_bound),
        rotation_lever_m=_longest(a.rotation_lever_m, b.rotation_lever_m),
        vibration_std=tuple(np.maximum(a.vibration_std, b.vibration_std).tolist()),
        least_change=_lower(a.least_change, b.least_change),
        street_mean=street_mean,
        street_precision=street_precision,
    )


def _around(*parts: tuple[tuple[float, ...], Matrix]) -> tuple[tuple[float, ...], Matrix]:
    """Return mean and precision of an ellipsoid that holds two means and is as wide as both."""
    means = np.array([mean for mean, _ in parts])
    covs = np.linalg.inv(np.array([precision for _, precision in parts]))
    apart = means[1] - means[0]
    precision = np.linalg.inv(covs.sum(0) + np.outer(apart, apart) / 2)
    rows = (0.5 * (precision + precision.T)).tolist()
    return tuple(means.mean(0).tolist()), tuple(map(tuple, rows))


def _longest(a: Matrix | None, b: Matrix | None) -> Matrix | None:
    """Return the longer of each two levers, None where one artifact does not tell."""
    if a is None or b is None:
        return None
    return tuple(map(tuple, np.maximum(a, b).tolist()))


def _lower(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Return the lower of two least changes and the larger deviation, None where one is."""
    if a is None or b is None:
        return None
    return min(a[0], b[0]), max(a[1], b[1])
