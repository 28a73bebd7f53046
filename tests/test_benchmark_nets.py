"""The nets whose storage is measured have their published sizes."""

import runpy
from pathlib import Path

import pytest
import torch

NETS = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "image_nets.py"))["NETS"]
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
}


@pytest.mark.parametrize("name", list(NETS))
def test_parameters_are_as_many_as_published(name: str) -> None:
    make, published = NETS[name]
    with torch.device("meta"):
        net = make()
    n_parameters = sum(p.numel() for p in net.parameters())
    assert n_parameters == published == PUBLISHED[name]
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    if name.startswith("densenet"):
        assert len(convolutions) + 1 == int(name.removeprefix("densenet"))


def test_shapes_flow_through() -> None:
    net = NETS["densenet121"][0]().eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
