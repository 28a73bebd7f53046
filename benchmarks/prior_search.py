"""Is Bayesian optimisation of a posterior's hyper-parameters better than chance?

Run ``python benchmarks/prior_search.py``; needs MNIST (BAYES_VIO_DATA, see README) and the extra
``search``. An MLP on images of 14 x 14 pixels, trained on 2000 of them until it is overconfident,
and INF around it. Searched are a prior precision per layer and the number of data, by NLL on 400
images kept aside. Both searches begin with the choice of the marginal likelihood and the same nine
random trials. The regret of a trial is the lowest cost so far less the lowest that any search
found. Writes benchmarks/results/prior_search.json and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bayes_vio.classification import BayesianClassifier, TrainingSettings
from bayes_vio.classification.images import read_npz
from bayes_vio.classification.networks import mlp
from bayes_vio.posterior import LinkSettings, Posterior, fit_posterior
from bayes_vio.posterior.bayesian_search import Sampler, optimize_bayesian
from bayes_vio.posterior.hyperparameters import mean_nll, minimize_nll, minimize_nll_jointly
from bayes_vio.posterior.trials import Trial

RESULTS = Path(__file__).parent / "results" / "prior_search.json"
N_TRAIN, N_HELD_OUT = 2000, 400
LINK = LinkSettings(n_samples=128)
Data = list[tuple[Tensor, Tensor]]


def data(folder: Path) -> tuple[tuple[Tensor, Tensor], Data]:
    """Return training images [n, 196] with labels, and those that decide, as one batch."""
    images = read_npz(folder / "mnist.npz", "x_train", "y_train").shuffled(0)
    x, y = images.take(slice(0, N_TRAIN + N_HELD_OUT)).tensors()
    x = F.avg_pool2d(x, 2).flatten(1)
    return (x[N_HELD_OUT:], y[N_HELD_OUT:]), [(x[:N_HELD_OUT], y[:N_HELD_OUT])]


def posterior_of(train: tuple[Tensor, Tensor]) -> Posterior:
    """Return INF around an MLP trained on the images."""
    settings = TrainingSettings(epochs=60, prior_precision=1e-2)
    start = mlp(196, 10, (32, 32))
    net = BayesianClassifier(start, "map", True, training=settings).fit(train).network
    return fit_posterior(net, [train], "categorical", "inf")


def costs(
    posterior: Posterior, held_out: Data, sampler: Sampler, n_trials: int, seed: int
) -> list[float]:
    """Return every trial's cost."""
    trials: list[Trial] = []
    optimize_bayesian(
        posterior,
        held_out,
        per_layer=True,
        scale_data=True,
        n_trials=n_trials,
        link=LINK,
        seed=seed,
        on_trial=trials.append,
        sampler=sampler,
    )
    return [trial.cost for trial in trials]


def searched(posterior: Posterior, held_out: Data, n_trials: int, n_seeds: int) -> dict[str, Any]:
    """Return every search's costs [seeds, trials] and processor time per trial."""
    found = {}
    for sampler in Sampler:
        start = time.process_time()
        rows = [costs(posterior, held_out, sampler, n_trials, seed) for seed in range(n_seeds)]
        trial_s = (time.process_time() - start) / (n_trials * n_seeds)
        found[sampler.value] = {"costs": rows, "trial_s": round(trial_s, 3)}
        print(sampler.value, [round(min(row), 4) for row in rows], f"{trial_s:.2f} s", flush=True)
    return found


def regrets(rows: list[list[float]], lowest: float) -> NDArray[np.float64]:
    """Return the regret [seeds, trials] of searches."""
    return np.minimum.accumulate(np.array(rows), axis=1) - lowest


def picture(results: dict[str, Any]) -> Figure:
    """Return the regret over trials: the median of the seeds, and their range."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, search) in enumerate(results["searches"].items()):
        regret = regrets(search["costs"], results["lowest_nll"])
        numbers = np.arange(1, regret.shape[1] + 1)
        low, middle, high = np.quantile(regret, [0.0, 0.5, 1.0], axis=0)
        axes.plot(numbers, middle, color=f"C{i}", label=name, drawstyle="steps-post")
        axes.fill_between(numbers, low, high, color=f"C{i}", alpha=0.2, step="post")
    axes.set(xlabel="trial", ylabel="regret (nats)")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("BAYES_VIO_DATA", default)) / "images"
    )
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not (arguments.data / "mnist.npz").exists():
        print(f"{arguments.data} holds no mnist.npz: there is nothing to search")
        return
    torch.set_num_threads(1)
    train, held_out = data(arguments.data)
    posterior = posterior_of(train)
    searches = searched(posterior, held_out, arguments.trials, arguments.seeds)
    grids = {
        "grid, one prior precision": minimize_nll(posterior, held_out, link=LINK),
        "grid, with the number of data": minimize_nll_jointly(posterior, held_out, link=LINK),
    }
    found = {name: mean_nll([p], held_out, LINK)[0] for name, p in grids.items()}
    every = [c for search in searches.values() for row in search["costs"] for c in row]
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "network": "MLP 196-32-32-10",
        "dimensions": len(posterior.layers) + 1,
        "trials": arguments.trials,
        "seeds": arguments.seeds,
        "lowest_nll": min(*every, *found.values()),
        "start_nll": searches[Sampler.RANDOM.value]["costs"][0][0],
        "grids": found,
        "searches": searches,
    }
    for search in searches.values():
        regret = regrets(search["costs"], results["lowest_nll"])
        search["median_regret"] = np.median(regret, axis=0).tolist()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    picture(results).savefig(arguments.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
