"""Is the planner's bound a bound, how tight is it, and what does honest covariance buy a car?

python benchmarks/planning.py [--parts poses paths time runs drives --drives drives.npz]

poses, paths: the bound beside Monte Carlo at single poses and along paths. time: of a plan, beside
pytorch-mppi (which has no chance constraints) where it imports. runs: plans on random streets,
carried out with modelled errors, planned with the covariance of the moment, a constant one and
none. drives: the same with the errors of real drives, which benchmarks/planning_drives.py writes.
Writes benchmarks/results/planning.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import planning_scenes as scenes
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from bayes_vio.planning import Decision, Growth, Planner, PlannerSettings, Vehicle
from bayes_vio.planning.belief import roll_out
from bayes_vio.planning.monte_carlo import touches
from bayes_vio.planning.obstacles import Obstacles
from bayes_vio.planning.risk import collision_bound
from bayes_vio.planning.stations import Stations, station_indices, stations_of

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "planning.json"
VEHICLE = Vehicle()
BOUNDS = (0.01, 0.05)
SAMPLES, PATH_SAMPLES, CONFIRMING = 20_000, 4_000, 400_000
JUDGED = (1e-3, 0.3)
LOOSE = 3.0


def judged(cases: list[tuple[float, float, bool]]) -> dict[str, Any]:
    """Return how bounds compare with shares: cases of (bound, share, undercut beyond noise)."""
    bound, share, below = np.array(cases).T
    counted = (share >= JUDGED[0]) & (share <= JUDGED[1])
    ratio = bound[counted] / share[counted]
    missed, n = int(below.sum()), len(cases)
    return {
        "cases": n,
        "share_of_cases_bounded": round(1 - missed / n, 5),
        "bounded_at_least_95": round(1 - float(beta.ppf(0.95, missed + 1, n - missed)), 5),
        "judged_between": JUDGED,
        "cases_judged": int(counted.sum()),
        "ratio_median": round(float(np.median(ratio)), 3),
        "ratio_p99": round(float(np.quantile(ratio, 0.99)), 3),
        "ratio_max": round(float(ratio.max()), 3),
        "share_within_5": round(float((ratio <= 5).mean()), 4),
    }


def poses_bounded(generator: np.random.Generator, n: int) -> dict[str, Any]:
    """Return the tightness at single poses beside one obstacle."""
    cases = []
    while len(cases) < n:
        cov = torch.from_numpy(scenes.random_cov(generator))
        obstacles = Obstacles.of([scenes.random_obstacle(generator)])
        stations = Stations.alone(torch.zeros(1, 3, dtype=torch.float64), cov[None])
        bound = collision_bound(stations, VEHICLE, obstacles).item()
        if not 5e-4 < bound < 0.95:
            continue
        root = torch.linalg.cholesky(cov)

        def share(samples: int, root=root, obstacles=obstacles) -> float:
            errors = torch.randn(samples, 3, dtype=torch.float64) @ root.T
            return touches(errors, VEHICLE, obstacles).double().mean().item()

        cases.append(compared(bound, share, SAMPLES))
    return judged(cases)


def paths_bounded(generator: np.random.Generator, n: int) -> dict[str, Any]:
    """Return the tightness along arcs of 6 s past three obstacles, by whole motions."""
    cases = []
    while len(cases) < n:
        t = 0.15 * torch.arange(41, dtype=torch.float64)
        speed, bend = (
            generator.uniform(3, 10),
            generator.choice([-1, 1]) * np.exp(generator.uniform(np.log(1e-3), np.log(0.06))),
        )
        yaw = bend * speed * t
        poses = torch.stack([torch.sin(yaw) / bend, (1 - torch.cos(yaw)) / bend, yaw], -1)[None]
        drives = scenes.modelled_drives(generator, n=1)
        moment = scenes.moment_of(drives, 6.0, generator)
        rolled = roll_out(scenes.belief_at(moment, speed, Growth()), poses, 0.15, Growth())
        places = poses[0, generator.integers(41, size=3), :2].numpy() - [1.35, 0]
        obstacles = Obstacles.of([scenes.random_obstacle(generator) + p for p in places])
        index = station_indices(poses, PlannerSettings().spacing_m)
        stations = stations_of(rolled, index, VEHICLE)
        bound = collision_bound(stations, VEHICLE, obstacles).item()
        if not 5e-4 < bound < 0.95:
            continue
        seeds = itertools.count()

        def share(samples: int, rolled=rolled, obstacles=obstacles, seeds=seeds) -> float:
            hits = 0.0
            for _ in range(samples // PATH_SAMPLES):
                noise = torch.Generator().manual_seed(next(seeds))
                motions = rolled.sample(0, PATH_SAMPLES, noise)
                hits += touches(motions, VEHICLE, obstacles).any(-1).sum().item()
            return hits / samples

        cases.append(compared(bound, share, PATH_SAMPLES, 9 * PATH_SAMPLES))
    return judged(cases)


def compared(
    bound: float, share: Any, samples: int, confirming: int = CONFIRMING
) -> tuple[float, float, bool]:
    """Return bound, share and whether the bound is below it.

    A bound that seems to be below the share, or loose, is judged by fresh samples.
    """
    found = share(samples)
    below = bound < found - 2 * np.sqrt(max(found, 1 / samples) / samples)
    loose = bound > LOOSE * found > 0.5 * LOOSE * JUDGED[0]
    if not (below or loose):
        return bound, found, False
    found = share(confirming)
    return bound, found, bound < found - 3 * np.sqrt(max(found, 1 / confirming) / confirming)


def timed(generator: np.random.Generator, n: int) -> dict[str, Any]:
    """Return what a plan takes, wall and CPU, taking turns with the peer."""
    peer = peer_planner()
    planner, drives = Planner(), scenes.modelled_drives(generator)
    took: dict[str, list[tuple[float, float]]] = {"plan": []} | ({"mppi": []} if peer else {})
    for k in range(n + 5):
        world, route, speed = scenes.street(generator)
        moment = scenes.moment_of(drives, planner.lattice.horizon_s, generator)
        belief = scenes.belief_at(moment, speed, planner.growth)
        calls: dict[str, Any] = {"plan": lambda b=belief, w=world, r=route: planner.plan(b, w, r)}
        if peer:
            calls["mppi"] = lambda b=belief, w=world: peer(b, w)
        for name in took:
            start, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            if k >= 5:
                took[name].append((time.perf_counter() - start, time.process_time() - cpu))
    return {name: _quantiles(np.array(times)) for name, times in took.items()} | {
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _quantiles(times: Array) -> dict[str, float]:
    return {
        f"{kind}_{name}_ms": round(float(1e3 * np.quantile(times[:, k], q)), 2)
        for k, kind in enumerate(("wall", "cpu"))
        for name, q in (("p50", 0.5), ("p99", 0.99))
    }


def peer_planner() -> Any:
    """Return a step of pytorch-mppi, 1000 samples of 30 steps, None where it is missing."""
    try:
        from pytorch_mppi import MPPI  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    dt_s, limit = 0.15, torch.tensor([VEHICLE.braking_m_s2, VEHICLE.steering_max_rad]).double()

    def dynamics(state: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
        later = (state[:, 3] + dt_s * control[:, 0]).clamp(0.0, VEHICLE.speed_max_m_s)
        way = 0.5 * (state[:, 3] + later) * dt_s
        turn = way * torch.tan(control[:, 1]) / VEHICLE.wheelbase_m
        yaw = state[:, 2] + 0.5 * turn
        step = torch.stack([way * torch.cos(yaw), way * torch.sin(yaw), turn], 1)
        return torch.cat([state[:, :3] + step, later[:, None]], 1)

    def plan(belief: Any, world: Any) -> torch.Tensor:
        def cost(state: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
            hit = touches(state[:, :3], VEHICLE, world.obstacles)
            aside, missing = state[:, 1].abs() / 3, 1 - state[:, 3] / VEHICLE.speed_max_m_s
            return 1e3 * hit + missing + 0.3 * aside + 0.1 * control[:, 1].abs()

        noise = torch.diag(torch.tensor([1.0, 0.04])).double()
        mppi = MPPI(dynamics, cost, 4, noise, 1000, 30, u_min=-limit, u_max=limit)
        state = torch.tensor([*belief.pose, belief.speed_m_s], dtype=torch.float64)
        return mppi.command(state)

    return plan


def carried_out(
    drives: list[scenes.Drive], n: int, peers: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield, every 100 runs, collisions, stops and progress of plans on the same streets.

    n: runs with the covariance of the moment; peers: how many of them the others have, too.
    """
    rows: dict[str, list[tuple[bool, bool, float]]] = {}
    for k in range(n):
        generator = np.random.default_rng([seed, k])
        world, route, speed = scenes.street(generator)
        moment = scenes.moment_of(drives, Planner().lattice.horizon_s, generator)
        seen = {"ours": moment}
        if k < peers:
            seen |= {"constant": scenes.constant(drives, moment), "none": scenes.blind(moment)}
        for limit, (name, said) in product(BOUNDS, seen.items()):
            planner = Planner(settings=PlannerSettings(collision_max=limit, samples=1))
            plan = planner.plan(scenes.belief_at(said, speed, planner.growth), world, route)
            fate = np.random.default_rng([seed, k, 1])
            motion = scenes.truth_of(moment, plan, speed, planner.growth, fate)
            hit = scenes.collides(motion, planner.vehicle, world)
            row = (hit, plan.decision is Decision.STOP, float(plan.poses[-1, 0]))
            rows.setdefault(f"{name}, bound {limit:g}", []).append(row)
        if (k + 1) % 100 == 0 or k + 1 == n:
            yield {name: _outcome(row) for name, row in rows.items()}


