"""The same question on colour: eight classes of CIFAR-10 in, its other two and letters out.

Run ``python benchmarks/cifar_ood.py``; needs ``cifar10_jpeg.tar.xz`` and the letters
(BAYES_VIO_DATA, see README) and the extra ``classification``. A ResNet of 8 layers, trained on all
of the eight classes' training images but those kept aside, mirrored and shifted at random: a
network and a number of epochs that a CPU can bear. The classes out of distribution are the last
two by name; images to test on are a part of each set. How methods are compared is told in
``ood.py``. Left out is "full", whose matrix over 148 872 weights does not fit a machine; mean
field, sparse dropout and the ensemble, which train several times as long, run where ``--methods``
names them (``--join`` keeps the other rows). Writes benchmarks/results/cifar_ood.json and its
pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from image_nets import Residual
from ood import Sets, Study, parser, record, sparse_options, trained
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_vio.classification import TrainingSettings
from bayes_vio.classification.images import ImageSet, read_image_tar, read_npz

RESULTS = Path(__file__).parent / "results" / "cifar_ood.json"
ARCHIVE = "cifar10_jpeg.tar.xz"
METHODS = (
    "map", "temperature", "diagonal", "kfac", "efb", "inf", "subnetwork", "last_layer", "ella",
    "mc_dropout",
)  # fmt: skip
LETTERS = {"KMNIST": "kmnist_test.npz", "notMNIST": "notmnist_10k.npz"}
N_INSIDE = 8
BATCH_SIZE = 128
# Pixels by which training images are shifted at most.
SHIFT = 4


@dataclass(frozen=True)
class Augmented:
    """Images [n, 3, 32, 32] and labels [n] in batches, mirrored and shifted anew at each reading.

    Behind a shift the image's edge is repeated.
    """

    x: Tensor
    y: Tensor
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.y), generator=self.generator)
        for rows in order.split(BATCH_SIZE):
            yield self._moved(self.x[rows]), self.y[rows]

    def _moved(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        mirrored = torch.rand(n, generator=self.generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        wide = F.pad(x, (SHIFT,) * 4, mode="replicate")
        windows = wide.unfold(2, height, 1).unfold(3, width, 1)  # [n, 3, 9, 9, height, width]
        down, right = torch.randint(2 * SHIFT + 1, (2, n), generator=self.generator)
        return windows[torch.arange(n), :, down, right]


def resnet8(n_classes: int = N_INSIDE, seed: int = 0) -> nn.Module:
    """Return a residual network of 8 layers, [batch, 3, 32, 32] to logits.

    It begins by halving the image and is wide where images are small: that costs a CPU least.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        stem = [nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)]
        widths = ((16, 16, 1), (16, 40, 2), (40, 96, 2))
        blocks = [Residual(a, (b, b), (3, 3), stride) for a, b, stride in widths]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, n_classes)]
        return nn.Sequential(*stem, nn.ReLU(), *blocks, *head)


def of_classes(images: ImageSet, inside: bool) -> ImageSet:
    """Return the images of the classes in, or out of, distribution."""
    return images.take((images.labels < N_INSIDE) == inside)


def in_colour(letters: ImageSet, n: int) -> Tensor:
    """Return some letters as colour images of 32 x 32."""
    x = letters.shuffled(0).take(slice(0, n)).tensors()[0]
    return F.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)


def read_sets(folder: Path, arguments: argparse.Namespace) -> Sets:
    """Return CIFAR-10 by class, a part of its training images kept aside, and letters."""
    per_class = -(-(arguments.train + arguments.validation) // N_INSIDE)
    images = read_image_tar(folder / ARCHIVE, "train", per_class)
    inside = of_classes(images, True).shuffled(0)
    validation = inside.take(slice(0, arguments.validation)).tensors()
    train = inside.take(slice(arguments.validation, None)).tensors()
    test = read_image_tar(folder / ARCHIVE, "test", arguments.test)
    others = of_classes(test, False).shuffled(0)
    letters = {name: read_npz(folder / file) for name, file in LETTERS.items()}
    return Sets(
        inside="CIFAR-10",
        train=train,
        curvature=(train[0][: arguments.curvature], train[1][: arguments.curvature]),
        validation=validation,
        search=(validation[0][: arguments.search], validation[1][: arguments.search]),
        test=of_classes(test, True).shuffled(0).tensors(),
        outside={"ships and trucks": others.tensors()[0]}
        | {name: in_colour(found, arguments.outside) for name, found in letters.items()},
        augmented=lambda data: Augmented(*data),
    )


def main() -> None:
    """Compare the methods and write their figures."""
    command = parser(__doc__, METHODS, RESULTS)
    command.add_argument("--train", type=int, default=38_000, help="images to train on")
    command.add_argument("--validation", type=int, default=2000, help="images kept aside")
    command.add_argument("--search", type=int, default=1000, help="images that choose the prior")
    command.add_argument("--epochs", type=int, default=16)
    command.add_argument("--curvature", type=int, default=2000, help="what curvature sees")
    command.add_argument("--test", type=int, default=250, help="images to test on, per class")
    command.add_argument("--outside", type=int, default=500, help="letters of each set")
    command.add_argument("--rank", type=int, default=400, help="bound of INF's, by layer")
    command.add_argument("--members", type=int, default=3, help="of the ensemble")
    arguments = command.parse_args()
    if not (arguments.data / ARCHIVE).exists():
        print(f"{arguments.data} holds no {ARCHIVE}: there is nothing to compare")
        return
    torch.set_num_threads(1)
    training = TrainingSettings(arguments.epochs, BATCH_SIZE, learning_rate=2e-3)
    sets = read_sets(arguments.data, arguments)
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    network = trained(resnet8, sets, training, arguments.work)
    options = {
        "inf": sparse_options(network, arguments.rank),
        "subnetwork": {"subset_size": 1000},
        "ella": {"n_points": 2000, "n_eigen": 20},
        "ensemble": {"members": arguments.members},
    }
    study = Study(sets, network, training, options, arguments.work)
    n_weights = sum(p.numel() for p in network.parameters())
    names = ("train", "validation", "search", "epochs", "curvature", "rank", "members")
    counts = {n: getattr(arguments, n) for n in names}
    name = f"ResNet-8, {n_weights} weights"
    record(study, arguments, METHODS, network=name, **counts)


if __name__ == "__main__":
    main()
