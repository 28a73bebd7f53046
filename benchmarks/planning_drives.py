"""What a real estimator says and errs on drives, in the plane, for benchmarks/planning.py.

python benchmarks/planning_drives.py --artifact FITTED --out drives.npz BAG [BAG ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bayes_vio.artifact import MotionArtifact
from bayes_vio.conventions import ROT_Z, X, Y
from bayes_vio.data.bags import open_streams
from bayes_vio.estimator import Estimator
from bayes_vio.evaluation.play import play

PLANE = [X, Y, ROT_Z]


def statistics(artifact: MotionArtifact, bag: Path) -> dict[str, np.ndarray]:
    """Return dt_s [n], twist errors [n, 3] and both parts of their covariance [n, 3, 3].

    Of the mean twist (m/s, rad/s) in base_link: an increment's errors over its time.
    """
    streams = open_streams(bag)
    estimator = Estimator(artifact, camera=streams.camera, extrinsics=streams.extrinsics)
    run = play(estimator, streams)
    dt_s = run.dt_s
    errors = run.increment_errors().error[:, PLANE] / dt_s[:, None]
    covs = (
        c[:, PLANE][:, :, PLANE] / dt_s[:, None, None] ** 2
        for c in (run.epistemic_cov, run.noise_cov)
    )
    epistemic, noise = covs
    return {"dt_s": dt_s, "error": errors, "epistemic_cov": epistemic, "noise_cov": noise}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bags", nargs="+", type=Path)
    parser.add_argument("--artifact", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    artifact = MotionArtifact.load(arguments.artifact, "cpu")
    drives = [statistics(artifact, bag) for bag in arguments.bags]
    arrays = {f"{k}_{name}": v for k, drive in enumerate(drives) for name, v in drive.items()}
    arrays["drives"] = np.array(len(drives))
    with arguments.out.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
