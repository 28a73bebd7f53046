"""The benchmark beside other libraries runs, and tells what a library cannot do."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import peers
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(case: str, peer: str) -> dict:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "benchmarks/peer_run.py", case, peer, "cpu"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_our_row_holds_every_stage():
    row = run("motion_model", "bayes_vio inf")
    assert row["scope"] == "all weights"
    assert row["outputs"] == [1, 6, 6]
    assert min(row[k] for k in ("factor_s", "eigen_s", "forward_ms", "draw_ms")) > 0
    assert row["predictive_ms"] > row["forward_ms"]
    assert row["stored_bytes"] < 1.5 * 4 * row["weights"]


@pytest.mark.slow
def test_what_a_library_cannot_do_is_told_by_its_error():
    row = run("reference_cnn", "backpack kflr")
    assert row["scope"] is None
    assert set(row["errors"]) == {"all weights", "linear and conv2d"}
    assert all("Error: " in error for error in row["errors"].values())


def test_the_table_lists_rows_and_errors(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))
    row = {"scope": "all weights", "fit_s": 3.0, "ratio": 12.3}
    row |= {"draw_ms": 4.0, "peak_bytes": 2**20, "stored_bytes": 2**21}
    errors = {"all weights": "KeyError: x (f)", "linear and conv2d": "KeyError: x (f)"}
    failed = {"scope": None, "errors": errors}
    turns = {"inf_over_forward": 12.0, "slower_than_inf": {"b": 8.5}}
    case = {"peers": {"a": row, "b": failed}, "in_turns": turns}
    found = {"device": "d", "clock": "c", "versions": {"torch": "1"}, "cases": {"net": case}}
    found["limits"] = {"time_s": 300.0, "memory_gib": 10.0}
    text = "\n".join(tool["peers"](found))
    assert "| net | a  | 3.0 s | 12.3 | 4.0 ms | 1 MiB | 2.0 MiB |" in text
    assert "b 8.5 times as long" in text
    assert "may take 300 s and 10 GiB" in text
    assert "- net, b, all weights, linear and conv2d: `KeyError: x (f)`" in text


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (peers.Limits(1.0, 12.0), "ran longer than 1 s of processor time"),
        (peers.Limits(60.0, 0.05), "exit code"),
    ],
)
def test_what_a_process_may_take_is_bounded(limits, told):
    row = peers.in_own_process("motion_model", "bayes_vio inf", "cpu", limits)
    assert row["scope"] is None
    assert told in row["errors"]["process"]


def test_rows_of_an_earlier_run_are_kept_in_their_order(tmp_path, monkeypatch):
    rows = iter(range(100))
    monkeypatch.setattr(peers, "in_own_process", lambda *arguments: {"number": next(rows)})
    out = tmp_path / "peers.json"

    def run(case: str, *names: str) -> dict:
        options = ["--cases", case, "--peers", *names, "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["peers.py", *options])
        peers.main()
        return json.loads(out.read_text())["cases"]

    run("resnet18", "curvlinops kfac", "laplace-torch kron")
    run("motion_model", "bayes_vio inf")
    found = run("resnet18", "bayes_vio inf", "curvlinops kfac")
    assert list(found) == ["motion_model", "resnet18"]
    assert found["resnet18"]["parameters"] > 2_000_000
    assert list(found["resnet18"]["peers"].items()) == [
        ("bayes_vio inf", {"number": 3}),
        ("laplace-torch kron", {"number": 1}),
        ("curvlinops kfac", {"number": 4}),
    ]
    # Of another setting nothing can stand beside.
    other = json.loads(out.read_text()) | {"rank": 1}
    out.write_text(json.dumps(other))
    assert list(run("motion_model", "bayes_vio inf")) == ["motion_model"]
