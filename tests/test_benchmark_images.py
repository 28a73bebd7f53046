"""The benchmarks of images and of sparse dropout, from data to figures, on a few made-up data."""

import io
import json
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import cifar_ood
import cv2
import numpy as np
import pytest
import sparse_dropout
import sparse_dropout_picture
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent


def write_letters(folder: Path) -> None:
    """Write noise under the names of the sets out of distribution, and bars as digits."""
    rng = np.random.default_rng(0)
    labels = np.arange(5200, dtype=np.uint8) % 10
    x = rng.integers(0, 60, (5200, 28, 28), dtype=np.uint8)
    for image, label in zip(x, labels, strict=True):
        image[:, 2 * label + 2 : 2 * label + 5] += 150
    np.savez(folder / "mnist.npz", x_train=x, y_train=labels, x_test=x[:200], y_test=labels[:200])
    for name in ("kmnist_test", "notmnist_10k", "fashion_mnist_900"):
        noise = rng.integers(0, 256, (50, 28, 28), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", x=noise, y=np.zeros(50, np.uint8))


def write_cifar(path: Path) -> None:
    """Write a tar of ten classes of colours, laid out as the real one."""
    rng = np.random.default_rng(1)
    with tarfile.open(path, "w:xz") as archive:
        for part, n in (("train", 30), ("test", 8)):
            for label in range(10):
                for i in range(n):
                    image = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                    image[..., label % 3] += 20 * (label // 3) + 60
                    content = cv2.imencode(".jpg", image)[1].tobytes()
                    entry = tarfile.TarInfo(f"cifar10/{part}/class_{label}/{i:04d}.jpg")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))


def table(name: str, figures: dict) -> str:
    """Return the README's table of figures."""
    tool = runpy.run_path(str(ROOT / "tools" / "classifier_tables.py"))
    return "\n".join(tool[name](figures))


