"""The README's tables of classifiers and of searches over their hyper-parameters."""

from __future__ import annotations

from typing import Any

# How the prior of Laplace methods was chosen, by the results' word for it.
VERDICTS = {
    "verdict": "INF",
    "verdict_float8": "INF in float8",
    "verdict_float8_wide": "INF in float8 within 1.3 native diagonals",
}
PRIORS = {None: "", "validation_nll_joint": ", prior precision and number of data together"}


def mnist_ood(r: dict[str, Any]) -> list[str]:
    """Return every method's figures on MNIST and on what is none."""
    lines = [
        f"**Classifiers out of distribution** (`python benchmarks/mnist_ood.py`): {r['network']}, "
        f"{r['train']} training images of MNIST; out: {_outside(r, 'MNIST')}. Hyper-parameters by "
        f"NLL on MNIST kept aside{PRIORS[r.get('prior')]}; mean AUROC over the sets by predictive "
        "entropy and by mutual information; storage with the weights.",
        *_figures(r["methods"]),
    ]
    return lines + _missed(r)


def cifar_ood(r: dict[str, Any]) -> list[str]:
    """Return every method's figures on a part of CIFAR-10."""
    lines = [
        f"**In colour** (`python benchmarks/cifar_ood.py`): {r['network']}, {r['train']} images "
        f"of eight classes of CIFAR-10, mirrored and shifted, {r['epochs']} epochs: what a CPU "
        f"can bear. {r['sizes']['CIFAR-10']} test images; out: {_outside(r, 'CIFAR-10')}.",
        *_figures(r["methods"]),
    ]
    return lines + _missed(r)


def ella_vit(r: dict[str, Any]) -> list[str]:
    """Return the figures around a vision transformer."""
    return [
        f"**ELLA on a vision transformer** (`python benchmarks/ella_vit.py`): {r['network']}, "
        f"{r['train']} images of MNIST, {r['sizes']['MNIST']} to test on; out: "
        f"{_outside(r, 'MNIST')}.",
        *_figures(r["methods"]),
    ]


def sparse_dropout(r: dict[str, Any]) -> list[str]:
    """Return what sparse variational dropout prunes."""
    lines = [
        "**Sparse variational dropout** (`python benchmarks/sparse_dropout.py`): MNIST, 5000 "
        "training images held out, which choose above which log alpha weights go (the source: "
        "3); epochs by stage, between which superfluous units are removed.",
        "",
        "| net | epochs | log alpha | test error | weights / weights left | file, dense file |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("lenet_300_100", "lenet_5_caffe"):
        if name in r:
            c = r[name]
            epochs = " + ".join(str(n) for n in c["epochs"])
            sizes = f"{c['file_bytes'] / 1024:.0f} KiB, {c['dense_bytes'] / 1024:.0f} KiB"
            lines.append(
                f"| {name.replace('_', '-')} | {epochs} | {c['settings']['pruned_above']:g} "
                f"| {c['test_error_percent']:.2f} % | {c['compression']:.0f} | {sizes} |"
            )
    if "random_labels" in r:
        lines += ["", _random_labels(r["random_labels"])]
    return lines


def prior_search(r: dict[str, Any]) -> list[str]:
    """Return how fast searches find good hyper-parameters."""
    lines = [
        f"**Bayesian optimisation against chance** (`python benchmarks/prior_search.py`): "
        f"{r['dimensions']} hyper-parameters of INF around an {r['network']}, median regret of "
        f"{r['seeds']} seeds in nats of held-out NLL; the marginal likelihood's choice, the first "
        f"trial, has {r['start_nll'] - r['lowest_nll']:.4f}.",
        "",
        "| search | 10 trials | 20 trials | 30 trials | a trial |",
        "|---|---|---|---|---|",
    ]
    for name, search in r["searches"].items():
        regret = [f"{search['median_regret'][n - 1]:.4f}" for n in (10, 20, 30)]
        lines.append(f"| {name} | {' | '.join(regret)} | {1e3 * search['trial_s']:.0f} ms |")
    for name, nll in r["grids"].items():
        lines.append(f"| {name} | | | {nll - r['lowest_nll']:.4f} | |")
    return lines


def _random_labels(r: dict[str, Any]) -> str:
    sparse, binary = r["sparse_dropout"], r["binary_dropout"]
    return (
        f"On {r['images']} images with labels drawn at random it prunes "
        f"{sparse['pruned_percent']:.2f} % and fits {sparse['train_accuracy_percent']:.0f} % of "
        f"them after {r['epochs']} epochs; binary dropout fits "
        f"{binary['train_accuracy_percent']:.0f} %."
    )


def _missed(r: dict[str, Any]) -> list[str]:
    """Return what was asked of INF and is not so, where the methods it is asked of are there."""
    lines = []
    for key, name in VERDICTS.items():
        missed = [claim for claim, held in r.get(key, {}).items() if not held]
        if missed:
            lines += ["", f"Asked of {name} and missed: {'; '.join(missed)}."]
    return lines


def _outside(r: dict[str, Any], inside: str) -> str:
    return ", ".join(f"{name} ({n})" for name, n in r["sizes"].items() if name != inside)


def _figures(methods: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "| method | error | NLL | ECE | AUROC by entropy, information | fit | an image | stored |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, m in methods.items():
        auroc = [f"{m[score]['mean_auroc']:.3f}" for score in ("entropy", "mutual_information")]
        # One network knows no mutual information.
        shown = auroc[:1] if name in ("map", "temperature") else auroc
        lines.append(
            f"| {name.replace('_', ' ')} | {100 * (1 - m['accuracy']):.2f} % | {m['nll']:.4f} "
            f"| {m['ece']:.4f} | {', '.join(shown)} | {m['fit_s']:.0f} s "
            f"| {m['predict_ms_per_image']:.2f} ms | {m['stored_bytes'] / 1024:.0f} KiB |"
        )
    return lines
