"""Where the uncertainty is: which layers carry it, in and out of distribution.

Run ``python benchmarks/where_is_uncertainty.py``: a perceptron and an MLP on Iris (extra
``classification``), a LeNet on MNIST where the images are there (BAYES_VIO_DATA, see README).
Writes benchmarks/results/where_is_uncertainty.json and its pictures.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_iris  # pyright: ignore
from torch import Tensor, nn

from bayes_vio.classification import BayesianClassifier, TrainingSettings
from bayes_vio.classification.images import read_npz
from bayes_vio.classification.networks import lenet, mlp
from bayes_vio.classification.plots import plot_layer_shares, plot_weight_stds
from bayes_vio.classification.weight_variance import (
    layer_uncertainties,
    marginal_variances,
    mean_shares,
)

RESULTS = Path(__file__).parent / "results" / "where_is_uncertainty.json"


def iris() -> tuple[Tensor, Tensor]:
    """Return standardised features [150, 4] in a random order, and labels."""
    features, labels = load_iris(return_X_y=True)
    x = torch.from_numpy(features).float()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return ((x - x.mean(0)) / x.std(0))[order], torch.from_numpy(labels)[order]


def look(
    name: str,
    model: nn.Module,
    method: str,
    train: tuple[Tensor, Tensor],
    sets: dict[str, Tensor],
    settings: TrainingSettings,
    folder: Path,
) -> dict[str, Any]:
    """Train, fit by the marginal likelihood, and tell layer by layer where the variance is."""
    trained = BayesianClassifier(model, "map", True, training=settings).fit(train).network
    clf = BayesianClassifier(trained, method, batch_size=500).fit(train)
    posterior = clf.posterior
    shares = mean_shares(posterior, sets)
    plot_layer_shares(shares).savefig(folder / f"where_{name}_layers.png", dpi=90)
    if sum(p.numel() for p in model.parameters()) < 1000:
        variances = marginal_variances(posterior)
        plot_weight_stds(variances).savefig(folder / f"where_{name}_weights.png", dpi=90)
    predictions = {set_name: clf.predict(x) for set_name, x in sets.items()}
    return {
        "method": method,
        "prior_precision": next(iter(posterior.prior_precision.values())),
        "layers": {n: asdict(u) for n, u in layer_uncertainties(posterior).items()},
        "shares": shares,
        "mean_logit_variance": {
            n: float(p.logits_cov.diagonal(dim1=1, dim2=2).mean()) for n, p in predictions.items()
        },
        "mean_mutual_information": {
            n: float(p.mutual_information.mean()) for n, p in predictions.items()
        },
    }


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("BAYES_VIO_DATA", default)) / "images"
    )
    parser.add_argument("--train", type=int, default=10_000, help="images to train on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.out.parent
    folder.mkdir(parents=True, exist_ok=True)
    x, y = iris()
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    sets = {"Iris, held out": x[100:], "3 times as far": 3 * x[100:], "noise, std 5": 5 * noise}
    small = TrainingSettings(epochs=200, batch_size=16, learning_rate=1e-2)
    results: dict[str, Any] = {"date": date.today().isoformat(), "torch": torch.__version__}
    for name, hidden in {"iris_perceptron": (), "iris_mlp": (8, 6)}.items():
        results[name] = look(
            name, mlp(4, 3, hidden), "full", (x[:100], y[:100]), sets, small, folder
        )
    if (arguments.data / "mnist.npz").exists():
        images = read_npz(arguments.data / "mnist.npz", "x_train", "y_train").shuffled(0)
        test = read_npz(arguments.data / "mnist.npz", "x_test", "y_test").shuffled(0)
        sets = {
            "MNIST": test.take(slice(0, 500)).tensors()[0],
            "KMNIST": read_npz(arguments.data / "kmnist_test.npz").tensors()[0][:500],
            "notMNIST": read_npz(arguments.data / "notmnist_10k.npz").tensors()[0][:500],
        }
        settings = TrainingSettings(epochs=arguments.epochs, batch_size=128)
        train = images.take(slice(0, arguments.train)).tensors()
        results["mnist_lenet"] = look("mnist", lenet(), "inf", train, sets, settings, folder)
    else:
        print(f"{arguments.data} holds no mnist.npz: LeNet is left out")
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
