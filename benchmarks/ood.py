"""Methods beside each other in and out of distribution: what the benchmarks of images share.

One network is trained; every method is fitted around it or, where it is a way to train, trained
alike. Hyper-parameters, prior precision and number of data among them, are chosen by NLL on data
kept aside; the sets out of distribution and the test images choose nothing. Times are processor
time on one thread. What a work folder already holds is not computed again, so that several runs
can share the methods.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.choices import NumberFormat
from bayes_vio.classification import BayesianClassifier, ClassPrediction, Method, TrainingSettings
from bayes_vio.classification.detection import Score, detection, sparsification
from bayes_vio.classification.methods import PriorChoice
from bayes_vio.classification.metrics import classification_metrics, reliability
from bayes_vio.classification.plots import plot_entropies, plot_reliability

PICTURED = ("map", "diagonal", "last_layer", "inf", "ensemble")
BATCH_SIZE = 500
# What chooses the prior of a Laplace posterior.
PRIOR = PriorChoice.VALIDATION_NLL_JOINT
# What INF may store over what the diagonal of the same weights does.
STORAGE = 1.3
# What a method is called whose storage is that of the native diagonal, whatever its format.
WIDE = "_wide"
# The sets of predictions by name; that of the test images comes first.
Predictions = dict[str, ClassPrediction]


@dataclass(frozen=True)
class Sets:
    """All images as (x, y), by the name of the data in distribution and of those out of it.

    ``curvature`` is the part of the training data that curvature sees, ``search`` the part of the
    validation data that chooses the prior. ``augmented`` makes a loader of the training data,
    which are else trained on as they are.
    """

    inside: str
    train: tuple[Tensor, Tensor]
    curvature: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    search: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    outside: dict[str, Tensor]
    augmented: Callable[[tuple[Tensor, Tensor]], Iterable] | None = None

    def trained_on(self) -> Any:
        """Return what methods that train are given; of random augmentation anew each time."""
        return self.train if self.augmented is None else self.augmented(self.train)

    def sizes(self) -> dict[str, int]:
        """Return how many images are tested, by set."""
        return {self.inside: len(self.test[1])} | {n: len(x) for n, x in self.outside.items()}


@dataclass(frozen=True)
class Study:
    """What methods are compared on, and how; ``options`` are methods' own settings.

    Methods go by name; a name may end in a number format, as "inf_float8", and in "_wide" where
    its rank is what the storage asked of the native format leaves.
    """

    sets: Sets
    network: nn.Module
    training: TrainingSettings
    options: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    work: Path | None = None

    def compared(self, methods: Sequence[str]) -> tuple[dict[str, Any], dict[str, Predictions]]:
        """Return every method's figures and its predictions by set."""
        rows, predictions = {}, {}
        for name in methods:
            rows[name], predictions[name] = self.measured_once(name)
            print(table({name: rows[name]}).splitlines()[1], flush=True)
        return rows, predictions

    def measured_once(self, name: str) -> tuple[dict[str, Any], Predictions]:
        """Measure a method, or return what the work folder has of it."""
        kept = self.work and self.work / f"{name}.pt"
        if kept and kept.exists():
            row, parts = torch.load(kept, weights_only=True)
            return row, {part: ClassPrediction(*values) for part, values in parts.items()}
        row, predictions = self.measured(name)
        if kept:
            parts = {n: [getattr(p, f.name) for f in fields(p)] for n, p in predictions.items()}
            torch.save((row, parts), kept)
        return row, predictions

    def measured(self, name: str) -> tuple[dict[str, Any], Predictions]:
        """Fit one method and score it; also return its predictions by set."""
        method, number_format = parted(name)
        sets, is_laplace = self.sets, method.is_laplace
        clf = BayesianClassifier(
            self.network,
            method,
            training=self.training,
            batch_size=BATCH_SIZE,
            prior_precision=PRIOR.value if is_laplace else None,
            **self._options(name, is_laplace),
        )
        start = time.process_time()
        data = sets.curvature if is_laplace else sets.trained_on()
        clf.fit(data, sets.search if is_laplace else sets.validation)
        if number_format is not NumberFormat.NATIVE:
            clf = clf.with_number_format(number_format)
        fit_s = time.process_time() - start
        start = time.process_time()
        predictions = {sets.inside: clf.predict(sets.test[0])}
        predict_s = time.process_time() - start
        predictions |= {name: clf.predict(x) for name, x in sets.outside.items()}
        row = scores(predictions, sets.test[1]) | {
            "fit_s": round(fit_s, 2),
            "predict_ms_per_image": round(1e3 * predict_s / len(sets.test[1]), 4),
            "stored_bytes": clf.nbytes,
        }
        if is_laplace:
            row["posterior_bytes"] = clf.posterior.nbytes
            row["prior_precision"] = next(iter(clf.posterior.prior_precision.values()))
            row["n_data_of_posterior"] = clf.posterior.n_data
        return row, predictions

    def _options(self, name: str, is_laplace: bool) -> dict[str, Any]:
        """Return a method's settings; a curvature is a mean, which all training data multiply."""
        n_data = {"n_data": float(len(self.sets.train[1]))} if is_laplace else {}
        return dict(self.options.get(name, {})) | n_data