def _outcome(rows: list[tuple[bool, bool, float]]) -> dict[str, float]:
    """Return shares; planned: plans that were within the bound, which is what it speaks of."""
    hit, stopped, way = np.array(rows).T.astype(float)
    planned = stopped == 0
    count, n = hit[planned].sum(), planned.sum()
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return {
        "runs": len(rows),
        "planned": int(n),
        "collisions_of_planned": round(float(hit[planned].mean()) if n else 0.0, 5),
        "at_most_95": round(high, 5),
        "collisions_of_all": round(float(hit.mean()), 5),
        "mean_way_m": round(float(way.mean()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drives", type=Path, help="what planning_drives.py wrote")
    parser.add_argument("--parts", nargs="+", default=["poses", "paths", "time", "runs"])
    parser.add_argument("--cases", type=int, default=3000, help="single poses")
    parser.add_argument("--paths", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--peers", type=int, default=300, help="runs without our covariance")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    def tell(**parts: Any) -> None:
        told = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        told |= {"date": date.today().isoformat(), "machine": platform.machine()} | parts
        RESULTS.write_text(json.dumps(told, indent=2) + "\n")
        print(json.dumps(parts, indent=2), flush=True)

    if "time" in arguments.parts:
        tell(time=timed(np.random.default_rng(0), 200))
    if "poses" in arguments.parts:
        tell(poses=poses_bounded(np.random.default_rng(3), arguments.cases))
    if "paths" in arguments.parts:
        tell(paths=paths_bounded(np.random.default_rng(4), arguments.paths))
    if "runs" in arguments.parts:
        drives = scenes.modelled_drives(np.random.default_rng(1))
        for outcome in carried_out(drives, arguments.runs, arguments.peers, 1):
            tell(runs_modelled=outcome)
    if "drives" in arguments.parts:
        drives = scenes.load_drives(arguments.drives)
        for outcome in carried_out(drives, arguments.runs, arguments.peers, 2):
            tell(runs_drives=outcome)


if __name__ == "__main__":
    main()
