"""How far sparse variational dropout prunes, at what error, and what it makes of random labels.

    python benchmarks/sparse_dropout.py [--only CASE] [--work FOLDER]

LeNet-300-100 and LeNet-5-Caffe on MNIST, 5000 training images held out for validation, and
LeNet-300-100 on labels drawn at random, beside binary dropout on the same images. LeNet-5-Caffe
is trained in stages: what a stage leaves without a use is removed, and the smaller network trained
on. Validation decides above which log alpha weights go. Every case can be stopped and goes on from
its last epoch; the test images are looked at once, after the last.
Writes benchmarks/results/sparse_dropout.json and .png. Needs MNIST: BAYES_VIO_DATA, see README.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kitti_bags import data_folder
from sparse_dropout_picture import picture
from torch import Tensor, nn

from bayes_vio.variational import (
    VariationalPosterior,
    compacted,
    fit_ensemble,
    fit_mc_dropout,
    fit_sparse_dropout,
)
from bayes_vio.variational.sparse_dropout import PRUNED_ABOVE
from bayes_vio.variational.storage import to_bytes
from bayes_vio.variational.training import EpochRecord
from bayes_vio.whole_files import write_whole

RESULTS = Path(__file__).parent / "results"
N_VALIDATION = 5000
N_RANDOM, RANDOM_EPOCHS = 10_000, 100
# Where weights may be pruned, from the source's log alpha on, and the validation error (percentage
# points above the source's choice) that pruning more may cost.
THRESHOLDS = (3.0, 2.5, 2.0, 1.5, 1.0)
TOLERANCE = 0.1
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
    """How a network is trained: first without noise, then with it, in stages of so many epochs.

    A stage begins with the weights that the one before left, its superfluous units removed.
    """

    network: Callable[[], nn.Module]
    epochs: tuple[int, ...]
    pretraining_epochs: int
    kl_warmup: float
    fit: dict[str, Any]

    def stages(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of every stage; the divergence counts in full from the second on."""
        for i, epochs in enumerate(self.epochs):
            yield self.fit | {"epochs": epochs, "kl_warmup": 0.0 if i else self.kl_warmup}