def run(script: str, *arguments: str) -> dict:
    """Run a benchmark in a process of its own and return its figures, which end in --out."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return json.loads(Path(arguments[-1]).read_text())


@pytest.mark.slow
def test_cifar_out_of_distribution(tmp_path):
    pytest.importorskip("sklearn")
    write_letters(tmp_path)
    write_cifar(tmp_path / "cifar10_jpeg.tar.xz")
    methods = ["map", "diagonal", "inf", "last_layer"]
    found = run(
        "cifar_ood.py", "--data", str(tmp_path), "--train", "160", "--validation", "80",
        "--epochs", "2", "--curvature", "40", "--test", "6", "--outside", "20",
        "--methods", *methods, "--out", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert found["sizes"] == {"CIFAR-10": 48, "ships and trucks": 12, "KMNIST": 20, "notMNIST": 20}
    assert list(found["methods"]) == methods
    for row in found["methods"].values():
        assert 0 <= row["entropy"]["mean_auroc"] <= 1
        assert row["nll"] > 0
    assert found["methods"]["inf"]["n_data_of_posterior"] > 0
    ratio = [found["methods"][m]["posterior_bytes"] for m in ("inf", "diagonal")]
    assert ratio[0] <= 1.3 * ratio[1]
    assert table("cifar_ood", found).count("\n| ") == 1 + len(methods)
    assert (tmp_path / "r.png").exists()


def test_the_classes_in_and_out_of_distribution_are_told_apart(tmp_path):
    from argparse import Namespace

    write_letters(tmp_path)
    write_cifar(tmp_path / "cifar10_jpeg.tar.xz")
    counts = Namespace(train=160, validation=80, search=60, curvature=40, test=6, outside=20)
    sets = cifar_ood.read_sets(tmp_path, counts)
    for _, y in (sets.train, sets.validation, sets.test):
        assert sorted(set(y.tolist())) == list(range(8))
    assert len(sets.train[1]) == 160
    assert len(sets.validation[1]) == 80
    assert len(sets.search[1]) == 60
    # The two last classes are the brightest.
    assert float(sets.outside["ships and trucks"].mean()) > float(sets.test[0].mean())
    assert sets.outside["KMNIST"].shape == (20, 3, 32, 32)
    assert cifar_ood.resnet8()(sets.test[0]).shape == (48, 8)


@pytest.mark.slow
def test_ella_of_a_vision_transformer(tmp_path, monkeypatch):
    # A torchvision of another build than torch's would break the import of transformers.
    monkeypatch.setitem(sys.modules, "torchvision", None)
    pytest.importorskip("transformers")
    pytest.importorskip("sklearn")
    import ella_vit

    write_letters(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        "ella_vit.py --train 100 --epochs 2 --curvature 30 --search 30 --test 30 --outside 20 "
        f"--width 16 --layers 2 --points 40 --methods map ella --data {tmp_path} "
        f"--out {tmp_path / 'r.json'}".split(),
    )
    ella_vit.main()
    found = json.loads((tmp_path / "r.json").read_text())
    assert list(found["methods"]) == ["map", "ella"]
    assert found["methods"]["ella"]["mutual_information"]["mean_auroc"] != 0.5
    assert found["methods"]["ella"]["nll"] > 0
    assert "\n| ella | " in table("ella_vit", found)
    assert (tmp_path / "r.png").exists()


@pytest.mark.slow
def test_the_regret_of_searches(tmp_path):
    pytest.importorskip("optuna")
    write_letters(tmp_path)
    out = str(tmp_path / "r.json")
    found = run(
        "prior_search.py", "--data", str(tmp_path), "--trials", "12", "--seeds", "2", "--out", out
    )
    assert set(found["searches"]) == {"gaussian process", "random"}
    for search in found["searches"].values():
        regret = search["median_regret"]
        assert len(regret) == 12
        assert regret == sorted(regret, reverse=True)
        assert regret[-1] >= 0
        assert search["costs"][0][0] == pytest.approx(found["start_nll"])
    rows = [s["costs"] for s in found["searches"].values()]
    assert rows[0] != rows[1]


def test_the_lowest_threshold_within_the_tolerance_is_chosen():
    rows = [
        {"pruned_above": t, "validation_error_percent": e}
        for t, e in ((3.0, 1.82), (2.5, 1.80), (2.0, 1.92), (1.5, 1.95), (1.0, 2.3))
    ]
    assert sparse_dropout.chosen_threshold(rows) == 2.0


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 2))


def test_stages_go_on_with_what_is_left(tmp_path):
    """Only two of sixteen inputs tell the class: the second stage trains a smaller network."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 1, 4, 4, generator=generator)
    y = x.flatten(1)[:, :2].argmax(1)
    images = sparse_dropout.Images(x, y, 50)
    fit = {"log_variance": -6.0, "learning_rate": 1e-2, "variance_rate": 3.0}
    recipe = sparse_dropout.Recipe(small, (25, 10), 1, 0.3, fit)
    whole = small()

    def measure(now):
        return {"error_percent": images.error_percent(now.model)} | sparse_dropout.sparsity(
            now, whole
        )

    training = sparse_dropout.Training("net", recipe, images, tmp_path, measure)
    posterior = training.posterior()
    widths = [m.out_features for m in posterior.model.modules() if isinstance(m, nn.Linear)]
    assert widths[0] < 40
    assert posterior.model[1].in_features == 16
    assert [row["epoch"] for row in training.rows()] == list(range(1, 36))
    left = sum(int((p != 0).sum()) for n, p in posterior.model.named_parameters() if p.dim() == 2)
    found = measure(posterior)
    assert found["compression"] == pytest.approx((16 * 60 + 60 * 2) / left, abs=0.06)
    assert found["error_percent"] < 20
    # What is trained is only read again, and a lower threshold prunes more.
    looser = measure(training.posterior(0.0))
    assert looser["compression"] >= found["compression"]
    assert len(training.rows()) == 35
    settings = list(recipe.stages())
    assert [s["kl_warmup"] for s in settings] == [0.3, 0.0]


def test_filters_are_tiled_row_by_row():
    filters = np.arange(7, dtype=float)[:, None, None] * np.ones((7, 2, 3))
    tiles = sparse_dropout_picture._tiled(filters)
    assert tiles.shape == (2 * 4, 5 * 5)
    assert tiles[1, 1] == 0
    assert tiles[1, 6] == 1
    assert tiles[5, 1] == 5
    assert np.isnan(tiles[5, 11])
