"""Checkpoints: equal bits after reading, and every kind of damage refused by name."""

import os
from pathlib import Path

import pytest
import torch

from bayes_vio.training.checkpoint import (
    CheckpointError,
    Progress,
    load_checkpoint,
    optimizer_moments,
    restore_moments,
    save_checkpoint,
)

PROGRESS = Progress(3, 0.1 + 0.2, 2, [1.0, 1e-300, -5.5], [0.25, 1 / 3, 7e22])


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    shared = {"w": torch.randn(3, 4), "n": torch.tensor(7.0), "none": torch.zeros(0, 2)}
    groups = {"weights": shared, "best": shared, "moments": {"0.step": torch.tensor(9.0)}}
    path = tmp_path / "c"
    save_checkpoint(path, "data", PROGRESS, *groups.values())
    return path, groups


def test_it_is_read_back_to_the_same_bits(written) -> None:
    path, groups = written
    progress, found = load_checkpoint(path, "data")
    assert progress == PROGRESS
    for group, tensors in groups.items():
        assert set(found[group]) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(found[group][name], tensor)


def test_every_flipped_bit_is_refused(written) -> None:
    path, _ = written
    whole = path.read_bytes()
    for i in range(0, len(whole), 3):
        data = bytearray(whole)
        data[i] ^= 1 << (i % 8)
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_checkpoint(path, "data")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_with_what_to_do(written, share: float) -> None:
    path, _ = written
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"truncated.*remove it"):
        load_checkpoint(path, "data")


def test_another_fit_and_a_link_are_refused(written, tmp_path: Path) -> None:
    path, _ = written
    with pytest.raises(CheckpointError, match="other data or settings"):
        load_checkpoint(path, "other data")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(CheckpointError, match="symbolic link"):
        load_checkpoint(tmp_path / "link", "data")


def test_a_failed_write_keeps_the_earlier_one(written, monkeypatch: pytest.MonkeyPatch) -> None:
    path, groups = written
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, "data", PROGRESS, *groups.values())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["c"]


def test_an_optimizer_goes_on_where_it_was(written) -> None:
    path, _ = written
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    optimizer.step()
    save_checkpoint(path, "data", PROGRESS, {}, {}, optimizer_moments(optimizer))
    again = torch.optim.AdamW([weight])
    restore_moments(again, load_checkpoint(path, "data")[1]["moments"])
    for name, tensor in optimizer_moments(optimizer).items():
        assert torch.equal(optimizer_moments(again)[name], tensor)
