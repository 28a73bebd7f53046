"""The benchmark out of distribution, from images to verdict, on a few drawn images."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ood import STORAGE, compact_options, joined, parted, sparse_options

from bayes_vio.choices import NumberFormat
from bayes_vio.classification import Method
from bayes_vio.classification.networks import lenet
from bayes_vio.posterior import fit_posterior

ROOT = Path(__file__).resolve().parents[2]


def write_images(folder: Path) -> None:
    """Digits are bright bars whose place tells the class; the others are noise."""
    rng = np.random.default_rng(0)

    def bars(labels: np.ndarray) -> np.ndarray:
        x = rng.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
        for image, label in zip(x, labels, strict=True):
            image[:, 2 * label + 2 : 2 * label + 5] += 150
        return x

    labels = np.arange(5200, dtype=np.uint8) % 10
    np.savez(
        folder / "mnist.npz",
        x_train=bars(labels), y_train=labels, x_test=bars(labels[:200]), y_test=labels[:200],
    )  # fmt: skip
    for name in ("kmnist_test", "notmnist_10k", "fashion_mnist_900"):
        noise = rng.integers(0, 256, (50, 28, 28), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", x=noise, y=np.zeros(50, np.uint8))


def test_a_name_may_end_in_a_number_format():
    assert parted("inf_float8") == (Method.INF, NumberFormat.FLOAT8)
    assert parted("inf_float8_wide") == (Method.INF, NumberFormat.FLOAT8)
    assert parted("last_layer") == (Method.LAST_LAYER, NumberFormat.NATIVE)
    with pytest.raises(ValueError, match="float9"):
        parted("inf_float9")


def test_storage_stays_within_what_is_asked():
    network = lenet()
    generator = torch.Generator().manual_seed(0)
    data = [(torch.rand(12, 1, 28, 28, generator=generator), torch.arange(12) % 10)]

    def fitted(structure: str, **options):
        return fit_posterior(network, data, "categorical", structure, **options)

    diagonal = fitted("diagonal").nbytes
    native = fitted("inf", **sparse_options(network, 400)).nbytes
    assert 1.2 * diagonal < native <= STORAGE * diagonal
    compact = fitted("inf", **compact_options(network, 1000)).with_number_format("float8").nbytes
    assert diagonal / 2 < compact <= STORAGE * diagonal / 2
    options = compact_options(network, 1500, diagonal_bytes=4)
    wide = fitted("inf", **options).with_number_format("float8").nbytes
    assert 1.05 * compact < wide <= STORAGE * diagonal


def test_rows_of_one_run_join_those_of_another_with_the_same_settings():
    known = {"date": "a", "train": 10, "methods": {"map": 1, "kfac": 2}, "verdict": {}}
    new = {"date": "b", "train": 10, "methods": {"ella": 5, "kfac": 3, "inf": 4}}
    order = ("map", "inf", "efb", "kfac")
    expected = [("map", 1), ("inf", 4), ("kfac", 3), ("ella", 5)]
    assert list(joined(new, known, order).items()) == expected
    with pytest.raises(ValueError, match="train is 20, not 10"):
        joined(new, known | {"train": 20}, order)


@pytest.mark.slow
def test_mnist_out_of_distribution(tmp_path):
    pytest.importorskip("sklearn")
    write_images(tmp_path)
    methods = ["map", "diagonal", "kfac", "efb", "inf", "inf_float8", "last_layer", "mc_dropout"]
    command = [
        sys.executable, str(ROOT / "benchmarks" / "mnist_ood.py"), "--data", str(tmp_path),
        "--train", "200", "--epochs", "3", "--curvature", "50", "--search", "40", "--test", "100",
        "--outside", "50", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "r.json"),
        "--methods", *methods,
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    first = json.loads((tmp_path / "r.json").read_text())
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    again = json.loads((tmp_path / "r.json").read_text())
    assert again["methods"] == first["methods"]
    assert list(first["methods"]) == methods
    assert len(first["verdict"]) == len(first["verdict_float8"]) == 7
    assert first["verdict_float8"]["at most 1.3 times a bfloat16 diagonal's storage"]
    ratio = [first["methods"][m]["posterior_bytes"] for m in ("inf", "diagonal")]
    assert ratio[0] <= 1.3 * ratio[1]
    for row in first["methods"].values():
        for score in ("entropy", "mutual_information"):
            parts = [row[score][n]["auroc"] for n in ("KMNIST", "notMNIST", "Fashion-MNIST")]
            assert row[score]["mean_auroc"] == pytest.approx(np.mean(parts))
    assert (tmp_path / "r.png").stat().st_size > 10_000