def parted(name: str) -> tuple[Method, NumberFormat]:
    """Return the method and the number format of a name such as "inf_float8"."""
    method, _, last = name.removesuffix(WIDE).rpartition("_")
    formats = {f.value: f for f in NumberFormat}
    return (
        (Method(method), formats[last]) if last in formats else (Method(name), formats["native"])
    )


def trained(
    make: Callable[[], nn.Module], sets: Sets, training: TrainingSettings, work: Path | None
) -> nn.Module:
    """Return the one network; it is kept in the work folder."""
    if work and (work / "network").exists():
        return BayesianClassifier.load(work / "network", make()).network
    clf = BayesianClassifier(make(), "map", True, training=training).fit(sets.trained_on())
    if work:
        clf.save(work / "network")
    return clf.network


def sparse_options(network: nn.Module, rank: int) -> dict[str, Any]:
    """Return INF's settings: what it may store goes to the layers that gain most by it."""
    return {"rank": rank, "max_bytes": int(STORAGE * parameter_bytes(network))}


def compact_options(network: nn.Module, rank: int, diagonal_bytes: int = 2) -> dict[str, Any]:
    """Return the settings of INF in float8, stored within STORAGE times another diagonal.

    diagonal_bytes: what a number of that one takes, 2 in bfloat16, 4 in float32; INF's own take
    one. Numbers of the low rank take two bytes; a thirtieth of what is left is for the diagonal's
    scales.
    """
    low_rank = (STORAGE * diagonal_bytes - 1) / 2 * (1 - 1 / 30)
    return {"rank": rank, "max_bytes": int((1 + low_rank) * parameter_bytes(network))}


def parameter_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's parameters, and of a diagonal of the same dtype."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def scores(predictions: Predictions, target: Tensor) -> dict[str, Any]:
    """Return accuracy, calibration and detection of predictions, the first in distribution."""
    (_, inside), *others = predictions.items()
    found: dict[str, Any] = classification_metrics(inside.probs, target).to_dict()
    wrong = (inside.probs.argmax(1) != target).double()
    found["sparsification_area"] = sparsification(inside.entropy, wrong).area
    for score in Score:
        rows = {n: detection(score.of(inside), score.of(p)).to_dict() for n, p in others}
        mean = sum(row["auroc"] for row in rows.values()) / len(rows)
        found[score.value] = rows | {"mean_auroc": mean}
    return found


def verdict(
    rows: dict[str, Any], name: str = "inf", score: Score = Score.ENTROPY
) -> dict[str, bool]:
    """Return what the sparse information form is expected to reach, and whether it does.

    Where it is in float8, the diagonal that its storage is compared with is one in bfloat16,
    unless it was given what a native one takes.
    """
    auroc = {n: row[score.value]["mean_auroc"] for n, row in rows.items()}
    inf, point = rows[name], rows["map"]
    is_native = parted(name)[1] is NumberFormat.NATIVE or name.endswith(WIDE)
    diagonal, shown = rows["diagonal"]["posterior_bytes"], "diagonal's"
    if not is_native:
        diagonal, shown = diagonal / 2, "a bfloat16 diagonal's"
    return {
        "AUROC at least diagonal's": auroc[name] >= auroc["diagonal"],
        "AUROC at least the last layer's": auroc[name] >= auroc["last_layer"],
        "AUROC within 0.01 of KFAC's": auroc[name] >= auroc["kfac"] - 0.01,
        "AUROC within 0.01 of EFB's": auroc[name] >= auroc["efb"] - 0.01,
        f"at most {STORAGE} times {shown} storage": inf["posterior_bytes"] <= STORAGE * diagonal,
        "NLL below MAP's": inf["nll"] < point["nll"],
        "ECE below MAP's": inf["ece"] < point["ece"],
    }


