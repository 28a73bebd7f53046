"""The README's tables on calibration are made of the benchmarks' own JSON."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    "name", ["bad_days", "epistemic", "accumulated", "smoother", "smoother_bad_days"]
)
def test_a_table_has_as_many_columns_as_its_head_in_every_row(name):
    if not (RESULTS / f"{name}.json").exists():
        pytest.skip(f"benchmarks/results/{name}.json has not been measured")
    table = runpy.run_path(str(ROOT / "tools" / "calibration_tables.py"))[name]
    lines = table(json.loads((RESULTS / f"{name}.json").read_text()))
    columns = 0
    for line in lines:
        columns = (columns or line.count("|")) if line.startswith("|") else 0
        assert line.count("|") == columns, line
    assert sum(line.startswith("|") for line in lines) > 4
