"""Which method knows best what it does not know: MNIST in, KMNIST, notMNIST, Fashion-MNIST out.

Run ``python benchmarks/mnist_ood.py``; needs the images (BAYES_VIO_DATA, see README) and the extra
``classification``. A LeNet and all methods; how they are compared is told in ``ood.py``. Writes
benchmarks/results/mnist_ood.json and its pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ood import (
    Sets,
    Study,
    compact_options,
    parser,
    record,
    trained,
)

from bayes_vio.classification import TrainingSettings
from bayes_vio.classification.images import read_npz
from bayes_vio.classification.networks import lenet

RESULTS = Path(__file__).parent / "results" / "mnist_ood.json"
# Without "full", whose matrix over 61 706 weights does not fit a machine.
METHODS = (
    "map", "temperature", "diagonal", "kfac", "efb", "inf", "inf_float8", "inf_float8_wide",
    "subnetwork", "last_layer", "ella", "mc_dropout", "mean_field", "sparse_dropout", "ensemble",
)  # fmt: skip
OUTSIDE = {
    "KMNIST": "kmnist_test.npz",
    "notMNIST": "notmnist_10k.npz",
    "Fashion-MNIST": "fashion_mnist_900.npz",
}
N_VALIDATION = 5000
# Keeps INF's storage below 1.3 times that of the diagonal.
RANK = 200
# In float8, where storage bounds the ranks of all layers together, the largest of one layer: its
# square is what predictions work with.
COMPACT_RANK = 1500
# The same within 1.3 native diagonals: time bounds it before storage does (to fill that takes a
# rank of 9900: matrices of a gigabyte, and hours).
WIDE_RANK = 2500


def read_sets(folder: Path, arguments: argparse.Namespace) -> Sets:
    """Return MNIST, a part of its training images kept aside, and the sets out of distribution."""
    images = read_npz(folder / "mnist.npz", "x_train", "y_train").shuffled(0)
    train = images.take(slice(N_VALIDATION, N_VALIDATION + arguments.train)).tensors()
    validation = images.take(slice(0, N_VALIDATION)).tensors()
    test = read_npz(folder / "mnist.npz", "x_test", "y_test").shuffled(0)
    outside = {name: read_npz(folder / file).shuffled(0) for name, file in OUTSIDE.items()}
    return Sets(
        inside="MNIST",
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


def main() -> None:
    """Compare the methods and write their figures."""
    command = parser(__doc__, METHODS, RESULTS)
    command.add_argument("--train", type=int, default=10_000, help="images to train on")
    command.add_argument("--epochs", type=int, default=40)
    command.add_argument("--curvature", type=int, default=10_000, help="what curvature sees")
    command.add_argument("--search", type=int, default=2000, help="images that choose the prior")
    command.add_argument("--test", type=int, default=10_000, help="images to test on")
    command.add_argument("--outside", type=int, default=10_000, help="images of each other set")
    command.add_argument("--rank", type=int, default=RANK)
    arguments = command.parse_args()
    if not (arguments.data / "mnist.npz").exists():
        print(f"{arguments.data} holds no mnist.npz: there is nothing to compare")
        return
    torch.set_num_threads(1)
    training = TrainingSettings(arguments.epochs, batch_size=128)
    sets = read_sets(arguments.data, arguments)
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    network = trained(lenet, sets, training, arguments.work)
    options = {
        "inf": {"rank": arguments.rank},
        "inf_float8": compact_options(network, COMPACT_RANK),
        "inf_float8_wide": compact_options(network, WIDE_RANK, diagonal_bytes=4),
        "subnetwork": {"subset_size": 1000},
        "ella": {"n_points": 2000, "n_eigen": 20},
        "ensemble": {"members": 5},
    }
    study = Study(sets, network, training, options, arguments.work)
    counts = {n: getattr(arguments, n) for n in ("train", "epochs", "curvature", "search", "rank")}
    record(study, arguments, METHODS, network="LeNet-5, 61 706 weights", **counts)


if __name__ == "__main__":
    main()
