"""Where the car may be along a plan: the odometry's covariance, rolled out with its growth.

An error (dx, dy, dyaw) about fixed axes is carried along a path by the lever arm of the way
since. Taken back to the start, `e_t = L_t f_t`, `L_t = [[1, J (p_t - p_0)], [0, 1]]`, it adds up:

    f_t = f_0 + sum_{s<t} B_s twist_error_s,   B_s = dt [[R_s, -J (p_s - p_0)], [0, 1]].     (P2)

The twist's error has an epistemic part, the same all along the plan, and noise, which is taken as
white with the spectral density 2 noise_cov tau, the limit of a Gauss-Markov process of correlation
time tau and never less than it. Where the estimator is degraded, what is wrong lasts: the noise's
covariance counts as coherent, too. Where it is lost, the velocity drifts as E-G1 says besides.

A belief that ages without an estimate is carried on by its last twist, as a lost estimator does:
what is wrong with that twist lasts, and the velocity drifts from when it was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.estimator.tracking import EstimatorSettings, TrackingState
from bayes_vio.filters.covariance import check_spd

Array = NDArray[np.float64]
_YAW = 2


@dataclass(frozen=True)
class Growth:
    """What the roll-out assumes beyond the estimator's own covariances (SI units).

    noise_correlation_s: tau of P2. position_tracking_std_m, yaw_tracking_std_rad: how well the
    controller follows a plan. coasting: accelerations and bounds while the estimator is lost.
    """

    noise_correlation_s: float = 0.5
    position_tracking_std_m: float = 0.05
    yaw_tracking_std_rad: float = 0.005
    coasting: EstimatorSettings = field(default_factory=EstimatorSettings)

    def __post_init__(self) -> None:
        """Raise ValueError for a number that is not positive and finite."""
        for name in ("noise_correlation_s", "position_tracking_std_m", "yaw_tracking_std_rad"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: give a number above 0")

    @property
    def tracking_cov(self) -> Array:
        """Return the covariance [3, 3] of following a plan."""
        std = [self.position_tracking_std_m] * 2 + [self.yaw_tracking_std_rad]
        return np.diag(np.square(std))

    def drifted(self, elapsed_s: Array) -> Array:
        """Return how far [..., 3] (m, rad) the unseen velocity's change carries the car: E-G1.

        elapsed_s [..., 1]: since the velocity was measured. A standard deviation.
        """
        s = self.coasting
        rate = np.array([s.acceleration_std_m_s2] * 2 + [s.angular_acceleration_std_rad_s2])
        bound = np.array([s.speed_error_bound_m_s] * 2 + [s.angular_rate_error_bound_rad_s])
        return elapsed_s * np.minimum(0.5 * rate * elapsed_s, bound)


@dataclass(frozen=True)
class Belief:
    """Where the car is believed to be in the plane, in the odometry's frame.

    pose [3]: x, y (m), yaw (rad). cov [3, 3]: of the pose, about fixed axes. twist [3]: vx, vy
    (m/s, in base_link), yaw rate (rad/s). epistemic_twist_cov, noise_twist_cov [3, 3]: the two
    parts of its covariance. state: the estimator's. lost_s: for how long it had been lost when it
    said the twist. age_s: for how long that twist has been carried on since. steering_rad: of the
    front wheels. Raises ValueError for numbers that are not finite,
    CovarianceError for a matrix that is no covariance.
    """

    pose: Array
    cov: Array
    twist: Array
    epistemic_twist_cov: Array
    noise_twist_cov: Array
    state: TrackingState = TrackingState.TRACKING
    lost_s: float = 0.0
    steering_rad: float = 0.0
    age_s: float = 0.0

    def __post_init__(self) -> None:
        """Check every number: what is planned on must be sound."""
        numbers = [*self.pose, *self.twist, self.lost_s, self.steering_rad, self.age_s]
        if not np.isfinite(numbers).all():
            raise ValueError("the belief holds a pose, twist or time that is not finite")
        if self.lost_s < 0:
            raise ValueError(f"the belief has been lost for {self.lost_s} s: give 0 or more")
        if self.age_s < 0:
            raise ValueError(f"the belief is {self.age_s} s old: give 0 or more")
        for name in ("cov", "epistemic_twist_cov", "noise_twist_cov"):
            check_spd(getattr(self, name), f"the belief's {name}")

    @property
    def speed_m_s(self) -> float:
        """Return the forward speed, 0 where the car rolls backwards."""
        return max(float(self.twist[0]), 0.0)

    @property
    def unseen_s(self) -> float:
        """Return for how long nothing has been seen of the motion."""
        return self.lost_s + self.age_s

    def after(self, elapsed_s: float, growth: Growth, steps: int = 4) -> Belief:
        """Return the belief elapsed_s (s) later, without an estimate since.

        The twist is carried on; the pose's covariance grows by at least what E-G1 says the car may
        have done meanwhile, in however many pieces the time is cut.
        """
        if elapsed_s <= 0:
            return self
        poses = torch.from_numpy(_constant_twist(self.pose, self.twist, elapsed_s, steps))
        rolled = roll_out(self, poses[None], elapsed_s / steps, growth, carried=True)
        cov, age_s = rolled.cov[0, -1].numpy(), self.age_s + elapsed_s
        return replace(self, pose=poses[-1].numpy(), cov=0.5 * (cov + cov.T), age_s=age_s)


def _constant_twist(pose: Array, twist: Array, elapsed_s: float, steps: int) -> Array:
    """Return the poses [steps + 1, 3] of a motion at constant twist."""
    poses = [np.asarray(pose, dtype=np.float64)]
    for _ in range(steps):
        dx, dy, dyaw = twist * elapsed_s / steps
        yaw = poses[-1][_YAW] + 0.5 * dyaw
        c, s = np.cos(yaw), np.sin(yaw)
        poses.append(poses[-1] + [c * dx - s * dy, s * dx + c * dy, dyaw])
    return np.array(poses)


@dataclass(frozen=True)
class RolledBelief:
    """The errors along candidate paths, in the coordinates f of P2.

    poses [c, t, 3]: the means. initial_cov [3, 3]: of f_0. coherent_cov [3, 3]: of the twist's
    lasting error, that adds up by coherent_gain [c, t, 3, 3]. drift_gain [c, t, 3, 3]: by which
    unit normals of the velocity's drift do. noise_cov [c, t, 3, 3]: of the noise added up.
    """

    poses: Tensor
    initial_cov: Tensor
    coherent_cov: Tensor
    coherent_gain: Tensor
    drift_gain: Tensor
    noise_cov: Tensor

    @property
    def cov(self) -> Tensor:
        """Return the covariances [c, t, 3, 3] of (x, y, yaw) about fixed axes (m, rad)."""
        return self.cov_between(self.every, self.every)

    def of(self, candidate: int) -> RolledBelief:
        """Return the roll-out of one candidate alone, c = 1."""
        return self.only(slice(candidate, candidate + 1))

    def only(self, which: slice | Tensor) -> RolledBelief:
        """Return the roll-out of some candidates."""
        return replace(
            self,
            poses=self.poses[which],
            coherent_gain=self.coherent_gain[which],
            drift_gain=self.drift_gain[which],
            noise_cov=self.noise_cov[which],
        )

    @property
    def every(self) -> Tensor:
        """Return the index [c, t] of every time."""
        c, t = self.poses.shape[:2]
        return torch.arange(t, device=self.poses.device).expand(c, t)

    def cov_between(self, later: Tensor, earlier: Tensor) -> Tensor:
        """Return the covariances [c, s, 3, 3] of the errors at two times, by index [c, s]."""
        gain, earlier_gain = (at(self.coherent_gain, i) for i in (later, earlier))
        drift, earlier_drift = (at(self.drift_gain, i) for i in (later, earlier))
        f_cov = self.initial_cov + at(self.noise_cov, earlier)
        f_cov = f_cov + gain @ self.coherent_cov @ earlier_gain.mT + drift @ earlier_drift.mT
        lever, earlier_lever = (at(levers(self.poses), i) for i in (later, earlier))
        return lever @ f_cov @ earlier_lever.mT

    def sample(
        self, candidate: int, n: int, generator: torch.Generator, times: Tensor | None = None
    ) -> Tensor:
        """Return n true motions [n, t, 3] (x, y, yaw) along a candidate.

        times [k]: only at these, in their order, [n, k, 3].
        """
        times = self.every[candidate] if times is None else times
        normal = torch.randn(n, len(times) + 3, 3, generator=generator, dtype=torch.float64)
        normal = normal.to(self.poses.device)
        f = (normal[:, 0] @ torch.linalg.cholesky(self.initial_cov).T)[:, None]
        lasting = normal[:, 1] @ torch.linalg.cholesky(self.coherent_cov).T
        f = f + torch.einsum("tij,nj->nti", self.coherent_gain[candidate, times], lasting)
        f = f + torch.einsum("tij,nj->nti", self.drift_gain[candidate, times], normal[:, 2])
        noise_cov = self.noise_cov[candidate, times]
        steps = torch.diff(noise_cov, dim=0, prepend=torch.zeros_like(noise_cov[:1]))
        noise = torch.einsum("tij,ntj->nti", _roots(steps), normal[:, 3:])
        lever = levers(self.poses)[candidate, times]
        error = torch.einsum("tij,ntj->nti", lever, f + noise.cumsum(1))
        return self.poses[candidate, times] + error


def _roots(cov: Tensor) -> Tensor:
    """Return square roots [..., 3, 3] of matrices that may be singular, as where a car stands."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0.0).sqrt()[..., None, :]


