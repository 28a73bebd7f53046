"""How long errors stay the same along a drive, epistemic ones and those called noise.

All frames share one set of weights. For weights w_k drawn from the posterior, d_kt =
J_t (w_k - map) is the epistemic error at frame t. Its autocorrelation over the lag, averaged over
draws, axes and frames, falls as the scene changes; the correlation time is that of the exponential
through it (E-C2).

Noise lasts in part, too: what the sensors do not show of a road or a scene stays for a while. The
autocorrelation of residuals over their predicted sigma, on validation, is fitted by
rho_i(lag) = share_i exp(-lag / tau_i) for every axis i (E-C3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from bayes_vio.data.dataset import MotionDataset
from bayes_vio.data.samples import MotionInput
from bayes_vio.models.complementary import NETWORK_ALONE, Crossover
from bayes_vio.models.motion import MotionModel
from bayes_vio.models.noise import NoiseCorrelation
from bayes_vio.posterior import Posterior
from bayes_vio.training.crossover import DriveAnswers, drive_answers


def epistemic_correlation_s(
    posterior: Posterior,
    model: torch.nn.Module,
    sequence: Iterable[MotionInput],
    dt_s: float,
    draws: int = 16,
    seed: int = 0,
) -> float:
    """Return the epistemic error's correlation time (s) along consecutive frames of one drive.

    ``sequence`` is a re-iterable of batches in order of time, dt_s apart.
    """
    generator = torch.Generator().manual_seed(seed)
    mode = {n: p.detach() for n, p in model.named_parameters()}
    errors = [
        torch.cat([_linearised_error(model, mode, sample, x) for x in sequence])
        for sample in posterior.sample(draws, generator=generator)
    ]
    return correlation_time_s(torch.stack(errors).double(), dt_s)


def correlation_time_s(errors: Tensor, dt_s: float) -> float:
    """Return the time constant (s) of the autocorrelation of errors [draws, frames, axes].

    Least squares of -lag / tau against log rho over the lags up to the first with rho < 1/e, or
    all lags up to half the drive where it never falls so far. The mean over time is part of the
    error.
    """
    scale = errors.square().mean((0, 1)).sqrt()
    white = errors / scale.clamp(min=torch.finfo(errors.dtype).tiny)
    n = errors.shape[1]
    if n < 4:
        raise ValueError(
            f"a drive of {n} frames is too short for a correlation time; give 4 or more"
        )
    lags, logs = [], []
    for lag in range(1, n // 2 + 1):
        rho = float((white[:, lag:] * white[:, : n - lag]).mean() / white.square().mean())
        if rho <= 0:
            break
        lags.append(lag * dt_s)
        logs.append(math.log(rho))
        if rho < math.exp(-1):
            break
    if not lags:
        return 0.5 * dt_s  # uncorrelated after one frame already: as good as white
    slope = sum(a * b for a, b in zip(lags, logs, strict=True)) / sum(a * a for a in lags)
    longest = 10.0 * n * dt_s  # a constant error looks longer than any drive can tell
    return min(-1.0 / slope, longest) if slope < 0 else longest


def correlations(
    posterior: Posterior,
    model: MotionModel,
    drives: Sequence[MotionDataset],
    crossover: Crossover = NETWORK_ALONE,
    answers: Sequence[DriveAnswers] = (),
    frames: int = 300,
) -> tuple[float, NoiseCorrelation]:
    """Return the epistemic correlation time (s) and how the noise lasts, on validation drives.

    The former is measured on the first frames of the longest drive, the latter on all, rotations
    fused with the gyro's as ``crossover`` says. answers: the model's to the drives, if known.
    """
    longest = max(drives, key=len)
    rows = np.arange(min(len(longest), frames))
    batches = [
        longest.batch(part)[0].map(lambda t: t.to(posterior.device))
        for part in np.array_split(rows, max(1, len(rows) // 32))
    ]
    epistemic_s = epistemic_correlation_s(posterior, model, batches, _interval_s(longest))
    answers = answers or [drive_answers(model, drive) for drive in drives]
    residuals = [
        (a.errors(crossover) / a.std, _interval_s(drive))
        for a, drive in zip(answers, drives, strict=True)
    ]
    return epistemic_s, noise_correlation(residuals)


def _interval_s(drive: MotionDataset) -> float:
    return float(np.median(drive.dt_s))


def noise_correlation(
    drives: Sequence[tuple[NDArray[np.float64], float]], longest_s: float = 10.0
) -> NoiseCorrelation:
    """Return how much of the noise lasts, and how long, by least squares on E-C3.

    drives: errors over their predicted sigma [frames, 6] and the interval (s) between them. Lags
    up to ``longest_s`` and a quarter of the shortest drive are used. Raises ValueError where that
    is less than two intervals.
    """
    step_s = max(dt_s for _, dt_s in drives)
    most = int(min([longest_s, *(len(z) * dt_s / 4 for z, dt_s in drives)]) / step_s + 1e-9)
    if most < 2:
        raise ValueError("the drives are too short to measure a noise correlation, give 8 frames")
    lag_s = step_s * np.arange(1, most + 1)
    rho = np.average(
        [_autocorrelation(z, dt_s, lag_s) for z, dt_s in drives],
        axis=0,
        weights=[len(z) * dt_s for z, dt_s in drives],
    )
    fits = [_lasting(rho[:, axis], lag_s) for axis in range(rho.shape[1])]
    return NoiseCorrelation(tuple(tau_s for tau_s, _ in fits), tuple(share for _, share in fits))


def _autocorrelation(
    white: NDArray[np.float64], dt_s: float, lag_s: NDArray
) -> NDArray[np.float64]:
    """Return rho [lags, axes] about zero: a lasting mean is an error like any other."""
    n, power = len(white), np.mean(white**2, axis=0)
    frames = np.maximum(1, np.round(lag_s / dt_s).astype(int))
    return np.array([np.mean(white[k:] * white[: n - k], axis=0) / power for k in frames])


def _lasting(rho: NDArray, lag_s: NDArray) -> tuple[float, float]:
    """Return tau (s) and the share in [0, 1] that fit one axis' rho [lags] best.

    Times up to ten times the longest lag are told apart: a sensor's bias outlasts any lag.
    """
    times_s = np.geomspace(lag_s[0], 10 * lag_s[-1], 60)
    decays = np.exp(-lag_s / times_s[:, None])
    shares = np.clip(decays @ rho / np.sum(decays**2, axis=1), 0.0, 1.0)
    best = int(np.argmin(np.sum((rho - shares[:, None] * decays) ** 2, axis=1)))
    return float(times_s[best]), float(shares[best])


def _linearised_error(
    model: torch.nn.Module,
    mode: dict[str, Tensor],
    sample: dict[str, Tensor],
    x: MotionInput,
) -> Tensor:
    def mean(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, (x,))[0]

    step = {
        n: sample[n].detach() - p if n in sample else torch.zeros_like(p) for n, p in mode.items()
    }
    # The fused attention kernels have no forward-mode derivative; the plain one has.
    with sdpa_kernel(SDPBackend.MATH):
        return jvp(mean, (mode,), (step,))[1].detach()
