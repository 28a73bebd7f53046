"""ELLA where weight-space structures are at their largest: a small vision transformer.

Run ``python benchmarks/ella_vit.py``; needs the images (BAYES_VIO_DATA, see README), the extra
``classification`` and ``pip install transformers``. The network is ``ViTForImageClassification``
from its configuration (16 patches of 7 x 7 pixels), trained here on 10 000 images of MNIST; out of
distribution is what mnist_ood.py has. How methods are compared is told in ``ood.py``. Writes
benchmarks/results/ella_vit.json and its pictures.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import mnist_ood
import torch
from ood import Study, parser, record, trained
from torch import Tensor, nn

from bayes_vio.classification import TrainingSettings

RESULTS = Path(__file__).parent / "results" / "ella_vit.json"
METHODS = ("map", "temperature", "last_layer", "inf", "ella")


class Logits(nn.Module):
    """A Hugging Face classifier as a module from images to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


def vision_transformer(width: int, n_layers: int, seed: int = 0) -> nn.Module:
    """Return a vision transformer of four heads, [batch, 1, 28, 28] to ten logits."""
    from transformers import ViTConfig, ViTForImageClassification  # pyright: ignore

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        image_size=28,
        patch_size=7,
        num_channels=1,
        num_labels=10,
        # The fused attention has no forward-mode derivative, which ELLA's features are made of.
        attn_implementation="eager",
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Logits(ViTForImageClassification(config))


def main() -> None:
    """Compare the methods and write their figures."""
    command = parser(__doc__, METHODS, RESULTS)
    command.add_argument("--train", type=int, default=10_000, help="images to train on")
    command.add_argument("--epochs", type=int, default=30)
    command.add_argument("--curvature", type=int, default=1000, help="what curvature sees")
    command.add_argument("--search", type=int, default=500, help="images that choose the prior")
    command.add_argument("--test", type=int, default=1000, help="images to test on")
    command.add_argument("--outside", type=int, default=500, help="images of each other set")
    command.add_argument("--width", type=int, default=48)
    command.add_argument("--layers", type=int, default=4)
    command.add_argument("--points", type=int, default=1000, help="of the tangent kernel")
    arguments = command.parse_args()
    if not (arguments.data / "mnist.npz").exists():
        print(f"{arguments.data} holds no mnist.npz: there is nothing to compare")
        return
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Train the network, fit the methods around it and write their figures."""
    torch.set_num_threads(1)
    training = TrainingSettings(arguments.epochs, batch_size=64)
    sets = mnist_ood.read_sets(arguments.data, arguments)
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    make = functools.partial(vision_transformer, arguments.width, arguments.layers)
    network = trained(make, sets, training, arguments.work)
    options = {"ella": {"n_points": arguments.points, "n_eigen": 20}}
    study = Study(sets, network, training, options, arguments.work)
    n_weights = sum(p.numel() for p in network.parameters())
    counts = {n: getattr(arguments, n) for n in ("train", "epochs", "curvature", "search")}
    name = f"ViT of {arguments.layers} layers, {n_weights} weights"
    record(study, arguments, METHODS, METHODS, network=name, **counts)


if __name__ == "__main__":
    main()
