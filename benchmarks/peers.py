"""Our posteriors beside laplace-torch, curvlinops and BackPACK: time, memory, what fails.

    python benchmarks/peers.py [--device cuda] [--cases NAME ...] [--peers NAME ...]

The libraries are the extra ``peers``; `make peers` installs them beside the torch that is there.
Every pair of a network and a library runs in a process of its own, so that peak memory is that
library's; what a library cannot do is told by its own error, what takes too long or too much
memory by the limit. One CPU thread; writes benchmarks/results/peers.json, where rows of the same
device and versions that were not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from peer_libraries import NOISE_VARIANCE, PEERS, RANK
from peer_run import CASES, IN_TURNS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "peers.json"
LIBRARIES = ("torch", "laplace-torch", "curvlinops-for-pytorch", "backpack-for-pytorch")
# Networks that laplace-torch covers whole, so that predictions can be compared in turns.
COMPARED_IN_TURNS = ("reference_cnn",)


def installed(library: str) -> str | None:
    """Return the version of a library, None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Limits:
    """What one process may take: time in s by the clock it is measured with, memory in GiB."""

    time_s: float
    memory_gib: float

    def apply(self) -> None:
        """Let this process end after its processor time, and its allocations fail beyond."""
        n_bytes = int(self.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (int(self.time_s), int(self.time_s) + 5))


def in_own_process(case: str, name: str, device: str, limits: Limits) -> dict[str, Any]:
    """Return what ``peer_run.py`` found, or how it ended."""
    command = [sys.executable, "-W", "ignore", str(HERE / "peer_run.py"), case, name, device]
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    on_gpu, too_long = device.startswith("cuda"), f"ran longer than {limits.time_s:.0f} s"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=limits.time_s if on_gpu else None,
            preexec_fn=None if on_gpu else limits.apply,
        )
    except subprocess.TimeoutExpired:
        return {"scope": None, "errors": {"process": too_long}}
    if done.returncode == -signal.SIGXCPU:
        return {"scope": None, "errors": {"process": f"{too_long} of processor time"}}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"scope": None, "errors": {"process": f"exit code {done.returncode}: {last}"}}
    return json.loads(done.stdout.strip().splitlines()[-1])


def described(case: str) -> dict[str, Any]:
    """Return what is told of a network, its rows yet to come."""
    make, shape, n_data, batch = CASES[case]
    return {
        "parameters": sum(p.numel() for p in make().parameters()),
        "input": list(shape) if shape else "motion input",
        "n_data": n_data,
        "batch_size": batch,
        "peers": {},
    }


def setting(device: str) -> dict[str, Any]:
    """Return what rows must share to stand in one table."""
    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "threads": 1,
        "clock": "wall" if on_gpu else "processor time of the process",
        "rank": RANK,
        "noise_variance": NOISE_VARIANCE,
        "versions": {library: installed(library) for library in LIBRARIES},
    }


def kept(path: Path, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of an earlier run in the same setting; none where it was another."""
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if any(earlier.get(key) != value for key, value in shared.items()):
        return {}
    return earlier["cases"]


def in_order(found: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return what there is of some names, in their order."""
    return {name: found[name] for name in names if name in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument(
        "--limit-s", type=float, default=300.0, help="of each process, CPU: its own"
    )
    parser.add_argument("--limit-gib", type=float, default=10.0, help="of each process, CPU alone")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    limits = Limits(arguments.limit_s, arguments.limit_gib)
    shared = setting(arguments.device)
    cases = kept(arguments.out, shared)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)

    def measured(case: str, name: str) -> dict[str, Any]:
        found = in_own_process(case, name, arguments.device, limits)
        print(case, name, json.dumps(found), flush=True)
        return found

    def write() -> None:
        told = {"date": date.today().isoformat(), **shared, "limits": asdict(limits)}
        result = told | {"cases": in_order(cases, CASES)}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    for case in arguments.cases:
        entry = cases.setdefault(case, described(case))
        # Written after every row: a run that is stopped leaves what it has.
        for name in arguments.peers:
            rows = entry["peers"] | {name: measured(case, name)}
            entry["peers"] = in_order(rows, PEERS)
            write()
        if case in COMPARED_IN_TURNS:
            entry["in_turns"] = measured(case, IN_TURNS)
            write()


if __name__ == "__main__":
    main()
