"""The closed loop's benchmark resumes, counts, compares on the same streets and draws its page."""

from dataclasses import asdict, dataclass
from functools import partial
from xml.etree import ElementTree

import closed_loop as benchmark
import numpy as np
import pytest
from closed_loop_page import _comparison, page
from scipy.stats import binom, binomtest

from bayes_vio.planning.closed_loop import ClosedLoop, Ending, LoopSettings
from bayes_vio.planning.judged import Judgement


def outcome(ending: Ending, time_s: float) -> Judgement:
    return Judgement(ending, time_s, 1.0, -0.5, 0.2, 0.1, 0.0, 1.0)


@dataclass(frozen=True)
class Driven:
    """What stands for a drive: its job, and how it ended."""

    job: benchmark.Job

    @property
    def ending(self) -> Ending:
        """None collides on even streets."""
        collided = self.job.method == "none" and self.job.number % 2 == 0
        return Ending.COLLIDED if collided else Ending.ARRIVED


@pytest.fixture
def driven(monkeypatch):
    """Let drives take no time; return the list of those that were driven."""
    jobs, times = [], {"ours": 10.0, "constant": 20.0, "none": 8.0}

    def drive(job, artifact):
        jobs.append(job)
        return Driven(job), None

    monkeypatch.setattr(benchmark, "driven", drive)
    monkeypatch.setattr(benchmark, "judged", lambda d, *_: outcome(d.ending, times[d.job.method]))
    return jobs


def test_intervals_are_those_of_clopper_and_pearson():
    for count, n in ((0, 300), (3, 300), (50, 50), (7, 20)):
        exact = binomtest(count, n).proportion_ci(method="exact")
        np.testing.assert_allclose(benchmark.interval(count, n), exact, atol=1e-5)


def test_drives_that_are_there_are_not_driven_again_and_are_shared(driven, tmp_path):
    jobs = [*benchmark.jobs_of("sampled", 4, 4, {})]
    assert len(jobs) == len({job.key for job in jobs}) == 20
    benchmark.Work(tmp_path, "0/2").run(jobs)
    assert {job.number for job in driven} == {0, 2}
    other = benchmark.Work(tmp_path, "1/2")
    other.run(jobs)
    other.run(jobs)
    assert len(driven) == 20
    assert len(other.rows()) == 20


def test_methods_are_compared_on_the_streets_that_both_drove(driven, tmp_path):
    work = benchmark.Work(tmp_path, "0/1")
    work.run([*benchmark.jobs_of("sampled", 6, 4, {"0.05": 2.0})])
    told = benchmark.summarised(work)
    assert told["sampled"]["ours, 5%"]["runs"] == 6
    assert told["sampled"]["none"]["collided"]["count"] == 2
    compared = told["compared"]["sampled"]
    assert compared["ours, 5% / none"]["collisions"] == [0, 2]
    assert compared["ours, 5% / none"]["arrived"] == [4, 2]
    with_constant = compared["ours, 5% / constant x 2, 5%"]
    assert with_constant["streets"] == 4
    assert with_constant["time_to_goal_ratio"] == 0.5
    assert compared["ours, 1% / constant x 1, 1%"]["both_arrived"] == 4


def test_how_many_times_fewer_is_the_lower_end_of_an_exact_interval():
    # Ours are binomial among all collisions: at the end of the interval one tail holds 2.5 %.
    for ours, other in ((0, 30), (2, 40), (10, 10)):
        share = 1 / (1 + benchmark.times_fewer(ours, other))
        assert binom.cdf(ours, ours + other, share) == pytest.approx(0.025, rel=0.05)
    assert benchmark.times_fewer(3, 0) == 0.0


def test_the_page_says_where_a_method_mostly_stands_still():
    pair = {
        "streets": 10, "collisions": [0, 0], "times_fewer": None, "times_fewer_at_least_95": 0.0,
        "arrived": [9, 2], "both_arrived": 2, "time_to_goal_ratio": 0.8,
    }  # fmt: skip
    text = _comparison({"ours, 5% / constant x 4, 5%": pair})
    assert "constant x 4, 5%</b> mostly stands still: it arrives on 2 of 10 streets" in text
    assert "stands still" not in _comparison({"ours, 5% / none": pair})


def test_the_scale_is_the_least_that_collides_no_more_than_ours(monkeypatch, tmp_path):
    def run(self, jobs, artifact=None):
        with (tmp_path / "drives_x.jsonl").open("a") as out:
            for job in jobs:
                collided = job.method == "constant" and job.scale < 2.0
                ending = "collided" if collided else "arrived"
                out.write(f'{{"key": "{job.key}", "ending": "{ending}"}}\n')

    monkeypatch.setattr(benchmark.Work, "run", run)
    assert benchmark.tuned(benchmark.Work(tmp_path, "0/1"), 5) == {"0.01": 2.0, "0.05": 2.0}


def test_a_page_is_drawn_of_a_short_drive_and_needs_nothing_else(tmp_path, monkeypatch):
    short = LoopSettings(time_limit_s=1.5)
    monkeypatch.setattr(benchmark, "ClosedLoop", partial(ClosedLoop, settings=short))
    drive, course = benchmark.driven(benchmark.Job("sampled", "ours", 0.05, 3), None)
    judgement = benchmark.judged(drive, course, benchmark.VEHICLE)
    assert judgement.ending is Ending.OUT_OF_TIME
    assert 0.2 < judgement.error_over_sigma < 5
    row = asdict(judgement) | {"ending": "arrived", "method": "ours", "limit": 0.05}
    told = {"date": "2026-01-01", "sampled": {"ours, 5%": benchmark.summary([row])}}
    text = page(told, {"ours": drive}, course, benchmark.VEHICLE)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text.count("animateTransform") >= 4
    start = text.index('<svg viewBox="0 0 ', text.index("The same street"))
    moving = ElementTree.fromstring(text[start : text.index("</svg>", start) + 6])
    cars = [a for a in moving.iter("animateTransform") if a.get("type") == "translate"]
    assert len(cars[-1].get("values", "").split(";")) == len(drive.steps)