def results_of(study: Study, rows: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return all figures for JSON."""
    results = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **settings,
        "prior": PRIOR.value,
        "sizes": study.sets.sizes(),
        "methods": rows,
    }
    if {"inf", "map", "diagonal", "last_layer", "kfac", "efb"} <= set(rows):
        results["verdict"] = verdict(rows)
        for variant in ("float8", f"float8{WIDE}"):
            if f"inf_{variant}" in rows:
                results[f"verdict_{variant}"] = verdict(rows, f"inf_{variant}")
    return results


def record(
    study: Study,
    arguments: argparse.Namespace,
    order: Sequence[str],
    pictured: Sequence[str] = PICTURED,
    **settings: Any,
) -> None:
    """Compare the methods that a command line names; write their figures, and draw them.

    With --join the other methods keep the rows that are written, and the pictures stay.
    """
    rows, predictions = study.compared(arguments.methods)
    results = results_of(study, rows, **settings)
    if arguments.join:
        rows = joined(results, json.loads(arguments.out.read_text()), order)
        write(results_of(study, rows, **settings), arguments.out)
        return
    write(results, arguments.out)
    picture(predictions, study.sets, arguments.out, pictured)


def joined(results: dict[str, Any], known: dict[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return the rows of an earlier run with those of a new one, in the order given, then others.

    Raises ValueError where the earlier run had other settings.
    """
    for key in results.keys() - {"date", "methods"}:
        if not key.startswith("verdict") and known.get(key) != results[key]:
            raise ValueError(f"the recorded {key} is {known.get(key)}, not {results[key]}")
    rows = known["methods"] | results["methods"]
    return {name: rows[name] for name in dict.fromkeys((*order, *rows)) if name in rows}


def table(rows: dict[str, Any]) -> str:
    """Return the figures as lines of text, a headline first."""
    lines = ["method          acc    NLL    ECE    AUROC (entropy, MI)   fit s  ms/image  bytes"]
    for name, row in rows.items():
        auroc = [row[score.value]["mean_auroc"] for score in Score]
        lines.append(
            f"{name:14s} {row['accuracy']:.4f} {row['nll']:.4f} {row['ece']:.4f}  "
            f"{auroc[0]:.4f} {auroc[1]:.4f}     {row['fit_s']:8.1f} "
            f"{row['predict_ms_per_image']:8.3f} {row['stored_bytes']:9d}"
        )
    return "\n".join(lines)


def write(results: dict[str, Any], path: Path) -> None:
    """Write and print the figures."""
    print(table(results["methods"]), json.dumps(results.get("verdict"), indent=1), sep="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def picture(
    predictions: dict[str, Predictions],
    sets: Sets,
    path: Path,
    methods: Sequence[str] = PICTURED,
) -> None:
    """Draw entropies by set and reliability diagrams of some methods, where they are there."""
    chosen = {name: predictions[name] for name in methods if name in predictions}
    if not chosen:
        return
    n_classes = next(iter(chosen.values()))[sets.inside].probs.shape[1]
    entropies = {name: {s: p.entropy for s, p in found.items()} for name, found in chosen.items()}
    plot_entropies(entropies, n_classes).savefig(path.with_suffix(".png"), dpi=90)
    diagrams = {n: reliability(p[sets.inside].probs, sets.test[1]) for n, p in chosen.items()}
    plot_reliability(diagrams).savefig(path.with_name(f"{path.stem}_reliability.png"), dpi=90)


def parser(description: str | None, methods: Sequence[str], out: Path) -> argparse.ArgumentParser:
    """Return a command line with what all of these benchmarks take."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    found = argparse.ArgumentParser(description=description)
    found.add_argument(
        "--data", type=Path, default=Path(os.environ.get("BAYES_VIO_DATA", default)) / "images"
    )
    found.add_argument("--methods", nargs="+", default=methods)
    found.add_argument("--work", type=Path, help="keep the network and every method's results")
    found.add_argument("--out", type=Path, default=out)
    found.add_argument("--join", action="store_true", help="keep --out's rows of other methods")
    return found
