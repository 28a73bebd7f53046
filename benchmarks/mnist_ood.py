"""Which method knows best what it does not know: MNIST in, KMNIST, notMNIST, Fashion-MNIST out.

Run ``python benchmarks/mnist_ood.py``; needs the images (BAYES_VIO_DATA, see README) and the extra
``classification``. One LeNet is trained; every method is fitted around it or, where it is a way to
train, trained alike. Hyper-parameters are chosen by NLL on MNIST kept aside; the sets out of
distribution and the test images choose nothing. Times are processor time on one thread. What a
``--work`` folder already holds is not computed again, so that several runs can share the methods.
Writes benchmarks/results/mnist_ood.json and its pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.classification import BayesianClassifier, ClassPrediction, Method, TrainingSettings
from bayes_vio.classification.detection import Score, detection, sparsification
from bayes_vio.classification.images import read_npz
from bayes_vio.classification.metrics import classification_metrics, reliability
from bayes_vio.classification.networks import lenet
from bayes_vio.classification.plots import plot_entropies, plot_reliability

RESULTS = Path(__file__).parent / "results" / "mnist_ood.json"
# Without "full", whose matrix over 61 706 weights does not fit a machine.
METHODS = (
    "map", "temperature", "diagonal", "kfac", "efb", "inf", "subnetwork", "last_layer", "ella",
    "mc_dropout", "mean_field", "sparse_dropout", "ensemble",
)  # fmt: skip
OUTSIDE = {
    "KMNIST": "kmnist_test.npz",
    "notMNIST": "notmnist_10k.npz",
    "Fashion-MNIST": "fashion_mnist_900.npz",
}
PICTURED = ("map", "diagonal", "last_layer", "inf", "ensemble")
N_VALIDATION = 5000
# Keeps INF's storage below 1.3 times that of the diagonal.
RANK = 200


@dataclass(frozen=True)
class Sets:
    """All images as (x, y); ``curvature`` is the part of the training data that curvature sees,
    ``search`` the part of the validation data that chooses the prior precision."""

    train: tuple[Tensor, Tensor]
    curvature: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    search: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    outside: dict[str, Tensor]


def read_sets(folder: Path, arguments: argparse.Namespace) -> Sets:
    images = read_npz(folder / "mnist.npz", "x_train", "y_train").shuffled(0)
    train = images.take(slice(N_VALIDATION, N_VALIDATION + arguments.train)).tensors()
    validation = images.take(slice(0, N_VALIDATION)).tensors()
    test = read_npz(folder / "mnist.npz", "x_test", "y_test").shuffled(0)
    outside = {name: read_npz(folder / file).shuffled(0) for name, file in OUTSIDE.items()}
    return Sets(
        train=train,
        curvature=(train[0][: arguments.curvature], train[1][: arguments.curvature]),
        validation=validation,
        search=(validation[0][: arguments.search], validation[1][: arguments.search]),
        test=test.take(slice(0, arguments.test)).tensors(),
        outside={
            name: found.take(slice(0, arguments.outside)).tensors()[0]
            for name, found in outside.items()
        },
    )


def options_of(method: Method, sets: Sets, rank: int) -> dict[str, Any]:
    """Return a method's own settings; a curvature is a mean, which all training data multiply."""
    own: dict[Method, dict[str, Any]] = {
        Method.INF: {"rank": rank},
        Method.SUBNETWORK: {"subset_size": 1000},
        Method.ELLA: {"n_points": 2000, "n_eigen": 20},
        Method.ENSEMBLE: {"members": 5},
    }
    n_data = {"n_data": float(len(sets.train[1]))} if method.is_laplace else {}
    return own.get(method, {}) | n_data


def trained_lenet(sets: Sets, training: TrainingSettings, work: Path | None) -> nn.Module:
    """Return the one network; it is kept in the work folder."""
    if work and (work / "network").exists():
        return BayesianClassifier.load(work / "network", lenet()).network
    clf = BayesianClassifier(lenet(), "map", True, training=training).fit(sets.train)
    if work:
        clf.save(work / "network")
    return clf.network


def measure(
    network: nn.Module, method: Method, sets: Sets, training: TrainingSettings, rank: int
) -> tuple[dict[str, Any], dict[str, ClassPrediction]]:
    """Fit one method and score it; also return its predictions by set."""
    options = options_of(method, sets, rank)
    clf = BayesianClassifier(network, method, training=training, batch_size=500, **options)
    start = time.process_time()
    data = sets.curvature if method.is_laplace else sets.train
    clf.fit(data, sets.search if method.is_laplace else sets.validation)
    fit_s = time.process_time() - start
    start = time.process_time()
    predictions = {"MNIST": clf.predict(sets.test[0])}
    predict_s = time.process_time() - start
    predictions |= {name: clf.predict(x) for name, x in sets.outside.items()}
    row = scores(predictions, sets.test[1]) | {
        "fit_s": round(fit_s, 2),
        "predict_ms_per_image": round(1e3 * predict_s / len(sets.test[1]), 4),
        "stored_bytes": clf.nbytes,
    }
    if method.is_laplace:
        row["posterior_bytes"] = clf.posterior.nbytes
        row["prior_precision"] = next(iter(clf.posterior.prior_precision.values()))
    return row, predictions


