"""Our posteriors beside laplace-torch, curvlinops and BackPACK: time, memory, what fails.

    python benchmarks/peers.py [--device cuda] [--cases NAME ...] [--peers NAME ...]

The libraries are the extra ``peers``; `make peers` installs them beside the torch that is there.
Every pair of a network and a library runs in a process of its own, so that peak memory is that
library's; what a library cannot do is told by its own error. One CPU thread; writes
benchmarks/results/peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
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


def in_own_process(case: str, name: str, device: str, limit_s: float) -> dict[str, Any]:
    """Return what ``peer_run.py`` found, or how it ended."""
    command = [sys.executable, "-W", "ignore", str(HERE / "peer_run.py"), case, name, device]
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"scope": None, "errors": {"process": f"ran longer than {limit_s:.0f} s"}}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"scope": None, "errors": {"process": f"exit code {done.returncode}: {last}"}}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(case: str, peers: list[str], device: str, limit_s: float) -> dict[str, Any]:
    """Return the rows of one network, by library."""
    make, shape, n_data, batch = CASES[case]
    rows: dict[str, Any] = {}
    for name in peers:
        rows[name] = in_own_process(case, name, device, limit_s)
        print(case, name, json.dumps(rows[name]), flush=True)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in make().parameters()),
        "input": list(shape) if shape else "motion input",
        "n_data": n_data,
        "batch_size": batch,
        "peers": rows,
    }
    if case in COMPARED_IN_TURNS:
        found["in_turns"] = in_own_process(case, IN_TURNS, device, limit_s)
        print(case, IN_TURNS, json.dumps(found["in_turns"]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--limit-s", type=float, default=1800.0, help="of each process")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        print("skipped: no CUDA device here")
        return
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "threads": 1,
        "clock": "wall" if on_gpu else "processor time of the process",
        "rank": RANK,
        "noise_variance": NOISE_VARIANCE,
        "versions": {library: installed(library) for library in LIBRARIES},
        "cases": {},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for case in arguments.cases:
        result["cases"][case] = measure(case, arguments.peers, arguments.device, arguments.limit_s)
        # After every network: a run that is stopped leaves what it has.
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
