"""A car driven in closed loop by estimator and planner: what does an honest covariance buy?

    python benchmarks/closed_loop.py [--parts tune sampled rendered page] [--runs N]

Seeded streets with a gate, a parked car in a dark tunnel, a camera that fails, another gate. Each
is driven by the same planner told the estimator's covariance (ours), a constant one (the root
mean square of all errors, its scale raised until it collides no more often than ours on the same
streets) and none, at bounds of 1 and 5 %. sampled: the estimator's errors are drawn from what it
says of them. rendered: camera, IMU and the real estimator, on simulated time. Drives are kept in
--work, one line each: what is there is not driven again, and several processes may share the work
(--share 0/2, --share 1/2). Writes results/closed_loop.json; page: results/closed_loop.html, of
the drives that are there.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from bayes_vio.artifact import MotionArtifact
from bayes_vio.filters.accumulate import Odometry
from bayes_vio.planning import Lattice, Planner, PlannerSettings, Vehicle
from bayes_vio.planning.claims import AsEstimated, Claim, Constant, Nothing
from bayes_vio.planning.closed_loop import ClosedLoop, Drive
from bayes_vio.planning.course import Condition, Course, random_course
from bayes_vio.planning.judged import judged
from bayes_vio.planning.rendered import RenderedEstimator
from bayes_vio.planning.sampled import ErrorStatistics, Estimating, SampledEstimator

Array = NDArray[np.float64]
HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "closed_loop.json", HERE / "results" / "closed_loop.html"
ARTIFACT = HERE.parent / "bayes_vio" / "assets" / "default_artifact"
VEHICLE = Vehicle(speed_max_m_s=8.0)
LATTICE = Lattice(offsets=9, offset_max_m=2.0, speeds=3, horizon_s=4.8)
LIMITS = (0.01, 0.05)
SEED = 11
CARS_STD = 0.4  # of the logarithm of how much better or worse a car's estimator is
SCALES = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)


@dataclass(frozen=True)
class Job:
    """One drive: part, who plans (method, scale of a constant covariance), limit, seed."""

    part: str
    method: str
    limit: float
    number: int
    scale: float = 1.0

    @property
    def key(self) -> str:
        """Return what tells the drive from all others."""
        return f"{self.part} {self.method} {self.limit:g} x{self.scale:g} {self.number}"


def planner(limit: float) -> Planner:
    """Return the planner of all drives."""
    settings = PlannerSettings(
        collision_max=limit, lane_half_width_m=3.6, offset_weight=0.1, samples=0
    )
    return Planner(vehicle=VEHICLE, lattice=LATTICE, settings=settings)


def statistics_of(rng: np.random.Generator) -> ErrorStatistics:
    """Return the statistics of one car's estimator."""
    return ErrorStatistics(scale=0.7 * float(np.exp(rng.normal(0.0, CARS_STD))))


def claim_of(job: Job) -> Claim:
    """Return what the planner is told."""
    if job.method != "constant":
        return {"ours": AsEstimated, "none": Nothing}[job.method]()
    # The root mean square over cars and conditions, a third of the time in the dark.
    typical = ErrorStatistics(scale=0.7 * float(np.exp(CARS_STD**2)))
    clear, dark = (typical.noise_twist_cov(c) for c in (Condition.CLEAR, Condition.DARK))
    noise_cov = job.scale**2 * (2 * clear + dark) / 3
    odometry = Odometry(
        typical.epistemic_correlation_s,
        np.eye(6),
        None,
        typical.noise_correlation,
    )
    return Constant(job.scale**2 * typical.epistemic_twist_cov(), noise_cov, odometry)


def driven(job: Job, artifact: MotionArtifact | None) -> tuple[Drive, Course]:
    """Drive one job; the same seed has the same street, car and noise for everybody."""
    rng = np.random.default_rng([SEED, job.number])
    course, statistics = random_course(rng), statistics_of(rng)
    noise, fixes = (np.random.default_rng([SEED, job.number, k]) for k in (1, 2))
    estimator: Estimating = (
        RenderedEstimator(course, artifact, VEHICLE, noise)
        if artifact is not None
        else SampledEstimator(statistics, noise)
    )
    loop = ClosedLoop(course, planner(job.limit), estimator, claim_of(job), fixes)
    return loop.drive(), course