def scores(predictions: dict[str, ClassPrediction], target: Tensor) -> dict[str, Any]:
    inside = predictions["MNIST"]
    found: dict[str, Any] = classification_metrics(inside.probs, target).to_dict()
    wrong = (inside.probs.argmax(1) != target).double()
    found["sparsification_area"] = sparsification(inside.entropy, wrong).area
    for score in Score:
        rows = {
            name: detection(score.of(inside), score.of(p)).to_dict()
            for name, p in predictions.items()
            if name != "MNIST"
        }
        mean = sum(row["auroc"] for row in rows.values()) / len(rows)
        found[score.value] = rows | {"mean_auroc": mean}
    return found


def verdict(rows: dict[str, Any], score: Score = Score.ENTROPY) -> dict[str, bool]:
    """Return what the sparse information form is expected to reach, and whether it does."""
    auroc = {name: row[score.value]["mean_auroc"] for name, row in rows.items()}
    inf, point = rows["inf"], rows["map"]
    ratio = inf["posterior_bytes"] / rows["diagonal"]["posterior_bytes"]
    return {
        "AUROC at least diagonal's": auroc["inf"] >= auroc["diagonal"],
        "AUROC at least the last layer's": auroc["inf"] >= auroc["last_layer"],
        "AUROC within 0.01 of KFAC's": auroc["inf"] >= auroc["kfac"] - 0.01,
        "AUROC within 0.01 of EFB's": auroc["inf"] >= auroc["efb"] - 0.01,
        "at most 1.3 times diagonal's storage": ratio <= 1.3,
        "NLL below MAP's": inf["nll"] < point["nll"],
        "ECE below MAP's": inf["ece"] < point["ece"],
    }


def measured_once(
    network: nn.Module,
    method: Method,
    sets: Sets,
    training: TrainingSettings,
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, ClassPrediction]]:
    """Measure a method, or return what the work folder has of it."""
    kept = arguments.work and arguments.work / f"{method.value}.pt"
    if kept and kept.exists():
        row, parts = torch.load(kept, weights_only=True)
        return row, {name: ClassPrediction(*values) for name, values in parts.items()}
    row, predictions = measure(network, method, sets, training, arguments.rank)
    if kept:
        parts = {name: [getattr(p, f.name) for f in fields(p)] for name, p in predictions.items()}
        torch.save((row, parts), kept)
    return row, predictions


def table(rows: dict[str, Any]) -> str:
    lines = ["method          acc    NLL    ECE    AUROC (entropy, MI)   fit s  ms/image  bytes"]
    for name, row in rows.items():
        auroc = [row[score.value]["mean_auroc"] for score in Score]
        lines.append(
            f"{name:14s} {row['accuracy']:.4f} {row['nll']:.4f} {row['ece']:.4f}  "
            f"{auroc[0]:.4f} {auroc[1]:.4f}     {row['fit_s']:8.1f} "
            f"{row['predict_ms_per_image']:8.3f} {row['stored_bytes']:9d}"
        )
    return "\n".join(lines)


def picture(
    predictions: dict[str, dict[str, ClassPrediction]], target: Tensor, path: Path
) -> None:
    chosen = {name: predictions[name] for name in PICTURED if name in predictions}
    entropies = {name: {s: p.entropy for s, p in sets.items()} for name, sets in chosen.items()}
    plot_entropies(entropies, 10).savefig(path.with_suffix(".png"), dpi=90)
    diagrams = {name: reliability(sets["MNIST"].probs, target) for name, sets in chosen.items()}
    plot_reliability(diagrams).savefig(path.with_name(f"{path.stem}_reliability.png"), dpi=90)


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("BAYES_VIO_DATA", default)) / "images"
    )
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--train", type=int, default=10_000, help="images to train on")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--curvature", type=int, default=10_000, help="images that curvature sees")
    parser.add_argument("--search", type=int, default=2000, help="images that choose the prior")
    parser.add_argument("--test", type=int, default=10_000, help="images to test on")
    parser.add_argument("--outside", type=int, default=10_000, help="images of each other set")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--work", type=Path, help="keep the network and every method's results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not (arguments.data / "mnist.npz").exists():
        print(f"{arguments.data} holds no mnist.npz: there is nothing to compare")
        return
    torch.set_num_threads(1)
    training = TrainingSettings(arguments.epochs, batch_size=128)
    sets = read_sets(arguments.data, arguments)
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    network = trained_lenet(sets, training, arguments.work)
    rows: dict[str, Any] = {}
    predictions: dict[str, dict[str, ClassPrediction]] = {}
    for name in arguments.methods:
        rows[name], predictions[name] = measured_once(
            network, Method(name), sets, training, arguments
        )
        print(table({name: rows[name]}).splitlines()[1], flush=True)
    counts = {n: getattr(arguments, n) for n in ("train", "epochs", "curvature", "search", "rank")}
    results = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network": "LeNet-5, 61 706 weights",
        **counts,
        "sizes": {"MNIST": len(sets.test[1])} | {n: len(x) for n, x in sets.outside.items()},
        "methods": rows,
    }
    if {"inf", "map", "diagonal", "last_layer", "kfac", "efb"} <= set(rows):
        results["verdict"] = verdict(rows)
    print(table(rows), json.dumps(results.get("verdict"), indent=1), sep="\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    if set(PICTURED) & set(predictions):
        picture(predictions, sets.test[1], arguments.out)


if __name__ == "__main__":
    main()