RECIPES = {
    "lenet_300_100": Recipe(lenet_300_100, (200,), 0, 0.2, {"log_variance": -10.0}),
    "lenet_5_caffe": Recipe(
        lenet_5_caffe,
        (10, 20, 60),
        2,
        0.3,
        {"log_variance": -10.0, "variance_rate": 5.0, "reparametrisation": "mixed"},
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


@dataclass(frozen=True)
class Curve:
    """The figures of every epoch, kept beside the checkpoint; ``before``: of earlier stages."""

    path: Path
    measure: Callable[[VariationalPosterior], dict[str, Any]]
    before: int = 0

    def rows(self) -> list[dict[str, float]]:
        return json.loads(self.path.read_text()) if self.path.exists() else []

    def add(self, record: EpochRecord, posterior: Callable[[], VariationalPosterior]) -> None:
        """Measure the network as it stands, prune it for that, and print and keep the row."""
        now = posterior()
        epoch = self.before + record.epoch
        row: dict[str, Any] = {"epoch": epoch, "nll": round(record.nll, 4)}
        row |= {"divergence": round(record.divergence), "kl_weight": round(record.kl_weight, 3)}
        row |= self.measure(now) | {"duration_s": round(record.duration_s, 1)}
        print(self.path.stem, json.dumps(row), flush=True)
        rows = [r for r in self.rows() if r["epoch"] < epoch] + [row]
        write_whole(self.path, json.dumps(rows).encode())


def sparsity(posterior: VariationalPosterior, network: nn.Module) -> dict[str, Any]:
    """Return what is left of the weights that the whole network has."""
    whole = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    left = [layer.n_weights - layer.n_pruned for layer in posterior.report.stochastic]
    shares = zip(left, whole, strict=True)
    return {
        "compression": round(sum(whole) / sum(left), 1) if any(left) else None,
        "sparsity_percent": [round(100 * (1 - kept / n), 2) for kept, n in shares],
    }


@dataclass(frozen=True)
class Training:
    """The training of a recipe on some images, whose state is in the work folder."""

    name: str
    recipe: Recipe
    train: Images
    work: Path
    measure: Callable[[VariationalPosterior], dict[str, Any]]

    def posterior(self, pruned_above: float = PRUNED_ABOVE) -> VariationalPosterior:
        """Return the posterior after the last stage; what is trained already is only read."""
        network, done = pretrained(self.name, self.recipe, self.train, self.work), 0
        stages = list(self.recipe.stages())
        for i, settings in enumerate(stages):
            is_last = i + 1 == len(stages)
            posterior = fit_sparse_dropout(
                network,
                self.train,
                "categorical",
                pruned_above=pruned_above if is_last else PRUNED_ABOVE,
                checkpoint=self.work / f"{self.name}.{i}.checkpoint",
                on_epoch=Curve(self.path, self.measure, done).add,
                **settings,
            )
            if is_last:
                return posterior
            network, done = compacted(posterior.model), done + settings["epochs"]
        raise ValueError("a recipe has at least one stage")

    @property
    def path(self) -> Path:
        """Return where the curve is."""
        return self.work / f"{self.name}.json"

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of every epoch."""
        return Curve(self.path, self.measure).rows()


def by_threshold(training: Training) -> list[dict[str, Any]]:
    """Return validation error and compression for every threshold."""
    rows = []
    for threshold in THRESHOLDS:
        rows.append({"pruned_above": threshold} | training.measure(training.posterior(threshold)))
    return rows


def chosen_threshold(rows: list[dict[str, Any]]) -> float:
    """Return the lowest threshold that costs no more validation error than ``TOLERANCE``."""
    most = rows[0]["validation_error_percent"] + TOLERANCE + 1e-9
    return min(r["pruned_above"] for r in rows if r["validation_error_percent"] <= most)


def pruning(name: str, work: Path) -> dict[str, Any]:
    """Train and prune a network on MNIST; return its figures."""
    train, validation, test = mnist()
    recipe = RECIPES[name]
    whole = recipe.network()

    def measure(now: VariationalPosterior) -> dict[str, Any]:
        error = validation.error_percent(now.model)
        return {"validation_error_percent": round(error, 3)} | sparsity(now, whole)

    training = Training(name, recipe, train, work, measure)
    thresholds = by_threshold(training)
    pruned_above = chosen_threshold(thresholds)
    posterior = training.posterior(pruned_above)
    posterior.save(work / f"{name}.posterior")
    return {
        "epochs": recipe.epochs,
        "pretraining_epochs": recipe.pretraining_epochs,
        "settings": recipe.fit | {"kl_warmup": recipe.kl_warmup, "pruned_above": pruned_above},
        **measure(posterior),
        "test_error_percent": round(test.error_percent(posterior.model), 3),
        "parameters": sum(p.numel() for p in whole.parameters()),
        "compacted_parameters": sum(p.numel() for p in compacted(posterior.model).parameters()),
        "file_bytes": len(to_bytes(posterior.at_mean())),
        "dense_bytes": sum(4 * p.numel() for p in whole.parameters()),
        "thresholds": thresholds,
        "first_layer": first_layer(posterior.model).tolist(),
        "curve": training.rows(),
    }


def random_labels(work: Path) -> dict[str, Any]:
    """Train on labels drawn at random: sparse dropout as above, and binary dropout."""
    train, _, test = mnist()
    labels = torch.randint(CLASSES, (N_RANDOM,), generator=torch.Generator().manual_seed(1))
    data = Images(train.x[:N_RANDOM], labels)
    recipe = replace(RECIPES["lenet_300_100"], epochs=(RANDOM_EPOCHS,))
    whole = recipe.network()

    def measure(now: VariationalPosterior) -> dict[str, Any]:
        accuracy = round(100 - data.error_percent(now.model), 2)
        return {"train_accuracy_percent": accuracy} | sparsity(now, whole)

    sparse = Training("random_labels_sparse_dropout", recipe, data, work, measure)
    posterior = sparse.posterior()
    binary = Curve(
        work / "random_labels_binary_dropout.json",
        lambda now: {"train_accuracy_percent": round(100 - data.error_percent(now.model), 2)},
    )
    dropout = fit_mc_dropout(
        whole,
        data,
        "categorical",
        RANDOM_EPOCHS,
        prior_precision=0.0,
        checkpoint=work / "random_labels_binary_dropout.checkpoint",
        on_epoch=binary.add,
    )
    pruned = sum(layer.n_pruned for layer in posterior.report.stochastic)
    total = sum(layer.n_weights for layer in posterior.report.stochastic)
    return {
        "images": N_RANDOM,
        "epochs": RANDOM_EPOCHS,
        "settings": recipe.fit | {"kl_warmup": recipe.kl_warmup},
        "sparse_dropout": measure(posterior)
        | {
            "pruned_percent": round(100 * pruned / total, 3),
            "test_error_percent": test.error_percent(posterior.model),
            "curve": sparse.rows(),
        },
        "binary_dropout": binary.measure(dropout)
        | {"test_error_percent": test.error_percent(dropout.model), "curve": binary.rows()},
    }


def first_layer(network: nn.Module) -> Tensor:
    """Return how many weights of every pixel survive [28, 28], or the filters as they are."""
    first = next(m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    weight = first.weight.detach()
    if isinstance(first, nn.Linear):
        return (weight != 0).sum(0).reshape(28, 28)
    return weight[:, 0]


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