class Work:
    """The drives so far, one JSON line each in files of a folder."""

    def __init__(self, folder: Path, share: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._own = folder, folder / f"drives_{share.replace('/', '_')}.jsonl"
        self.mine, self.of = (int(part) for part in share.split("/"))

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return all rows by key."""
        texts = [path.read_text() for path in sorted(self._folder.glob("drives_*.jsonl"))]
        rows = [json.loads(line) for text in texts for line in text.splitlines()]
        return {row["key"]: row for row in rows}

    def run(self, jobs: list[Job], artifact: MotionArtifact | None = None) -> None:
        """Drive those of the jobs that are this process's and not there yet."""
        done = self.rows()
        for job in jobs:
            if job.key in done or job.number % self.of != self.mine:
                continue
            drive, course = driven(job, artifact)
            judgement = asdict(judged(drive, course, VEHICLE)) | {"ending": drive.ending.value}
            with self._own.open("a") as out:
                out.write(json.dumps({"key": job.key, **asdict(job), **judgement}) + "\n")


def jobs_of(part: str, runs: int, peers: int, scales: dict[str, float]) -> Iterator[Job]:
    """Yield the drives of a part, all methods abreast."""
    for k in range(max(runs, peers)):
        for limit in LIMITS:
            job = Job(part, "ours", limit, k)
            if k < runs:
                yield job
            if k < peers:
                scale = scales.get(f"{limit:g}", 1.0)
                yield replace(job, method="constant", scale=scale)
        if k < peers:
            yield Job(part, "none", LIMITS[0], k)


def tuned(work: Work, runs: int) -> dict[str, float]:
    """Return, for each limit, the least scale at which constant collides no more than ours.

    On the very streets on which both are compared, in favour of the constant one.
    """
    scales = {}
    for limit in LIMITS:
        ours = [Job("sampled", "ours", limit, k) for k in range(runs)]
        work.run(ours)
        allowed = collisions(work, ours)
        for scale in SCALES:
            jobs = [replace(job, method="constant", scale=scale) for job in ours]
            work.run(jobs)
            scales[f"{limit:g}"] = scale
            if collisions(work, jobs) <= allowed:
                break
    return scales


def collisions(work: Work, jobs: list[Job]) -> int:
    """Return the number of collisions of drives that are there."""
    rows = work.rows()
    return sum(rows[job.key]["ending"] == "collided" for job in jobs if job.key in rows)


def interval(count: int, n: int) -> tuple[float, float]:
    """Return the Clopper-Pearson 95 % interval of a share."""
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return round(low, 5), round(high, 5)


def share(hits: list[bool]) -> dict[str, Any]:
    """Return a share with its interval."""
    count, n = sum(hits), len(hits)
    return {"count": count, "share": round(count / n, 5), "interval_95": interval(count, n)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what became of the drives of one method at one limit."""
    arrived = np.array([row["time_s"] for row in rows if row["ending"] == "arrived"])

    def mean(name: str) -> float:
        return round(float(np.mean([row[name] for row in rows])), 4)

    return {
        "method": rows[0]["method"],
        "limit": rows[0]["limit"],
        "runs": len(rows),
        "collided": share([row["ending"] == "collided" for row in rows]),
        "left_lane": share([row["overhang_m"] > 0 for row in rows]),
        "arrived": share([row["ending"] == "arrived" for row in rows]),
        "time_to_goal_median_s": round(float(np.median(arrived)), 2) if len(arrived) else None,
        "time_to_goal_mean_s": round(float(arrived.mean()), 2) if len(arrived) else None,
        "stood_s": mean("stood_s"),
        "monitor_warned": mean("monitor_warned"),
        "monitor_erred": mean("monitor_erred"),
        "checker_alarmed": mean("checker_alarmed"),
        "error_over_sigma": mean("error_over_sigma"),
    }


def summarised(work: Work) -> dict[str, Any]:
    """Return all parts' summaries, and how ours compares on the streets that both drove."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in work.rows().values():
        name = f"{row['method']}, {row['limit']:.0%}"
        if row["method"] == "constant":
            name = f"constant x {row['scale']:g}, {row['limit']:.0%}"
        if row["method"] == "none":
            name = "none"
        groups.setdefault(row["part"], {}).setdefault(name, []).append(row)
    told = {
        part: {name: summary(rows) for name, rows in sorted(methods.items())}
        for part, methods in sorted(groups.items())
    }
    return told | {"compared": {p: compared(groups[p]) for p in groups}}


def compared(methods: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return how ours compares with each other method on the streets that both drove."""
    told = {}
    for name, rows in methods.items():
        if rows[0]["method"] == "ours":
            continue
        limits = [rows[0]["limit"]] if rows[0]["method"] == "constant" else LIMITS
        for limit in limits:
            ours = {r["number"]: r for r in methods.get(f"ours, {limit:.0%}", [])}
            both = [(ours[r["number"]], r) for r in rows if r["number"] in ours]
            if both:
                told[f"ours, {limit:.0%} / {name}"] = _ratios(both)
    return told


def _ratios(both: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    ours, other = (_ended(both, k, "collided") for k in (0, 1))
    times = [
        (a["time_s"], b["time_s"]) for a, b in both if a["ending"] == b["ending"] == "arrived"
    ]
    ratio = float(np.divide(*np.mean(times, axis=0))) if times else None
    return {
        "streets": len(both),
        "collisions": [ours, other],
        "times_fewer": round(other / ours, 1) if ours else None,
        "times_fewer_at_least_95": times_fewer(ours, other),
        "arrived": [_ended(both, k, "arrived") for k in (0, 1)],
        "both_arrived": len(times),
        "time_to_goal_ratio": None if ratio is None else round(ratio, 3),
    }


def _ended(both: list[tuple[dict[str, Any], dict[str, Any]]], k: int, ending: str) -> int:
    return sum(pair[k]["ending"] == ending for pair in both)


def times_fewer(ours: int, other: int) -> float:
    """Return by which factor, at least, ours collides less: the lower end of 95 %.

    As many drives of both: given all collisions, ours are binomial (Clopper-Pearson).
    """
    most = float(beta.ppf(0.975, ours + 1, other)) if other else 1.0
    return round((1 - most) / most, 2)


def shown(number: int) -> tuple[dict[str, Drive], Course]:
    """Drive one street of the sampled ones again, by every method at 5 %, constant unscaled."""
    drives = {}
    for method in ("ours", "constant", "none"):
        drives[method], course = driven(Job("sampled", method, LIMITS[1], number), None)
    return drives, course


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=["tune", "sampled", "rendered", "page"])
    parser.add_argument("--runs", type=int, default=300, help="sampled drives with ours, a bound")
    parser.add_argument("--peers", type=int, default=300, help="sampled drives with the others")
    parser.add_argument("--tuning", type=int, default=40, help="drives of one tried scale")
    parser.add_argument("--rendered", type=int, default=50, help="rendered drives of each")
    parser.add_argument("--street", type=int, default=16, help="which one the page shows")
    parser.add_argument("--share", default="0/1", help="which of how many processes this is")
    parser.add_argument("--artifact", type=Path, default=ARTIFACT)
    parser.add_argument("--work", type=Path, default=Path("closed_loop.work"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Work(arguments.work, arguments.share)
    chosen = arguments.work / "scales.json"
    if "tune" in arguments.parts:
        chosen.write_text(json.dumps(tuned(work, arguments.tuning)))
    scales = json.loads(chosen.read_text()) if chosen.exists() else {}
    if "sampled" in arguments.parts:
        work.run([*jobs_of("sampled", arguments.runs, arguments.peers, scales)])
    if "rendered" in arguments.parts:
        artifact = MotionArtifact.load(arguments.artifact, "cpu")
        jobs = jobs_of("rendered", arguments.rendered, arguments.rendered, scales)
        work.run([*jobs], artifact)
    told = {"date": date.today().isoformat(), "machine": platform.machine(), "scales": scales}
    RESULTS.write_text(json.dumps(told | summarised(work), indent=2) + "\n")
    if "page" in arguments.parts:
        from closed_loop_page import page

        drives, course = shown(arguments.street)
        PAGE.write_text(page(json.loads(RESULTS.read_text()), drives, course, VEHICLE))


if __name__ == "__main__":
    main()
