import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from bayes_vio.conventions import AXES
from bayes_vio.evaluation import report
from bayes_vio.evaluation.page import render
from tests.evaluation.synthetic import synthetic_run

FACTS = {
    "path": "artifact <one>",
    "sha256": {"model.safetensors": "ab" * 32},
    "time_offset_s": 0.063,
    "epistemic_correlation_s": None,
    "posterior": {"structure": "inf"},
    "metadata": {"note": "a & b"},
}


@pytest.fixture(scope="module")
def runs():
    return [
        synthetic_run(600, seed=0, epistemic=0.2, name="town"),
        synthetic_run(150, seed=1, claimed=0.5, name="dusk"),
    ]


@pytest.fixture(scope="module")
def described(runs):
    return report.describe(runs, FACTS, 2.0)


@pytest.fixture(scope="module")
def page(described, runs):
    return render(described, runs)


class Outline(HTMLParser):
    """Collect tags, ids and whatever would be loaded from elsewhere; check nesting."""

    VOID = frozenset({"meta", "br", "img", "hr", "path", "use", "rect"})

    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[k] for k in ("src", "href", "xlink:href") if k in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def outline(page):
    parsed = Outline()
    parsed.feed(page)
    return parsed


def test_json_is_strict_and_round_trips(described):
    text = json.dumps(described, allow_nan=False)
    assert json.loads(text) == described


def test_keys_are_those_that_are_documented(described):
    assert described["schema_version"] == 1
    assert set(described) == {
        "schema_version",
        "created_utc",
        "package_version",
        "artifact",
        "summary",
        "recordings",
    }
    assert set(described["summary"]) == {
        "headline",
        "judgement",
        "tracking_share",
        "recordings",
        "frames",
        "path_length_m",
        "horizons",
        "drift",
    }
    assert set(described["recordings"][0]) == {
        "name",
        "headline",
        "judgement",
        "tracking_share",
        "frames",
        "unreferenced",
        "duration_s",
        "path_length_m",
        "horizons",
        "drift",
        "absolute_error",
        "odometry",
        "states",
        "latency",
        "counters",
        "source",
    }
    for key in _leaf_keys(described["recordings"][0]["horizons"]["1"]):
        assert key in report.__doc__, f"{key} is not documented"


def _leaf_keys(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in (*AXES, "linear", "angular"):
                yield key
            yield from _leaf_keys(inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _leaf_keys(value[0])


def test_figures_of_the_report_are_those_of_the_run(described, runs):
    town = described["recordings"][0]
    assert town["frames"] == 600
    assert town["duration_s"] == pytest.approx(60.0)
    assert town["states"]["degraded"]["count"] == 15
    assert town["tracking_share"] == pytest.approx(585 / 600)
    assert town["latency"]["compute_p50_ms"] == pytest.approx(1e3 * np.median(runs[0].compute_s))
    assert town["latency"]["wait_mean_ms"] == pytest.approx(65, abs=1)
    end = runs[0].odometry_errors()[-1]
    assert town["odometry"]["final_position_error_m"] == pytest.approx(np.linalg.norm(end[:3]))
    assert town["horizons"]["100"]["count"] == 6
    assert described["recordings"][1]["horizons"]["100"]["count"] == 1


def test_summary_pools_frames_and_segments_and_hides_no_fault(described):
    summary, parts = described["summary"], described["recordings"]
    assert summary["frames"] == 750
    assert summary["horizons"]["1"]["count"] == 750
    segments = [p["drift"]["segments"] for p in parts]
    t_rel = [p["drift"]["t_rel_percent"] for p in parts]
    assert summary["drift"]["t_rel_percent"] == pytest.approx(np.average(t_rel, weights=segments))
    assert parts[0]["judgement"]["verdict"] == "consistent"
    assert parts[1]["judgement"]["verdict"] == "overconfident"
    assert summary["judgement"]["verdict"] == "overconfident"
    assert "dusk" in summary["headline"]


def test_a_short_recording_leaves_what_it_cannot_tell_null():
    described = report.describe([synthetic_run(9)], {}, 1.0)
    part = described["recordings"][0]
    assert part["horizons"]["10"] is None
    assert part["drift"]["t_rel_percent"] is None
    assert described["summary"]["drift"]["t_rel_percent"] is None
    assert json.dumps(described, allow_nan=False)
    assert "Too few" in render(described, [synthetic_run(9)])


def test_drift_over_a_reference_that_jumps_says_so(runs):
    jumped = replace(runs[0], counters={"recording: reference: jumps": 3})
    (recording,) = report.describe([jumped], {}, 10.0, [{}])["recordings"]
    assert "The reference jumps (3 intervals)" in recording["drift"]["note"]


def test_infinite_correlation_time_is_taken():
    assert report.describe([synthetic_run(120, epistemic=0.2)], {}, math.inf)


def test_page_needs_nothing_from_elsewhere(page, outline):
    assert all(link.startswith("#") for link in outline.links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "script" not in outline.tags
    assert not {"img", "iframe", "link", "object"} & set(outline.tags)


def test_page_is_well_formed_and_its_ids_are_unique(outline):
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links} <= set(outline.ids)


def test_page_says_what_the_report_says(page, described):
    assert "artifact &lt;one&gt;" in page
    assert "artifact <one>" not in page
    assert "a &amp; b" in page
    assert described["recordings"][1]["judgement"]["claim"] in page
    for part in described["recordings"]:
        assert f"<h2>{part['name']}</h2>" in page
        assert f"{part['drift']['t_rel_percent']:.2f} %" in page
    # Two sum up; a recording has nine, or eight where only one segment length fits.
    assert page.count("<figure>") == page.count("<figcaption>") == 2 + 9 + 8
    assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split()


def test_every_colour_of_a_figure_is_one_of_the_theme(page):
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page))
    defined = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert used <= defined
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): #", figures)


def test_figures_survive_losing_track(runs):
    state = runs[1].state.astype("U8")
    state[40:60] = "lost"
    cov = runs[1].noise_cov.copy()
    cov[40:60] *= 1e6
    lost = replace(runs[1], state=state, noise_cov=cov)
    described = report.describe([lost], {}, 2.0)
    assert described["recordings"][0]["states"]["lost"]["count"] == 20
    assert "lost" in render(described, [lost])


def test_write_leaves_two_whole_files_and_replaces_earlier_ones(tmp_path):
    runs = [synthetic_run(12)]
    described = report.describe(runs, FACTS, 2.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("old")
    report.write(tmp_path / "out", described, runs)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == described


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match="no recording"):
        report.describe([], {}, 1.0)