def at(value: Tensor, index: Tensor) -> Tensor:
    """Return the entries of value [c, t, ...] at times index [c, s]."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return value[rows, index]


def levers(poses: Tensor) -> Tensor:
    """Return L [c, t, 3, 3] of P2 along paths [c, t, 3]."""
    L = torch.eye(3, dtype=poses.dtype, device=poses.device).repeat(*poses.shape[:2], 1, 1)
    way = poses[..., :2] - poses[:, :1, :2]
    L[..., 0, _YAW], L[..., 1, _YAW] = -way[..., 1], way[..., 0]
    return L


def step_gains(poses: Tensor, dt_s: float) -> Tensor:
    """Return B [c, t - 1, 3, 3] of P2 along paths [c, t, 3], taken in each step's middle."""
    middle = 0.5 * (poses[:, 1:] + poses[:, :-1])
    way, yaw = middle[..., :2] - poses[:, :1, :2], middle[..., _YAW]
    B = torch.zeros(*yaw.shape, 3, 3, dtype=poses.dtype, device=poses.device)
    B[..., 0, 0], B[..., 0, 1] = torch.cos(yaw), -torch.sin(yaw)
    B[..., 1, 0], B[..., 1, 1] = torch.sin(yaw), torch.cos(yaw)
    B[..., 0, _YAW], B[..., 1, _YAW] = way[..., 1], -way[..., 0]
    B[..., _YAW, _YAW] = 1.0
    return B * dt_s


