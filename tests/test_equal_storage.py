"""What a classifier's likelihood sees of logits, and how the tables tell it."""

import runpy
from pathlib import Path

import pytest
import torch
from equal_storage import seen
from small_nets import TrainedNet
from torch import nn

from tests.cases import normal

ROOT = Path(__file__).parents[1]


def net(likelihood: str) -> TrainedNet:
    none = torch.zeros(0)
    return TrainedNet("net", nn.Linear(2, 4), none, none, none, likelihood, None)


def test_the_common_shift_of_logits_is_not_seen_and_all_else_is():
    root = normal(3, 4, 4)
    cov = root @ root.mT
    found = seen(net("categorical"), cov)
    torch.testing.assert_close(seen(net("categorical"), cov + 5.0), found)
    centring = torch.eye(4, dtype=torch.float64) - 0.25
    for own, whole in zip(found, centring @ cov @ centring, strict=True):
        assert torch.linalg.eigvalsh(own).tolist() == pytest.approx(
            torch.linalg.eigvalsh(whole)[1:].tolist()
        )
    assert seen(net("gaussian"), cov) is cov


def test_the_table_tells_both_where_they_differ(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))
    row = {"numbers": 10, "ggn": 0.5, "log_distance": 0.95, "visible": 0.57}
    same = row | {"visible": 0.95}
    kept = {"diagonal": same, "published_4": row, "inf_4": row, "efb": row}
    found = {"ranks": [4], "seeds": [0], "nets": {"net": {"mean": {"equal_storage": kept}}}}
    text = "\n".join(tool["equal_storage"](found))
    assert "| diagonal | 10, 0.50, 0.95 |" in text
    assert "| INF | 10, 0.50, 0.95 (seen: 0.57) |" in text
