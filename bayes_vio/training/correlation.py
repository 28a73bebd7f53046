"""How long the epistemic error stays the same along a drive: all frames share one set of weights.

For weights w_k drawn from the posterior, d_kt = J_t (w_k - map) is the epistemic error at frame t.
Its autocorrelation over the lag, averaged over draws, axes and frames, falls as the scene changes;
the correlation time is that of the exponential through it (E-C2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from bayes_vio.data.samples import MotionInput
from bayes_vio.posterior import Posterior


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
    return jvp(mean, (mode,), (step,))[1].detach()
