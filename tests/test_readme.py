"""The README says what is so: tables from the JSON, links that exist, code that runs."""

import re
import runpy
from pathlib import Path

import pytest
import typer.main

from bayes_vio.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))  # as for a script that lies there
    tool = runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))
    assert tool["rewritten"](README, tool["TABLES"]) == README
    assert len(tool["MARKED"].findall(README)) >= 4


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_quickstart_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "inf" in shown
    assert "nll" in shown


def test_commands_and_their_options_exist() -> None:
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    blocks = "\n".join(re.findall(r"```(?:bash)?\n(.*?)```", README, re.DOTALL))
    used = re.findall(r"bayes-vio (\w+)([^\n#]*)", blocks.replace("\\\n", " "))
    assert {name for name, _ in used} >= {"fit", "inspect", "evaluate", "run"}
    for name, rest in used:
        known = {option for p in commands[name].params for option in p.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_the_tree_names_what_is_there() -> None:
    tree = re.search(r"```\nbayes_vio/\n(.*?)```", README, re.DOTALL)
    assert tree is not None
    names = re.findall(r"^  ([\w.]+)(/?)", tree[1], re.MULTILINE)
    for name, slash in names:
        path = ROOT / "bayes_vio" / name
        assert path.is_dir() if slash else path.is_file(), name
    folders = {p.name for p in (ROOT / "bayes_vio").iterdir() if (p / "__init__.py").exists()}
    assert folders == {name for name, slash in names if slash}
