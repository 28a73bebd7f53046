"""How far sparse variational dropout prunes, at what error, and what it makes of random labels.

    python benchmarks/sparse_dropout.py [--only CASE] [--work FOLDER]

LeNet-300-100 and LeNet-5-Caffe on MNIST, 5000 training images held out for validation, and
LeNet-300-100 on labels drawn at random, beside binary dropout on the same images. Every case can
be stopped and goes on from its last epoch; the test images are looked at once, after the last.
Writes benchmarks/results/sparse_dropout.json and .png. Needs MNIST: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from kitti_bags import data_folder
from matplotlib.figure import Figure
from torch import Tensor, nn

from bayes_vio.variational import (
    VariationalPosterior,
    compacted,
    fit_ensemble,
    fit_mc_dropout,
    fit_sparse_dropout,
)
from bayes_vio.variational.storage import to_bytes
from bayes_vio.variational.training import EpochRecord
from bayes_vio.whole_files import write_whole

RESULTS = Path(__file__).parent / "results"
N_VALIDATION = 5000
N_RANDOM = 10_000
CLASSES = 10


@dataclass(frozen=True)
class Images:
    """A re-iterable of (images, labels) batches, shuffled anew each time if asked for."""

    x: Tensor
    y: Tensor
    batch_size: int = 100
    shuffled: bool = True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.y)
        order = torch.randperm(n) if self.shuffled else torch.arange(n)
        for rows in order.split(self.batch_size):
            yield self.x[rows], self.y[rows]

    def error_percent(self, network: nn.Module) -> float:
        """Return the percentage of images whose label the network misses."""
        with torch.inference_mode():
            wrong = [int((network(x).argmax(1) != y).sum()) for x, y in self.in_order()]
        return 100 * sum(wrong) / len(self.y)

    def in_order(self) -> Images:
        return Images(self.x, self.y, 500, shuffled=False)


def mnist() -> tuple[Images, Images, Images]:
    """Return training, validation and test images."""
    with np.load(data_folder() / "images" / "mnist.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    x = {n: arrays[n][:, None] / 255 for n in ("x_train", "x_test")}
    y = {n: arrays[n].long() for n in ("y_train", "y_test")}
    order = torch.randperm(len(y["y_train"]), generator=torch.Generator().manual_seed(0))
    held, rest = order[:N_VALIDATION], order[N_VALIDATION:]
    train = Images(x["x_train"][rest], y["y_train"][rest])
    validation = Images(x["x_train"][held], y["y_train"][held])
    return train, validation, Images(x["x_test"], y["y_test"])


def lenet_300_100() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, CLASSES))


def lenet_5_caffe() -> nn.Module:
    """Return LeNet-5 with Caffe's widths; rectifiers stand behind the pooling, to save time."""
    torch.manual_seed(0)
    convolutions = [
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU()),
    ]
    return nn.Sequential(
        *convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, CLASSES)
    )


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: first without noise, then with it."""

    network: Callable[[], nn.Module]
    epochs: int
    pretraining_epochs: int
    fit: dict[str, Any]


RECIPES = {
    "lenet_300_100": Recipe(lenet_300_100, 200, 0, {"log_variance": -10.0, "kl_warmup": 0.2}),
    "lenet_5_caffe": Recipe(
        lenet_5_caffe,
        120,
        2,
        {
            "log_variance": -10.0,
            "kl_warmup": 0.2,
            "variance_rate": 5.0,
            "reparametrisation": "mixed",
        },
    ),
}


def pretrained(name: str, recipe: Recipe, train: Images, work: Path) -> nn.Module:
    """Return the network after its epochs without noise."""
    if not recipe.pretraining_epochs:
        return recipe.network()
    path = work / f"{name}.pretraining"
    return fit_ensemble(
        recipe.network(),
        train,
        "categorical",
        recipe.pretraining_epochs,
        members=1,
        fresh=False,
        checkpoint=path,
    ).model


@dataclass
class Curve:
    """The figures of every epoch, kept beside the checkpoint."""

    path: Path
    measure: Callable[[VariationalPosterior], dict[str, float]]

    def rows(self) -> list[dict[str, float]]:
        return json.loads(self.path.read_text()) if self.path.exists() else []

    def add(self, record: EpochRecord, posterior: Callable[[], VariationalPosterior]) -> None:
        """Measure the network as it stands, prune it for that, and print and keep the row."""
        now = posterior()
        row: dict[str, Any] = {"epoch": record.epoch, "nll": round(record.nll, 4)}
        row |= {"divergence": round(record.divergence), "kl_weight": round(record.kl_weight, 3)}
        row |= self.measure(now) | {"duration_s": round(record.duration_s, 1)}
        print(self.path.stem, json.dumps(row), flush=True)
        rows = [r for r in self.rows() if r["epoch"] < record.epoch] + [row]
        write_whole(self.path, json.dumps(rows).encode())


def sparsity(posterior: VariationalPosterior) -> dict[str, Any]:
    layers = posterior.report.stochastic
    return {
        "compression": finite(posterior.report.compression),
        "sparsity_percent": [round(100 * layer.sparsity, 2) for layer in layers],
    }


def finite(ratio: float) -> float | None:
    """Return a rounded ratio, None where nothing is left to divide by."""
    return round(ratio, 1) if ratio < float("inf") else None


def pruning(name: str, work: Path) -> dict[str, Any]:
    """Train and prune a network on MNIST; return its figures."""
    train, validation, test = mnist()
    recipe = RECIPES[name]

    def measure(now: VariationalPosterior) -> dict[str, Any]:
        return {"validation_error_percent": validation.error_percent(now.model)} | sparsity(now)

    curve = Curve(work / f"{name}.json", measure)
    posterior = fit_sparse_dropout(
        pretrained(name, recipe, train, work),
        train,
        "categorical",
        recipe.epochs,
        checkpoint=work / f"{name}.checkpoint",
        on_epoch=curve.add,
        **recipe.fit,
    )
    posterior.save(work / f"{name}.posterior")
    sparse = len(to_bytes(posterior.at_mean()))
    dense = sum(4 * p.numel() for p in posterior.model.parameters())
    return {
        "epochs": recipe.epochs,
        "pretraining_epochs": recipe.pretraining_epochs,
        "settings": recipe.fit,
        "validation_error_percent": validation.error_percent(posterior.model),
        "test_error_percent": test.error_percent(posterior.model),
        **sparsity(posterior),
        "parameters": sum(p.numel() for p in posterior.model.parameters()),
        "compacted_parameters": sum(p.numel() for p in compacted(posterior.model).parameters()),
        "file_bytes": sparse,
        "dense_bytes": dense,
        "first_layer": first_layer(posterior.model).tolist(),
        "curve": curve.rows(),
    }


def random_labels(work: Path) -> dict[str, Any]:
    """Train on labels drawn at random: sparse dropout as above, and binary dropout."""
    train, _, test = mnist()
    labels = torch.randint(CLASSES, (N_RANDOM,), generator=torch.Generator().manual_seed(1))
    data = Images(train.x[:N_RANDOM], labels)
    recipe = RECIPES["lenet_300_100"]

    def measure(now: VariationalPosterior) -> dict[str, Any]:
        return {"train_accuracy_percent": 100 - data.error_percent(now.model)} | sparsity(now)

    rows, found = {}, {}
    for method in ("sparse_dropout", "binary_dropout"):
        curve = Curve(work / f"random_labels_{method}.json", measure)
        common: dict[str, Any] = {
            "checkpoint": work / f"random_labels_{method}.checkpoint",
            "on_epoch": curve.add,
        }
        if method == "sparse_dropout":
            found[method] = fit_sparse_dropout(
                recipe.network(), data, "categorical", recipe.epochs, **recipe.fit, **common
            )
        else:
            found[method] = fit_mc_dropout(
                recipe.network(),
                data,
                "categorical",
                recipe.epochs,
                prior_precision=0.0,
                **common,
            )
        rows[method] = measure(found[method]) | {
            "test_error_percent": test.error_percent(found[method].model),
            "curve": curve.rows(),
        }
    pruned = sum(layer.n_pruned for layer in found["sparse_dropout"].report.stochastic)
    total = sum(layer.n_weights for layer in found["sparse_dropout"].report.stochastic)
    rows["sparse_dropout"]["pruned_percent"] = round(100 * pruned / total, 3)
    return {"images": N_RANDOM, "epochs": recipe.epochs, "settings": recipe.fit} | rows


def first_layer(network: nn.Module) -> Tensor:
    """Return how many weights of every pixel survive [28, 28], or the filters as they are."""
    first = next(m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    weight = first.weight.detach()
    if isinstance(first, nn.Linear):
        return (weight != 0).sum(0).reshape(28, 28)
    return weight[:, 0]


def picture(results: dict[str, Any]) -> Figure:
    """Return error and compression over epochs, and what is left of the first layers."""
    mpl.rcParams["font.size"] = 8
    cases = [name for name in (*RECIPES, "random_labels") if name in results]
    figure = Figure(figsize=(10, 2.6 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, name in zip(axes, cases, strict=True):
        if name == "random_labels":
            _draw_random(row, results[name])
        else:
            _draw_pruning(row, name, results[name])
    return figure


def _draw_pruning(row: Any, name: str, result: dict[str, Any]) -> None:
    curve, epochs = result["curve"], [r["epoch"] for r in result["curve"]]
    row[0].plot(epochs, [r["validation_error_percent"] for r in curve])
    row[0].set(title=f"{name}: validation error", xlabel="epoch", ylabel="%", ylim=(0, 5))
    row[1].semilogy(epochs, [r["compression"] for r in curve])
    row[1].set(title="weights / weights left", xlabel="epoch")
    left = np.array(result["first_layer"])
    if left.ndim == 3:
        padded = np.pad(np.abs(left), ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
        left = padded.reshape(4, 5, 7, 7).transpose(0, 2, 1, 3).reshape(28, 35)
    row[2].imshow(left, cmap="magma")
    row[2].set(title="what is left of the first layer", xticks=[], yticks=[])


def _draw_random(row: Any, result: dict[str, Any]) -> None:
    for method in ("sparse_dropout", "binary_dropout"):
        curve = result[method]["curve"]
        epochs = [r["epoch"] for r in curve]
        accuracy = [r["train_accuracy_percent"] for r in curve]
        row[0].plot(epochs, accuracy, label=method.replace("_", " "))
    row[0].set(title="random labels: training accuracy", xlabel="epoch", ylabel="%")
    row[0].legend()
    curve = result["sparse_dropout"]["curve"]
    for i, name in enumerate(("first", "second", "third")):
        share = [r["sparsity_percent"][i] for r in curve]
        row[1].plot([r["epoch"] for r in curve], share, label=f"{name} layer")
    row[1].set(title="pruned weights", xlabel="epoch", ylabel="%")
    row[1].legend()
    row[2].set_axis_off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cases = (*RECIPES, "random_labels")
    parser.add_argument("--only", choices=cases, help="one case alone; the others' results stay")
    parser.add_argument("--work", type=Path, default=Path("sparse_dropout.work"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in [arguments.only] if arguments.only else cases:
        found = random_labels(arguments.work) if name == "random_labels" else None
        found = found or pruning(name, arguments.work)
        keep(name, found)
        print(name, {k: v for k, v in found.items() if k not in ("curve", "first_layer")})


def keep(name: str, found: dict[str, Any]) -> None:
    """Write a case's results among the others', and the picture of all of them."""
    path = RESULTS / "sparse_dropout.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {"torch": torch.__version__, "device": platform.machine(), "threads": 1}
    results[name] = {"date": date.today().isoformat()} | found
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    picture(results).savefig(path.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