def roll_out(
    belief: Belief,
    poses: Tensor,
    dt_s: float,
    growth: Growth,
    carried: bool = False,
    moving: Tensor | None = None,
) -> RolledBelief:
    """Roll a belief out along candidate paths poses [c, t, 3], one per dt_s (s); P2.

    carried: along the path no estimate came, and no plan was followed: the twist went on. moving
    [c, t - 1]: the steps in which the car may move, None for all; where it stands nothing adds up.
    """

    def tensor(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=poses.device)

    B = step_gains(poses, dt_s)
    if moving is not None:
        B = B * moving[..., None, None]
    times = dt_s * np.arange(poses.shape[1])[:, None]
    noise_cov, coherent_cov = belief.noise_twist_cov, belief.epistemic_twist_cov
    if carried or belief.state is not TrackingState.TRACKING:
        coherent_cov = coherent_cov + noise_cov
    density = 2 * growth.noise_correlation_s / dt_s
    noise_root = B @ tensor(np.linalg.cholesky(noise_cov * density))
    lasting, drift = np.ones((len(times) - 1, 1)), np.zeros((len(times) - 1, 3))
    if carried:
        lasting = _steps_since(belief.age_s, times, lambda t: t) / dt_s
    if carried or belief.state is TrackingState.LOST:
        drift = _steps_since(belief.unseen_s, times, growth.drifted) / dt_s
    return RolledBelief(
        poses=poses,
        initial_cov=tensor(belief.cov if carried else belief.cov + growth.tracking_cov),
        coherent_cov=tensor(coherent_cov),
        coherent_gain=_summed(B * tensor(lasting)[:, None]),
        drift_gain=_summed(B * tensor(drift)[:, None]),
        noise_cov=_summed(noise_root @ noise_root.mT),
    )


def _summed(steps: Tensor) -> Tensor:
    """Return the sums of all steps before each time; steps [c, t - 1, 3, 3]."""
    return torch.nn.functional.pad(steps.cumsum(1), (0, 0, 0, 0, 1, 0))


def _steps_since(
    earlier_s: float, times: NDArray[Any], displacement: Callable[[Array], Array]
) -> NDArray[Any]:
    """Return the steps [t - 1, k] by which a displacement's deviation grows, at times [t, 1].

    What came before earlier_s is in the covariance already. As in E-G1 the squares are what adds
    up, however the time is cut: what lasts errs alike before and after the cut.
    """
    before = displacement(np.asarray(earlier_s))
    since = displacement(earlier_s + times) ** 2 - before**2
    return np.diff(np.sqrt(since), axis=0)
